"""The kept corpus, always; a short run of the fuzzer itself where atheris is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.fuzz import checks
from tests.fuzz.make_corpus import HEADERS, pictures
from tests.pictures import encoded, scene

from facecap.schemas.outcomes import Reason, Stage
from facecap.transforms.railway import Dropped

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
CHECKS = {"decode": checks.check_decode, "headers": checks.check_headers}

# pytest resets the filters that the module sets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def replayed(target: str, inputs: dict[str, bytes]) -> Counter[str]:
    """How often each outcome came; a failure names its input."""
    outcomes: Counter[str] = Counter()
    for name, body in inputs.items():
        try:
            outcomes[CHECKS[target](body)] += 1
        except Exception as error:
            error.add_note(f"with the input {name}")
            raise
    return outcomes


def test_the_corpus_of_pictures():
    kept = {file.name: file.read_bytes() for file in sorted((CORPUS / "decode").iterdir())}
    assert sum(map(len, kept.values())) < 300_000
    outcomes = replayed("decode", kept)
    assert {"JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"} <= outcomes.keys()
    assert {"corrupt", "truncated", "unsupported_format", "too_many_pixels"} <= outcomes.keys()


def test_the_corpus_of_headers():
    kept = {file.name: file.read_bytes() for file in sorted((CORPUS / "headers").iterdir())}
    outcomes = replayed("headers", kept)
    assert {"target, allowed", "target, url, allowed", "no target, allowed"} <= outcomes.keys()
    assert any("forbidden" in outcome for outcome in outcomes)


def test_the_seeds():
    made = pictures()
    assert sum(map(len, made)) < 100_000
    outcomes = replayed("decode", {f"picture {i}": body for i, body in enumerate(made)})
    assert outcomes.keys() - {"unsupported_format", "corrupt", "too_many_pixels"} == {
        "JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"
    }  # fmt: skip
    replayed("headers", {text: text.encode() for text in HEADERS})


def drop(*_, **__):
    raise Dropped(Stage.DECODE, Reason.CORRUPT, "made up")


def fail(*_, **__):
    raise TypeError("made up")


@pytest.mark.parametrize(
    ("name", "broken", "error"),
    [("decode", lambda *_, scale=1.0: np.zeros((45, 67, 4), np.uint8), AssertionError),
     ("decode", lambda *_, scale=1.0: np.zeros((45, 67, 3), np.float32), AssertionError),
     ("decode", lambda *_, scale=1.0: np.zeros((45, 67, 6), np.uint8)[..., ::2], AssertionError),
     ("decode", lambda *_, scale=1.0: np.zeros((45, 67, 3), np.uint8), AssertionError),
     ("probe", drop, AssertionError), ("sniff", fail, TypeError), ("decode", fail, TypeError)],
)  # fmt: skip
def test_a_broken_promise_is_seen(name, broken, error, monkeypatch):
    body = encoded(scene(), "JPEG")
    assert checks.check_decode(body) == "JPEG"
    monkeypatch.setattr(checks, name, broken)
    with pytest.raises(error):
        checks.check_decode(body)


def test_a_slow_input_is_seen(monkeypatch):
    monkeypatch.setattr(checks, "MAX_CPU_S", 0.0)
    with pytest.raises(AssertionError, match="of CPU"):
        checks.check_decode(encoded(scene(), "JPEG"))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("target", ["decode", pytest.param("headers", marks=pytest.mark.long)])
def test_a_short_run_of_the_fuzzer(target, tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    command = [sys.executable, "-m", "tests.fuzz.fuzz", target, "-runs=1000", "-seed=1"]
    limits = ["-timeout=60", "-rss_limit_mb=1500", "-max_len=8000"]
    words = f"-dict=tests/fuzz/{target}.dict"
    result = subprocess.run(
        [*command, *limits, words, f"-artifact_prefix={tmp_path}/", found, CORPUS / target],
        capture_output=True, text=True, cwd=ROOT, errors="replace",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "DONE" in result.stderr and "Instrumenting facecap.transforms" in result.stderr
    shutil.rmtree(found)
    assert not list(tmp_path.iterdir()), "a failing input"
