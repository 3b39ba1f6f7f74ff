"""The command line: exit codes, and one line on standard error for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facecap import __version__
from facecap.pipeline import cli
from facecap.pipeline.settings import Settings, load_settings


@pytest.fixture
def listed(tmp_path: Path) -> str:
    path = tmp_path / "urls.csv"
    path.write_text("url\nhttp://h/1\n")
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command line gets."""
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("facecap: ")
    return said.err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nosuch"], "No such option: --nosuch; see facecap --help"),
        (["bulid"], "No such command 'bulid'"),
        (["build"], "--input: not given; see facecap build --help"),
        (["build", "--input", "a"], "--output: not given; see facecap build --help"),
        (["build", "--inptu", "a"], "No such option: --inptu"),
        (["build", "--output"], "'--output' requires an argument"),
        (["build", "--limit", "0"], "--limit"),
        (["build", "--limit", "many"], "--limit"),
        (["build", "--workers", "0"], "--workers"),
        (["build", "--runner", "abacus"], "'abacus' is not one of 'local', 'spark'"),
        (["build", "--config", "/no/such.yaml"], "--config /no/such.yaml: No such file"),
        (["build", "--set", "crop.min_side=0"], "crop.min_side: "),
        (["verify"], "Missing argument"),
        (["verify", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["verify", "a", "b"], "unexpected extra argument"),
        (["models", "fetch", "yolo"], "unknown model 'yolo': choose one of celeba40"),
        (["models", "fetch", "scrfd-2.5g"], "cannot be fetched: get scrfd_2.5g.onnx from"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))
    assert message in refused(capsys, *arguments)


def test_wrong_inputs_and_outputs_of_a_build(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, listed: str
) -> None:
    out = ["--output", str(tmp_path / "out")]
    assert "no such file" in refused(capsys, "build", "--input", "/no/such.parquet", *out)
    line = refused(capsys, "build", "--input", listed, *out, "other.csv")
    assert "other.csv: not expected here; quote a glob" in line
    line = refused(capsys, "build", "--input", listed, *out, "--", "--nosuch=1")
    assert "--nosuch=1: Beam knows no such option" in line
    assert not (tmp_path / "out").exists()
    line = refused(capsys, "build", "--input", listed, "--output", str(tmp_path))
    assert "not empty and not a build's (urls.csv is there); name a new folder" in line


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_without_a_command_there_is_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert "Usage: facecap" in said.out + said.err and "Commands" in said.out + said.err


@pytest.mark.parametrize("command", ["build", "verify", "demo", "models"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"facecap {command}" in capsys.readouterr().out


def test_the_settings_in_force_are_shown_and_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["build", "--show-config", "--set", "crop.min_side=77", "--workers", "3"]) == 0
    path = tmp_path / "c.yaml"
    path.write_text(capsys.readouterr().out)
    settings = load_settings(path)
    assert (settings.crop.min_side, settings.build.workers) == (77, 3)
    assert settings.download == Settings().download


def test_verify_refuses_what_is_no_build(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "holds no build.json" in refused(capsys, "verify", str(tmp_path))
    (tmp_path / "build.json").write_text("{")
    assert "build.json: not readable" in refused(capsys, "verify", str(tmp_path))


def test_the_demo_refuses_other_peoples_folders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "thesis.tex"
    file.write_text("x")
    assert "holds something else" in refused(capsys, "demo", "--output", str(tmp_path))
    assert "is a file" in refused(capsys, "demo", "--output", str(file))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_process_ends_with_the_code_and_without_a_traceback() -> None:
    def facecap(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "facecap.pipeline.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )

    version = facecap("--version")
    assert (version.returncode, version.stdout) == (0, f"facecap {__version__}\n")
    wrong = facecap("build", "--set", "crop.min_side=small", "--show-config")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("facecap: crop.min_side") and wrong.stderr.count("\n") == 1
