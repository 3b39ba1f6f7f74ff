"""Standard error goes to the log, whatever native code does, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROCESS = """
import ctypes, os, sys
from pathlib import Path
from facecap.pipeline import build_log

{before}
native = ctypes.PyDLL(None)  # its functions keep the interpreter's lock
def write(data):
    native.write(2, data, len(data))

with build_log.stderr_to(Path(sys.argv[1])):
    {code}
print("end", flush=True)
os.write(2, b"after")
"""


def run(log: Path, code: str, before: str = "") -> subprocess.CompletedProcess[bytes]:
    """Ends only when nobody holds its standard output and error any more, not when it died."""
    command = [sys.executable, "-c", PROCESS.format(code=code, before=before), str(log)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def logged(log: Path, words: bytes) -> bool:
    """Whether the log gets these words: the copier may outlive a dead process by an instant."""
    for _ in range(100):
        if words in log.read_bytes():
            return True
        time.sleep(0.05)
    return False


def test_the_last_words_before_an_abort_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    done = run(log, "write(b'terminate called'); native.abort()")
    assert done.returncode == -signal.SIGABRT
    assert logged(log, b"terminate called")


def test_more_than_a_pipe_holds_with_the_lock_held(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = run(log, "write(b'warning\\n' * 100_000)")
    assert (done.returncode, done.stdout) == (0, b"end\n")
    assert done.stderr.endswith(b"after"), "standard error is as before"
    assert log.read_bytes() == b"warning\n" * 100_000


def test_a_log_that_cannot_grow_holds_nobody_up(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    done = run(log, "write(b'warning\\n' * 100_000)", before)
    assert (done.returncode, done.stdout) == (0, b"end\n")
    assert log.stat().st_size == 1000


def test_the_copier_ends_with_the_last_writer_and_not_at_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    children = "Path(f'/proc/self/task/{os.getpid()}/children').read_text()"
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("needs Linux's list of children")
    code = (
        f"import signal, time; time.sleep(1); copier = int({children}); "
        "os.kill(copier, signal.SIGTERM); time.sleep(0.2); write(b'still there'); "
        "print(copier, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run(log, code)
    assert done.returncode == -signal.SIGKILL
    assert logged(log, b"still there")
    for _ in range(100):
        if not Path(f"/proc/{int(done.stdout)}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the copier still runs")
