"""Planning: files, columns, shards; every bad input is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.pipeline import plan as planning
from facecap.pipeline.errors import UsageError
from facecap.pipeline.plan import make_plan, read_footers, shard_specs
from facecap.transforms.read_rows import InputOptions, read_shard


def parquet(path: Path, **columns: list[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def plan_of(*paths: str, limit: int | None = None, per_shard: int | None = None, **options: str):
    files = read_footers(paths)
    return make_plan(files, InputOptions(**options), "the list", limit, per_shard)


@given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(sum),
    per_shard=st.integers(1, 10**5),
    data=st.data(),
)
def test_specs_cut_the_rows_without_gap_or_overlap(
    sizes: list[int], per_shard: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(max(1, sum(sizes) - 10**6), sum(sizes)))
    if rows / per_shard > 5000:
        per_shard = rows // 5000 + 1
    files = [(f"f{i}", size) for i, size in enumerate(sizes)]
    specs = shard_specs(files, rows, per_shard)
    assert [s.number for s in specs] == list(range(len(specs)))
    assert [s.first_row for s in specs] == [n * per_shard for n in range(len(specs))]
    assert all(s.rows == per_shard for s in specs[:-1]) and 0 < specs[-1].rows <= per_shard
    expected_start = dict.fromkeys((name for name, _ in files), 0)
    for part in (r for s in specs for r in s.ranges):
        assert part.rows > 0 and part.start == expected_start[part.path]
        expected_start[part.path] += part.rows
    assert sum(expected_start.values()) == rows
    assert all(expected_start[name] <= size for name, size in files)


def test_default_shards_depend_on_the_rows_alone(tmp_path: Path) -> None:
    assert planning.MAX_ROWS_PER_SHARD_BY_DEFAULT == 10_000
    path = parquet(tmp_path / "a.parquet", url=["http://h/"] * 640)
    assert plan_of(path).rows_per_shard == 10
    assert plan_of(path).shards == 64
    assert plan_of(path, limit=3).rows_per_shard == 1
    assert plan_of(path, per_shard=600).shards == 2


def test_planning_reads_footers_only(tmp_path: Path) -> None:
    path = Path(parquet(tmp_path / "a.parquet", url=[f"http://h/{n}" for n in range(5000)]))
    intact = path.read_bytes()
    path.write_bytes(intact[:4] + b"\0" * 2000 + intact[2004:])  # the data pages are ruined
    assert plan_of(str(path)).rows == 5000


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption"), ("image_url", "alt_text")])
def test_known_column_names_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    columns = {names[0]: ["u"], names[1]: ["t"], "similarity": [0.3], "__index_level_0__": [1]}
    columns_found = plan_of(parquet(tmp_path / "a.parquet", **columns)).columns
    assert (columns_found.url, columns_found.caption) == names
    assert columns_found.extra.names == ["similarity"]


def test_columns_named_by_setting(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", url=["no"], link=["u"], words=["t"])
    columns = plan_of(path, url_column="link", caption_column="words").columns
    assert (columns.url, columns.caption, columns.extra.names) == ("link", "words", ["url"])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": ["x"]}, {}, r"no URL column among: a; name it by input\.url_column"),
        ({"url": ["x"]}, {"url_column": "link"}, r"input\.url_column: .* no column 'link'"),
        ({"url": ["x"]}, {"caption_column": "t"}, r"input\.caption_column: .* no column 't'"),
        ({"url": [3]}, {}, r"input\.url_column: column 'url' .* holds int64, not text"),
        ({"url": pa.array([], pa.string())}, {}, "the list is empty"),
    ],
)
def test_unusable_columns_are_named(tmp_path, columns, options, message) -> None:
    path = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(UsageError, match=message):
        plan_of(path, **options)


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    one = parquet(tmp_path / "1.parquet", url=["u"], hash=["x"])
    two = parquet(tmp_path / "2.parquet", url=["u"], hash=[3])
    with pytest.raises(UsageError, match=r"columns disagree .*all of a CSV or TSV is text"):
        plan_of(one, two)


def test_a_file_without_the_url_column_is_named(tmp_path: Path) -> None:
    one = parquet(tmp_path / "1.parquet", url=["u"])
    two = parquet(tmp_path / "2.parquet", similarity=[0.3])
    with pytest.raises(UsageError, match=r"2\.parquet: has no column 'url'"):
        plan_of(one, two)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for data in (b"", b"PAR1", b"<html>" * 100):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"a\.parquet: not a readable Parquet file"):
            plan_of(str(path))


def test_the_graph_of_a_web_scale_list_is_small() -> None:
    import pickle

    files = [(f"file:///data/part-{n:05d}.snappy.parquet", 12_700_000) for n in range(4)]
    specs = shard_specs(files, 50_000_000, 10_000)
    assert len(specs) == 5000
    assert len(pickle.dumps([tuple(s) for s in specs])) < 400_000


def test_types_that_can_be_reconciled_are(tmp_path: Path) -> None:
    kinds = [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ]
    numbers = [[3], [3.5], pa.nulls(1, pa.int8()), pa.nulls(1)]
    paths = [
        parquet(tmp_path / f"{n}.parquet", url=pa.array(["u"], kind), width=width)
        for n, (kind, width) in enumerate(zip(kinds, numbers, strict=True))
    ]
    plan = plan_of(*paths)
    assert plan.extra == pa.schema([("width", pa.float64())])
    (batch,) = read_shard(shard_specs([(p, 1) for p in paths], 4, 4)[0], plan.columns, 32)
    assert [(s.url, s.extra["width"]) for s in batch.samples] == [
        ("u", 3.0),
        ("u", 3.5),
        ("u", None),
        ("u", None),
    ]
    for path in paths:
        assert plan_of(path).columns.url == "url"


def test_columns_that_cannot_be_stored_are_named(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    path = parquet(tmp_path / "a.parquet", url=["u"], x=twice)
    with pytest.raises(UsageError, match=r"a\.parquet: column 'x' has two fields named 'a'"):
        plan_of(path)


def test_a_type_that_cannot_be_converted_is_named() -> None:
    schema = pa.schema([("url", pa.string()), ("x", pa.list_(pa.uuid()))])
    with pytest.raises(UsageError, match=r"a\.parquet: column 'x' holds .*leave it out"):
        make_plan([planning.ParquetFile("a.parquet", 1, schema)], InputOptions(), "l", None, None)


def test_a_condition_is_checked_against_the_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", url=["u"], punsafe=[0.5], __index_level_0__=[1])
    columns = plan_of(path, where="punsafe < 0.5 AND url LIKE 'http%'").columns
    assert columns.where is not None and columns.where.columns == ("punsafe", "url")
    for where in ("nosuch < 1", "punsafe <", "punsafe", "__index_level_0__ = 1", ""):
        with pytest.raises(UsageError, match=r"^input\.where: "):
            plan_of(path, where=where)


def test_a_list_without_a_header_is_told_to_get_one(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", **{"a picture": ["x"], "http://h/1": ["http://h/2"]})
    with pytest.raises(UsageError, match="a first line that names its columns"):
        plan_of(path)


def test_a_parquet_with_two_columns_of_one_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["u"])] * 2, names=["url", "url"]), path)
    with pytest.raises(UsageError, match=r"a\.parquet: has two columns named 'url'"):
        plan_of(str(path))
