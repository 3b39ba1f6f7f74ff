"""ClassifyAttributes: probabilities of the attributes, and the labels that are kept of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from facecap.transforms import micro_batch, railway
from facecap.transforms.align import Alignment
from facecap.transforms.models import REGISTRY, ModelError, locate
from facecap.transforms.onnx_session import (
    MICRO_BATCH,
    PROVIDERS,
    naming_setting,
    onnx_session,
)

CELEBA_ALIGNMENT = Alignment(
    template=((34.8, 56.0), (54.1, 56.0), (44.2, 67.8), (36.3, 76.2), (52.6, 76.2)),
    width=89,
    height=109,
)
"""CelebA's own alignment at half size (medians of the landmarks over its images): what the
embedded classifier was trained on."""

Chips = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
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
    minors: Literal["drop", "careful", "keep"] = content(
        "careful",
        "of a face that looks under 18 to any model at hand (not all who are do): careful: no "
        "judgement of looks, no makeup, no gender; drop: left out (needs an age model); keep",
    )

    @field_validator("minors")
    @classmethod
    def _drop_needs_an_age(cls, minors: str) -> str:
        if minors == "drop":
            raise ValueError("drop needs an age model, and there is none yet: use careful or keep")
        return minors

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
    """A loaded attribute classifier. `micro_batch` is how many chips the model is given at once."""

    def __init__(self, options: AttributesOptions, micro_batch: int | None = None) -> None:
        """Loads the model that `options` name and tries it on `micro_batch` empty chips (none: as
        many as are best for the provider; 1 where the model takes one only).

        Raises `ModelError` where the file cannot be had or used, where its input does not fit
        the chip, or where its output does not fit the labels.
        """
        path = locate(options.model, options.model_path)
        with naming_setting("attributes", options.model_path):
            self._session = onnx_session(path, options.provider)
        self._options = options
        self.micro_batch = micro_batch or MICRO_BATCH[options.provider]
        self._input = self._checked_input(str(path))
        alignment = options.alignment
        count = self.micro_batch
        blank = np.zeros((count, alignment.height, alignment.width, 3), np.uint8)
        try:
            shape = self._run(blank).shape
        except (Fail, InvalidArgument, RuntimeException) as error:
            line = " ".join(str(error).split())[:200]
            raise ModelError(
                f"attributes.model_path: the model {path} cannot run on RGB chips of "
                f"{alignment.width} x {alignment.height}, {count} at a time: {line}"
            ) from None
        if shape != (count, len(options.label_names)):
            raise ModelError(
                f"attributes.labels: the model {path} gives {list(shape)} for a batch of {count}, "
                f"expected [{count}, {len(options.label_names)}]: list its labels in "
                "attributes.labels"
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
            self.micro_batch = 1
        elif isinstance(first.shape[0], int):
            raise ModelError(
                f"attributes.model_path: the model {path} takes exactly {first.shape[0]} faces "
                "at a time: export it with a batch of 1 or a dynamic one"
            )
        return str(first.name)

    def _run(self, chips: Chips) -> Probabilities:
        planes = chips.transpose(0, 3, 1, 2).astype(np.float32)
        if self._options.mean is not None:
            planes -= np.array(self._options.mean, np.float32)[:, None, None]
        if self._options.std is not None:
            planes /= np.array(self._options.std, np.float32)[:, None, None]
        output = self._session.run(None, {self._input: np.ascontiguousarray(planes)})[0]
        return np.asarray(output, dtype=np.float32)

    def _filled_up(self, chips: Chips) -> Chips:
        """`micro_batch` chips, black ones behind those given: an accelerator plans its work anew
        for every other number of them (see `one_pass.CALLS`)."""
        missing = self.micro_batch - len(chips)
        if not missing:
            return chips
        return np.concatenate([chips, np.zeros((missing, *chips.shape[1:]), np.uint8)])

    def probabilities(self, chips: Chips) -> Probabilities:
        """Probabilities float32 [n, labels] of aligned chips (uint8 RGB [n, height, width, 3]).

        Raises `ValueError` where the model gives anything but finite numbers from 0 to 1.
        """
        parts = [
            self._run(self._filled_up(chips[i : i + self.micro_batch]))
            for i in range(0, len(chips), self.micro_batch)
        ]
        outputs = np.concatenate(parts)[: len(chips)]
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


def live_chips(sample: Sample) -> Chips:
    """The chips of the live faces of `sample`: [faces, height, width, 3]."""
    return np.stack([f.chip for f in sample.faces if f.drop is None and f.chip is not None])


def with_labels(sample: Sample, found: Probabilities, options: AttributesOptions) -> Sample:
    """`sample` with `probabilities` and `labels` set on every live face, and `few_labels` on those
    that have fewer than `options.min_labels`. `found` is [live faces, labels]."""
    rows = iter(found)

    def classify(face: Face) -> Face:
        if face.drop is not None:
            return face
        probabilities = next(rows)
        labels = kept_labels(probabilities, options)
        few = len(labels) < options.min_labels
        drop = Drop(Stage.ATTRIBUTES, Reason.FEW_LABELS) if few else None
        return replace(face, chip=None, probabilities=probabilities, labels=labels, drop=drop)

    return replace(sample, faces=tuple(classify(face) for face in sample.faces))


def classify_sample(sample: Sample, model: Classifier, options: AttributesOptions) -> Sample:
    """`with_labels` by what the model says of the sample's chips."""
    return with_labels(sample, model.probabilities(live_chips(sample)), options)


def classify_many(model: Classifier, chips: Sequence[Chips]) -> list[Probabilities]:
    """The probabilities of the chips of many samples, which the model is given together."""
    ends = np.cumsum([len(of_sample) for of_sample in chips])
    return np.split(model.probabilities(np.concatenate(chips)), ends[:-1])


class AttributesHandler(ModelHandler[SampleBatch, SampleBatch, Classifier]):
    """Runs the classifier on whole SampleBatches (each is one element, and one "batch"): one chip
    at a time, or `micro_batch` of the whole batch at once (none: as is best for the provider).

    RunInference loads one classifier per worker process, and all threads of it share that one.
    """

    def __init__(self, options: AttributesOptions, micro_batch: int | None = None) -> None:
        super().__init__()
        self._options = options
        self._micro_batch = micro_batch

    def load_model(self) -> Classifier:
        return Classifier(self._options, self._micro_batch)

    def run_inference(  # the element is the batch
        self, batch: SampleBatch, model: Classifier, inference_args: dict[str, Any] | None = None
    ) -> Iterable[SampleBatch]:
        if model.micro_batch > 1:
            steps = micro_batch.Steps[tuple[Sample, Chips], Probabilities](
                prepare=lambda sample: (sample, live_chips(sample)),
                nbytes=lambda given: given[1].nbytes,
                ask=lambda waiting: classify_many(model, [chips for _, chips in waiting]),
                finish=lambda given, found: with_labels(given[0], found, self._options),
            )
            yield micro_batch.map_live(batch, Stage.ATTRIBUTES, steps, len(batch))
            return
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

    def __init__(self, options: AttributesOptions, micro_batch: int | None = None) -> None:
        super().__init__()
        self._handler = AttributesHandler(options, micro_batch)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Classify" >> RunInference(self._handler).with_output_types(SampleBatch)
