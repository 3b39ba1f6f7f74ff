"""The files of an attempt at a shard: written in one way, whoever writes them, so that equal
content is equal bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from webdataset.writer import TarWriter

from facecap.schemas.commit import FileEntry
from facecap.schemas.shard import shard_file
from facecap.transforms.commit import attempt_file, new_attempt
from facecap.transforms.store import HashedFile, Store


class Attempt:
    """A new attempt at this generation of a shard; `files` are those written so far, by kind."""

    def __init__(self, store: Store, number: int, generation: int = 1) -> None:
        self.name = new_attempt(number, generation)
        self.files: dict[str, FileEntry] = {}
        self._store, self._number = store, number

    @contextmanager
    def new_file(self, kind: str) -> Iterator[HashedFile]:
        """The file of this kind, to be written from front to back."""
        with self._store.write(attempt_file(self.name, kind)) as file:
            yield file
        self.files[kind] = file.entry(shard_file(kind, self._number))

    def write_tar(self, kind: str, samples: Iterable[dict[str, Any]]) -> None:
        """Write a WebDataset tar; members carry no time and no owner of this machine."""
        with self.new_file(kind) as file, _tar(file) as tar:
            for sample in samples:
                tar.write(sample)

    def write_table(self, kind: str, table: pa.Table, footer: str) -> None:
        """Write Parquet; `footer` is kept in it under the key `facecap`."""
        table = table.replace_schema_metadata({"facecap": footer})
        with self.new_file(kind) as file:
            # One call, one row group: the flush size would change the bytes.
            pq.write_table(table, file, compression="zstd", row_group_size=max(1, table.num_rows))


def _tar(file: Any) -> TarWriter:
    tar = TarWriter(file, user="facecap", group="facecap", mode=0o444, mtime=0, encoder=False)
    # Its own stream mode copies every member three times, in pieces of 10 KB.
    tar.tarstream = tarfile.TarFile(fileobj=file, mode="w", copybufsize=1 << 24)
    return tar
