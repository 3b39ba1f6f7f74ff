"""A build with defects in it: what is said, which exit code it gets, what is committed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facecap.pipeline import build as building
from facecap.pipeline import execution, local
from facecap.pipeline.errors import UsageError
from facecap.pipeline.manifest import read_records
from facecap.pipeline.output import BuildFile, shared_lock_and_cleaning
from facecap.pipeline.settings import Settings
from facecap.pipeline.terminal import Screen
from facecap.transforms.store import Store
from tests import builds
from tests.servers import ImageServer

DEFECTS = """
import ctypes, os
from facecap.transforms import crop

crop_sample = crop.crop_sample

def broken(sample, *settings):
    if sample.row == {row}:
        {defect}
    return crop_sample(sample, *settings)

crop.crop_sample = broken
"""
"""A sitecustomize module: every process of the build, workers too, has this defect."""

ROWS, BROKEN_ROW = 12, 6


@pytest.fixture(scope="module")
def server(photographs: dict[str, bytes]) -> Iterator[ImageServer]:
    with ImageServer({"/a.png": photographs["/astronaut.png"]}) as server:
        yield server


@pytest.fixture(scope="module")
def urls(server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builds.write_list(tmp_path_factory.mktemp("urls") / "urls.parquet", server, ROWS)


class Build:
    """A build of twelve equal portraits in three shards; `defect` is code for one row."""

    def __init__(self, urls: Path, server: ImageServer, folder: Path) -> None:
        self._urls, self._server, self._folder = urls, server, folder
        self.output = folder / "out"

    def run(self, defect: str | None, *more: str) -> subprocess.CompletedProcess[str]:
        module = self._folder / "defects" / "sitecustomize.py"
        module.parent.mkdir(exist_ok=True)
        text = DEFECTS.format(row=BROKEN_ROW, defect=defect) if defect else ""
        module.write_text(text)
        arguments = builds.command(
            self._urls, self.output, self._server, *more, sets=["build.rows_per_shard=4"]
        )
        return builds.run(["env", f"PYTHONPATH={module.parent}", *arguments])

    def outcomes(self) -> Counter[str]:
        return Counter(str(r["reason"] or r["outcome"]) for r in builds.ledger(self.output))


@pytest.fixture
def build(urls: Path, server: ImageServer, tmp_path: Path) -> Build:
    return Build(urls, server, tmp_path)


def test_a_row_that_crashes_natively_is_left_out_by_the_third_build(build: Build) -> None:
    segfault = "ctypes.string_at(0)"
    first = build.run(segfault, "--workers", "2")
    assert first.returncode == 1, first
    assert f"crashed in native code at row {BROKEN_ROW};" in first.stderr
    # Its own worker, the launcher can tell only when it starts again.
    second = build.run(segfault, "--workers", "1")
    assert second.returncode == -signal.SIGSEGV
    assert f"row {BROKEN_ROW} crashed a worker in native code: it is tried once" in second.stderr
    third = build.run(segfault, "--workers", "1")
    assert third.returncode == 0, third.stderr
    assert f"row {BROKEN_ROW} crashed a worker in native code: it did so twice" in third.stderr
    assert build.outcomes() == {"kept": ROWS - 1, "decode_crashed": 1}
    assert builds.ledger(build.output)[BROKEN_ROW]["reason"] == "decode_crashed"
    traces = [p.read_text() for p in (build.output / "logs").glob("*.crash")]
    assert len(traces) == 2 and all("in broken" in trace for trace in traces)


def test_one_internal_error_is_a_row_and_said_loudly(build: Build) -> None:
    result = build.run("raise ArithmeticError('odd')", "--workers", "1")
    assert result.returncode == 3
    assert "1 rows met an INTERNAL ERROR" in result.stderr
    assert "Traceback" not in result.stderr
    assert build.outcomes() == {"kept": ROWS - 1, "internal_error": 1}
    row = builds.ledger(build.output)[BROKEN_ROW]
    assert row["stage"] == "crop" and str(row["error"]).startswith("ArithmeticError ")
    log = "".join(p.read_text() for p in (build.output / "logs").glob("*.log"))
    assert "ArithmeticError: odd" in log
    assert json.loads((build.output / "dataset.json").read_text())["funnel"]["rows"] == ROWS


def test_broken_code_fails_its_shard_alone_and_the_mended_build_completes(build: Build) -> None:
    result = build.run("len(3)", "--workers", "1")
    assert result.returncode == 1
    assert "shard 000001 failed and stays uncommitted: crop: TypeError" in result.stderr
    assert "1 of 3 shards failed" in result.stderr
    commits = sorted(p.name for p in (build.output / "commits").iterdir())
    assert commits == ["000000.json", "000002.json"]
    assert not (build.output / "dataset.json").exists()
    mended = build.run(None, "--workers", "1")
    assert mended.returncode == 0, mended.stderr
    assert build.outcomes() == {"kept": ROWS}


@pytest.fixture
def missing(server: ImageServer, tmp_path: Path) -> Path:
    """A list of pages that are gone."""
    path = tmp_path / "missing.parquet"
    urls = [server.url(f"/{n}.jpg") for n in range(2100)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [""] * len(urls)}), path)
    return path


def test_a_list_of_dead_links_is_said_to_be_one(
    missing: Path, server: ImageServer, tmp_path: Path
) -> None:
    result = builds.run(
        builds.command(
            missing, tmp_path / "out", server, "--workers", "1", sets=["build.rows_per_shard=700"]
        )
    )
    assert result.returncode == 3, result
    # During the build or at its end, whichever looks first.
    said = re.search(
        r"only 0 of (\d+) rows \(0\.0%\) could be fetched and decoded, under "
        r"build\.min_success_rate=0\.2",
        result.stderr,
    )
    assert said and 2000 <= int(said[1]) <= 2100, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("rows", "decoded", "low"),
    [(1999, 0, False), (2000, 399, True), (2000, 400, False), (10_000, 1999, True)],
)
def test_success_is_judged_after_two_thousand_rows(rows: int, decoded: int, low: bool) -> None:
    said = execution.too_low(rows, decoded, 0.2)
    if low:
        assert said is not None and f"only {decoded} of {rows} rows" in said
    else:
        assert said is None


def refusal(input: Path, output: Path, *beam_options: str) -> str:
    request = building.BuildRequest(
        str(input), output, Settings(), beam_options=["--direct_num_workers=1", *beam_options]
    )
    with pytest.raises(UsageError) as refused:
        building.build(request, Screen(quiet=True))
    return str(refused.value)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    (tmp_path / "urls.csv").write_text("url\nhttp://h/1\n")
    return tmp_path / "urls.csv"


def test_a_foreign_folder_stays_as_it_was(csv: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in (".bashrc", ".profile", "thesis.tex"):
        (home / name).write_text(name)
    assert "not empty and not a build's" in refusal(csv, home)
    assert sorted(p.name for p in home.iterdir()) == [".bashrc", ".profile", "thesis.tex"]


def test_hidden_files_that_are_not_ours_outlive_a_build(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / ".build.json.0123").write_text("half-written by a killed build")
    with shared_lock_and_cleaning(Store(tmp_path)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".gitignore"]


def test_an_output_that_cannot_be_a_folder_is_named(csv: Path) -> None:
    assert refusal(csv, csv) == f"--output {csv}: File exists"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--nosuch=3"], "--nosuch=3: Beam knows no such option"),
        (["--direct_num_workers=many"], "Beam option: argument --direct_num_workers: invalid int"),
        (["b.parquet"], "b.parquet: not expected here; quote a glob given to --input"),
        (["--job_name", "x", "b.parquet"], "b.parquet: not expected here"),
    ],
)
def test_wrong_beam_options_are_named_before_anything_is_written(
    csv: Path, tmp_path: Path, option: list[str], message: str
) -> None:
    assert refusal(csv, tmp_path / "out", *option).startswith(message)
    assert not (tmp_path / "out").exists()


def test_beam_options_reach_the_runner() -> None:
    extra = ["--no_pipeline_type_check", "--job_name", "faces"]
    options = local.local_options(3, extra).get_all_options()
    assert (options["pipeline_type_check"], options["job_name"]) == (False, "faces")
    assert options["direct_num_workers"] == 3
    assert options["direct_running_mode"] == "multi_processing"


def test_a_damaged_commit_record_is_one_line(tmp_path: Path) -> None:
    build_file = BuildFile(
        fingerprint="f", rows_per_shard=1, shards=1, settings={}, models={}, input={}
    )
    (tmp_path / "commits").mkdir()
    (tmp_path / "commits" / "000000.json").write_text("{}")
    with pytest.raises(UsageError, match=r"000000\.json: not a commit record .* restore it"):
        read_records(Store(tmp_path), build_file)
