"""Whether a worker elsewhere is like the launcher: other packages or models make other bytes, or
labels that nobody asked for, and nobody would notice."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
from dataclasses import dataclass

from facecap import __version__
from facecap.transforms.models import ModelError, locate, model_hash

LIBRARIES = (
    "apache-beam",
    "duckdb",
    "imagehash",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "scipy",
    "simplejpeg",
    "webdataset",
)
"""What decides bytes; the manifest names their versions."""


class WorkerDiffers(RuntimeError):
    """This worker would write other bytes than the launcher promised."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide bytes, by name."""
    found = {"python": platform.python_version(), "facecap": __version__}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True)
class Model:
    """A model as the launcher found it: the name and path that settings give, and its sha256."""

    setting: str
    name: str
    path: str | None
    sha256: str


@dataclass(frozen=True)
class Expected:
    """What a worker must have: plain data, part of the graph."""

    versions: tuple[tuple[str, str], ...]
    models: tuple[Model, ...] = ()

    @functools.cache  # noqa: B019 - one per process
    def check(self) -> None:
        """Raises WorkerDiffers, in words, where this process has something else."""
        here = versions()
        for name, wanted in self.versions:
            if name == "onnxruntime" and name not in here:
                continue  # onnxruntime-gpu, whose releases lag behind
            if _relevant(name, here.get(name, "none")) != _relevant(name, wanted):
                raise WorkerDiffers(
                    f"this worker has {name} {here.get(name)}, the launcher {wanted}: give both "
                    "one image, or one constraints file"
                )
        for model in self.models:
            try:
                found = model_hash(locate(model.name, model.path))
            except ModelError as error:
                raise WorkerDiffers(f"on this worker: {error}") from None
            if found != model.sha256:
                raise WorkerDiffers(
                    f"{model.setting}: this worker's file has sha256 {found[:12]}, the launcher's "
                    f"{model.sha256[:12]}: give both the same"
                )


def _relevant(name: str, version: str) -> str:
    """Python's third number changes no byte."""
    return version.rpartition(".")[0] if name == "python" else version
