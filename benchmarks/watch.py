"""Runs a tool and watches it from outside: first request, processor time and memory of all its
processes. The same for every tool."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.server import Server

REQUEST_POLL_S = 0.02
CPU_POLL_S = 0.5
MEMORY_POLL_S = 0.15
_TICKS = os.sysconf("SC_CLK_TCK")


class ToolFailed(Exception):
    """A tool ended with an error; the message holds its last lines."""


@dataclass
class Watched:
    """Times are seconds since the epoch, `peak` is the largest sum of PSS, in bytes (0: not asked
    for). `cpu_s` is user and system time of all processes from the first request on (from the
    start where there is no server), `server_cpu_s` that of nginx."""

    started: float
    ended: float = 0.0
    first_request: float = 0.0
    cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    peak: int = 0
    processes_at_peak: list[str] = field(default_factory=list)

    def until(self, last_commit: float) -> float:
        """Seconds from the first request to `last_commit`."""
        return last_commit - self.first_request


def run(
    command: Sequence[str],
    log: Path,
    *,
    server: Server | None = None,
    memory: bool = False,
    timeout_s: float = 3600,
) -> Watched:
    """Run `command` in a session of its own to its end, its output in `log`.

    All processes of the session count, and whatever is left of it at the end is killed.
    Raises ToolFailed when it exits with an error or runs out of time.
    """
    before = server.requests() if server else 0
    asked = 0
    server_before = _server_cpu(server)
    with log.open("wb") as out:
        watched = Watched(started=time.time())
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        cpu: dict[int, float] = {}
        start_up_cpu_s = 0.0
        next_look = 0.0
        try:
            while process.poll() is None:
                if server and not watched.first_request:
                    asked += 1
                    if server.requests() > before + asked:
                        watched.first_request = time.time()
                        start_up_cpu_s = sum(_session(process.pid).values())
                # Looking costs milliseconds: no oftener than needed, it shares the cores.
                if time.time() >= next_look:
                    members = _session(process.pid)
                    cpu.update(members)
                    if memory:
                        _note_memory(watched, list(members))
                    next_look = time.time() + (MEMORY_POLL_S if memory else CPU_POLL_S)
                if time.time() - watched.started > timeout_s:
                    raise ToolFailed(f"{command[0]} still runs after {timeout_s:.0f} s")
                time.sleep(REQUEST_POLL_S)
        finally:
            watched.ended = time.time()
            _kill_session(process.pid)
            process.wait()
    watched.cpu_s = sum(cpu.values()) - start_up_cpu_s
    watched.server_cpu_s = _server_cpu(server) - server_before
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ToolFailed(f"{' '.join(command[:4])} ... exits {process.returncode}:\n{tail}")
    return watched


def _session(leader: int) -> dict[int, float]:
    """Processor seconds of every process of a session, by process id."""
    members = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields and int(fields[3]) == leader:
                members[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return members


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _kill_session(leader: int) -> None:
    for pid in _session(leader):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _server_cpu(server: Server | None) -> float:
    if server is None:
        return 0.0
    total = 0.0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields and server.pid in (int(folder.name), int(fields[1])):
                total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def _note_memory(watched: Watched, pids: list[int]) -> None:
    parts = {pid: _pss(pid) for pid in pids}
    total = sum(parts.values())
    if total > watched.peak:
        watched.peak = total
        watched.processes_at_peak = [
            f"{size / 2**20:.0f} MiB {_command_line(pid)}" for pid, size in parts.items() if size
        ]


def _pss(pid: int) -> int:
    """Proportional set size in bytes: pages shared by n processes count a n-th in each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(x.split()[1]) * 1024 for x in text.splitlines() if x.startswith("Pss:")), 0)


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:80]
