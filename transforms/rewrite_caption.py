"""RewriteCaption: an LLM says what the grammar says, in other words; what it gets wrong stays the
grammar's. Its settings are in rewrite/options.py, one caption's way in rewrite/rewriter.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from facecap.schemas.captions import Rewrite
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import ShardSpec, face_key
from facecap.transforms.regroup import Regrouper
from facecap.transforms.rewrite.engine import Desk, RewriteConfig, Rewriter
from facecap.transforms.rewrite.rewriter import Done, Task, make_task

MAX_HELD_BYTES = 64 << 20
"""Of image bodies, which wait for their captions: 230 photographs of 282 KB."""

Place = tuple[int, int]
"""A face's place among a sample's, and a caption's among the face's."""


@dataclass
class _Waiting:
    """A sample some of whose captions are still to come back."""

    shard: int
    sample: Sample
    left: int
    found: dict[Place, Rewrite] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        fetched = self.sample.fetched
        return len(fetched.body or b"") if fetched else 0


def make_tasks(sample: Sample, shard: ShardSpec, config: RewriteConfig) -> dict[Place, Task]:
    """What is to be asked for the captions of the sample's live faces, by their place."""
    tasks = {}
    for f, face in enumerate(sample.faces):
        if face.drop is None:
            key = face_key(shard.number, shard.first_row, sample.row, face.rank)
            for c, caption in enumerate(face.captions):
                tasks[f, c] = make_task(caption, key, c, config.styles, config.options)
    return tasks


def with_rewrites(sample: Sample, found: dict[Place, Rewrite]) -> Sample:
    """`sample` with every caption that `found` has a rewrite of, or the fault."""
    faces = []
    for f, face in enumerate(sample.faces):
        captions = [
            replace(caption, rewrite=found.get((f, c), caption.rewrite))
            for c, caption in enumerate(face.captions)
        ]
        faces.append(replace(face, captions=tuple(captions)))
    return replace(sample, faces=tuple(faces))


class RewriteDoFn(beam.DoFn):
    """Hands captions to the process's engine ahead of need and yields batches as they come back, so
    that a slow answer holds back nothing but its own sample."""

    def __init__(self, config: RewriteConfig, batch_size: int) -> None:
        self._config = config
        self._batch_size = batch_size
        self._shared = Shared()
        self._rewriter: Rewriter | None = None

    def setup(self) -> None:
        self._rewriter = self._shared.acquire(lambda: Rewriter(self._config))
        self._desk: Desk[tuple[int, Place]] = self._rewriter.open_desk()

    def start_bundle(self) -> None:
        # What a failed bundle left behind; Beam never calls finish_bundle for it.
        self._desk.cancel()
        self._regrouper = Regrouper(self._batch_size)
        self._waiting: dict[int, _Waiting] = {}
        self._held = 0

    def process(self, batch: SampleBatch) -> Iterator[SampleBatch]:
        if batch.failure:
            yield batch
            return
        for sample in self._regrouper.add(batch):
            tasks = make_tasks(sample, batch.shard, self._config)
            waiting = _Waiting(batch.shard.number, sample, len(tasks))
            if not tasks:
                self._regrouper.settle(waiting.shard, sample)
                continue
            self._waiting[sample.row] = waiting
            self._held += waiting.nbytes
            for place, task in tasks.items():
                self._desk.submit((sample.row, place), task)
        yield from self._deliver(self._config.in_flight)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for batch in self._deliver(0):
            yield WindowedValue(batch, window.max_timestamp(), (window,))

    def teardown(self) -> None:
        if self._rewriter is not None:
            self._rewriter.close_desk(self._desk)
            self._rewriter = None

    def _deliver(self, most: int) -> Iterator[SampleBatch]:
        """Yield what is complete until at most `most` captions are in flight."""
        while self._desk.in_flight > most or (self._held > MAX_HELD_BYTES and self._waiting):
            (row, place), done = self._desk.take()
            waiting = self._waiting[row]
            waiting.found[place] = done.rewrite
            waiting.left -= 1
            count(done)
            if not waiting.left:
                del self._waiting[row]
                self._held -= waiting.nbytes
                sample = with_rewrites(waiting.sample, waiting.found)
                self._regrouper.settle(waiting.shard, sample)
        yield from self._regrouper.batches()


def count(done: Done) -> None:
    """Beam's counters of what the rewriting took and gave."""
    rewrite = done.rewrite
    outcome = "passed" if rewrite.fault is None else str(rewrite.fault.kind)
    Metrics.counter("facecap", f"rewrite/{outcome}").inc()
    Metrics.counter("facecap", "rewrite/calls").inc(rewrite.tries)
    Metrics.counter("facecap", "rewrite/prompt_tokens").inc(done.prompt_tokens)
    Metrics.counter("facecap", "rewrite/completion_tokens").inc(done.completion_tokens)


class RewriteCaption(beam.PTransform):
    """SampleBatch -> SampleBatch of `batch_size`: every caption of a live face has its
    `rewrite`."""

    def __init__(self, config: RewriteConfig, batch_size: int) -> None:
        super().__init__()
        self._do_fn = RewriteDoFn(config, batch_size)

    def expand(self, batches: Any) -> Any:
        return batches | "Rewrite" >> beam.ParDo(self._do_fn).with_output_types(SampleBatch)
