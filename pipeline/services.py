"""Programs that run beside a build on this machine, and end with it, however it ends."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from facecap.pipeline.errors import BuildFailed

_START_S = 120.0
_GUARD = """
import os, signal, subprocess, sys, threading
for stop in (signal.SIGINT, signal.SIGTERM): signal.signal(stop, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True,
                         preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL)
                                             for s in (signal.SIGINT, signal.SIGTERM)])
def ended():
    child.wait()
    try: os.killpg(child.pid, signal.SIGKILL)  # what it started must not outlive it
    except OSError: pass
    os._exit(1)
threading.Thread(target=ended, daemon=True).start()
os.read(0, 1)  # nothing ever comes: it returns when the parent closed its end, or died
os.killpg(child.pid, signal.SIGTERM)
try: child.wait(5)
except subprocess.TimeoutExpired: pass
try: os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError: pass
os._exit(0)
"""


@contextlib.contextmanager
def service(command: list[str], port: int, name: str, log: Path) -> Iterator[None]:
    """Run `command` until the block, or this process, ends; entered when it listens on `port` of
    loopback. Raises BuildFailed."""
    path = log.with_name(f"{log.stem}-{name.removeprefix('the ').replace(' ', '-')}.log")
    with path.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is not meant for it
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if guard.poll() is not None or time.monotonic() > deadline:
                raise BuildFailed(f"{name} did not start: {_reason(path)} (all of it: {path})")
            time.sleep(0.1)
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _reason(log: Path) -> str:
    """The line that says most: of a Java trace the one that names the exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "..."))]
    named = [line for line in lines if re.search(r"(Exception|Error)\b", line)]
    return (named or lines or ["it said nothing"])[-1][:300]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
        return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
