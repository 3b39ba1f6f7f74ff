from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms import micro_batch, railway
from facecap.transforms.railway import Dropped

SHARD = ShardSpec(0, 0, ())
DROP = Drop(Stage.DETECT, Reason.NO_FACE)


class Model:
    """Answers in capitals; notes what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def ask(self, texts: Sequence[str]) -> list[str]:
        self.asked.append(list(texts))
        for text in texts:
            if text == "bad":
                raise ValueError(text)
            if text == "broken code":
                raise TypeError(text)
            if text == "full disk":
                raise OSError(28, text)
        return [text.upper() for text in texts]


def steps(model: Model) -> micro_batch.Steps[str, str]:
    def prepare(sample: Sample) -> str | Sample:
        if sample.url == "dropped before":
            raise Dropped(Stage.DECODE, Reason.CORRUPT)
        if sample.url == "defect before":
            raise KeyError(sample.url)
        return sample if sample.url == "needs no answer" else sample.url

    def finish(text: str, answer: str) -> Sample:
        if text == "dropped behind":
            raise Dropped(Stage.DETECT, Reason.NO_FACE)
        if text == "defect behind":
            raise ZeroDivisionError
        return Sample(0, text, source_caption=answer)

    return micro_batch.Steps(prepare, len, model.ask, finish)


def batch(*urls: str) -> SampleBatch:
    return SampleBatch(SHARD, tuple(Sample(0, url) for url in urls), shard_rows=7)


def run(model: Model, given: SampleBatch, size=8, max_bytes=1000) -> SampleBatch:
    return micro_batch.map_live(given, Stage.DETECT, steps(model), size, max_bytes)


def one_by_one(given: SampleBatch) -> SampleBatch:
    """What `railway.map_live` makes of it."""
    cut = steps(model := Model())

    def function(sample: Sample) -> Sample:
        prepared = cut.prepare(sample)
        if isinstance(prepared, Sample):
            return prepared
        return cut.finish(prepared, model.ask([prepared])[0])

    return railway.map_live(given, Stage.DETECT, function)


def without_traces(found: SampleBatch) -> SampleBatch:
    """Without the hashes of tracebacks, which tell the two ways apart."""

    def cut(text: str | None) -> str | None:
        return text and text.rsplit(" ", 1)[0]

    samples = tuple(
        replace(s, drop=replace(s.drop, error=cut(s.drop.error))) if s.drop else s
        for s in found.samples
    )
    return replace(found, samples=samples, failure=cut(found.failure))


def test_the_model_is_asked_together():
    model = Model()
    found = run(model, batch("a", "bb", "ccc"))
    assert model.asked == [["a", "bb", "ccc"]]
    assert [s.source_caption for s in found.samples] == ["A", "BB", "CCC"]
    assert found.shard_rows == 7


def test_up_to_its_size_and_the_bytes_that_wait():
    model = Model()
    run(model, batch("a", "b", "c", "d", "e"), size=2)
    assert model.asked == [["a", "b"], ["c", "d"], ["e"]]
    model = Model()
    run(model, batch("a", "bbbb", "c", "dd", "e"), max_bytes=4)
    assert model.asked == [["a", "bbbb"], ["c", "dd", "e"]]


def test_a_bad_sample_is_dropped_alone():
    model = Model()
    found = run(model, batch("a", "bad", "c"))
    assert model.asked == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    a, bad, c = found.samples
    assert (a.source_caption, c.source_caption) == ("A", "C")
    assert bad.drop.reason is Reason.INTERNAL_ERROR and bad.drop.error.startswith("ValueError ")


@pytest.mark.parametrize("text", ["broken code", "full disk"])
def test_broken_code_and_a_broken_machine_fail_the_batch(text):
    given = batch("a", text, "c")
    found = run(Model(), given)
    assert found.failure.startswith("detect: ")
    assert found.samples == given.samples and found.shard_rows == 7


def test_nobody_is_asked_of_what_is_dropped_or_failed():
    model = Model()
    dead = replace(batch("a"), samples=(Sample(0, "a", drop=DROP),))
    failed = replace(batch("a"), failure="before")
    assert run(model, dead) == dead and run(model, failed) is failed
    assert run(model, batch()) == batch()
    assert model.asked == []


URLS = ("a", "bb", "needs no answer", "dropped before", "defect before", "dropped behind",
        "defect behind", "bad", "broken code", "full disk")  # fmt: skip


@given(st.lists(st.sampled_from(URLS), max_size=9), st.integers(1, 9), st.integers(1, 40))
def test_it_is_as_one_at_a_time(urls, size, max_bytes):
    given = batch(*urls)
    found = run(Model(), given, size, max_bytes)
    assert without_traces(found) == without_traces(one_by_one(given))
