"""The photographs on loopback: Debian's nginx with a configuration of its own, and the lists of
URLs to it."""

from __future__ import annotations

import getpass
import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = {".jpg", ".jpeg", ".png"}
STATUS_PATH = "/bench-status"

_CONFIG = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 2;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000;
    types {{ image/jpeg jpg jpeg; image/png png; }}
    {temporary}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {root};
        location = {status} {{ stub_status; }}
    }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class SetupError(Exception):
    """What is missing and how to get it, in one line."""


@dataclass(frozen=True)
class Server:
    """A running nginx; `pid` is that of its master process."""

    port: int
    pid: int

    @property
    def host(self) -> str:
        """HOST:PORT, as `download.allow_private_hosts` wants it."""
        return f"127.0.0.1:{self.port}"

    def requests(self) -> int:
        """How many requests it has been sent since it started, this one too."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", STATUS_PATH)
            match = re.search(r"\d+ \d+ (\d+)", connection.getresponse().read().decode())
        finally:
            connection.close()
        assert match is not None
        return int(match[1])


def photographs(data: Path) -> list[Path]:
    """All photographs of the test data, as paths below it, sorted."""
    found = (p for p in (data / "photos").rglob("*") if p.suffix.lower() in SUFFIXES)
    return sorted(p.relative_to(data) for p in found)


def write_list(path: Path, photos: list[Path], server: Server, rows: int) -> Path:
    """A Parquet list (url, TEXT) of `rows` distinct URLs that cycle over the photographs."""
    urls = [f"http://{server.host}/{quote(str(photos[i % len(photos)]))}?{i}" for i in range(rows)]
    captions = [f"alt text {i}" for i in range(rows)]
    pq.write_table(pa.table({"url": urls, "TEXT": captions}), path)
    return path


def nginx_program() -> str:
    """Raises SetupError when there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    program = shutil.which("nginx", path=path)
    if program is None:
        raise SetupError("nginx is missing: apt-get install --no-install-recommends nginx-light")
    return program


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    """nginx over `root` on a free port of loopback; stopped at the end whatever happens."""
    program = nginx_program()
    with tempfile.TemporaryDirectory(prefix="facecap-bench-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = Path(folder) / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                # The master of a root user would else serve as somebody who may not read the data.
                user=f"user {getpass.getuser()};" if os.getuid() == 0 else "",
                folder=folder,
                temporary=" ".join(f"{n}_temp_path {folder}/{n};" for n in _TEMPORARY),
                port=port,
                root=root,
                status=STATUS_PATH,
            )
        )
        command = [program, "-e", f"{folder}/error.log", "-c", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            yield _wait_for(process, port)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> Server:
    server = Server(port, process.pid)
    for _ in range(100):
        if process.poll() is not None:
            assert process.stderr is not None
            raise SetupError(f"nginx does not start: {process.stderr.read().decode().strip()}")
        try:
            server.requests()
        except ConnectionError:
            time.sleep(0.05)
        else:
            return server
    raise SetupError(f"nginx does not answer on port {port}")
