"""A shard: a row range of the input, its keys, its files and its commit record."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_FACES_PER_IMAGE = 100
"""FACE in the key has two digits."""

MAX_ROWS_PER_SHARD = 1_000_000
"""ROW in the key has six digits."""


class InputRange(NamedTuple):
    """`rows` rows of the Parquet file at `path`, from its row `start` on."""

    path: str
    start: int
    rows: int


class ShardSpec(NamedTuple):
    """Shard `number` holds the global input rows [first_row, first_row + rows).

    With `tar`, the path of a WebDataset tar, it holds that tar's rows instead, which are counted
    while they are read, and `first_row` is `number` * MAX_ROWS_PER_SHARD.
    A plain tuple, because 5,000 of them are part of the graph.
    """

    number: int
    first_row: int
    ranges: tuple[InputRange, ...]
    tar: str | None = None

    @property
    def rows(self) -> int:
        """0 with `tar`, where nobody knows them before they are read."""
        return sum(r.rows for r in self.ranges)

    @property
    def name(self) -> str:
        return shard_name(self.number)


SHARD_FILES = {
    "tar": "shards/{}.tar",
    "metadata": "metadata/{}.parquet",
    "ledger": "ledger/{}.parquet",
    "rejects": "rejects/{}.tar",
}
"""The data files of a shard, under the output folder."""


def shard_name(number: int) -> str:
    """Six digits, e.g. `000012`."""
    return f"{number:06d}"


def shard_file(kind: str, number: int) -> str:
    """Path of a shard's file under the output folder; `kind` is a key of SHARD_FILES."""
    return SHARD_FILES[kind].format(shard_name(number))


def commit_file(number: int, generation: int = 1) -> str:
    """Path of a shard's commit record under the output folder. A shard that was written anew has
    one for each generation; the newest holds."""
    middle = "" if generation == 1 else f".{generation}"
    return f"commits/{shard_name(number)}{middle}.json"


def commit_generation(name: str) -> tuple[int, int] | None:
    """Shard number and generation of the commit record of this file name; None for another's."""
    match = re.fullmatch(r"([0-9]{6,})(?:\.([1-9][0-9]*))?\.json", name)
    if match is None or match[2] == "1":
        return None
    return int(match[1]), int(match[2] or 1)


def sample_key(shard: int, first_row: int, row: int) -> str:
    """SHARD(6)ROW(6), e.g. `000012004711`: ROW is the global `row` counted within the shard."""
    return f"{shard:06d}{row - first_row:06d}"


def face_key(shard: int, first_row: int, row: int, rank: int) -> str:
    """SHARD(6)ROW(6)_FACE(2), e.g. `000012004711_00`."""
    return f"{sample_key(shard, first_row, row)}_{rank:02d}"
