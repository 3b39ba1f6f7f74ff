"""Captions for blind rating: ours and the baseline's, mixed; a key file tells which is whose."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.captions.baseline import one_template
from benchmarks.captions.composed import Composed
from facecap.schemas.captions import Person


@dataclass(frozen=True, slots=True)
class Item:
    """A text to be rated, what it was to state, and whose it is."""

    text: str
    stated: tuple[str, ...]
    person: Person
    source: str


def mixed(sources: Mapping[str, Sequence[Item]], count: int, seed: int) -> list[Item]:
    """`count` items in random order, as nearly as can be the same number of each of `sources`,
    each source's by chance.

    Raises `ValueError` where a source has too few.
    """
    rng = random.Random(seed)
    chosen: list[Item] = []
    for i, (name, items) in enumerate(sources.items()):
        share = count // len(sources) + (i < count % len(sources))
        if len(items) < share:
            raise ValueError(f"{name}: has {len(items)} texts, {share} are needed")
        chosen += rng.sample(list(items), share)
    rng.shuffle(chosen)
    return chosen


def items_of(
    captions: Sequence[Composed], rewrites: Path | None, baseline: bool
) -> dict[str, list[Item]]:
    """The items of each source: ours; one template per attribute, where asked for; and the lines
    of `rewrites`, JSON with text, labels and person."""
    sources = {"ours": [Item(c.text, c.stated, c.person, "ours") for c in captions]}
    if baseline:
        sources["one template"] = [
            Item(one_template(c.stated, c.person), c.stated, c.person, "one template")
            for c in captions
        ]
    if rewrites is not None:
        records = [json.loads(line) for line in rewrites.read_text("utf-8").splitlines() if line]
        sources["rewrite"] = [
            Item(r["text"], tuple(r["labels"]), r["person"], "rewrite") for r in records
        ]
    return sources


def write_sample(items: Sequence[Item], output: Path, seed: int) -> Path:
    """Writes `output`, a CSV of number, text, person, labels and two empty columns for the ratings
    (labels in the alphabet's order: the order said would tell whose they are), and beside it the
    key, whose path is returned."""
    key = output.with_name(f"{output.stem}.key{output.suffix}")
    with output.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["number", "text", "person", "labels", "naturalness_1_to_5", "true_0_or_1"])
        for number, item in enumerate(items, 1):
            labels = " ".join(sorted(item.stated))
            rows.writerow([number, item.text, item.person, labels, "", ""])
    with key.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["number", "source", "seed"])
        rows.writerows([number, item.source, seed] for number, item in enumerate(items, 1))
    return key
