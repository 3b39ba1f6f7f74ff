"""Output on S3 and Google Cloud Storage: the operations of a Store on objects.

A commit needs one thing of a storage: to create an object only where there is none. S3 has it as
If-None-Match, Google as if-generation-match; other storages are refused rather than trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec

from facecap.transforms.models import cache_dir
from facecap.transforms.store import DiskFailed, HashedFile, Store, disk_errors

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocols whose create is exclusive, and the extra of facecap that brings them."""

_CONFLICT = "ConditionalRequestConflict"
"""S3's answer where two creators meet: neither has won yet."""
_CONFLICT_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)


class StoreError(ValueError):
    """An output that cannot be used; one line with the remedy."""


def is_remote(output: str) -> bool:
    """Whether `output` is on an object storage, not a folder."""
    return "://" in output and not output.startswith("file://")


def open_store(output: str | Path) -> Store:
    """The output at a path or URL. Raises StoreError on a storage that commits cannot rely on."""
    text = str(output)
    if is_remote(text):
        return ObjectStore(text)
    return Store(Path(text.removeprefix("file://")).absolute())


def check_url(url: str) -> None:
    """Raises StoreError on a storage that commits cannot rely on, or that nothing installed here
    can open. Asks no server."""
    protocol, _, place = url.partition("://")
    if protocol not in EXTRAS:
        raise StoreError(
            f"{url}: an output is a folder, or on {', '.join(f'{p}://' for p in EXTRAS)}; "
            "other storages have no exclusive create to commit shards by"
        )
    if "/" not in place.strip("/"):
        raise StoreError(f"{url}: name a prefix in the bucket, such as {url.rstrip('/')}/faces")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise StoreError(f"{url}: pip install 'facecap[{EXTRAS[protocol]}]' ({error})") from None


class ObjectStore(Store):
    """An output under the URL of a bucket and prefix. Whatever the storage answers that is not a
    missing or an existing object ends the build as DiskFailed."""

    is_remote = True

    def __init__(self, url: str) -> None:
        check_url(url)
        # Others write to it, too: no listing may be remembered.
        self._fs, prefix = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._prefix = prefix.rstrip("/")
        self._url = url.rstrip("/")
        super().__init__(_scratch(self._url))

    def __str__(self) -> str:
        return self._url

    @property
    def here(self) -> Store:
        return Store(self.root)

    def url(self, name: str) -> str:
        return f"{self._url}/{name}"

    def open(self, name: str) -> IO[bytes]:
        with self._errors():
            file: IO[bytes] = self._fs.open(self._key(name), "rb")
            return file

    def read(self, name: str) -> bytes:
        with self._errors():
            data: bytes = self._fs.cat_file(self._key(name))
            return data

    def exists(self, name: str) -> bool:
        with self._errors():
            return bool(self._fs.exists(self._key(name)))

    def create(self, name: str, data: bytes, beside: str | None = None) -> bool:
        for pause in (*_CONFLICT_PAUSES_S, None):
            try:
                with self._errors(writing=True):
                    self._fs.pipe_file(self._key(name), data, mode="create")
                return True
            except FileExistsError:
                # Perhaps our own: the client repeats a request whose answer got lost.
                return self.read(name) == data
            except DiskFailed as failed:
                if pause is None or _CONFLICT not in str(failed):
                    raise
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def replace(self, name: str, data: bytes) -> None:
        with self._errors(writing=True):
            self._fs.pipe_file(self._key(name), data)

    def move(self, source: str, target: str) -> bool:
        """Copy, then delete: whoever finds both may do it again, for the bytes are the same."""
        with self._errors():
            try:
                self._fs.cp_file(self._key(source), self._key(target))
            except FileNotFoundError:
                return False
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._key(source))
        return True

    def remove_tree(self, name: str) -> None:
        with self._errors(), contextlib.suppress(FileNotFoundError):
            objects = self._fs.find(self._key(name))
            if objects:
                self._fs.rm(objects)

    def list(self, folder: str) -> list[str]:
        key = self._prefix if folder == "." else self._key(folder)
        try:
            with self._errors():
                names = self._fs.ls(key, detail=False)
        except FileNotFoundError:
            return []
        return sorted({n.rstrip("/").rpartition("/")[2] for n in names if n.rstrip("/") != key})

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[HashedFile]:
        """Written to this machine first and sent when it is whole: no half of a file is ever
        there, and a large one goes in parts that are tried again one by one."""
        path = self.path("_attempts") / f".{uuid.uuid4().hex}"
        try:
            with disk_errors(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                with HashedFile(path) as file:
                    yield file
            with self._errors(writing=True):
                self._fs.put_file(str(path), self._key(name))
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, temporary: Path, name: str) -> None:
        with self._errors(writing=True):
            self._fs.put_file(str(temporary), self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @contextlib.contextmanager
    def _errors(self, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, DiskFailed):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writing:
                raise  # where something is written it is the bucket that is missing
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise DiskFailed(
                f"{self}: {reason}; mend that (credentials, rights to list, read, write, delete) "
                "and give the same command to continue"
            ) from error


def _scratch(url: str) -> Path:
    """This machine's folder for the work on the output at `url`."""
    return _own_folder("runs", hashlib.sha256(url.encode()).hexdigest()[:16])


def _own_folder(*names: str) -> Path:
    """A folder of this user's for what one machine keeps: in the cache, or, where that cannot be
    written (an image with its models in it), among the temporary files. Raises StoreError."""
    temporary = Path(tempfile.gettempdir()) / f"facecap-{os.getuid()}"
    for parent in (cache_dir(), temporary):
        with contextlib.suppress(OSError):
            folder = parent.joinpath(*names)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
    raise StoreError(f"{cache_dir()}: cannot be written; set FACECAP_CACHE to a folder that can")


def fetch_copy(url: str) -> Path:
    """A file that all processes of this machine map, fetched once; its name tells its content.
    A path is returned as it is. Raises FileNotFoundError, OSError."""
    if not is_remote(url):
        return Path(url)
    target = _own_folder("lists") / url.rpartition("/")[2]
    if not target.exists():
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        fs, path = fsspec.core.url_to_fs(url)
        try:
            fs.get_file(path, str(temporary))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
