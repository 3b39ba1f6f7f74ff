"""Where the processor time of a build goes: py-spy samples all its processes, and every sample is
put under a part of the line.

    python -m benchmarks.parts SAMPLES.txt      # py-spy record --subprocesses --format raw ...
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools import PEERS_PYTHON

RATE = 100
"""Samples per second and thread."""

WORKER = "sdk_worker_main"

# Looked for in the whole stack, written "function (file);function (file);..." from the outermost
# to the innermost: the first that is found counts.
PARTS: tuple[tuple[str, str], ...] = (
    ("rejects", r"transforms/rejects\.py"),
    ("decode before detection", r"detect_faces .*(transforms/decode|PIL/)"),
    ("shrink before detection", r"detect_faces .*transforms/resize"),
    (
        "detector, session.run",
        r"transforms/detectors/.* run \(onnxruntime|detectors/.*Session\.run",
    ),
    ("detector, before and after it", r"transforms/detectors/"),
    ("detect, the rest", r"transforms/detect\.py"),
    ("decode for crops", r"(judge|crop)_sample .*(transforms/decode|transforms/pixels)"),
    ("encode crops", r"encode_jpeg "),
    ("phash", r"phash \("),
    ("sharpness, brightness, gray", r"transforms/face_measures"),
    ("chip, warp", r"transforms/align\.py"),
    ("crop, the rest", r"transforms/crop\.py"),
    ("classifier, session.run", r"classify_attributes\.py.*Session\.run"),
    ("classify, the rest", r"transforms/classify_attributes\.py"),
    ("captions", r"transforms/(compose_caption|minors|realise|plan_caption|grammar(_\w+)?)\.py"),
    ("tars", r"write_tar "),
    ("Parquet and its rows", r"write_table |transforms/(rows|caption_columns)\.py"),
    ("sync, hash, commit", r"transforms/(store|commit|attempt)\.py"),
    ("write, the rest", r"transforms/write_shard\.py"),
    ("fetch, with sha256", r"transforms/(web/|download\.py)|asyncio/|aiohttp/"),
    ("read rows", r"transforms/read_rows\.py|pyarrow/"),
    ("progress file", r"transforms/worker\.py"),
    ("Beam", r"apache_beam/|grpc/"),
)
START_UP = "start-up: imports, models"
_START_UP = re.compile(r"_find_and_load|load_model \(|_get_module_details|_run_module_code")
LAUNCHER, OTHER = "launcher, with its Beam runner", "other Python"

# Functions that wait; the kernel sometimes shows their threads as running.
_WAITING = re.compile(
    r"(Condition\.wait|EpollSelector\.select|_serve|channel_spin|_try_wait|wait_for_tstate_lock"
    r"|_wait_for_tstate_lock|_run_safe_shutdown_loop|SimpleQueue\.get|Event\.wait) \([^;]*$"
)
_LINE = re.compile(r"(?::\d+)?\)(?=;|$)")


def record(command: Sequence[str], samples: Path) -> list[str]:
    """The command that runs `command` under py-spy, which writes `samples`."""
    spy = PEERS_PYTHON.with_name("py-spy")
    flags = ["--subprocesses", "--format", "raw", "--rate", str(RATE), "--output", str(samples)]
    return [str(spy), "record", *flags, "--", *command]


def part(stack: str) -> str | None:
    """The part of the line that a stack of py-spy's raw format belongs to; None: it waits."""
    processes, frames = _split(stack)
    frames = _LINE.sub(")", frames)
    if _WAITING.search(frames):
        return None
    if _START_UP.search(frames):
        return START_UP
    if WORKER not in processes:
        return LAUNCHER
    return next((name for name, pattern in PARTS if re.search(pattern, frames)), OTHER)


def _split(stack: str) -> tuple[str, str]:
    """The "process PID:..." elements in front (a command line may hold anything), and the rest."""
    end = stack.rfind('";') + 2 if stack.startswith("process ") else 0
    return stack[:end], stack[end:]


def shares(samples: str) -> dict[str, float]:
    """The share of each part in all samples that neither wait nor belong to the start-up, the
    largest first."""
    counts: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, number = line.rpartition(" ")
        name = part(stack) if number.isdigit() else None
        if name is not None and name != START_UP:
            counts[name] += int(number)
    total = max(1, counts.total())
    return {name: count / total for name, count in counts.most_common()}


def main() -> None:
    for name, share in shares(Path(sys.argv[1]).read_text()).items():
        print(f"{share:6.1%}  {name}")


if __name__ == "__main__":
    main()
