"""Run inside an image while it is built: a wrong image ends the build instead of a launch.

Checks that Python and Beam are the launcher's, that nothing that is needed is missing, and that
every model is whole and loads. A build machine has no GPU: for `cuda` the provider's libraries are
looked for, and the models loaded on the CPU.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

IMPORTS = (
    "gcsfs",
    "s3fs",
    "apache_beam.io.gcp.gcsio",
    "apache_beam.runners.dataflow.dataflow_runner",
    "apache_beam.runners.portability.spark_runner",
    "apache_beam.runners.worker.worker_pool_main",
    "facecap.pipeline.cli",
    "facecap.pipeline.graph",
)


class WrongImage(Exception):
    """What is wrong with the image; one line."""


def check_versions(python: str, beam: str) -> None:
    """Beam refuses a worker whose versions differ from the launcher's, but only at run time."""
    import apache_beam

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != python:
        raise WrongImage(f"Python is {here}, not {python}")
    if apache_beam.__version__ != beam:
        raise WrongImage(f"Beam is {apache_beam.__version__}, not {beam}")


def check_imports() -> None:
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise WrongImage(f"{name} cannot be imported: {error}") from None


def check_requirements(provider: str) -> None:
    """`pip check` finds nothing; in the CUDA image one line, for facecap asks for the name that
    onnxruntime-gpu replaces."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    replaced = "requires onnxruntime, which is not installed."
    for line in found.stdout.splitlines() if found.returncode else []:
        if not (provider == "cuda" and line.startswith("facecap ") and line.endswith(replaced)):
            raise WrongImage(line)


def check_own_models(folder: Path) -> int:
    """The number of files in `folder`, each of which must be in its SHA256SUMS, and no others."""
    listed: dict[str, str] = {}
    sums = folder / "SHA256SUMS"
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []:
        if line.strip() and not line.startswith("#"):
            digest, _, name = line.partition(" ")
            listed[name.strip().removeprefix("*")] = digest.lower()
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != sums and not path.name.startswith(".")
    }
    for name in sorted(there ^ listed.keys()):
        where = "is not in SHA256SUMS" if name in there else "is in SHA256SUMS and not there"
        raise WrongImage(f"models/{name} {where}")
    for name, digest in listed.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise WrongImage(f"models/{name} is not the file in SHA256SUMS")
    return len(listed)


def check_models() -> list[str]:
    """The names of the models that are here; each has its known hash and loads."""
    from facecap.transforms import models
    from facecap.transforms.classify_attributes import AttributesOptions, Classifier
    from facecap.transforms.detect import DetectOptions, load_detector

    here = [n for n, model in models.REGISTRY.items() if models.installed_path(model).exists()]
    try:
        for name in here:
            models.locate(name)
            if models.REGISTRY[name].kind == "detector":
                load_detector(DetectOptions(model=name), 128)
            else:
                Classifier(AttributesOptions(model=name))
    except models.ModelError as error:
        raise WrongImage(str(error)) from None
    return here


def check_cuda() -> None:
    """All that can be told without a GPU: the build of onnxruntime, and that its libraries are
    found. libcuda is the driver's, which the host brings."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise WrongImage("this onnxruntime has no CUDA provider")
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    needs = subprocess.run(["ldd", str(provider)], capture_output=True, text=True, check=True)
    missing = {line.split()[0] for line in needs.stdout.splitlines() if "not found" in line}
    if missing - {"libcuda.so.1"}:
        raise WrongImage(f"not found: {', '.join(sorted(missing - {'libcuda.so.1'}))}")
    try:
        ctypes.CDLL("libcudnn.so.9")  # opened by onnxruntime only when a model is loaded
    except OSError as error:
        raise WrongImage(f"cuDNN is not found: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, metavar="3.11")
    parser.add_argument("--beam", required=True, metavar="2.77.0")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    try:
        check_versions(options.python, options.beam)
        check_imports()
        check_requirements(options.provider)
        cache = Path(os.environ["FACECAP_CACHE"])
        own = check_own_models(cache / "own")
        here = check_models()
        if "mtcnn" not in here:
            raise WrongImage("the default detector, mtcnn, is not in the image")
        if options.provider == "cuda":
            check_cuda()
    except WrongImage as error:
        print(f"check_image: {error}", file=sys.stderr)
        return 1
    print(f"Python {options.python}, Beam {options.beam}, models {', '.join(here)}, {own} own")
    return 0


if __name__ == "__main__":
    sys.exit(main())
