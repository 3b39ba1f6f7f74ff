"""Lists of SAMPLE_IDs joined to LAION-400M: every form of list, nulls, doubles, and big inputs."""

from __future__ import annotations

import gzip
import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.pipeline import laion_face
from facecap.pipeline.errors import UsageError
from facecap.pipeline.laion_face import NO_ID, IdList, join, to_ids
from facecap.pipeline.sources import find_sources
from facecap.pipeline.staging import stage
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.store import Store

FIRST = 1_581_282_014_547
"""Of the size of real SAMPLE_IDs: no int32, no float32 holds it."""


def laion(folder: Path, files: int = 2, rows: int = 1000) -> Path:
    """As LAION-400M: SAMPLE_ID is a double, every tenth null; row n of all has the id FIRST + n."""
    folder.mkdir()
    for number in range(files):
        numbers = range(number * rows, (number + 1) * rows)
        table = pa.table(
            {
                "SAMPLE_ID": pa.array(
                    [FIRST + n if n % 10 else None for n in numbers], pa.float64()
                ),
                "URL": [f"http://h/{n}" for n in numbers],
                "TEXT": [None if n % 7 == 0 else f"text {n}" for n in numbers],
                "NSFW": ["UNLIKELY"] * rows,
            }
        )
        pq.write_table(table, folder / f"part-{number:05d}.snappy.parquet", row_group_size=300)
    return folder


def run(source: Path, output: Path, ids: Path, **more: str) -> tuple[list[dict], IdList]:
    sources = find_sources(str(source))
    options = InputOptions(sample_ids=str(ids), **more)
    paths, known = join(sources, [s.path for s in sources], Store(output), options)
    assert len(paths) == len(sources)
    return [row for path in paths for row in pq.read_table(path).to_pylist()], known


def pth(ids: list[list[int]], protocol: int = 2) -> bytes:
    """What torch.save writes, as far as a reader of the pickle in it is concerned."""
    return pth_of(pickle.dumps(ids, protocol))


def pth_of(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("laion_face_ids/data.pkl", data)
        archive.writestr("laion_face_ids/version", "3\n")
    return file.getvalue()


def npy(ids: list[int], kind: str = "i8") -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(ids, kind))
    return file.getvalue()


def parquet(ids: list[int], kind: pa.DataType, *names: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(dict.fromkeys(names, pa.array(ids).cast(kind))), file)
    return file.getvalue()


IDS = [FIRST + 1999, FIRST + 3, FIRST + 3, FIRST + 10, FIRST + 1001, 7]
FORMS: dict[str, Callable[[], bytes]] = {
    "a.pth": lambda: pth([IDS[:2], IDS[2:]]),
    "a.pt": lambda: pth([IDS], protocol=4),
    "a.npy": lambda: npy(IDS),
    "b.npy": lambda: npy(IDS, ">f8"),
    "a.parquet": lambda: parquet(IDS, pa.int64(), "anything"),
    "b.parquet": lambda: parquet(IDS, pa.float64(), "sample_id", "other"),
    "c.parquet": lambda: parquet(IDS, pa.string(), "SAMPLE_ID"),
    "a.txt": lambda: "\n".join(map(str, IDS)).encode(),
    "b.txt": lambda: "".join(f"{i}.0\r\n" for i in IDS).encode(),
    "a.txt.gz": lambda: gzip.compress("\n".join(map(str, IDS)).encode()),
    "a.csv": lambda: "\n".join(["id", *map(str, IDS)]).encode(),
    "a.csv.gz": lambda: gzip.compress(
        "\n".join(["x,SAMPLE_ID", *(f"9,{i}" for i in IDS)]).encode()
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_list(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name]())
    rows, known = run(laion(tmp_path / "laion"), tmp_path / "out", tmp_path / name)
    assert [row["URL"] for row in rows] == ["http://h/3", "http://h/1001", "http://h/1999"]
    assert rows[0] == {
        "SAMPLE_ID": FIRST + 3.0,
        "URL": "http://h/3",
        "TEXT": "text 3",
        "NSFW": "UNLIKELY",
    }
    assert (known.ids, known.found, known.ignored) == (5, 3, 0)
    assert "3 of the 5 ids in input.sample_ids are in the input, 2 are not" in str(known)


def test_the_same_ids_are_the_same_list(tmp_path: Path) -> None:
    source = laion(tmp_path / "laion")
    known = set()
    for name, data in FORMS.items():
        (tmp_path / name).write_bytes(data())
        known.add(run(source, tmp_path / "out", tmp_path / name)[1])
    assert len(known) == 1
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "1.txt").write_text(str(IDS[0]))
    (tmp_path / "lists" / "2.npy").write_bytes(npy(IDS[1:]))
    assert run(source, tmp_path / "out", tmp_path / "lists")[1] in known
    assert run(source, tmp_path / "out", tmp_path / "lists" / "*")[1] in known


def test_joined_once_and_found_again(tmp_path: Path) -> None:
    source, ids = laion(tmp_path / "laion"), tmp_path / "ids.npy"
    ids.write_bytes(npy([FIRST + n for n in range(1, 2000, 3)]))
    rows, known = run(source, tmp_path / "out", ids)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "_input").iterdir()}
    assert len(files) == 3 and not any(p.name.startswith(".") for p in files)
    assert run(source, tmp_path / "out", ids) == (rows, known)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "_input").iterdir()} == files
    # Killed between the two files: the first is not joined again, what it holds is counted.
    next(p for p in files if p.suffix == ".json").unlink()
    (
        second := sorted((p for p in files if p.suffix == ".parquet"), key=files.__getitem__)[1]
    ).unlink()
    assert run(source, tmp_path / "out", ids) == (rows, known)
    kept = {p: p.stat().st_mtime_ns for p in files if p not in (second,) and p.suffix == ".parquet"}
    assert all(files[p] == stamp for p, stamp in kept.items())
    ids.write_bytes(npy([FIRST + 1, FIRST + 2]))
    assert len(run(source, tmp_path / "out", ids)[0]) == 2


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", npy([1, 2]), r"none of its 2 ids is in the input; is it a list for another"),
        ("a.txt", b"SAMPLE_ID\nx\n", "holds no ids"),
        ("a.npy", npy([]), "holds no ids"),
        ("a.npy", b"\x93NUMPY\x01\x00", "a.npy"),
        ("a.npy", npy([1, 2, 3])[:-3], "ends early"),
        ("a.npy", npy([1]).replace(b"(1,)", b"(1, "), "no sound .npy file .*; save it anew"),
        ("a.pth", pth_of(b"\x80\x02]\x8a"), r"ends early; convert it: python -c"),
        ("a.npy", npy([[1], [2]]), "not a one-dimensional array of integers"),  # type: ignore[list-item]
        ("a.parquet", b"PAR1", "a.parquet"),
        ("a.parquet", parquet([1], pa.int64(), "x", "y"), "has no column 'SAMPLE_ID'"),
        ("a.csv", b"x,y\n1,2\n", "has no column 'SAMPLE_ID'"),
        ("a.csv", b"123\n456\n", "no first line that names the column"),
        ("a.csv.gz", b"no gzip", "not a sound gzip file"),
        ("a.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", r"convert it: python -c .*torch"),
        ("a.pth", pth([np.arange(3)]), r"more than plain lists.*convert it: python -c"),  # type: ignore[list-item]
        ("a.doc", b"1", r"the name must end in .*\.npy"),
        ("a.npy", b"", "the file is empty"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=rf"^input\.(sample_ids|id_column).*{message}") as refused:
        run(laion(tmp_path / "laion"), tmp_path / "out", tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^input\.sample_ids .*ids\.npy: no such file"):
        run(laion(tmp_path / "laion"), tmp_path / "out", tmp_path / "ids.npy")


def test_the_column_is_named_by_setting(tmp_path: Path) -> None:
    path, ids = tmp_path / "a.parquet", tmp_path / "ids.txt"
    ids.write_text("2\n")
    pq.write_table(pa.table({"URL": ["a", "b"], "number": ["1", "2"], "when": [True, False]}), path)
    with pytest.raises(UsageError, match=r"^input\.id_column: .*no column 'SAMPLE_ID' or .*number"):
        run(path, tmp_path / "out", ids)
    with pytest.raises(UsageError, match=r"^input\.id_column: 'when' .* holds bool, no ids"):
        run(path, tmp_path / "out", ids, id_column="when")
    (tmp_path / "list.csv").write_text("URL,n\na,2\n")
    (source,) = find_sources(str(tmp_path / "list.csv"))
    staged = stage(source, Store(tmp_path / "out"), InputOptions())
    with pytest.raises(UsageError, match=r"^input\.id_column: \S*/list\.csv has no column"):
        join([source], [staged], Store(tmp_path / "out"), InputOptions(sample_ids=str(ids)))
    rows, _ = run(path, tmp_path / "out", ids, id_column="number")
    assert [row["URL"] for row in rows] == ["b"]


@given(
    st.lists(
        st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats() | st.just(2**53 + 2.0),
    )
)
def test_doubles_are_ids_where_they_are_integers(values: list[float | None]) -> None:
    expected = [
        int(v) if v is not None and abs(v) < 2**53 and float(v).is_integer() else NO_ID
        for v in values
    ]
    assert to_ids(pa.array(values, pa.float64())).tolist() == expected
    texts = pa.array([None if v is None else repr(v) for v in values], pa.string())
    assert to_ids(texts).tolist() == expected


@given(st.lists(st.text(max_size=8) | st.sampled_from(["9" * 5000, "1e400", "0x1", str(2**63)])))
def test_any_text_is_an_id_or_none(texts: list[str]) -> None:
    assert len(to_ids(pa.array(texts, pa.string()))) == len(texts)


def test_integers_of_all_widths() -> None:
    assert to_ids(pa.array([1, None], pa.int8())).tolist() == [1, NO_ID]
    assert to_ids(pa.array([1, 2**64 - 1], pa.uint64())).tolist() == [1, NO_ID]


def test_memory_is_that_of_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laion_face, "_BATCH_ROWS", 1000)
    source, ids = laion(tmp_path / "laion", files=1, rows=50_000), tmp_path / "ids.npy"
    count = 500_000
    np.save(ids, np.arange(FIRST, FIRST + count))
    tracemalloc.start()
    rows_of = find_sources(str(source))
    options = InputOptions(sample_ids=str(ids))
    _, known = join(rows_of, [s.path for s in rows_of], Store(tmp_path / "out"), options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert known.found == 45_000
    assert peak < 3 * 8 * count + (16 << 20)
