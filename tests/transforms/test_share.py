"""Sharing rewrites: nobody's is used too often, and who shares follows from the keys alone."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.schemas.captions import Rewrite
from facecap.transforms.rewrite.rewriter import Task
from facecap.transforms.share import Sharing

LABELS = [("Smiling",), ("Smiling", "Young"), ("Young", "Smiling"), ("Bald",)]


def task(key: str, labels: tuple[str, ...], person: str) -> Task:
    return Task(key, "text", labels, person, "plain", 1)


faces = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from(["man", "woman"]), st.integers(1, 3)),
    max_size=60,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(faces, max_size=4), st.integers(1, 7))
def test_sharing(shards: list, reuse: int) -> None:
    sharing = Sharing(reuse)
    used: Counter[str] = Counter()
    groups: Counter[tuple] = Counter()
    calls = 0
    for s, shard in enumerate(shards):
        tasks = [
            ((f"{s}-{f:03d}", n), task(f"{s}-{f:03d}", labels, person))
            for f, (labels, person, per_face) in enumerate(shard)
            for n in range(per_face)
        ]
        slots = sharing.slots(tasks)
        for place in sharing.to_ask(slots):
            calls += 1
            sharing.add(slots[place], Rewrite(f"{place}", None, "plain", 1, 1, place[0]))
        for (key, number), one in tasks:
            text = sharing.get(slots[key, number]).text
            used[text] += 1
            groups[one.person, frozenset(one.labels), number] += 1
            assert text.endswith(f", {number})"), "another of the face's captions was taken"
    assert not used or max(used.values()) <= reuse
    assert calls == len(used) == sum(math.ceil(n / reuse) for n in groups.values())


def test_a_shard_that_is_done_goes_on_giving() -> None:
    """A run that was killed: shard 0 is committed, its rewrites come from its metadata."""

    def tasks(shard: int) -> list:
        return [((f"{shard}-{f}", 0), task(f"{shard}-{f}", LABELS[0], "man")) for f in range(3)]

    def texts(start: Sharing, shard: int, stored: dict | None) -> dict:
        slots = start.slots(tasks(shard))
        for place in start.to_ask(slots):
            told = stored or {place: Rewrite(f"asked {place}", None, "plain", 1, 1, place[0])}
            start.add(slots[place], told[place])
        return {place: start.get(slot) for place, slot in slots.items()}

    whole, continued = Sharing(4), Sharing(4)
    first = texts(whole, 0, None)
    assert texts(continued, 0, first) == first
    assert texts(continued, 1, None) == texts(whole, 1, None)
