"""A program beside a build listens while the build runs, and is gone with its children after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from facecap.pipeline.errors import BuildFailed
from facecap.pipeline.services import _reason, service
from tests.processes import listens, running, wait_for

TOY = """
import os, signal, socket, subprocess, sys, time
port, pids = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child has it from here
child = subprocess.Popen(["sleep", "600"])
signal.signal(signal.SIGTERM, signal.SIG_DFL)
time.sleep(0.5)
server = socket.create_server(("127.0.0.1", port))
with open(pids + ".new", "w") as file:
    print(os.getpid(), child.pid, file=file)
os.rename(pids + ".new", pids)
time.sleep(600)
"""
"""A service with a child that a SIGTERM does not end."""


class Toy:
    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = int(server.getsockname()[1])
        self._pids = folder / "pids"
        self.command = [sys.executable, "-S", "-c", TOY, str(self.port), str(self._pids)]

    def pids(self) -> list[int]:
        wait_for(self._pids.exists, 60)
        return [int(text) for text in self._pids.read_text().split()]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_a_service_listens_in_the_block_and_is_gone_with_its_children_after_it(
    toy: Toy, tmp_path: Path
) -> None:
    with service(toy.command, toy.port, "the toy", tmp_path / "run.log"):
        assert listens(f"localhost:{toy.port}")
        pids = toy.pids()
        assert len(pids) == 2 and all(map(running, pids))
    wait_for(lambda: not any(map(running, pids)), 20)


def test_children_of_a_service_that_crashed_are_ended(toy: Toy, tmp_path: Path) -> None:
    with service(toy.command, toy.port, "the toy", tmp_path / "run.log"):
        leader, child = toy.pids()
        os.kill(leader, signal.SIGKILL)
        wait_for(lambda: not running(child), 20)


def test_a_killed_launcher_takes_its_services_along(toy: Toy, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from facecap.pipeline.services import service"
        "\nwith service(sys.argv[3:], int(sys.argv[2]), 'the toy', Path(sys.argv[1])):"
        "\n    time.sleep(600)"
    )
    arguments = [str(tmp_path / "run.log"), str(toy.port), *toy.command]
    launcher = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        pids = toy.pids()
    finally:
        launcher.kill()
        launcher.wait()
    wait_for(lambda: not any(map(running, pids)), 20)


def test_a_service_that_dies_at_once_says_why(tmp_path: Path) -> None:
    for command, reason in (
        ([sys.executable, "-S", "-c", "raise OSError('no such jar')"], "OSError: no such jar"),
        ([sys.executable, "-S", "-c", ""], "it said nothing"),
        ([str(tmp_path / "nosuch")], f"No such file or directory: '{tmp_path / 'nosuch'}'"),
    ):
        log = tmp_path / f"{len(reason)}.log"
        with pytest.raises(BuildFailed) as failed, service(command, 9, "the toy", log):
            pytest.fail("there is nothing to enter")
        kept = log.with_name(f"{log.stem}-toy.log")
        assert str(failed.value).startswith("the toy did not start: ")
        assert str(failed.value).endswith(f"{reason} (all of it: {kept})")


def test_the_reason_is_the_line_that_names_the_exception(tmp_path: Path) -> None:
    log = tmp_path / "java.log"
    log.write_text(
        "INFO starting\n"
        'Exception in thread "main" java.lang.RuntimeException: job server\n'
        "\tat org.apache.Server.errorException(Server.java:1)\n"
        "Caused by: java.net.BindException: Address already in use\n"
        "\tat sun.nio.ch.Net.bind(Native Method)\n"
        "\t... 12 more\n"
        "INFO shutting down\n\n"
    )
    assert _reason(log) == "Caused by: java.net.BindException: Address already in use"
    log.write_text("one\n\nUnable to access jarfile x.jar \n\tat the end\n")
    assert _reason(log) == "Unable to access jarfile x.jar"
