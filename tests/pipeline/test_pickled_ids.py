"""Integers out of a pickle that is never unpickled."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.pipeline.pickled_ids import PickleError, pickled_ids


def torch_file(data: bytes, compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
    file.seek(0)
    return file


INTEGERS = st.integers(-(2**63), 2**63 - 1)
LISTS = st.lists(st.lists(INTEGERS, max_size=5), max_size=5)


@given(LISTS, st.sampled_from([2, 4]))
def test_lists_of_lists(lists: list[list[int]], protocol: int) -> None:
    found = pickled_ids(torch_file(pickle.dumps(lists, protocol)))
    assert found.tolist() == [i for part in lists for i in part]


@given(st.dictionaries(INTEGERS | st.text(max_size=5), st.lists(INTEGERS, max_size=3), max_size=5))
def test_keys_are_no_ids(parts: dict[object, list[int]]) -> None:
    found = pickled_ids(torch_file(pickle.dumps(parts, 2)))
    assert found.tolist() == [i for part in parts.values() for i in part]


def test_more_than_a_batch_and_nested_keys() -> None:
    assert len(pickled_ids(torch_file(pickle.dumps([list(range(5000))], 2)))) == 5000
    assert pickled_ids(torch_file(pickle.dumps({0: [[7]], 1: {2: [8.0]}}, 2))).tolist() == [7, 8]


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo owned > owned",)


@pytest.mark.parametrize(
    "value", [[Attack()], [(1, 2)], [None], [1 << 70], [b"x"], [True], {"a": Attack()}]
)
def test_everything_else_is_refused(value: object, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError):
        pickled_ids(torch_file(pickle.dumps(value, 2)))
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=60), st.integers(0, 80), LISTS)
def test_any_bytes_end_well(noise: bytes, cut: int, lists: list[list[int]]) -> None:
    data = pickle.dumps(lists, 2)
    for mutated in (noise, data[:cut] + noise, data[:cut] + noise + data[cut:]):
        try:
            pickled_ids(torch_file(mutated))
        except PickleError as error:
            assert str(error)


def test_a_compressed_zip_and_a_growing_stack_are_refused() -> None:
    data = pickle.dumps([list(range(5000))], 2)
    with pytest.raises(PickleError, match="compressed"):
        pickled_ids(torch_file(data, zipfile.ZIP_DEFLATED))
    for endless in (b"]" * 3_000_000, b"(" * 3_000_000, b"(" + b"K\x01" * 3_000_000):
        with pytest.raises(PickleError, match="more than plain lists"):
            pickled_ids(torch_file(b"\x80\x02" + endless))


def test_a_pickle_that_ends_inside_a_number() -> None:
    for data in (b"\x80\x02]\x8a", b"\x80\x02]\x8a\x05\x01", b"\x80\x02]K", b"\x80\x02]G\x00"):
        with pytest.raises(PickleError):
            pickled_ids(torch_file(data))


def test_doubles_that_are_no_ids_are_left_out() -> None:
    values = [1e300, -1e300, 2.0**63, 0.5, float("nan"), float("inf"), 9.0]
    assert pickled_ids(torch_file(pickle.dumps(values, 2))).tolist() == [9]
