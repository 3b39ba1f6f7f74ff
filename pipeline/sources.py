"""Which files the input is: the formats by name, folders and globs, and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from facecap.pipeline.errors import UsageError

_TEXT = {".csv": "csv", ".tsv": "tsv", ".txt": "txt", ".json": "json", ".jsonl": "jsonl"}
_TEXT[".ndjson"] = "jsonl"
PACKED_TAR = "compressed tar"
FORMATS = {
    ".parquet": "parquet",
    ".tar": "tar",
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"), PACKED_TAR),
    **_TEXT,
    **{f"{suffix}.gz": kind for suffix, kind in _TEXT.items()},
}
"""What the end of a file's name says about its format."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the input as the user named it: its format and its size in bytes."""

    path: str
    format: str
    size: int


def find_sources(location: str) -> list[SourceFile]:
    """The input files below a path, folder or glob (any fsspec URL), sorted by path.

    Raises UsageError when nothing readable is there.
    """
    files = list_files(location, "--input", FORMATS)
    if not files:
        raise UsageError(f"--input {location}: holds no {_endings(FORMATS)} file")
    packed = next((f for f in files if f.format == PACKED_TAR), None)
    if packed is not None:
        raise UsageError(
            f"--input {packed.path}: compressed tars are not read; decompress it first, or choose "
            "others by a glob, such as 'FOLDER/*.tar'"
        )
    files = _only_tars(files, location)
    _refuse_notes(files, location)
    return files


def list_files(location: str, setting: str, formats: Mapping[str, str]) -> list[SourceFile]:
    """The files of `formats` (end of the name -> format) below a path, folder or glob, sorted by
    path. Raises UsageError that begins with `setting`."""
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # A file may well be named `urls [v2].csv`: only what is not there is a pattern.
        if any(c in path for c in "*?[") and not fs.exists(path):
            found: dict[str, dict[str, Any]] = {}
            for name, info in fs.glob(path, detail=True).items():
                is_file = info["type"] == "file"
                found.update({name: info} if is_file else _files_below(fs, name, formats))
        elif fs.isdir(path):
            found = _files_below(fs, path, formats)
        else:
            found = {path: fs.info(path)}
    except FileNotFoundError:
        raise UsageError(f"{setting} {location}: no such file or folder") from None
    except Exception as error:  # noqa: BLE001 - each storage's client has errors of its own
        raise UsageError(f"{setting} {location}: {' '.join(str(error).split())}") from None
    files = []
    for name, info in sorted(found.items()):
        if info["type"] != "file":
            continue
        kind = _format(name, formats)
        if kind is None:
            raise UsageError(
                f"{setting} {name}: unknown format; the name must end in {_endings(formats)}"
            )
        if info["size"] == 0:
            raise UsageError(f"{setting} {name}: the file is empty; complete it, or take it away")
        files.append(SourceFile(fs.unstrip_protocol(name), kind, int(info["size"])))
    return files


def _only_tars(files: Sequence[SourceFile], location: str) -> list[SourceFile]:
    """`files` without what img2dataset wrote beside its tars (NAME.parquet, NAME_stats.json): where
    there are tars, they are the input. Raises UsageError when other lists lie beside them."""
    tars = [f for f in files if f.format == "tar"]
    if not tars:
        return list(files)
    stems = {f.path.removesuffix(".tar") for f in tars}
    beside = {stem + end for stem in stems for end in (".parquet", "_stats.json")}
    other = next((f for f in files if f.format != "tar" and f.path not in beside), None)
    if other is not None:
        raise UsageError(
            f"--input {location}: holds tars and lists ({tars[0].path}, {other.path}); choose one "
            "by a glob, such as 'FOLDER/*.tar' or 'FOLDER/*.parquet'"
        )
    return tars


def _refuse_notes(files: Sequence[SourceFile], location: str) -> None:
    """Raises UsageError where .txt or .json files lie beside others: a README.txt or a tool's
    statistics, whose every line would be taken for a URL."""
    note = next((f for f in files if f.format in ("txt", "json")), None)
    other = next((f for f in files if note and f.format != note.format), None)
    if note and other:
        raise UsageError(
            f"--input {location}: holds lists of different formats ({note.path}, {other.path}); "
            "choose one by a glob, such as 'FOLDER/*.parquet'"
        )


def _files_below(
    fs: fsspec.AbstractFileSystem, folder: str, formats: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    return {
        name: info
        for name, info in fs.find(folder, detail=True).items()
        if _format(name, formats) and not _is_hidden(name.removeprefix(folder))
    }


def _format(name: str, formats: Mapping[str, str]) -> str | None:
    return next((kind for suffix, kind in formats.items() if name.lower().endswith(suffix)), None)


def _endings(formats: Mapping[str, str]) -> str:
    return ", ".join(sorted(end for end, kind in formats.items() if kind != PACKED_TAR))


def _is_hidden(name: str) -> bool:
    """Whether a part of the path marks it as no data, as Spark and Hive do (`_SUCCESS`)."""
    return any(part.startswith((".", "_")) for part in name.split("/"))
