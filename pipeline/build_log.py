"""Where standard error goes while a build runs: to its log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LOG_GRACE_S = 1.0
_COPY = """
import contextlib, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of the input is the end
while data := os.read(0, 1 << 16):
    with contextlib.suppress(OSError):
        os.write(1, data)
"""


@contextlib.contextmanager
def stderr_to(path: Path, stays_after: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Send this process's and its workers' standard error to a file: Beam's own messages
    would drown the progress bar. After an exception of `stays_after` it stays there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a pipe: where writing to standard error fails, as to a file on a full disk, Beam
    # never tells what went wrong, and the build would wait for ever.
    stays = False
    with contextlib.ExitStack() as stack:
        kept = os.dup(2)
        stack.callback(os.close, kept)
        copier = _start_copier(path)
        with copier.stdin as writing:  # type: ignore[union-attr]
            os.dup2(writing.fileno(), 2)
        try:
            yield
        except stays_after:
            stays = True  # what still runs until the process ends would write over the last words
            raise
        finally:
            if not stays:
                os.dup2(kept, 2)
                with contextlib.suppress(subprocess.TimeoutExpired):  # a worker still writes
                    copier.wait(_LOG_GRACE_S)


def _start_copier(path: Path) -> subprocess.Popen[bytes]:
    """A process that appends its standard input to `path` until nobody can write to it any more.
    A thread of this one would not do: it ends with an abort() that has just said why, and waits
    for native code that writes more than a pipe holds while it keeps the interpreter's lock."""
    with path.open("ab", buffering=0) as log:
        # In a session of its own, for Ctrl-C is not meant for it.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _COPY],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
