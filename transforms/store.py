"""The output folder: the few operations that committing a shard needs, on a disk.

Every file is written under a name of its own and appears under its final name whole or not at
all. Object storage is transforms/object_store.py, which also opens an output of either kind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from facecap.schemas.commit import FileEntry

_ROOM, _RIGHT = "make room there", "make it writable"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "allow larger files there",
    errno.EROFS: _RIGHT,
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EIO: "look after that disk",
}
WRITING_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Those that reading never raises."""


SPOOL_BYTES = 64 << 20
"""The crops of a shard of 188 rows take about 5 MB. To write and read them back costs a tenth of
what fetching alone does."""


class DiskFailed(Exception):
    """A folder that must be written cannot be: it ends the build, and is never a row's fault."""


@contextlib.contextmanager
def disk_errors(folder: Path, among: Collection[int] = tuple(_REMEDIES)) -> Iterator[None]:
    """Turns what a full, read-only or failing disk raises into DiskFailed, in words for the
    person who has to mend it. Other errors, and other numbers than those `among`, pass."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None or error.errno not in among:
            raise
        reason = os.strerror(error.errno or 0)
        raise DiskFailed(
            f"{folder}: {reason}; {remedy} and give the same command to continue"
        ) from error


class HashedFile(io.BufferedWriter):
    """A new file, written from front to back; its hash is taken on the way, so that nobody has
    to read it again for that."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "xb"))
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Any, /) -> int:
        self._digest.update(data)
        size = super().write(data)
        self._size += size
        return size

    def entry(self, final_name: str) -> FileEntry:
        """Size and sha256 of what was written, to be known as `final_name`."""
        return FileEntry(path=final_name, bytes=self._size, sha256=self._digest.hexdigest())


class Spool:
    """Bytes put aside: as they are while there is room in SPOOL_BYTES, then in a nameless file
    that is gone with the process, however it ends."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._room = SPOOL_BYTES
        self._kept: list[bytes | tuple[int, int]] = []
        with disk_errors(root):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it

    def put(self, data: bytes) -> int:
        """Put `data` aside; returns the number to ask for it by."""
        if len(data) <= self._room:
            self._kept.append(data)
            self._room -= len(data)
        else:
            with disk_errors(self._root):
                self._kept.append((self._file.seek(0, io.SEEK_END), len(data)))
                self._file.write(data)
        return len(self._kept) - 1

    def get(self, number: int) -> bytes:
        """What `put` was given."""
        kept = self._kept[number]
        if isinstance(kept, bytes):
            return kept
        offset, size = kept
        with disk_errors(self._root):
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        self._kept.clear()
        with contextlib.suppress(OSError):  # what did not fit is of no use any more
            self._file.close()


class Store:
    """An output folder on a disk; names are relative paths with forward slashes. What writes raises
    DiskFailed when the disk is full, read-only or failing.

    `root` is a folder of this machine: the output itself; for an object store (a subclass) one for
    what is no part of the dataset, as locks, logs, progress and spools.
    """

    is_remote = False

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __str__(self) -> str:
        """Where the dataset is, as the user names it."""
        return str(self.root)

    @property
    def here(self) -> Store:
        """`root` as a store of its own."""
        return self

    def path(self, name: str) -> Path:
        return self.root / name

    def url(self, name: str) -> str:
        """What fsspec opens the dataset's file `name` by."""
        return str(self.path(name))

    def open(self, name: str) -> IO[bytes]:
        """For reading. Raises FileNotFoundError."""
        return self.path(name).open("rb")

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return self.path(name).read_bytes()

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def create(self, name: str, data: bytes, beside: str | None = None) -> bool:
        """Create `name` with `data` unless it exists: atomic against any other creator, and
        never half-written. Returns whether this call created it. With `beside` it happens only
        while that folder is there; raises FileNotFoundError when it is not."""
        target = self.path(name)
        with disk_errors(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            if beside is None:
                temporary = self._write_aside(target, data)
            else:
                temporary = self.path(beside) / f".{target.name}"
                _write_whole(temporary, data)
            try:
                os.link(temporary, target)  # link(2) fails when the target exists
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write `name`, whole or not at all."""
        target = self.path(name)
        with disk_errors(self.root):
            self._write_aside(target, data).replace(target)

    def move(self, source: str, target: str) -> bool:
        """Rename; False when `source` is gone (another process moved it first)."""
        with disk_errors(self.root):
            self.path(target).parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path(source).replace(self.path(target))
            except FileNotFoundError:
                return False
        return True

    def remove_tree(self, name: str) -> None:
        """Remove a folder and all in it; nothing happens when it is gone."""
        with disk_errors(self.root), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path(name))

    def list(self, folder: str) -> list[str]:
        """Sorted file names in `folder`; empty when there is no such folder."""
        try:
            return sorted(p.name for p in self.path(folder).iterdir())
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[HashedFile]:
        """Open a new file for writing; on leaving it is on the disk, not only in its cache."""
        path = self.path(name)
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            with HashedFile(path) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def written_aside(self, name: str) -> Iterator[Path]:
        """A path to write to that becomes the file `name` when all went well, and goes when not."""
        temporary = self._aside(name)
        try:
            with disk_errors(temporary.parent, WRITING_ERRORS):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                yield temporary
                self._keep(temporary, name)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _aside(self, name: str) -> Path:
        # Hidden, so that no reader's glob takes a leftover of a killed process for a file.
        target = self.path(name)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex}")

    def _keep(self, temporary: Path, name: str) -> None:
        temporary.replace(self.path(name))

    def spool(self) -> Spool:
        """A place for the bytes of a shard until it is complete."""
        return Spool(self.root, self.path("_attempts"))

    def entry(self, name: str, final_name: str) -> FileEntry:
        """Size and sha256 of the file `name`, to be known as `final_name`."""
        with self.open(name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            return FileEntry(path=final_name, bytes=file.tell(), sha256=digest)

    def _write_aside(self, target: Path, data: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._aside(str(target.relative_to(self.root)))
        _write_whole(temporary, data)
        return temporary


def _write_whole(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # half of it would only take the room
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
