"""The engine `local`: Beam's FnApiRunner, by name, with worker processes on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline.beam_options import beam_options


class LocalEngine:
    """This many worker processes; 1 is the process itself, where a native crash ends it. With
    `one_process` they are its threads, which share one copy of the models on a GPU.

    Raises UsageError on an option that Beam does not know, or a value that it cannot use.
    """

    runner = "FnApiRunner"
    workers_here = True
    replaces_workers = False

    def __init__(self, workers: int, extra: Sequence[str], *, one_process: bool = False) -> None:
        self._options = local_options(workers, extra, one_process=one_process)

    @contextlib.contextmanager
    def started(self, log: Path) -> Iterator[PipelineOptions]:
        """The runner starts its workers itself."""
        yield self._options


def local_options(
    workers: int, extra: Sequence[str], *, one_process: bool = False
) -> PipelineOptions:
    """Options for FnApiRunner. Raises UsageError as LocalEngine does."""
    many = "multi_threading" if one_process else "multi_processing"
    mode = many if workers > 1 else "in_memory"
    flags = [f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    return beam_options(flags, extra)
