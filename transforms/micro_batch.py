"""Many samples of a batch before a model at once, by the rules that hold for one at a time
(`railway.map_live`): what is wrong with one of them is told of that one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from facecap.schemas.outcomes import Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.transforms import railway, worker

MAX_BYTES = 128 << 20
"""What waits for the model in one thread, give or take one image: 32 photographs of 1.3 megapixels,
with their pixels in full."""

Given = TypeVar("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Steps(Generic[Given, Answer]):
    """A stage's function of a sample, cut in two where the model is asked.

    `prepare`: what is given to the model of a live sample, or the sample as it goes on where the
    model need not be asked; `nbytes`: the memory that this takes; `ask`: the model's answers, one
    for each that it is given, in their order; `finish`: the sample as it goes on. Any but `nbytes`
    may raise, as a function given to `railway.map_live` may.
    """

    prepare: Callable[[Sample], Given | Sample]
    nbytes: Callable[[Given], int]
    ask: Callable[[Sequence[Given]], Sequence[Answer]]
    finish: Callable[[Given, Answer], Sample]


def map_live(
    batch: SampleBatch,
    stage: Stage,
    steps: Steps[Given, Answer],
    size: int,
    max_bytes: int = MAX_BYTES,
) -> SampleBatch:
    """As `railway.map_live`; the model is asked for up to `size` samples at once, and for fewer
    where they hold `max_bytes`."""
    if batch.failure:
        return batch
    samples = list(batch.samples)
    waiting: list[tuple[int, Given]] = []
    for i, sample in enumerate(samples):
        failure = None
        if sample.live:
            worker.mark(sample.row)
            prepare = partial(_prepare, steps=steps, place=i, waiting=waiting)
            samples[i], failure = railway.settle(sample, stage, prepare)
            worker.mark(None)
        held = sum(steps.nbytes(given) for _, given in waiting)
        full = len(waiting) >= size or held >= max_bytes or i + 1 == len(samples)
        if failure is None and full:
            failure = _ask(samples, stage, steps, waiting)
            waiting.clear()
        if failure:
            return replace(batch, failure=failure)
    return replace(batch, samples=tuple(samples))


def _prepare(
    sample: Sample, steps: Steps[Given, Answer], place: int, waiting: list[tuple[int, Given]]
) -> Sample:
    prepared = steps.prepare(sample)
    if isinstance(prepared, Sample):
        return prepared
    waiting.append((place, prepared))
    return sample


def _ask(
    samples: list[Sample],
    stage: Stage,
    steps: Steps[Given, Answer],
    waiting: Sequence[tuple[int, Given]],
) -> str | None:
    """Finish the samples that wait, in place; the failure that their batch must carry, if any.

    No row is marked as in flight meanwhile: they are pixels, which crash nothing by themselves.
    """
    if not waiting:
        return None
    answers: Sequence[Answer] | None = None
    try:
        answers = steps.ask([given for _, given in waiting])
    except Exception as error:  # noqa: BLE001 - each is asked for by itself, and judged there
        railway.describe_defect(error, samples[waiting[0][0]])
    for k, (place, given) in enumerate(waiting):
        finish = partial(_finish, steps=steps, given=given, answers=answers, k=k)
        samples[place], failure = railway.settle(samples[place], stage, finish)
        if failure:
            return failure
    return None


def _finish(
    sample: Sample,
    steps: Steps[Given, Answer],
    given: Given,
    answers: Sequence[Answer] | None,
    k: int,
) -> Sample:
    answer = steps.ask([given])[0] if answers is None else answers[k]
    return steps.finish(given, answer)
