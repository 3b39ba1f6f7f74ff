"""The walk over a tar: as tarfile on sound archives, bounded and honest on the others."""

from __future__ import annotations

import io
import random
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.tar_members import Damage, End, Member, members
from tests.tars import tar_of

LIMIT = 1 << 20


def walk(data: bytes, limit: int = LIMIT) -> list[Member | End | Damage]:
    return list(members(io.BytesIO(data), limit))


def files(found: list[Member | End | Damage]) -> list[tuple[str, bytes | None]]:
    return [(f.name, f.data) for f in found if isinstance(f, Member)]


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1).filter(
                lambda s: s not in (".", "..") and s.strip("./")
            ),
            st.binary(max_size=1500),
        ),
        max_size=6,
    ),
    folder=st.sampled_from(["", "a/", "deep/" * 60]),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_sound_archives_are_read_as_tarfile_reads_them(
    contents: list[tuple[str, bytes]], folder: str, format: int
) -> None:
    data = tar_of([(folder + name, content) for name, content in contents], format)
    found = walk(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, tar.extractfile(m).read()) for m in tar]
    assert files(found) == expected
    assert found[-1:] == ([End()] if contents else [])
    assert not any(isinstance(f, Damage) for f in found)


MEMBERS = [(f"{n}.jpg", bytes([n]) * 700 * n) for n in range(1, 5)]
WHOLE = tar_of(MEMBERS)
ENDS = WHOLE.index(b"4.jpg") + 512 + 2800 + (-2800 % 512)


def test_a_tar_cut_at_any_byte_keeps_what_came_before_and_says_so() -> None:
    near_blocks = {block + d for block in range(512, len(WHOLE), 512) for d in (-1, 0, 1)}
    for length in sorted({1, *near_blocks, *range(7, len(WHOLE), 61)}):
        found = walk(WHOLE[:length])
        kept = files(found)
        assert kept == MEMBERS[: len(kept)], length
        whole = sum(
            WHOLE.index(f"{n}.jpg".encode()) + 512 + len(d) <= length for n, d in _numbered()
        )
        assert whole - 1 <= len(kept) <= whole, length  # one may lack its padding only
        if length < ENDS + 512:
            assert found[-1] == Damage("truncated"), length
        else:
            assert found[-1] == End(), length


def _numbered() -> list[tuple[int, bytes]]:
    return [(n + 1, data) for n, (_, data) in enumerate(MEMBERS)]


@pytest.mark.parametrize("seed", range(30))
def test_garbage_in_the_middle_costs_what_it_covers(seed: int) -> None:
    rng = random.Random(seed)
    start = rng.randrange(len(WHOLE))
    length = rng.choice([1, 100, 512, 3000])
    found = walk(WHOLE[:start] + rng.randbytes(length) + WHOLE[start + length :])
    assert len(found) < 20
    good = [f for f in files(found) if f in MEMBERS]
    assert len(good) >= len(MEMBERS) - 3 or length == 3000
    damaged_header = len(files(found)) < len(MEMBERS)
    assert not damaged_header or any(isinstance(f, Damage) for f in found)


def test_reading_goes_on_at_the_next_header() -> None:
    second = WHOLE.index(b"2.jpg")
    found = walk(WHOLE[:second] + b"\xff" * 512 + WHOLE[second + 512 :])
    assert [f.name if isinstance(f, Member) else f for f in found] == [
        "1.jpg",
        Damage("bad header"),
        "3.jpg",
        "4.jpg",
        End(),
    ]


def test_archives_behind_one_another_are_read() -> None:
    found = walk(WHOLE + tar_of([("5.jpg", b"five")]))
    assert [name for name, _ in files(found)] == [*(n for n, _ in MEMBERS), "5.jpg"]


def special(kind: bytes, **fields: object) -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.type = kind
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    ],
)
def test_links_devices_and_folders_are_no_files(kind: bytes) -> None:
    data = special(kind, linkname="/etc/passwd") + tar_of([("b.jpg", b"b")])
    assert walk(data) == [Member("b.jpg", 1, b"b"), End()]


def test_a_member_over_the_limit_is_passed_over_without_being_held() -> None:
    data = tar_of([("big.jpg", bytes(50 << 20)), ("b.jpg", b"b")])
    file = io.BytesIO(data)
    tracemalloc.start()
    found = list(members(file, LIMIT))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [Member("big.jpg", 50 << 20, None), Member("b.jpg", 1, b"b"), End()]
    assert peak < 5 << 20


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_huge_extension_header_is_damage_not_memory(kind: bytes) -> None:
    data = special(kind, size=30 << 20) + bytes([1]) * (30 << 20) + tar_of([("b.jpg", b"b")])
    tracemalloc.start()
    found = walk(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [Damage("bad header"), Member("b.jpg", 1, b"b"), End()]
    assert peak < 5 << 20


@pytest.mark.parametrize(
    "records",
    [
        *(b"5 a", b"no number", b"99 path=x\n", b"0 a=b\n", b"3 =\n", b"20 size=99999999999\n"),
        *(b"28 size=9999999999999999999\n", b"11 size=-1\n", b"\xff\xff"),
    ],
)
def test_pax_records_that_make_no_sense_are_damage(records: bytes) -> None:
    data = special(b"x", size=len(records)) + records.ljust(512, b"\0")
    found = walk(data + tar_of([("b.jpg", b"b")]))
    assert Damage("bad header") in found or found[-1] == Damage("truncated")


def test_a_size_that_claims_exabytes_ends_with_the_file() -> None:
    assert walk(special(b"0", size=2**62) + b"x" * 5000) == [Damage("truncated")]


def test_sparse_members_are_told_but_not_read() -> None:
    old = bytearray(special(b"S", size=512))
    old[482] = 1
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    data = bytes(old) + bytes(512) + b"d" * 512 + tar_of([("b.jpg", b"b")])
    assert walk(data) == [Member("a.jpg", 512, None), Member("b.jpg", 1, b"b"), End()]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/c.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "c.jpg"}
        tar.addfile(info)
    assert walk(buffer.getvalue()) == [Member("c.jpg", 0, None), End()]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=3000), at=st.integers(0, len(WHOLE)))
def test_anything_at_all_ends_in_members_and_damage(data: bytes, at: int) -> None:
    for found in walk(WHOLE[:at] + data + WHOLE[at:]):
        assert isinstance(found, Member | End | Damage)
