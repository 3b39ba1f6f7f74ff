"""What the tests of deploy/ share: where it lies, linters that may not be installed, READMEs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def lint(name: str, *arguments: str | Path) -> None:
    """Run a linter over files; skips where it is not installed, fails with what it says."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    result = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def pins(file: Path) -> dict[str, str]:
    """The versions in a constraints file, by normalised name."""
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    found = [line.split("==") for line in lines if line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def named_files(readme: Path) -> list[Path]:
    """The files that a README names in backquotes, in links and in its commands."""
    text = readme.read_text()
    names = re.findall(r"`([\w./-]*/[\w.-]*|[\w-]+\.(?:py|txt|yaml|sh|service|cuda))`", text)
    names += [f"/{name}" for name in re.findall(r"(?<![\w/])deploy/[\w./-]*\w", text)]
    names += re.findall(r"\]\(([\w./-]+)\)", text)
    places = []
    for name in names:
        if name.startswith("/deploy") or name.startswith("tests/"):
            places.append(ROOT / name.lstrip("/"))
        elif not name.startswith(("/", "conf/", "sbin/")):  # those are the host's
            local = readme.parent / name
            places.append(local if local.exists() else ROOT / name)
    return places


def set_options(text: str) -> set[str]:
    """SECTION.NAME of every `--set` in a text."""
    return set(re.findall(r"--set[ =]\"?([a-z]+\.[a-z_]+)=", text))
