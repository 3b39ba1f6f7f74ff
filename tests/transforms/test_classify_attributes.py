import io
import itertools
import os
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import onnx
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from pydantic import ValidationError

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms.classify_attributes import (
    CELEBA_ALIGNMENT,
    AttributesOptions,
    Classifier,
    ClassifyAttributes,
    classify_many,
    classify_sample,
    kept_labels,
)
from facecap.transforms.models import ModelError

LABELS = ("Red", "Green", "Blue")


def save_model(path: Path, *, height=24, width=20, batch="n", factor=1 / 255) -> str:
    """A classifier whose three outputs are `factor` times the means of R, G and B."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Mul", ["means", "factor"], ["prob"]),
        ],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def options(path: str, **changes) -> AttributesOptions:
    settings = {
        "model_path": path,
        "labels": LABELS,
        "template": ((6, 8), (14, 8), (10, 12), (7, 17), (13, 17)),
        "width": 20,
        "height": 24,
        "min_labels": 1,
    }
    return AttributesOptions(**(settings | changes))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model") / "means.onnx")


def chip(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((24, 20, 3), (red, green, blue), np.uint8)


def face(pixels: np.ndarray, rank: int = 0) -> Face:
    return Face(rank, (0, 0, 200, 200), 0.99, ((0, 0),) * 5, chip=pixels)


def test_probabilities_are_those_of_rgb_pixels(model_path: str) -> None:
    found = Classifier(options(model_path)).probabilities(np.stack([chip(255, 0, 51)]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1.0, 0.0, 0.2]], atol=1e-6)


def test_normalisation_by_mean_and_std(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", factor=1)
    settings = options(path, mean=(55, 0, 0), std=(400, 255, 510))
    found = Classifier(settings).probabilities(np.stack([chip(255, 255, 255)]))
    np.testing.assert_allclose(found, [[0.5, 1.0, 0.5]], atol=1e-6)


def test_logits_pass_a_sigmoid(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", factor=1)
    settings = options(path, activation="sigmoid")
    found = Classifier(settings).probabilities(np.stack([chip(0, 2, 255)]))
    np.testing.assert_allclose(found, [[0.5, 1 / (1 + np.exp(-2)), 1.0]], atol=1e-6)


def test_a_label_is_kept_strictly_over_the_limit() -> None:
    settings = AttributesOptions(labels=("A", "B", "C"))
    probabilities = np.array([0.85, 0.8500001, 0.9], np.float32)
    assert kept_labels(probabilities, settings) == ("B", "C")


def test_few_labels_drop_the_face_alone(model_path: str) -> None:
    settings = options(model_path, min_labels=2)
    model = Classifier(settings)
    dropped = replace(face(chip(255, 255, 255), 1), chip=None, drop=object())
    sample = Sample(0, "u", faces=(face(chip(255, 255, 0)), dropped, face(chip(255, 0, 0), rank=2)))
    good, same, few = classify_sample(sample, model, settings).faces
    assert good.drop is None and good.labels == ("Red", "Green")
    assert same is dropped
    assert few.drop.stage is Stage.ATTRIBUTES and few.drop.reason is Reason.FEW_LABELS
    assert few.labels == ("Red",) and few.probabilities is not None


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1.0])
def test_a_probability_that_is_none_is_a_defect(tmp_path: Path, factor: float) -> None:
    model = Classifier(options(save_model(tmp_path / "m.onnx", factor=factor)))
    with pytest.raises(ValueError, match="probability"):
        model.probabilities(np.stack([chip(9, 9, 9)]))


def test_a_defect_becomes_an_internal_error_of_that_row(tmp_path: Path) -> None:
    settings = options(save_model(tmp_path / "m.onnx", factor=float("nan")))
    samples = (Sample(0, "u", faces=(face(chip(1, 2, 3)),)),)
    (found,) = run(settings, SampleBatch(ShardSpec(0, 0, ()), samples)).samples
    assert found.drop.reason is Reason.INTERNAL_ERROR
    assert found.drop.error.startswith("ValueError ")


def run(settings: AttributesOptions, batch: SampleBatch, micro_batch=None) -> SampleBatch:
    handler = ClassifyAttributes(settings, micro_batch)._handler
    (out,) = handler.run_inference(batch, handler.load_model())
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("Red", "Green")}, r"attributes\.labels.*\[1, 3\].*expected \[1, 2\]"),
        ({"width": 40}, r"expected one tensor\(float\) \[n, 3, 24, 40\]"),
        ({"model_path": "/nowhere/m.onnx"}, "attributes.model_path"),
    ],
)
def test_a_model_that_does_not_fit_is_named(model_path: str, changes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Classifier(options(model_path, **changes))


def test_a_fixed_batch_of_many_is_refused_and_of_one_is_fine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exactly 8 faces"):
        Classifier(options(save_model(tmp_path / "m8.onnx", batch=8)))
    model = Classifier(options(save_model(tmp_path / "m1.onnx", batch=1)))
    assert model.probabilities(np.stack([chip(0, 0, 0)] * 3)).shape == (3, 3)


def test_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"^attributes\.model_path: .*m\.onnx"):
        Classifier(options(str(tmp_path / "m.onnx")))


def test_settings_are_checked() -> None:
    for bad in (
        {"labels": ()},
        {"labels": ("A", "A")},
        {"std": (0, 1, 1)},
        {"width": 89},
        {"min_probability": 1},
        {"rule": "none"},
        {"model": "mtcnn"},
        {"provider": "tpu"},
    ):
        with pytest.raises(ValidationError):
            AttributesOptions(**bad)
    assert AttributesOptions().label_names == ATTRIBUTES
    assert AttributesOptions().alignment == CELEBA_ALIGNMENT


def test_run_inference_maps_batch_to_batch(model_path: str) -> None:
    faces = (face(chip(255, 0, 255)),)
    batches = [
        SampleBatch(ShardSpec(k, 0, ()), tuple(Sample(r, "u", faces=faces) for r in range(3)))
        for k in range(2)
    ]
    with beam.Pipeline("FnApiRunner") as pipeline:
        out = (
            pipeline
            | beam.Create(batches)
            | ClassifyAttributes(options(model_path))
            | beam.Map(lambda b: (b.shard.number, [s.faces[0].labels for s in b.samples]))
        )

        def check(found) -> None:
            assert sorted(found) == [(k, [("Red", "Blue")] * 3) for k in range(2)]

        assert_that(out, check)


# Many chips at once, the way of an accelerator, on the CPU.


def test_chips_go_to_the_model_in_full_micro_batches(model_path: str) -> None:
    """Whatever their number: an accelerator plans its work anew for each."""
    model = Classifier(options(model_path), micro_batch=4)
    seen, run = [], model._run
    model._run = lambda chips: seen.append(len(chips)) or run(chips)  # type: ignore[method-assign]
    chips = np.stack([chip(value, 0, 51) for value in range(0, 250, 25)])
    found = model.probabilities(chips)
    assert seen == [4, 4, 4] and found.shape == (10, 3)
    np.testing.assert_array_equal(found, Classifier(options(model_path)).probabilities(chips))
    parts = classify_many(model, [chips[:1], chips[1:8], chips[8:]])
    assert [len(part) for part in parts] == [1, 7, 2]
    np.testing.assert_array_equal(np.concatenate(parts), found)


def test_a_model_of_batch_one_gets_one_chip_at_a_time(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m1.onnx", batch=1)
    assert Classifier(options(path), micro_batch=8).micro_batch == 1


def test_a_bad_face_does_not_spoil_the_other_samples(tmp_path: Path) -> None:
    settings = options(
        save_model(tmp_path / "m.onnx", factor=1 / 200)
    )  # over 200 is no probability
    shades = [[chip(9, 9, 9)], [chip(9, 9, 9), chip(0, 255, 0)], [chip(190, 0, 0)] * 3]
    samples = tuple(
        Sample(row, "u", faces=tuple(face(pixels, rank) for rank, pixels in enumerate(chips)))
        for row, chips in enumerate(shades)
    )
    first, bad, last = run(settings, SampleBatch(ShardSpec(0, 0, ()), samples), 8).samples
    assert bad.drop.reason is Reason.INTERNAL_ERROR and bad.drop.error.startswith("ValueError ")
    assert first.drop is last.drop is None
    assert [f.labels for f in last.faces] == [("Red",)] * 3 and first.faces[0].labels == ()


def test_a_batch_of_faces_gets_the_same_labels(photographs: dict[str, bytes]) -> None:
    """The embedded classifier on the demo's photographs, cut by hand: no detector is needed."""
    pictures = [photographs["/astronaut.png"], photographs["/group.jpg"]]
    faces = []
    for body in pictures:
        rgb = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
        for top in range(0, rgb.shape[0] - 200, 150):
            faces += [rgb[top : top + 109, left : left + 89] for left in (0, 90, 180, 300)]
    samples, numbers = [], itertools.cycle([1, 2, 0, 5, 1])
    while faces:
        some, faces = faces[: (number := next(numbers))], faces[number:]
        drop = None if some else Drop(Stage.DETECT, Reason.NO_FACE)
        boxes = tuple(face(chip, rank) for rank, chip in enumerate(some))
        samples.append(Sample(len(samples), "u", faces=boxes, drop=drop))
    batch = SampleBatch(ShardSpec(0, 0, ()), tuple(samples))
    alone, many = (run(AttributesOptions(min_labels=2), batch, size) for size in (None, 16))
    labels = [[(f.labels, f.drop) for f in s.faces] for s in alone.samples]
    assert labels == [[(f.labels, f.drop) for f in s.faces] for s in many.samples]
    assert {len(kept) for of_sample in labels for kept, _ in of_sample} > {0, 1, 2}
    pairs = zip(alone.samples, many.samples, strict=True)
    for one, other in (pair for a, b in pairs for pair in zip(a.faces, b.faces, strict=True)):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert one.chip is other.chip is None
    assert [s.drop for s in many.samples] == [s.drop for s in samples]


needs_models = pytest.mark.skipif(
    "FACECAP_TEST_MODELS" not in os.environ, reason="needs FACECAP_TEST_MODELS"
)


@pytest.fixture(scope="module")
def celeba() -> Classifier:
    path = Path(os.environ["FACECAP_TEST_MODELS"]) / "attributes" / "celeba40_small.onnx"
    return Classifier(AttributesOptions(model_path=str(path)))


@needs_models
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_probabilities_do_not_depend_on_the_batch(celeba: Classifier, seed: int, order) -> None:
    chips = np.random.default_rng(seed).integers(0, 255, (5, 109, 89, 3), np.uint8)
    alone = np.concatenate([celeba.probabilities(c[None]) for c in chips])
    together = celeba.probabilities(chips[order])
    np.testing.assert_array_equal(together, alone[order])
