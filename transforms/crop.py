"""Crop: judges the detected faces and aligns those that pass for the classifier. EncodeCrops, after
the last rule: cuts out, encodes and measures those that are kept."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import apache_beam as beam
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from facecap.schemas.options import Options, content
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Crop as FaceCrop
from facecap.schemas.sample import Face, Outside, Sample, SampleBatch
from facecap.schemas.shard import MAX_FACES_PER_IMAGE
from facecap.transforms import align, face_measures, pixels, railway
from facecap.transforms.decode import DecodeOptions


class CropOptions(Options):
    """Which faces are kept, and what is saved of them."""

    min_side: int = content(128, "smallest short side of a face's box, in pixels", ge=1)
    min_score: float | None = content(
        None, "smallest detection score (0-1); null: the detector's own default", ge=0, le=1
    )
    margin: float = content(
        0.2, "added on every edge of the box, as a fraction of that side of the box", ge=0, le=1
    )
    max_faces: int = content(
        20, "most faces kept of one image, the largest first", ge=1, le=MAX_FACES_PER_IMAGE
    )
    outside: Literal["clamp", "pad"] = content(
        "clamp",
        "a box crop that leaves the image: clamp cuts it at the border, pad repeats border pixels",
    )
    shape: Literal["box", "aligned"] = content(
        "box",
        "box: box and margin at the original resolution; aligned: rotated and scaled to ArcFace's "
        "five points, without margin, border pixels repeated outside the image",
    )
    aligned_size: int = content(112, "side of an aligned crop, in pixels", ge=32, le=1024)
    jpeg_quality: int = content(95, "JPEG quality of the saved crops (4:4:4)", ge=1, le=100)


def select(
    faces: tuple[Face, ...], width: int, height: int, options: CropOptions, min_score: float
) -> tuple[Face, ...]:
    """`faces` of an image of width x height pixels, with a drop set on those not kept.

    The reasons are looked at in the order too_small, low_score, too_many_faces: a small face does
    not take the place of a larger one under `max_faces`. A box without a pixel inside the image
    is too small; a rank beyond the two digits of the key is one face too many.
    """
    judged = []
    room = options.max_faces
    for face in sorted(faces, key=lambda f: f.rank):
        if face.drop is None:
            reason = _reason(face, width, height, options, min_score)
            if reason is None and (room == 0 or face.rank >= MAX_FACES_PER_IMAGE):
                reason = Reason.TOO_MANY_FACES
            if reason is None:
                room -= 1
            else:
                face = replace(face, drop=Drop(Stage.CROP, reason))
        judged.append(face)
    return tuple(judged)


def _reason(
    face: Face, width: int, height: int, options: CropOptions, min_score: float
) -> Reason | None:
    if face.side < options.min_side or face_measures.inside(face.box, width, height) == 0:
        return Reason.TOO_SMALL
    return Reason.LOW_SCORE if face.score < min_score else None


def cut_box(
    rgb: npt.NDArray[np.uint8], face: Face, options: CropOptions
) -> tuple[npt.NDArray[np.uint8], Outside]:
    """The face's box and margin, in whole pixels (grown, never shrunk) at the original resolution:
    uint8 RGB [h',w',3], and what became of the part that lies outside the image.

    `rgb` is the full upright image, uint8 [h,w,3].
    """
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = face.box
    dx, dy = options.margin * (x1 - x0), options.margin * (y1 - y0)
    grown = (x0 - dx, y0 - dy, x1 + dx, y1 + dy)
    seen_x0, seen_y0, seen_x1, seen_y1 = face_measures.visible_box(grown, width, height)
    crop = rgb[seen_y0:seen_y1, seen_x0:seen_x1]
    above, left = (max(0, math.ceil(-side)) for side in (grown[1], grown[0]))
    below, right = (max(0, math.ceil(s)) for s in (grown[3] - height, grown[2] - width))
    if not any((above, below, left, right)):
        return crop, "none"
    if options.outside == "clamp":
        return crop, "clamped"
    padded = cv2.copyMakeBorder(crop, above, below, left, right, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(padded, dtype=np.uint8), "padded"


def cut_aligned(
    rgb: npt.NDArray[np.uint8], face: Face, size: int
) -> tuple[npt.NDArray[np.uint8], Outside]:
    """The face at ArcFace's five points: uint8 RGB [size,size,3], and whether border pixels
    were repeated to fill it. `rgb` is the full upright image, uint8 [h,w,3]."""
    matrix = align.face_matrix(face, align.arcface(size))
    leaves = align.chip_leaves_image(matrix, (size, size), rgb.shape[1], rgb.shape[0])
    return align.warp(rgb, matrix, (size, size)), "padded" if leaves else "none"


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int) -> bytes:
    """`rgb` (uint8 [h,w,3]) as a baseline JPEG, 4:4:4, without metadata: equal pixels give equal
    bytes for one build of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def crop_face(rgb: npt.NDArray[np.uint8], face: Face, options: CropOptions) -> FaceCrop:
    """The saved crop of `face`, and the measures (see `face_measures`).

    `rgb` is the full upright image, uint8 [h,w,3]. The perceptual hash is that of the crop's
    pixels before JPEG; sharpness and brightness are those of the detected box, without the margin.
    """
    if options.shape == "aligned":
        cut, outside = cut_aligned(rgb, face, options.aligned_size)
    else:
        cut, outside = cut_box(rgb, face, options)
    height, width = rgb.shape[:2]
    gray = face_measures.gray_face(rgb, face.box)
    return FaceCrop(
        jpeg=encode_jpeg(cut, options.jpeg_quality),
        width=cut.shape[1],
        height=cut.shape[0],
        outside=outside,
        sharpness=face_measures.sharpness(gray),
        brightness=face_measures.brightness(gray),
        roll=face_measures.roll(face.landmarks),
        yaw=face_measures.yaw(face.landmarks),
        phash=face_measures.phash(cut),
        inside=face_measures.inside(face.box, width, height),
    )


def judge_sample(
    sample: Sample,
    options: CropOptions,
    decode_options: DecodeOptions,
    alignment: align.Alignment,
    min_score: float,
) -> Sample:
    """`sample` with each face dropped, or with its chip. The image is decoded, in full, only
    where there is a face to keep; raises `railway.Dropped` as `decode` does."""
    if sample.image is None:
        raise ValueError("a live sample without its image reached Crop")
    faces = select(sample.faces, sample.image.width, sample.image.height, options, min_score)
    if any(face.drop is None for face in faces):
        rgb = pixels.full(sample, decode_options)
        faces = tuple(
            face if face.drop else replace(face, chip=align.align(rgb, face, alignment))
            for face in faces
        )
    return replace(sample, faces=faces)


def crop_sample(sample: Sample, options: CropOptions, decode_options: DecodeOptions) -> Sample:
    """`sample` with a crop for each face that is not dropped; raises `railway.Dropped` as `decode`
    does."""
    rgb = pixels.full(sample, decode_options)
    faces = tuple(
        face if face.drop else replace(face, crop=crop_face(rgb, face, options))
        for face in sample.faces
    )
    return replace(sample, faces=faces)


class Crop(beam.PTransform):
    """SampleBatch -> SampleBatch: every live face has its `chip`, or a drop.

    `min_score` is the one to use: `options.min_score`, or the detector's default where that is
    None. `alignment` is the classifier's.
    """

    def __init__(
        self,
        options: CropOptions,
        decode: DecodeOptions,
        alignment: align.Alignment,
        min_score: float,
    ) -> None:
        super().__init__()
        self._do_fn = EachSample(judge_sample, options, decode, alignment, min_score)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Crop" >> beam.ParDo(self._do_fn).with_output_types(SampleBatch)


class EncodeCrops(beam.PTransform):
    """SampleBatch -> SampleBatch: every live face has its `crop`.

    To be used where no rule drops a face any more: of the faces that Crop lets pass, three
    quarters have too few labels, and to encode and measure one takes longer than to classify it.
    """

    def __init__(self, options: CropOptions, decode: DecodeOptions) -> None:
        super().__init__()
        self._do_fn = EachSample(crop_sample, options, decode)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Encode" >> beam.ParDo(self._do_fn).with_output_types(SampleBatch)


class EachSample(beam.DoFn):
    """Applies a function of this file to every live sample."""

    def __init__(self, function: Callable[..., Sample], *settings: object) -> None:
        self._function, self._settings = function, settings

    def process(self, batch: SampleBatch) -> list[SampleBatch]:
        return [railway.map_live(batch, Stage.CROP, self._one)]

    def _one(self, sample: Sample) -> Sample:
        return self._function(sample, *self._settings)
