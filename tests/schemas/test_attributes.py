"""The attributes: CelebA's 40 in its order, each in exactly one of the paper's groups."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import chain
from pathlib import Path

from facecap.schemas.attributes import ATTRIBUTES, GROUPS


def test_every_attribute_is_in_exactly_one_group() -> None:
    assert len(ATTRIBUTES) == 40
    assert Counter(chain.from_iterable(GROUPS.values())) == Counter(ATTRIBUTES)


def test_they_stand_in_celebas_order(test_data: Path) -> None:
    with (test_data / "celeba" / "attributes.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert tuple(name for name in header if name in ATTRIBUTES) == ATTRIBUTES
