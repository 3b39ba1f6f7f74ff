"""`facecap worker-pool` as a process: who reaches it, what it starts, what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils import thread_pool_executor

from tests.processes import listens, running, wait_for


class Pool:
    """A pool on a free port, and the processes that it has started."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = int(server.getsockname()[1])
        # What an executor may have first on its PATH.
        self.decoy, self.marks = folder / "python", folder / "marks"
        self.decoy.write_text(f'#!/bin/sh\necho "$0" >> "{self.marks}"\n')
        self.decoy.chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            command(self.port),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
        )
        wait_for(lambda: listens(f"127.0.0.1:{self.port}"), 60)

    def start_worker(self, name: str, control: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            request = beam_fn_api_pb2.StartWorkerRequest(worker_id=name)
            request.control_endpoint.url = f"127.0.0.1:{control}"
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            assert stub.StartWorker(request, timeout=30).error == ""

    def workers(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def command(port: int) -> list[str]:
    return [sys.executable, "-m", "facecap.pipeline.cli", "worker-pool", "--port", str(port)]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    pool.process.terminate()
    pool.process.wait(20)


@dataclass
class Engine(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """The side of an engine that a worker connects to; notes the workers' names."""

    connected: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def Control(self, responses: object, context: grpc.ServicerContext) -> Iterator[object]:
        self.connected.append(dict(context.invocation_metadata())["worker_id"])
        self.ended.wait()
        yield from ()


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    engine = Engine()
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(engine, server)
    engine.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield engine
    engine.ended.set()
    server.stop(0)


def other_addresses() -> Iterator[str]:
    """Addresses of this machine but 127.0.0.1."""
    yield "127.0.0.2"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses a way
        except OSError:
            return
        yield str(probe.getsockname()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address on Linux")
def test_only_this_machine_reaches_it(pool: Pool) -> None:
    assert listens(f"127.0.0.1:{pool.port}")
    for address in other_addresses():
        with socket.create_server((address, 0)) as server:
            assert listens(f"{address}:{server.getsockname()[1]}"), "it could be reached there"
        assert not listens(f"{address}:{pool.port}"), address


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_its_workers_are_harnesses_of_this_interpreter_and_end_with_it(
    pool: Pool, engine: Engine
) -> None:
    for name in "ab":
        pool.start_worker(name, engine.port)
    wait_for(lambda: sorted(engine.connected) == ["a", "b"], 60)
    workers = pool.workers()
    assert len(workers) == 2 and all(map(running, workers))
    for worker in workers:
        assert Path(f"/proc/{worker}/exe").resolve() == Path(sys.executable).resolve()
    assert not pool.marks.exists(), "the other python was never started"
    pool.process.send_signal(signal.SIGTERM)
    assert pool.process.wait(10) == 0
    wait_for(lambda: not any(map(running, workers)), 10)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(command(port), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    said = f"facecap: --port {port}: cannot be had on 127.0.0.1 (Address already in use)\n"
    assert done.stderr == said
