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
from pydantic import ValidationError

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms.classify_attributes import (
    CELEBA_ALIGNMENT,
    AttributesOptions,
    Classifier,
    ClassifyAttributes,
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


def run(settings: AttributesOptions, batch: SampleBatch) -> SampleBatch:
    handler = ClassifyAttributes(settings)._handler
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
