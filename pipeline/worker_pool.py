"""`facecap worker-pool`: starts Python workers for an engine in Java or Go, one on each host.

Beam's own pool (apache_beam.runners.worker.worker_pool_main) listens on every interface, and who
reaches it runs code; this one is the same service on loopback, which is where an executor asks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils import thread_pool_executor

from facecap.pipeline.errors import UsageError


def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then end all workers. Raises UsageError when the port cannot
    be had."""
    _refuse_taken(host, port)
    # Beam starts a bare `python`: let it be this one.
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
    with contextlib.suppress(PermissionError):  # leads its session already
        os.setsid()
    stopped = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: stopped.set())
    # Pings of idle connections are no attack.
    options = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)]
    options.append(("grpc.so_reuseport", 0))
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=options)
    pool = BeamFnExternalWorkerPoolServicer(use_process=True)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        server.add_insecure_port(
            f"[{host}]:{port}" if ":" in host.strip("[]") else f"{host}:{port}"
        )
    except RuntimeError as error:
        raise UsageError(f"--port {port}: cannot be had on {host} ({error})") from None
    server.start()
    print(f"facecap: worker pool on {host}:{port}", file=sys.stderr, flush=True)
    stopped.wait()
    server.stop(0)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    os.killpg(os.getpgid(0), signal.SIGTERM)  # the workers are its children


def _refuse_taken(host: str, port: int) -> None:
    """Raises UsageError where gRPC would say it in lines of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise UsageError(f"--port {port}: cannot be had on {host} ({reason})") from None
