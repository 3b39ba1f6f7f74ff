"""Reading: exactly the planned rows, across row groups and files, whatever their sizes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
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
from facecap.transforms.where import Where, check

COLUMNS = Columns(url="url", caption="caption", extra=pa.schema([("license", pa.int64())]))


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
    assert [r.values["license"] for r in rows] == list(range(350, 370))
    # Ruin the first row group's bytes: nothing may look at them.
    Path(path).write_bytes(intact[:4] + b"\0" * 400 + intact[404:])
    assert [r.values["license"] for r in read_range(InputRange(path, 350, 20), COLUMNS, 32)] == [
        r.values["license"] for r in rows
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
    assert row.values == {"url": "http://h/a", "caption": None, "license": None}


def test_a_range_that_cannot_be_read_fails_its_shard_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 100, row_group_size=10)
    specs = shard_specs([(path, 100)], 100, 25)
    data = Path(path).read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(4).column(0).dictionary_page_offset
    Path(path).write_bytes(data[:start] + b"\xff" * 60 + data[start + 60 :])
    ruined = list(read_shard(specs[1], COLUMNS, 8))
    assert all(batch.failure is None for batch in ruined[:-1])
    assert ruined[-1].failure.startswith("read: ")
    rows = [sample.row for batch in ruined for sample in batch.samples]
    assert rows == list(range(25, 50))  # WriteShard waits for all of them
    for spec in (specs[0], specs[2]):
        assert all(batch.failure is None for batch in read_shard(spec, COLUMNS, 8))


def test_a_file_that_went_since_planning_fails_the_shard(tmp_path: Path) -> None:
    (spec,) = shard_specs([(str(tmp_path / "gone.parquet"), 9)], 9, 9)
    (batch,) = read_shard(spec, COLUMNS, 4)
    assert len(batch) == 9 and batch.failure and "gone.parquet" in batch.failure


def read_extra(tmp_path: Path, column: pa.Array, kind: pa.DataType) -> list[object]:
    path = tmp_path / "a.parquet"
    urls = [f"http://h/{n}" for n in range(len(column))]
    pq.write_table(pa.table({"url": urls, "x": column}), path)
    columns = Columns(url="url", extra=pa.schema([("x", kind)]))
    return [row.values["x"] for row in read_range(InputRange(str(path), 0, len(urls)), columns, 32)]


@pytest.mark.parametrize(
    ("kind", "raw"), [(pa.string(), pa.binary()), (pa.large_string(), pa.large_binary())]
)
def test_text_that_is_not_utf8_is_replaced(
    tmp_path: Path, kind: pa.DataType, raw: pa.DataType
) -> None:
    data = pa.array([b"caf\xe9", None, b"tea"], raw)
    bad = pa.Array.from_buffers(kind, 3, data.buffers())
    assert read_extra(tmp_path, bad, kind) == ["caf\ufffd", None, "tea"]
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"url": bad, "caption": bad}), path)
    (spec,) = shard_specs([(str(path), 3)], 3, 3)
    (batch,) = read_shard(spec, Columns("url", "caption"), 32)
    assert [s.source_caption for s in batch.samples] == ["caf\ufffd", None, "tea"]


def test_a_value_that_python_cannot_hold_is_null(tmp_path: Path) -> None:
    kind = pa.timestamp("ms")
    column = pa.array([10**15, 0], pa.int64()).cast(kind)
    assert read_extra(tmp_path, column, kind) == [None, dt.datetime(1970, 1, 1)]


def test_nanoseconds_need_no_pandas(tmp_path: Path) -> None:
    column = pa.array([1_600_000_000_123_456_789], pa.int64()).cast(pa.timestamp("ns"))
    (value,) = read_extra(tmp_path, column, pa.timestamp("us"))
    assert type(value) is dt.datetime and str(value) == "2020-09-13 12:26:40.123456"


def test_values_are_read_in_the_planned_type(tmp_path: Path) -> None:
    assert read_extra(tmp_path, pa.array([2**53 + 1]), pa.float64()) == [2.0**53]
    assert read_extra(tmp_path, pa.array(["x"], pa.string_view()), pa.string()) == ["x"]


def test_rows_that_do_not_satisfy_the_condition_are_dropped(tmp_path: Path) -> None:
    count = 5000
    path = tmp_path / "a.parquet"
    urls = [f"http://h/{n}" for n in range(count)]
    urls[7] = ""
    sizes = [n if n % 3 else None for n in range(count)]
    pq.write_table(pa.table({"url": urls, "size": sizes}), path, row_group_size=3000)
    extra = pa.schema([("size", pa.int64()), ("late", pa.string())])
    types = Columns("url", extra=extra).types
    columns = Columns("url", extra=extra, where=check("size % 2 = 0 OR late = 'x'", types))
    seen = []
    for spec in shard_specs([(str(path), count)], count, 2100):
        for batch in read_shard(spec, columns, 16):
            assert len(batch) <= 16 and batch.failure is None
            seen += batch.samples
    assert [s.row for s in seen] == list(range(count))
    for row, sample in enumerate(seen):
        drop = sample.drop and (sample.drop.stage, sample.drop.reason, sample.drop.error)
        if row == 7:
            assert drop == (Stage.READ, Reason.MISSING_URL, None)
        elif row % 3 and row % 2 == 0:
            assert drop is None
        else:  # size % 2 = 0 is false or NULL, late = 'x' is NULL
            assert drop == (Stage.READ, Reason.FILTERED, "NULL")
    false = Columns("url", extra=extra, where=check("size < 0", types))
    (batch,) = read_shard(shard_specs([(str(path), 2)], 2, 2)[0], false, 16)
    assert [s.drop and s.drop.error for s in batch.samples] == ["NULL", None]


def test_rows_in_front_of_a_shard_cost_no_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", 5000, row_group_size=5000)
    columns = replace(COLUMNS, where=check("license >= 0", COLUMNS.types))
    looked_at = []
    satisfied = Where.satisfied

    def count(self: Where, rows: pa.Table) -> list[bool | None]:
        looked_at.append(len(rows))
        return satisfied(self, rows)

    monkeypatch.setattr(Where, "satisfied", count)
    rows = list(read_range(InputRange(path, 4000, 600), columns, 16))
    assert [row.values["license"] for row in rows] == list(range(4000, 4600))
    assert sum(looked_at) == 600 and len(looked_at) <= 3


def test_text_that_is_not_utf8_reaches_no_condition(tmp_path: Path) -> None:
    raw = pa.array([b"caf\xe9", None, b"tea"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["u"] * 3, "x": bad}), path)
    extra = pa.schema([("x", pa.string())])
    where = check("upper(x) = 'CAF\ufffd'", {"url": pa.string(), "x": pa.string()})
    (spec,) = shard_specs([(str(path), 3)], 3, 3)
    (batch,) = read_shard(spec, Columns("url", extra=extra, where=where), 16)
    assert [s.drop is None for s in batch.samples] == [True, False, False]
