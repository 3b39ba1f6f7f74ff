"""Every model by name, with its source, hash and licence; and how one is found and fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pooch
import requests


class ModelError(ValueError):
    """A model that is unknown, missing, damaged or cannot run; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A known model. `file` is its name in the cache (or in the package, for `bundled`).

    `source` is a URL, the member of a zip archive at a URL (URL#MEMBER), a Python package
    (NAME==VERSION), or text for a person: then it cannot be fetched. `sha256` and `size` (bytes)
    are of `file`.
    """

    name: str
    kind: Literal["detector", "attributes"]
    file: str
    source: str
    sha256: str | None
    size: int | None
    licence: str
    note: str
    bundled: bool = False

    @property
    def setting(self) -> str:
        """The setting that gives this model by path."""
        return "detect.model_path" if self.kind == "detector" else "attributes.model_path"


_INSIGHTFACE = "https://github.com/deepinsight/insightface/releases/download/v0.7"
_RESEARCH = "insightface: non-commercial research only"

_OPENCV_ZOO = (
    "https://huggingface.co/opencv/face_detection_yunet/resolve/"
    "3cc26e7f1014a5ee5d74a42acee58bafc9d0a310"
)


def _scrfd(
    size_name: str,
    file: str,
    sha256: str,
    size: int,
    source: str = "insightface's SCRFD model zoo",
) -> ModelEntry:
    return ModelEntry(
        name=f"scrfd-{size_name}",
        kind="detector",
        file=file,
        source=source,
        sha256=sha256,
        size=size,
        licence=_RESEARCH,
        note=f"SCRFD-{size_name.upper()}, five landmarks. RGB, (x - 127.5) / 128",
    )


REGISTRY: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="mtcnn",
            kind="detector",
            file="mtcnn.onnx",
            source="facenet-pytorch==2.6.0",
            sha256="e9cc7cdce0ff8bbeee4633568f8245a4805e470605fee177d13fc0ac633ee7c4",
            size=1_989_455,
            licence="MIT (facenet-pytorch)",
            note="MTCNN, five landmarks; converted here from the weights in the package's wheel. "
            "RGB, (x - 127.5) / 128",
        ),
        _scrfd(
            "10g",
            "det_10g.onnx",
            "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
            16_923_827,
            f"{_INSIGHTFACE}/buffalo_l.zip#det_10g.onnx",
        ),
        _scrfd(
            "2.5g",
            "scrfd_2.5g.onnx",
            "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9",
            3_292_009,
        ),
        _scrfd(
            "500m",
            "scrfd_500m_bnkps.onnx",
            "b467f878e26ff1e7ee05cd9936fdff63fa2a5af5d732ed17ee231f2dd5cc07ae",
            2_524_648,
        ),
        ModelEntry(
            name="yunet",
            kind="detector",
            file="face_detection_yunet_2023mar.onnx",
            source=f"{_OPENCV_ZOO}/face_detection_yunet_2023mar.onnx",
            sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            size=232_589,
            licence="MIT (OpenCV Zoo)",
            note="YuNet, five landmarks. BGR, 0-255",
        ),
        ModelEntry(
            name="celeba40",
            kind="attributes",
            file="attributes.onnx",
            source="trained by this project's training/",
            sha256=None,
            size=None,
            licence="research only (trained on CelebA)",
            note="40 CelebA attributes; see its card in transforms/weights",
            bundled=True,
        ),
    )
}

_MTCNN_WEIGHTS = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


def cache_dir() -> Path:
    """Where fetched models lie: $FACECAP_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("FACECAP_CACHE") or pooch.os_cache("facecap"))


def model_hash(path: Path) -> str:
    """The file's sha256, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(name: str) -> ModelEntry:
    """Raises ModelError for a name that is not in the registry."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise ModelError(
            f"unknown model {name!r}: choose one of {', '.join(sorted(REGISTRY))}, "
            "or give its file by detect.model_path"
        ) from None


def installed_path(model: ModelEntry) -> Path:
    """Where the model's file belongs: in the package when it is bundled, else in the cache."""
    if model.bundled:
        return Path(__file__).resolve().parent / "weights" / model.file
    return cache_dir() / model.file


def locate(name: str, path: str | None = None) -> Path:
    """The model's file: `path` where one is given (any file, and any name: its hash is recorded,
    not prescribed), else the fetched one, checked against its known sha256.

    Raises ModelError naming the setting and the remedy.
    """
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_file():
            # A name that is not in the registry is a detector's: the settings allow no other.
            setting = REGISTRY[name].setting if name in REGISTRY else "detect.model_path"
            raise ModelError(f"{setting}: {path} is not a file")
        return given
    model = entry(name)
    file = installed_path(model)
    if not file.is_file():
        raise ModelError(f"model {name} is not there ({file}): {_remedy(model)}")
    if model.sha256 is not None and model_hash(file) != model.sha256:
        raise ModelError(f"model {name}: {file} is damaged: delete it, then {_remedy(model)}")
    return file


def _remedy(model: ModelEntry) -> str:
    if model.bundled:
        return f"install facecap again, or set {model.setting}"
    if "==" in model.source or _is_url(model.source):
        return f"run: facecap models fetch {model.name}"
    return f"get {model.file} from {model.source} and set {model.setting}, or put it there"


def fetch(name: str) -> Path:
    """Get the model into the cache, checked and whole; nothing is done when it is there.

    Raises ModelError when it cannot be fetched or is not the known file.
    """
    model = entry(name)
    file = installed_path(model)
    if file.is_file() and (model.sha256 is None or model_hash(file) == model.sha256):
        return file
    if "==" in model.source:
        data = _convert_mtcnn(model)
    elif _is_url(model.source):
        data = _download(model)
    else:
        raise ModelError(f"model {name} cannot be fetched: {_remedy(model)}")
    if hashlib.sha256(data).hexdigest() != model.sha256:
        raise ModelError(f"model {name}: the fetched file is not the known one (sha256 differs)")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)  # whole or not at all, also when two processes fetch
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _download(model: ModelEntry) -> bytes:
    url, _, member = model.source.partition("#")
    with tempfile.TemporaryDirectory(prefix="facecap-") as folder:
        try:
            # No hash of an archive is known; that of the model is checked by the caller.
            pooch.get_logger().setLevel(logging.WARNING)
            file = Path(pooch.retrieve(url, known_hash=None, path=folder, fname="fetched"))
            if not member:
                return file.read_bytes()
            with zipfile.ZipFile(file) as pack:
                info = pack.getinfo(member)
                if info.file_size != model.size:
                    raise ModelError(f"model {model.name}: {member} in {url} has another size")
                return pack.read(info)
        except (requests.RequestException, OSError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"model {model.name}: {url} could not be fetched: {error}") from None
        except (KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ModelError(f"model {model.name}: no usable {member} in {url}: {error}") from None


def _convert_mtcnn(model: ModelEntry) -> bytes:
    from facecap.transforms.detectors import mtcnn_weights  # which imports this module

    with tempfile.TemporaryDirectory(prefix="facecap-") as folder:
        install_package(model.source, Path(folder))
        weights = {}
        for network, sha256 in _MTCNN_WEIGHTS.items():
            file = Path(folder, "facenet_pytorch", "data", f"{network}.pt")
            if not file.is_file():
                raise ModelError(f"model {model.name}: no {network}.pt in {model.source}")
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ModelError(
                    f"model {model.name}: {network}.pt in {model.source} is not the known file"
                )
            weights[network] = mtcnn_weights.read_torch_weights(data)
    return mtcnn_weights.build_onnx(weights)


def install_package(requirement: str, folder: Path) -> None:
    """Unpack a wheel, without its dependencies, into `folder` by the user's own client (its
    settings name the index). Only wheels: a source distribution would run code.

    Raises ModelError."""
    arguments = ["install", "--no-deps", "--only-binary", ":all:", "--target", str(folder)]
    clients = []
    if uv := shutil.which("uv"):
        clients.append([uv, "pip", *arguments, "--python", sys.executable])
    if importlib.util.find_spec("pip"):
        clients.append(
            [sys.executable, "-m", "pip", *arguments, "--no-compile", "--disable-pip-version-check"]
        )
    if not clients:
        raise ModelError(f"neither uv nor pip is there to fetch {requirement}: install one")
    for client in clients:
        result = subprocess.run(
            [*client, requirement], capture_output=True, text=True, errors="replace", check=False
        )
        if result.returncode == 0:
            return
    lines = result.stderr.strip().splitlines() or ["no message"]
    raise ModelError(f"{requirement} could not be fetched: {lines[-1].strip()}")
