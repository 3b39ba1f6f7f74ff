"""Rows: what is stored of a sample, and JSON that every reader can read."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, ImageInfo, Sample
from facecap.schemas.tables import LEDGER, METADATA
from facecap.transforms.caption_columns import CaptionConfig
from facecap.transforms.rows import ledger_row, metadata_row, to_json
from tests.samples import FACE_DROPS, face

KEPT = Sample(
    7,
    "http://h/7",
    "alt",
    {"similarity": 0.5, "caption": "theirs"},
    fetched=Fetched(200, b"body", "ab"),
    image=ImageInfo("JPEG", 48, 40),
    faces=(face(0), face(1, FACE_DROPS[0])),
)


def strictly(text: bytes) -> Any:
    """The value of JSON without the NaN and Infinity that Python's reader lets pass."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_row_has_every_column() -> None:
    assert list(ledger_row(KEPT)) == LEDGER.names
    row = metadata_row("k", KEPT, KEPT.faces[0], CaptionConfig())
    assert list(row) == [*METADATA.names, "similarity", "input_caption"]
    assert row["caption"] == KEPT.faces[0].captions[0].raw and row["input_caption"] == "theirs"


def test_a_ledger_row_says_what_became_of_row_and_faces() -> None:
    row = ledger_row(KEPT)
    assert (row["outcome"], row["reason"], row["bytes"]) == ("kept", None, 4)
    assert [f["reason"] for f in row["faces"]] == [None, "too_small"]
    broken = replace(KEPT, drop=Drop(Stage.CAPTION, Reason.INTERNAL_ERROR, "x"))
    row = ledger_row(broken)
    assert (row["outcome"], row["stage"], row["error"]) == ("dropped", "caption", "x")
    assert [f["reason"] for f in row["faces"]] == ["internal_error", "too_small"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (float(np.float32(0.1)), float(np.float32(0.1))),
        (b"\x00\xff", "00ff"),
        ([1.5, math.nan, {"deep": (math.inf, b"a")}], [1.5, None, {"deep": [None, "61"]}]),
        (datetime.date(2020, 2, 3), "2020-02-03"),
        (Decimal("NaN"), "NaN"),
        ("é\u2028", "é\u2028"),
        (None, None),
        (True, True),
    ],
)
def test_what_json_lacks_has_one_form(value: Any, expected: Any) -> None:
    assert strictly(to_json({"x": value})) == {"x": expected}


cells = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    max_leaves=8,
)


@given(row=st.dictionaries(st.text("abc"), cells))
def test_every_row_is_json(row: dict[str, Any]) -> None:
    assert strictly(to_json(row)).keys() == row.keys()
