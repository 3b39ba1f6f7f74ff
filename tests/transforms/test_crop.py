import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Fetched, ImageInfo, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms import align, crop
from facecap.transforms import pixels as kept_pixels
from facecap.transforms.crop import (
    Crop,
    CropOptions,
    EncodeCrops,
    crop_face,
    crop_sample,
    judge_sample,
    select,
)
from facecap.transforms.decode import DecodeOptions

CHIP = align.Alignment(((34.8, 56), (54.1, 56), (44.2, 67.8), (36.3, 76.2), (52.6, 76.2)), 89, 109)


def face(box, score: float = 0.99, rank: int = 0) -> Face:
    return Face(rank, box, score, tuple(map(tuple, align.points_in_box(box))))


def picture(width: int, height: int) -> np.ndarray:
    """Every pixel differs from its neighbours: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([x % 256, y % 256, (x // 256 + y // 256) * 16]).astype(np.uint8)


def png(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def sample(rgb: np.ndarray, faces: tuple[Face, ...], row: int = 0) -> Sample:
    height, width = rgb.shape[:2]
    return Sample(
        row,
        "http://host/a.png",
        fetched=Fetched(200, png(rgb), "0" * 64),
        image=ImageInfo("PNG", width, height),
        faces=faces,
    )


def reasons(faces) -> list[Reason | None]:
    return [f.drop.reason if f.drop else None for f in faces]


def test_reasons_and_their_order() -> None:
    faces = (
        face((0, 0, 300, 300), 0.99, 0),
        face((0, 0, 200, 250), 0.5, 1),  # low score
        face((0, 0, 200, 200), 0.98, 2),
        face((0, 0, 150, 150), 0.99, 3),  # beyond max_faces
        face((0, 0, 127.9, 170), 0.5, 4),  # too small, before its low score
        face((-300, 0, -10, 290), 0.99, 5),  # no pixel inside
    )
    found = select(faces, 600, 600, CropOptions(max_faces=2), 0.98)
    assert reasons(found) == [
        None,
        Reason.LOW_SCORE,
        None,
        Reason.TOO_MANY_FACES,
        Reason.TOO_SMALL,
        Reason.TOO_SMALL,
    ]
    assert all(f.drop.stage is Stage.CROP for f in found if f.drop)


def test_limits_are_inclusive() -> None:
    faces = (face((0, 0, 128, 128), 0.98),)
    assert reasons(select(faces, 600, 600, CropOptions(), 0.98)) == [None]


def test_a_rank_of_three_digits_is_one_face_too_many() -> None:
    faces = tuple(face((0, 0, 200, 200), 0.1 if r < 60 else 0.99, r) for r in range(110))
    found = reasons(select(faces, 600, 600, CropOptions(max_faces=100), 0.98))
    assert found == [Reason.LOW_SCORE] * 60 + [None] * 40 + [Reason.TOO_MANY_FACES] * 10


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-100, 500), st.integers(-100, 300), st.integers(20, 300))),
    st.integers(1, 5),
)
def test_every_face_has_one_outcome_and_the_largest_survive(squares, max_faces: int) -> None:
    squares = sorted(squares, key=lambda s: -s[2])
    faces = tuple(face((x, y, x + s, y + s), rank=r) for r, (x, y, s) in enumerate(squares))
    found = select(faces, 500, 300, CropOptions(max_faces=max_faces), 0.5)
    assert [f.rank for f in found] == list(range(len(faces)))
    kept = [f.side for f in found if f.drop is None]
    assert len(kept) <= max_faces
    lost = [f.side for f in found if f.drop and f.drop.reason is Reason.TOO_MANY_FACES]
    assert not lost or (len(kept) == max_faces and min(kept) >= max(lost))


def test_box_crop_keeps_the_original_pixels() -> None:
    rgb = picture(600, 400)
    pixels, outside = crop.cut_box(rgb, face((200.5, 100, 300.5, 250)), CropOptions(margin=0.1))
    np.testing.assert_array_equal(pixels, rgb[85:265, 190:311])
    assert outside == "none"


def test_outside_is_clamped_or_padded() -> None:
    rgb = picture(300, 200)
    beyond = face((-20, 10, 130, 210))
    clamped, outside = crop.cut_box(rgb, beyond, CropOptions(margin=0))
    np.testing.assert_array_equal(clamped, rgb[10:200, 0:130])
    assert outside == "clamped"
    whole, outside = crop.cut_box(rgb, beyond, CropOptions(margin=0, outside="pad"))
    assert whole.shape == (200, 150, 3) and outside == "padded"
    np.testing.assert_array_equal(whole[:190, 20:], clamped)
    np.testing.assert_array_equal(whole[0, :20], np.repeat(clamped[0, :1], 20, axis=0))
    inner, outside = crop.cut_box(rgb, face((40, 40, 160, 160)), CropOptions(outside="pad"))
    assert outside == "none" and inner.shape == (168, 168, 3)


def test_the_jpeg_has_equal_bytes_full_chroma_and_no_metadata() -> None:
    rgb = picture(160, 140)
    data = crop.encode_jpeg(rgb, 95)
    assert data == crop.encode_jpeg(rgb.copy(), 95)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (160, 140)
        assert {component[1:3] for component in image.layer} == {(1, 1)}
        assert not {"exif", "icc_profile", "comment"} & set(image.info)


def test_the_shapes_of_a_saved_crop() -> None:
    rgb = picture(640, 480)
    one = face((-30, 100, 220, 380))
    crops = [
        crop_face(rgb, one, options)
        for options in (
            CropOptions(),
            CropOptions(outside="pad", margin=0.5),
            CropOptions(shape="aligned", aligned_size=160),
        )
    ]
    assert [c.outside for c in crops] == ["clamped", "padded", "padded"]
    assert (crops[2].width, crops[2].height) == (160, 160)
    for found in crops:
        assert found.sharpness == crops[0].sharpness
        assert found.inside == pytest.approx(220 / 250)
        with Image.open(io.BytesIO(found.jpeg)) as image:
            assert image.size == (found.width, found.height)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """One entry per image that these stages decode."""
    calls: list[dict] = []
    real = kept_pixels.decode
    monkeypatch.setattr(kept_pixels, "decode", lambda *a, **k: calls.append(k) or real(*a, **k))
    kept_pixels.forget()
    return calls


def judge(one: Sample) -> Sample:
    return judge_sample(one, CropOptions(), DecodeOptions(), CHIP, 0.9)


def test_the_image_is_decoded_only_for_a_face_to_keep_and_once_for_all_stages(decoded) -> None:
    rgb = picture(500, 400)
    small = sample(rgb, (face((0, 0, 50, 50)),))
    assert reasons(judge(small).faces) == [Reason.TOO_SMALL]
    assert decoded == []
    boxes = (0, 0, 300, 300), (50, 50, 250, 250)
    judged = judge(sample(rgb, tuple(face(box, rank=r) for r, box in enumerate(boxes))))
    for found in judged.faces:
        assert found.chip.shape == (109, 89, 3) and found.chip.dtype == np.uint8
        np.testing.assert_array_equal(found.chip, align.align(rgb, found, CHIP))
        assert found.crop is None
    first, second = judged.faces
    dropped = replace(second, drop=Drop(Stage.ATTRIBUTES, Reason.FEW_LABELS))
    cut = crop_sample(replace(judged, faces=(first, dropped)), CropOptions(), DecodeOptions()).faces
    assert cut[0].crop == crop_face(rgb, first, CropOptions())
    assert cut[1] is dropped and cut[1].crop is None, "not encoded, for nobody keeps it"
    assert len(decoded) == 1


def test_without_room_the_image_is_decoded_again_to_the_same(decoded, monkeypatch) -> None:
    one = sample(picture(500, 400), (face((0, 0, 300, 300)),))
    kept = crop_sample(judge(one), CropOptions(), DecodeOptions())
    monkeypatch.setattr(kept_pixels, "BUDGET_BYTES", 1000)
    kept_pixels.forget()
    again = crop_sample(judge(one), CropOptions(), DecodeOptions())
    assert len(decoded) == 3 and again.faces[0].crop == kept.faces[0].crop


def test_a_broken_image_drops_the_row_with_a_decode_reason() -> None:
    good = sample(picture(400, 400), (face((0, 0, 300, 300)),))
    half = good.fetched.body[: len(good.fetched.body) // 2]
    bad = replace(good, row=1, fetched=Fetched(200, half))
    batch = SampleBatch(ShardSpec(0, 0, ()), (good, bad))
    with beam.Pipeline("FnApiRunner") as pipeline:
        out = (
            pipeline
            | beam.Create([batch])
            | Crop(CropOptions(), DecodeOptions(), CHIP, 0.9)
            | EncodeCrops(CropOptions(), DecodeOptions())
            | beam.Map(lambda b: [(s.live, s.drop.stage if s.drop else None) for s in b.samples])
        )
        assert_that(out, lambda found: _equal(found, [[(True, None), (False, Stage.DECODE)]]))


def _equal(found: object, expected: object) -> None:
    assert found == expected


def test_options_are_bounded() -> None:
    for bad in ({"max_faces": 101}, {"margin": -0.1}, {"min_score": 1.1}, {"outside": "mirror"}):
        with pytest.raises(ValidationError):
            CropOptions(**bad)
    assert pickle.loads(pickle.dumps(CropOptions())) == CropOptions()


@pytest.mark.skipif("FACECAP_TEST_DATA" not in os.environ, reason="needs FACECAP_TEST_DATA")
def test_equal_bytes_on_photographs() -> None:
    folder = Path(os.environ["FACECAP_TEST_DATA"]) / "photos" / "people"
    for path in sorted(folder.glob("*.jp*g"))[:5]:
        with Image.open(path) as image:
            rgb = np.asarray(image.convert("RGB"))
        height, width = rgb.shape[:2]
        one = face((0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height))
        first, second = (crop_face(rgb, one, CropOptions()) for _ in range(2))
        assert first.jpeg == second.jpeg and first.phash == second.phash
        assert 0 <= first.brightness <= 255 and first.sharpness > 0
