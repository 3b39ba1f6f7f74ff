"""Rejects: small, chosen by key alone, and never the end of a build."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, ImageInfo, Sample
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import pixels, rejects
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.rejects import RejectSampler
from tests.samples import FACE_DROPS, ROW_DROPS, face

SPEC = ShardSpec(4, 400, (InputRange("x", 0, 100),))
NO_FACE = Drop(Stage.DETECT, Reason.NO_FACE)
BROKEN = Drop(Stage.CROP, Reason.INTERNAL_ERROR, "error 12")


def picture(width: int, height: int) -> bytes:
    """Red on the left half, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sample(row: int, drop: Drop | None, width: int = 64, height: int = 48, **more: Any) -> Sample:
    more.setdefault("fetched", Fetched(200, picture(width, height), "ab"))
    more.setdefault("image", ImageInfo("PNG", width, height))
    return Sample(row, f"http://h/{row}", drop=drop, **more)


def chosen(*samples: Sample, per_reason: int = 8) -> dict[str, dict[str, bytes]]:
    sampler = RejectSampler(SPEC, per_reason, DecodeOptions())
    for one in samples:
        assert sampler.add(one) is None
    return dict(sampler.members())


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 800), (160, 80)), ((64, 48), (64, 48)), ((3000, 5), (160, 1)), ((1, 1), (1, 1))],
)
def test_an_image_is_shown_whole_and_small(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    members = chosen(sample(407, NO_FACE, *size))["000004000007"]
    assert Image.open(io.BytesIO(members["jpg"])).size == expected
    assert json.loads(members["json"]) == {
        "row": 407,
        "url": "http://h/407",
        "stage": "detect",
        "reason": "no_face",
        "error": None,
        "score": None,
        "box": None,
    }


@pytest.mark.parametrize(
    ("box", "side"),
    [((5.0, 10.0, 25.0, 30.0), "left"), ((75.0, 10.0, 95.0, 30.0), "right")],
)
def test_a_dropped_face_is_cut_out_with_some_context(
    box: tuple[float, float, float, float], side: str
) -> None:
    dropped = replace(face(2, FACE_DROPS[0]), box=box)
    members = chosen(sample(400, None, 100, 50, faces=(face(0), face(1), dropped)))
    assert list(members) == ["000004000000_02"]
    shown = np.asarray(Image.open(io.BytesIO(members["000004000000_02"]["jpg"])))
    assert 20 < shown.shape[0] <= 33 and 20 < shown.shape[1] <= 33
    red, _, blue = shown.reshape(-1, 3).mean(axis=0)
    assert (red > blue) == (side == "left")
    assert json.loads(members["000004000000_02"]["json"])["box"] == list(box)


@given(
    corner=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    size=st.tuples(st.floats(0, 900), st.floats(0, 900)),
)
def test_a_box_anywhere_gives_a_picture(
    corner: tuple[float, float], size: tuple[float, float]
) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    part = rejects._around(image, (*corner, corner[0] + size[0], corner[1] + size[1]))
    assert 1 <= part.shape[0] <= 48 and 1 <= part.shape[1] <= 64


def test_what_was_never_decoded_or_was_kept_is_not_shown() -> None:
    undecoded = [sample(400 + i, drop) for i, drop in enumerate(ROW_DROPS[:-1])]
    bare = sample(410, NO_FACE, image=None)
    assert chosen(*undecoded, bare, sample(411, None, faces=(face(0),))) == {}
    assert chosen(sample(412, NO_FACE), per_reason=0) == {}


@given(rows=st.sets(st.integers(400, 499), min_size=1, max_size=12), per_reason=st.integers(1, 5))
def test_the_choice_depends_on_the_keys_alone(rows: set[int], per_reason: int) -> None:
    samples = [sample(row, NO_FACE, 4, 4) for row in rows]
    forwards = chosen(*samples, per_reason=per_reason)
    assert chosen(*samples[::-1], per_reason=per_reason) == forwards
    assert len(forwards) == min(per_reason, len(rows))


def test_an_image_that_is_broken_at_full_size_is_left_out() -> None:
    cut = replace(sample(400, NO_FACE), fetched=Fetched(200, picture(64, 48)[:-40], "ab"))
    assert set(chosen(cut, sample(401, NO_FACE))) == {"000004000001"}


def test_an_image_that_breaks_the_decoder_does_not_end_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that met an internal error in Crop is decoded once more, and fails once more."""
    decode = rejects.decode

    def broken(body: bytes, *rest: Any, **more: Any) -> Any:
        if body == b"odd":
            raise ArithmeticError("a defect of a library")
        return decode(body, *rest, **more)

    for module in (pixels, rejects):
        monkeypatch.setattr(module, "decode", broken)
    odd = sample(400, BROKEN, faces=(face(0),), fetched=Fetched(200, b"odd", "ab"))
    assert set(chosen(odd, sample(401, NO_FACE))) == {"000004000001"}


@pytest.mark.parametrize("kind", [AttributeError, TypeError, ValueError, ArithmeticError])
@pytest.mark.parametrize("where", ["decode", "to_json"])
@pytest.mark.parametrize(
    "dropped", [sample(400, NO_FACE), sample(400, None, faces=(face(0, FACE_DROPS[0]),))]
)
def test_a_defect_is_returned_as_the_shards_failure(
    monkeypatch: pytest.MonkeyPatch, where: str, kind: type[Exception], dropped: Sample
) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise kind("a defect")

    monkeypatch.setattr(rejects, where, broken)
    monkeypatch.setattr(pixels, "decode", broken)
    failure = RejectSampler(SPEC, 8, DecodeOptions()).add(dropped)
    assert failure is not None and failure.startswith(f"rejects: decode: {kind.__name__} ")


def test_an_odd_score_or_box_is_still_json() -> None:
    odd = replace(face(0, FACE_DROPS[0]), score=math.nan, box=(0.0, 0.0, 9.0, 9.0))
    members = chosen(sample(400, None, faces=(odd,)))["000004000000_00"]
    assert json.loads(members["json"])["score"] is None
