"""The railway: expected conditions are drops, defects are never bad images."""

from __future__ import annotations

import logging

import pytest

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms import railway
from facecap.transforms.railway import CODE_ERRORS, Dropped, map_live

SPEC = ShardSpec(0, 0, ())
GONE = Drop(Stage.DOWNLOAD, Reason.NOT_FOUND)


def batch(*drops: Drop | None) -> SampleBatch:
    return SampleBatch(SPEC, tuple(Sample(i, f"u{i}", drop=d) for i, d in enumerate(drops)))


def test_dropped_samples_are_skipped_and_stay_in_place() -> None:
    seen = []

    def function(sample: Sample) -> Sample:
        seen.append(sample.row)
        return sample

    result = map_live(batch(None, GONE, None), Stage.DECODE, function)
    assert seen == [0, 2]
    assert [s.row for s in result.samples] == [0, 1, 2]


def test_an_expected_condition_becomes_its_drop() -> None:
    def function(sample: Sample) -> Sample:
        raise Dropped(Stage.DECODE, Reason.TRUNCATED, "at half")

    result = map_live(batch(None), Stage.DECODE, function)
    assert result.samples[0].drop == Drop(Stage.DECODE, Reason.TRUNCATED, "at half")
    assert result.failure is None


@pytest.mark.parametrize("error", CODE_ERRORS)
def test_broken_code_fails_the_shard_and_later_stages_pass_it_on(error: type[Exception]) -> None:
    def function(sample: Sample) -> Sample:
        raise error("no module named x")

    result = map_live(batch(None, None), Stage.DETECT, function)
    assert result.failure is not None and error.__name__ in result.failure
    assert all(s.drop is None for s in result.samples)
    assert map_live(result, Stage.CROP, function) is result


def test_an_unexpected_exception_is_an_internal_error_logged_once_per_kind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(railway, "_logged", set())

    def function(sample: Sample) -> Sample:
        raise ArithmeticError(f"row {sample.row}")

    with caplog.at_level(logging.ERROR, "facecap"):
        result = map_live(batch(None, None, None), Stage.CROP, function)
    drops = [s.drop for s in result.samples]
    assert {(d.stage, d.reason) for d in drops if d} == {(Stage.CROP, Reason.INTERNAL_ERROR)}
    errors = {d.error for d in drops if d}
    assert len(errors) == 1, "equal defects share the traceback hash, so the ledger is reproducible"
    assert errors.pop().startswith("ArithmeticError ")  # type: ignore[union-attr]
    assert len(caplog.records) == 1 and caplog.records[0].exc_info
