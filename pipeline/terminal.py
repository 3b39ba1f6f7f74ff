"""What the person at the terminal sees: a live progress bar and, at the end, the funnel."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.table import Table

from facecap.pipeline.output import BuildFile
from facecap.schemas.captions import CaptionSource
from facecap.schemas.commit import Counts
from facecap.schemas.outcomes import Reason, Stage

_LINE_EVERY_S = 30.0
_MEANINGS = {reason.value: reason.meaning for reason in Reason}

FUNNEL_STEPS: tuple[tuple[str, Stage], ...] = (
    ("URLs to fetch", Stage.READ),
    ("fetched", Stage.DOWNLOAD),
    ("screened", Stage.SCREEN),
    ("decoded", Stage.DECODE),
    ("with faces", Stage.DETECT),
    ("with good faces", Stage.CROP),
    ("with enough labels", Stage.ATTRIBUTES),
    ("captioned", Stage.CAPTION),
)


@dataclass(frozen=True)
class Progress:
    """Counts of this run, over all workers: rows finished, of those attempted (not dropped when
    they were read) and decoded, faces, faces kept."""

    rows: int = 0
    attempted: int = 0
    decoded: int = 0
    faces: int = 0
    kept: int = 0

    @classmethod
    def sum(cls, reports: Iterable[Mapping[str, Any]]) -> Progress:
        reports = list(reports)
        return cls(**{n: sum(int(r[n]) for r in reports) for n in cls.__dataclass_fields__})


class Screen:
    """Writes to the terminal that standard error was when it was made; `quiet` says only what
    must be said."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        # A copy, because the build redirects standard error to its log.
        self._console = Console(file=os.fdopen(os.dup(2), "w"), highlight=False)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._total: int | None = None
        self._started = self._said = time.monotonic()

    def start(self, rows: int | None, done: Counts) -> None:
        """Begin the bar; `done` was committed by earlier runs. `rows` is None where they are
        counted while they are read."""
        self._started = self._said = time.monotonic()
        self._total = rows
        if done.rows:
            self.say(f"Continuing: {_of(done.rows, rows)} URLs are done already.")
        if self._console.is_terminal and not self._quiet:
            self._bar = RichProgress(
                TextColumn("URLs"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("build", total=rows, completed=done.rows, detail="")
            self._bar.start()

    def update(self, progress: Progress, done: Counts) -> None:
        elapsed = max(1e-9, time.monotonic() - self._started)
        rate = progress.rows / elapsed
        kept = done.faces_kept + progress.kept
        detail = f"{kept} faces kept, {rate:.1f} URLs/s"
        if progress.attempted:  # a recaption fetches nothing
            detail += f", {progress.decoded / progress.attempted:.0%} fetched"
        rows = done.rows + progress.rows
        if self._total is not None:
            rows = min(self._total, rows)
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, detail=detail)
        elif not self._quiet and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            self.say(f"{_of(rows, self._total)} URLs, {detail}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def summary(self, total: Counts, build: BuildFile, committed: int, output: str | Path) -> None:
        """The funnel table and where the dataset lies."""
        if not self._quiet:
            self._console.print(funnel_table(total))
        self.say(
            f"{total.faces_kept} faces of {total.rows_kept} images in {committed} of "
            f"{build.shards} shards under {output}"
        )

    def captions(self, counts: Iterable[Mapping[str, int]]) -> None:
        """Whose words the captions are, where an LLM was asked."""
        total = sum((Counter(c) for c in counts), Counter[str]())
        if self._quiet or not any(name != CaptionSource.GRAMMAR for name in total):
            return
        parts = [f"{name} {n} ({n / total.total():.1%})" for name, n in total.most_common()]
        self.say(f"captions: {', '.join(parts)}")


def funnel_table(total: Counts) -> Table:
    """What was left after each stage, and each loss by reason, like the paper's funnel."""
    table = Table(box=SIMPLE, expand=True)
    table.add_column("", no_wrap=True, ratio=1)
    for name in ("images", "share", "faces"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    table.add_row("URLs", str(total.rows), _share(total.rows, total.rows), "")
    before = total.rows
    for label, stage in FUNNEL_STEPS:
        for name, lost_rows, lost_faces in _losses(total, stage):
            what = f"    {name}: {_MEANINGS[name]}"
            table.add_row(what, _minus(lost_rows), "", _minus(lost_faces), style="dim")
        rows = total.rows_after(stage)
        faces = str(total.faces_after(stage)) if stage.order >= Stage.DETECT.order else ""
        always = stage not in (Stage.READ, Stage.SCREEN)
        if always or rows != before:
            table.add_row(label, str(rows), _share(rows, total.rows), faces)
        before = rows
    return table


def _of(rows: int, total: int | None) -> str:
    return str(rows) if total is None else f"{rows} of {total}"


def _losses(total: Counts, stage: Stage) -> list[tuple[str, int, int]]:
    names = {
        key.split("/")[1]
        for key in (*total.rows_dropped, *total.faces_dropped)
        if key.split("/")[0] == stage
    }
    losses = [
        (n, total.rows_dropped.get(f"{stage}/{n}", 0), total.faces_dropped.get(f"{stage}/{n}", 0))
        for n in names
    ]
    return sorted(losses, key=lambda loss: (-loss[1], -loss[2], loss[0]))


def _minus(count: int) -> str:
    return f"-{count}" if count else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
