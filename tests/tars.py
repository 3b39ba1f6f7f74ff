"""Tars as img2dataset writes them, and what may go wrong with them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter


def row(key: str, image: bytes, url: str, caption: str = "", **more: Any) -> dict[str, Any]:
    """A sample as img2dataset hands it to webdataset's TarWriter."""
    about = {
        "caption": caption,
        "url": url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": None,
        "exif": "{}",
        **more,
    }
    return {"__key__": key, "jpg": image, "json": json.dumps(about, indent=4), "txt": caption}


def write_tar(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, TarWriter(file, mtime=0) as tar:
        for sample in rows:
            tar.write(sample)
    return path


def tar_of(members: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
