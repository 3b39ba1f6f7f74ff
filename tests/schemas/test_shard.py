"""Shards: keys that sort like their rows and are never given twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.shard import (
    MAX_FACES_PER_IMAGE,
    MAX_ROWS_PER_SHARD,
    SHARD_FILES,
    InputRange,
    ShardSpec,
    commit_file,
    commit_generation,
    face_key,
    sample_key,
    shard_file,
)

PLACES = st.tuples(
    st.integers(0, 999_999),
    st.integers(0, MAX_ROWS_PER_SHARD - 1),
    st.integers(0, MAX_FACES_PER_IMAGE - 1),
)


def test_the_documented_key() -> None:
    assert face_key(12, 120_000, 124_711, 0) == "000012004711_00"
    assert sample_key(12, 120_000, 124_711) == "000012004711"


@given(one=PLACES, two=PLACES)
def test_keys_sort_as_shard_row_and_rank_do(
    one: tuple[int, int, int], two: tuple[int, int, int]
) -> None:
    def key(place: tuple[int, int, int]) -> str:
        number, row, rank = place
        first_row = number * MAX_ROWS_PER_SHARD
        return face_key(number, first_row, first_row + row, rank)

    assert (key(one) < key(two)) == (one < two) and (key(one) == key(two)) == (one == two)
    assert len(key(one)) == 15 and "." not in key(one)


def test_every_file_of_a_shard_has_a_place_of_its_own() -> None:
    names = [shard_file(kind, n) for kind in SHARD_FILES for n in (0, 1)]
    names += [commit_file(n) for n in (0, 1)]
    assert len(set(names)) == 10
    assert shard_file("tar", 12) == "shards/000012.tar"
    assert commit_file(12) == "commits/000012.json"


def test_a_spec_counts_the_rows_of_its_ranges() -> None:
    spec = ShardSpec(3, 30, (InputRange("a", 7, 4), InputRange("b", 0, 6)))
    assert (spec.rows, spec.name) == (10, "000003")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("000012.json", (12, 1)),
        ("000012.2.json", (12, 2)),
        ("000012.10.json", (12, 10)),
        ("000012.1.json", None),
        ("000012.02.json", None),
        ("12.json", None),
        (".000012.json", None),
        ("000012.json.bak", None),
        ("000012.x.json", None),
    ],
)
def test_generations_by_name(name: str, place: tuple[int, int] | None) -> None:
    assert commit_generation(name) == place
    if place is not None:
        assert commit_file(*place) == f"commits/{name}"
