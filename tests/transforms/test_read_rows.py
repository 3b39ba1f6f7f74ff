"""Reading: exactly the planned rows, across row groups and files, whatever their sizes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.pipeline.plan import shard_specs
from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.shard import InputRange
from facecap.transforms.read_rows import Columns, read_range, read_shard

COLUMNS = Columns(url="url", caption="caption", extra=("license",))


def write(path: Path, rows: int, first: int = 0, row_group_size: int = 7) -> str:
    table = pa.table(
        {
            "url": [f"http://h/{first + i}" for i in range(rows)],
            "caption": [f"c{first + i}" for i in range(rows)],
            "license": pa.array([first + i for i in range(rows)], pa.int32()),
        }
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(sum),
    group=st.integers(1, 12),
    per_shard=st.integers(1, 50),
    batch=st.integers(1, 33),
    data=st.data(),
)
def test_shards_hold_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    group: int,
    per_shard: int,
    batch: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("input")
    files, first = [], 0
    for index, size in enumerate(sizes):
        files.append((write(folder / f"{index}.parquet", size, first, group), size))
        first += size
    rows = data.draw(st.integers(1, first))
    seen = []
    for spec in shard_specs(files, rows, per_shard):
        batches = list(read_shard(spec, COLUMNS, batch))
        samples = [s for b in batches for s in b.samples]
        assert all(len(b) == batch for b in batches[:-1])
        assert [s.row for s in samples] == list(range(spec.first_row, spec.first_row + spec.rows))
        seen += samples
    assert [s.row for s in seen] == list(range(rows))
    assert [s.url for s in seen] == [f"http://h/{n}" for n in range(rows)]
    assert [s.extra["license"] for s in seen] == list(range(rows))


def test_only_overlapping_row_groups_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 1000, row_group_size=100)
    intact = Path(path).read_bytes()
    rows = list(read_range(InputRange(path, 350, 20), COLUMNS, 32))
    assert [r["license"] for r in rows] == list(range(350, 370))
    # Ruin the first row group's bytes: nothing may look at them.
    Path(path).write_bytes(intact[:4] + b"\0" * 400 + intact[404:])
    assert [r["license"] for r in read_range(InputRange(path, 350, 20), COLUMNS, 32)] == [
        r["license"] for r in rows
    ]


def test_rows_without_a_url_are_dropped_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://h/a", None, "", "  "]}), path)
    (spec,) = shard_specs([(str(path), 4)], 4, 10)
    (batch,) = read_shard(spec, Columns(url="url"), 32)
    reasons = [s.drop.reason if s.drop else None for s in batch.samples]
    assert reasons == [None, Reason.MISSING_URL, Reason.MISSING_URL, Reason.MISSING_URL]
    assert {s.drop.stage for s in batch.samples if s.drop} == {Stage.READ}


def test_rows_that_crashed_twice_are_not_touched_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 10)
    (spec,) = shard_specs([(path, 10)], 10, 10)
    (batch,) = read_shard(spec, COLUMNS, 32, frozenset({4}))
    dropped = [(s.row, s.drop.reason) for s in batch.samples if s.drop]
    assert dropped == [(4, Reason.DECODE_CRASHED)]


def test_a_file_that_shrank_since_planning_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 10)
    with pytest.raises(ValueError, match="5 rows fewer"):
        list(read_range(InputRange(path, 5, 10), COLUMNS, 32))


def test_a_column_that_a_file_lacks_is_null(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://h/a"]}), path)
    (row,) = read_range(InputRange(str(path), 0, 1), COLUMNS, 32)
    assert row == {"url": "http://h/a", "caption": None, "license": None}
