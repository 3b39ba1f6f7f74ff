"""The one loop that every per-sample stage runs in: dropped samples stay in their batch,
expected conditions become typed drops, and a defect never passes for a bad image."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import replace

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.transforms import worker

log = logging.getLogger("facecap")

CODE_ERRORS = (ImportError, AttributeError, NameError, TypeError)
"""Exceptions that mean broken code or a broken dependency, never a bad image: they fail the
shard at once instead of becoming ten thousand bad images."""

MACHINE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""What a full disk or a lack of memory or of file descriptors raises: this machine's fault, which
fails the shard, too. Pillow's own OSErrors, for bad images, have no errno."""

_logged: set[str] = set()


class Dropped(Exception):
    """Raised by a stage's function to drop the sample it was given."""

    def __init__(self, stage: Stage, reason: Reason, error: str | None = None) -> None:
        super().__init__(f"{stage}/{reason}: {error or reason.meaning}")
        self.drop = Drop(stage, reason, error)


def map_live(batch: SampleBatch, stage: Stage, function: Callable[[Sample], Sample]) -> SampleBatch:
    """Apply `function` to every live sample of `batch`.

    A `Dropped` becomes the sample's drop. A CODE_ERRORS exception marks the whole batch as
    failed (and with it, in WriteShard, the shard). Any other exception becomes
    `internal_error` with its type and traceback hash; WriteShard limits their number.
    """
    if batch.failure:
        return batch
    samples = []
    for sample in batch.samples:
        failure = None
        if sample.live:
            worker.mark(sample.row)
            sample, failure = settle(sample, stage, function)
            worker.mark(None)
        if failure:
            return replace(batch, failure=failure)
        samples.append(sample)
    return replace(batch, samples=tuple(samples))


def settle(
    sample: Sample, stage: Stage, function: Callable[[Sample], Sample]
) -> tuple[Sample, str | None]:
    """Apply `function` to one sample by the rules of `map_live`: the sample as it goes on, and
    the failure that its batch must carry, if any."""
    try:
        return function(sample), None
    except Dropped as dropped:
        return replace(sample, drop=dropped.drop), None
    except CODE_ERRORS as defect:
        return sample, f"{stage}: {describe_defect(defect, sample)}"
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            return sample, f"{stage}: {os.strerror(error.errno)}"
        return _internal_error(sample, stage, error), None
    except Exception as defect:  # noqa: BLE001 - the one place that turns defects into rows
        return _internal_error(sample, stage, defect), None


def _internal_error(sample: Sample, stage: Stage, defect: Exception) -> Sample:
    error = describe_defect(defect, sample)
    return replace(sample, drop=Drop(stage, Reason.INTERNAL_ERROR, error))


def describe_defect(defect: BaseException, sample: Sample) -> str:
    """Type and traceback hash of an unexpected exception; the full traceback is logged once
    per kind. The hash covers module, function and line of each frame: equal defects share it."""
    frames = traceback.extract_tb(defect.__traceback__)
    trail = "\n".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.name}:{f.lineno}" for f in frames)
    kind = f"{type(defect).__name__} {hashlib.sha256(trail.encode()).hexdigest()[:12]}"
    if kind not in _logged:
        _logged.add(kind)
        log.error("unexpected %s at row %d (%s)", kind, sample.row, sample.url, exc_info=defect)
    return kind
