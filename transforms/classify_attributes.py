"""ClassifyAttributes: probabilities of the attributes, and the labels that are kept of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import ModelHandler, RunInference
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from pydantic import field_validator, model_validator

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Point, Sample, SampleBatch
from facecap.transforms import railway
from facecap.transforms.align import Alignment
from facecap.transforms.models import REGISTRY, ModelError, locate
from facecap.transforms.onnx_session import PROVIDERS, naming_setting, onnx_session

CELEBA_ALIGNMENT = Alignment(
    template=((34.8, 56.0), (54.1, 56.0), (44.2, 67.8), (36.3, 76.2), (52.6, 76.2)),
    width=89,
    height=109,
)
"""CelebA's own alignment at half size (medians of the landmarks over its images): what the
embedded classifier was trained on."""

GPU_MICRO_BATCH = 32
"""Faces per call on an accelerator; a CPU is fastest one at a time."""

Triple = tuple[float, float, float]


class AttributesOptions(Options):
    """The attribute classifier, and when a label and a face are kept."""

    model: str = content("celeba40", "registered attribute classifier")
    # Its place is no content; its sha256 enters the fingerprint.
    model_path: str | None = run(
        None, "ONNX file used instead: RGB [n,3,height,width] in, [n,labels] out"
    )
    labels: tuple[str, ...] | None = content(
        None, "names of the model's outputs, in order; null: the 40 of CelebA"
    )
    mean: Triple | None = content(
        None, "subtracted from R, G, B (0-255) of the model's input; null: nothing"
    )
    std: Triple | None = content(
        None, "divides R, G, B of the model's input, after the mean; null: nothing"
    )
    activation: Literal["none", "sigmoid"] = content(
        "none",
        "applied to the model's output: none where it gives probabilities, sigmoid for logits",
    )
    template: tuple[Point, Point, Point, Point, Point] | None = content(
        None,
        "left eye, right eye, nose, mouth corners (x, y) in the model's input, in pixels; "
        "null: the embedded model's",
    )
    width: int | None = content(
        None, "width of the model's input, in pixels; null: 89", ge=16, le=1024
    )
    height: int | None = content(
        None, "height of the model's input, in pixels; null: 109", ge=16, le=1024
    )
    provider: str = content("cpu", f"where the model runs: {', '.join(PROVIDERS)}")
    min_probability: float = content(
        0.85, "a label is kept when its probability is over this", ge=0, lt=1
    )
    min_labels: int = content(6, "a face is kept when it has at least this many labels", ge=0)
    rule: Literal["fixed"] = content("fixed", "fixed: one min_probability for every attribute")

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, name: str) -> str:
        known = [entry.name for entry in REGISTRY.values() if entry.kind == "attributes"]
        if name not in known:
            raise ValueError(f"unknown attribute classifier, choose one of {', '.join(known)}")
        return name

    @field_validator("provider")
    @classmethod
    def _provider_is_known(cls, name: str) -> str:
        if name not in PROVIDERS:
            raise ValueError(f"unknown provider, choose one of {', '.join(PROVIDERS)}")
        return name

    @field_validator("labels")
    @classmethod
    def _labels_are_names(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (
            not labels or len(set(labels)) < len(labels) or not all(map(str.strip, labels))
        ):
            raise ValueError("must be a list of different, non-empty names")
        return labels

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be three positive numbers")
        return std

    @model_validator(mode="after")
    def _alignment_is_whole(self) -> AttributesOptions:
        given = [v is not None for v in (self.template, self.width, self.height)]
        if any(given) and not all(given):
            raise ValueError("template, width and height are set together or not at all")
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """The model's labels, in the order of its outputs."""
        return ATTRIBUTES if self.labels is None else self.labels

    @property
    def alignment(self) -> Alignment:
        """The alignment the model was trained on."""
        if self.template is None or self.width is None or self.height is None:
            return CELEBA_ALIGNMENT
        return Alignment(self.template, self.width, self.height)


class Classifier:
    """A loaded attribute classifier."""

    def __init__(self, options: AttributesOptions) -> None:
        """Loads the model that `options` name and tries it on one empty chip.

        Raises `ModelError` where the file cannot be had or used, where its input does not fit
        the chip, or where its output does not fit the labels.
        """
        path = locate(options.model, options.model_path)
        with naming_setting("attributes", options.model_path):
            self._session = onnx_session(path, options.provider)
        self._options = options
        self._micro_batch = 1 if options.provider == "cpu" else GPU_MICRO_BATCH
        self._input = self._checked_input(str(path))
        alignment = options.alignment
        blank = np.zeros((1, alignment.height, alignment.width, 3), np.uint8)
        try:
            shape = self._run(blank).shape
        except (Fail, InvalidArgument, RuntimeException) as error:
            line = " ".join(str(error).split())[:200]
            raise ModelError(
                f"attributes.model_path: the model {path} cannot run on one RGB chip of "
                f"{alignment.width} x {alignment.height}: {line}"
            ) from None
        if shape != (1, len(options.label_names)):
            raise ModelError(
                f"attributes.labels: the model {path} gives {list(shape)} for one face, "
                f"expected [1, {len(options.label_names)}]: list its labels in attributes.labels"
            )

    def _checked_input(self, path: str) -> str:
        inputs = self._session.get_inputs()
        alignment = self._options.alignment
        expected = [3, alignment.height, alignment.width]
        first = inputs[0]
        fits = len(inputs) == 1 and first.type == "tensor(float)" and len(first.shape) == 4
        if not fits or any(
            isinstance(size, int) and size != wanted
            for size, wanted in zip(first.shape[1:], expected, strict=True)
        ):
            raise ModelError(
                f"attributes.model_path: the model {path} takes "
                f"{[f'{i.type} {i.shape}' for i in inputs]}, expected one tensor(float) [n, 3, "
                f"{alignment.height}, {alignment.width}]: set attributes.template, width and height"
            )
        if first.shape[0] == 1:
            self._micro_batch = 1
        elif isinstance(first.shape[0], int):
            raise ModelError(
                f"attributes.model_path: the model {path} takes exactly {first.shape[0]} faces "
                "at a time: export it with a batch of 1 or a dynamic one"
            )
        return str(first.name)

    def _run(self, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        planes = chips.transpose(0, 3, 1, 2).astype(np.float32)
        if self._options.mean is not None:
            planes -= np.array(self._options.mean, np.float32)[:, None, None]
        if self._options.std is not None:
            planes /= np.array(self._options.std, np.float32)[:, None, None]
        output = self._session.run(None, {self._input: np.ascontiguousarray(planes)})[0]
        return np.asarray(output, dtype=np.float32)

    def probabilities(self, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities float32 [n, labels] of aligned chips (uint8 RGB [n, height, width, 3]).

        Raises `ValueError` where the model gives anything but finite numbers from 0 to 1.
        """
        parts = [
            self._run(chips[i : i + self._micro_batch])
            for i in range(0, len(chips), self._micro_batch)
        ]
        outputs = np.concatenate(parts)
        if self._options.activation == "sigmoid":
            outputs = np.exp(-np.logaddexp(np.float32(0), -outputs))
        if not np.isfinite(outputs).all():
            raise ValueError("the attribute classifier gave a probability that is not finite")
        if outputs.min() < 0 or outputs.max() > 1:
            raise ValueError(
                "the attribute classifier gave a probability outside 0-1: "
                "for a model that gives logits, set attributes.activation to sigmoid"
            )
        return outputs


def kept_labels(
    probabilities: npt.NDArray[np.float32], options: AttributesOptions
) -> tuple[str, ...]:
    """The labels whose probability is over `options.min_probability`, in the model's order."""
    over = probabilities > np.float32(options.min_probability)
    return tuple(name for name, kept in zip(options.label_names, over, strict=True) if kept)


def classify_sample(sample: Sample, model: Classifier, options: AttributesOptions) -> Sample:
    """`sample` with `probabilities` and `labels` set on every live face, and `few_labels` on those
    that have fewer than `options.min_labels`."""
    chips = [face.chip for face in sample.faces if face.drop is None and face.chip is not None]
    rows = iter(model.probabilities(np.stack(chips)))

    def classify(face: Face) -> Face:
        if face.drop is not None:
            return face
        probabilities = next(rows)
        labels = kept_labels(probabilities, options)
        few = len(labels) < options.min_labels
        drop = Drop(Stage.ATTRIBUTES, Reason.FEW_LABELS) if few else None
        return replace(face, chip=None, probabilities=probabilities, labels=labels, drop=drop)

    return replace(sample, faces=tuple(classify(face) for face in sample.faces))


class AttributesHandler(ModelHandler[SampleBatch, SampleBatch, Classifier]):
    """Runs the classifier on whole SampleBatches (each is one element, and one "batch")."""

    def __init__(self, options: AttributesOptions) -> None:
        super().__init__()
        self._options = options

    def load_model(self) -> Classifier:
        return Classifier(self._options)

    def run_inference(  # the element is the batch
        self, batch: SampleBatch, model: Classifier, inference_args: dict[str, Any] | None = None
    ) -> Iterable[SampleBatch]:
        yield railway.map_live(
            batch, Stage.ATTRIBUTES, lambda sample: classify_sample(sample, model, self._options)
        )

    def get_num_bytes(self, batch: SampleBatch) -> int:
        return batch.nbytes

    def get_metrics_namespace(self) -> str:
        return "attributes"

    def should_skip_batching(self) -> bool:
        return True


class ClassifyAttributes(beam.PTransform):
    """SampleBatch -> SampleBatch: every live face has `probabilities` and `labels`, or a drop."""

    def __init__(self, options: AttributesOptions) -> None:
        super().__init__()
        self._handler = AttributesHandler(options)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Classify" >> RunInference(self._handler).with_output_types(SampleBatch)
