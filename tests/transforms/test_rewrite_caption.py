"""The stage: every caption comes back once, in any order, over a real server with every fault."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that

from facecap.schemas.captions import Caption, Rewrite
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.rewrite.engine import RewriteConfig
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import load_prompts
from facecap.transforms.rewrite_caption import RewriteCaption, RewriteDoFn, make_tasks
from tests.llm_server import LlmServer
from tests.samples import random_sample

ROWS = 80
SPECS = [ShardSpec(k, ROWS * k, (InputRange("x", ROWS * k, ROWS),)) for k in range(2)]
FAULTS = ["429=0.05", "500=0.05", "truncated=0.05", "malformed=0.05", "liar=0.1", "dropper=0.1"]


def config(server: LlmServer, **changes: Any) -> RewriteConfig:
    given = {"backend": "openai", "base_url": server.base_url, "retries": 6, "concurrency": 8}
    return RewriteConfig(RewriteOptions(**{**given, **changes}), load_prompts())


def batches(seed: int, size: int = 7) -> list[SampleBatch]:
    """Samples of two shards, in batches that alternate; faces have two captions."""
    rng = random.Random(seed)
    found = []
    for spec in SPECS:
        samples = [random_sample(spec.first_row + i, rng) for i in range(spec.rows)]
        for i, sample in enumerate(samples):
            faces = tuple(replace(f, captions=_captions(i) if f.crop else ()) for f in sample.faces)
            samples[i] = replace(sample, faces=faces)
        found += [
            SampleBatch(spec, tuple(samples[i : i + size])) for i in range(0, len(samples), size)
        ]
    rng.shuffle(found)
    return found


def _captions(seed: int) -> tuple[Caption, ...]:
    first = Caption(
        "The man has a mustache. He is smiling.", ("Male", "Mustache", "Smiling"), "man"
    )
    second = Caption("The person is bald. They appear young.", ("Bald", "Young"), "person")
    return (first, second) if seed % 2 else (second, first)


def run(config: RewriteConfig, given: list[SampleBatch], size: int = 5) -> list[SampleBatch]:
    """The DoFn as Beam calls it, in one bundle."""
    do_fn = pickle.loads(pickle.dumps(RewriteDoFn(config, size)))
    do_fn.setup()
    try:
        do_fn.start_bundle()
        found = [batch for one in given for batch in do_fn.process(one)]
        found += [value.value for value in do_fn.finish_bundle()]
    finally:
        do_fn.teardown()
    return found


def samples(found: list[SampleBatch]) -> dict[int, Sample]:
    rows = [sample for batch in found for sample in batch.samples]
    assert len({sample.row for sample in rows}) == len(rows)
    return {sample.row: sample for sample in rows}


def rewrites(sample: Sample) -> list[Rewrite]:
    return [c.rewrite for f in sample.faces if f.drop is None for c in f.captions]


def test_every_caption_is_accounted_for_among_all_faults() -> None:
    given = batches(1)
    with LlmServer(rate=FAULTS, draw_by="attempt") as server:
        found = samples(run(config(server), given))
    before = samples(given)
    assert set(found) == set(before)
    count = kept = 0
    for row, sample in found.items():
        assert replace(sample, faces=()) == replace(before[row], faces=())
        for face, was in zip(sample.faces, before[row].faces, strict=True):
            assert [c.raw for c in face.captions] == [c.raw for c in was.captions]
            if face.drop is None:
                for caption in face.captions:
                    assert (caption.rewrite.text is None) is (caption.rewrite.fault is not None)
                    count += 1
                    kept += caption.rewrite.text is not None
            else:
                assert all(caption.rewrite is None for caption in face.captions)
    assert count > 60 and kept > 0.8 * count


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_same_whatever_the_concurrency_and_the_batches(concurrency: int) -> None:
    with LlmServer(latency=5) as server:
        one = samples(run(config(server, concurrency=1), batches(2, 7), 5))
        other = samples(run(config(server, concurrency=concurrency), batches(2, 3), 32))
        assert server.stats()["busiest"] <= concurrency
    assert {row: rewrites(sample) for row, sample in one.items()} == {
        row: rewrites(sample) for row, sample in other.items()
    }


def test_a_slow_answer_holds_back_its_own_sample_alone() -> None:
    given = batches(3)
    with LlmServer(force=["slow=bald"], slow=4) as server:
        do_fn = RewriteDoFn(config(server, timeout_s=2, retries=0, concurrency=64), 1)
        do_fn.setup()
        do_fn.start_bundle()
        early = [s for one in given for batch in do_fn.process(one) for s in batch.samples]
        late = [value.value for value in do_fn.finish_bundle()]
        do_fn.teardown()
    assert len(early) + sum(map(len, late)) == 2 * ROWS
    assert any(not sample.live for sample in early), "what is dropped has nothing to wait for"
    faults = {r.fault.kind for b in late for s in b.samples for r in rewrites(s) if r.fault}
    assert faults == {"timeout"}


def test_a_failed_batch_passes_untouched_and_the_rows_of_a_tar_are_told() -> None:
    failed = replace(batches(4)[0], failure="crop: TypeError")
    last = replace(batches(4)[1], shard_rows=99)
    with LlmServer() as server:
        found = run(config(server), [failed, last])
        assert failed in found
        assert [batch.shard_rows for batch in found if batch.shard_rows] == [99]
        assert sum(len(batch) for batch in found) == len(failed) + len(last)


def test_a_bundle_that_failed_leaves_nothing_behind() -> None:
    first, second = batches(5)[:2]
    with LlmServer(latency=100) as server:
        do_fn = RewriteDoFn(config(server), 5)
        do_fn.setup()
        do_fn.start_bundle()
        list(do_fn.process(first))
        do_fn.start_bundle()
        found = [b for b in do_fn.process(second)] + [v.value for v in do_fn.finish_bundle()]
        do_fn.teardown()
    assert {s.row for b in found for s in b.samples} == {s.row for s in second.samples}


def test_on_a_real_runner() -> None:
    given = batches(6)
    with LlmServer() as server:
        how = config(server)
        with beam.Pipeline("FnApiRunner") as pipeline:
            out = pipeline | beam.Create(given) | RewriteCaption(how, 8)

            def check(found: list[SampleBatch]) -> None:
                assert set(samples(found)) == set(samples(given))
                assert any(rewrites(sample) for sample in samples(found).values())
                assert all(r.text for sample in samples(found).values() for r in rewrites(sample))

            assert_that(out, check)


def test_tasks_are_of_live_faces_only() -> None:
    given = batches(7)
    with LlmServer() as server:
        how = config(server)
    for batch in given:
        for sample in batch.samples:
            tasks = make_tasks(sample, batch.shard, how)
            live = [f for f, face in enumerate(sample.faces) if face.drop is None]
            assert set(tasks) == {(f, c) for f in live for c in (0, 1)}
            for (f, _), task in tasks.items():
                assert task.key.endswith(f"_{sample.faces[f].rank:02d}")
