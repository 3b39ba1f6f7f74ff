"""The terminal: the funnel's numbers, progress without a terminal, what quiet still says."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from facecap.pipeline import terminal
from facecap.pipeline.output import BuildFile
from facecap.pipeline.terminal import Progress, Screen, funnel_table
from facecap.schemas.commit import Counts

COUNTS = Counts(
    rows=1000,
    rows_kept=200,
    faces=700,
    faces_kept=250,
    rows_dropped={
        "read/missing_url": 10,
        "download/dns": 90,
        "download/not_found": 300,
        "decode/truncated": 50,
        "detect/no_face": 100,
        "crop/too_small": 150,
        "attributes/few_labels": 95,
        "caption/nothing_to_state": 5,
    },
    faces_dropped={
        "crop/low_score": 50,
        "crop/too_small": 250,
        "attributes/few_labels": 140,
        "caption/nothing_to_state": 10,
    },
)

FUNNEL = """
URLs                 1000 100.0%
missing_url           -10
URLs to fetch  990  99.0%
not_found            -300
dns                   -90
fetched               600  60.0%
truncated             -50
decoded               550  55.0%
no_face              -100
with faces            450  45.0%  700
too_small            -150        -250
low_score                         -50
with good faces       300  30.0%  400
few_labels            -95        -140
with enough labels    205  20.5%  260
nothing_to_state       -5         -10
captioned             200  20.0%  250
"""


def rows_of(counts: Counts) -> list[list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in funnel_table(counts).columns]
    rows = zip(*columns, strict=True)
    return [[r[0].split(":")[0].strip(), *filter(None, r[1:])] for r in rows]


def test_the_funnel_tells_every_loss_once_in_flow_order() -> None:
    assert COUNTS.balanced
    expected = [line.split() for line in FUNNEL.strip().splitlines()]
    # Compared as words: names of steps hold blanks, too.
    assert [" ".join(row).split() for row in rows_of(COUNTS)] == expected


def printed(counts: Counts) -> list[str]:
    file = io.StringIO()
    Console(width=80, file=file).print(funnel_table(counts))
    return file.getvalue().splitlines()


def test_the_funnel_of_a_web_scale_list_is_whole_on_eighty_columns() -> None:
    many = Counts(
        rows=50_000_000,
        rows_kept=15_000_000,
        faces=40_000_000,
        faces_kept=20_000_000,
        rows_dropped={"download/dns": 35_000_000},
        faces_dropped={"crop/too_small": 20_000_000},
    )
    lines = printed(many)
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines if line.strip()]
    assert ["URLs", "50000000", "100.0%"] in words
    assert any(w[0] == "dns:" and w[-1] == "-35000000" for w in words), words
    assert ["captioned", "15000000", "30.0%", "20000000"] in words
    assert any("dns: the host name could not be" in line for line in printed(COUNTS))


def test_an_empty_build_has_a_funnel_without_shares() -> None:
    rows = rows_of(Counts())
    assert rows[0] == ["URLs", "0"] and all("%" not in cell for row in rows for cell in row)


def test_reports_of_all_workers_are_summed() -> None:
    reports = [
        {"pid": 1, "rows": 10, "attempted": 9, "decoded": 8, "faces": 5, "kept": 3},
        {"pid": 2, "rows": 1, "attempted": 1, "decoded": 1, "faces": 0, "kept": 0},
    ]
    assert Progress.sum(reports) == Progress(rows=11, attempted=10, decoded=9, faces=5, kept=3)
    assert Progress.sum([]) == Progress()


def test_without_a_terminal_a_line_is_said_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Counts(rows=100, rows_kept=40, faces=50, faces_kept=50, rows_dropped={"read/x": 60})
    screen = Screen()
    screen.start(1000, done)
    assert capfd.readouterr().err == "Continuing: 100 of 1000 URLs are done already.\n"
    screen.update(Progress(rows=40, attempted=20, decoded=10, kept=3), done)
    assert capfd.readouterr().err == ""
    later = time.monotonic() + 40
    monkeypatch.setattr(terminal.time, "monotonic", lambda: later)
    screen.update(Progress(rows=40, attempted=20, decoded=10, kept=3), done)
    screen.update(Progress(rows=41, attempted=20, decoded=10, kept=3), done)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "140 of 1000 URLs, 53 faces kept, 1.0 URLs/s, 50% fetched"


def test_a_shard_done_twice_is_not_shown_as_more_than_all(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_LINE_EVERY_S", 0.0)
    screen = Screen()
    screen.start(10, Counts())
    screen.update(Progress(rows=12), Counts())
    assert capfd.readouterr().err.startswith("10 of 10 URLs")


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_out_the_funnel_and_progress_but_not_the_result(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    build_file: BuildFile,
    quiet: bool,
) -> None:
    monkeypatch.setattr(terminal, "_LINE_EVERY_S", 0.0)
    screen = Screen(quiet=quiet)
    screen.start(25, Counts())
    screen.update(Progress(rows=5), Counts())
    screen.summary(COUNTS, build_file, 2, Path("/data/[red]faces"))
    said = capfd.readouterr().err
    assert ("5 of 25 URLs" in said) is not quiet and ("captioned" in said) is not quiet
    assert said.endswith("250 faces of 200 images in 2 of 3 shards under /data/[red]faces\n")


def test_the_screen_stays_on_the_terminal_when_standard_error_moves(tmp_path: Path) -> None:
    """A build sends standard error to its log; what the person must read stays."""
    import subprocess
    import sys

    code = (
        "import os; from facecap.pipeline.terminal import Screen; s = Screen();"
        f"os.dup2(os.open({str(tmp_path / 'log')!r}, os.O_CREAT | os.O_WRONLY), 2);"
        "s.say('to the person'); os.write(2, b'to the log')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "to the person\n", result
    assert (tmp_path / "log").read_text() == "to the log"
