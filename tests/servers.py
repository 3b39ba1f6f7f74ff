"""A real HTTP server on loopback, in a thread, that can be slow, wrong and hostile on demand.

    with ImageServer({"/a.jpg": body, "/gone": Route(status=404)}) as server:
        fetch(server.url("/a.jpg"))
        assert server.paths() == ["/a.jpg"]

or `ImageServer(folder)`, which serves the files of a folder.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aiohttp import web


@dataclass(frozen=True)
class Route:
    """One answer. `delay` passes before it; `chunks` are sent `pause` seconds apart, chunked
    unless `headers` say otherwise; `raw` goes onto the socket as it is, instead of an answer,
    and then the connection is closed, or reset (`reset`).
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default_factory=dict)
    delay: float = 0.0
    chunks: Iterable[bytes] | None = None
    pause: float = 0.0
    raw: bytes | None = None
    reset: bool = False


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it; `headers` keep the case they came in."""

    path: str
    headers: Mapping[str, str]
    time: float


Answer = bytes | Route | Sequence[Route]
"""A list is answered in turn, its last member for ever."""


class ImageServer:
    """Serves `routes` (path to answer) or the files of a folder on `host`, at a free port.
    What it does not know is a 404, robots.txt too. `routes` may be changed while it runs."""

    def __init__(
        self,
        routes: Mapping[str, Answer] | Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.folder = routes if isinstance(routes, Path) else None
        self.routes: dict[str, Answer] = {} if isinstance(routes, Path) else dict(routes)
        self.requests: list[Seen] = []
        self.busiest = 0
        self._busy = 0
        self._answered: Counter[str] = Counter()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        self._host = f"[{host}]" if ":" in host else host
        self.port: int = self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="image-server", daemon=True)

    @property
    def host_port(self) -> str:
        """HOST:PORT, as `download.allow_private_hosts` wants it."""
        return f"{self._host}:{self.port}"

    def url(self, path: str = "/", host: str | None = None) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host or self._host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """The paths asked for so far, in order, robots.txt left out."""
        return [seen.path for seen in self.requests if seen.path != "/robots.txt"]

    def __enter__(self) -> ImageServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        # Its transports can be aborted and their sockets had, whatever loop the client's tests use.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._socket, ssl_context=self._tls).start()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        self.requests.append(Seen(path, dict(request.headers), self._loop.time()))
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            return await self._answer(request, self._route(path))
        finally:
            self._busy -= 1

    def _route(self, path: str) -> Route:
        answer = self.routes.get(path, self.routes.get(path.partition("?")[0]))
        if answer is None and self.folder is not None:
            file = self.folder / path.lstrip("/")
            if file.is_file() and file.resolve().is_relative_to(self.folder.resolve()):
                answer = file.read_bytes()
        if answer is None:
            return Route(b"not found", status=404)
        if isinstance(answer, bytes):
            return Route(answer)
        if isinstance(answer, Route):
            return answer
        turn = min(self._answered[path], len(answer) - 1)
        self._answered[path] += 1
        return answer[turn]

    async def _answer(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        await asyncio.sleep(route.delay)
        headers = list(
            route.headers.items() if isinstance(route.headers, Mapping) else route.headers
        )
        if route.raw is not None or route.reset:
            await self._write_raw(request, route)
            return web.Response()
        if route.chunks is None:
            response = web.Response(body=route.body, status=route.status)
            for name, value in headers:
                response.headers.add(name, value)
            return response
        stream = web.StreamResponse(status=route.status)
        for name, value in headers:
            stream.headers.add(name, value)
        await stream.prepare(request)
        try:
            for chunk in route.chunks:
                await stream.write(chunk)
                await asyncio.sleep(route.pause)
        except ConnectionError:
            pass  # the client has had enough, which is what such routes are for
        return stream

    @staticmethod
    async def _write_raw(request: web.BaseRequest, route: Route) -> None:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(route.raw or b"")
        if not route.reset:
            transport.close()
            return
        await asyncio.sleep(0.05)  # let the bytes out before the reset overtakes them
        handle = transport.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


Addresses = str | tuple[str, ...] | None


class NameServer:
    """A name server on loopback, over UDP. `names` maps a name to its IPv4 address, to several
    addresses, or to None for no answer ever; a list of these is answered in turn, its last member
    for ever. Other names do not exist. `asked` are the names of the A queries."""

    def __init__(self, names: Mapping[str, Addresses | list[Addresses]]) -> None:
        self._names = names
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.host_port = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="name-server", daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while query := (received := self._socket.recvfrom(512))[0]:
            labels, at = [], 12
            while length := query[at]:
                labels.append(query[at + 1 : at + 1 + length].decode())
                at += 1 + length
            name, question = ".".join(labels), query[12 : at + 5]
            is_a = question[-4:] == struct.pack("!HH", 1, 1)
            if is_a:
                self.asked.append(name)
            addresses = self._names.get(name, "")
            if isinstance(addresses, list):
                turn = max(0, self.asked.count(name) - 1)
                addresses = addresses[min(turn, len(addresses) - 1)]
            if addresses is None:
                continue
            records = (addresses,) if isinstance(addresses, str) else addresses
            records = records if addresses and is_a else ()
            # A response, recursion available; NXDOMAIN for names that do not exist. A time to
            # live of 0, below, keeps the resolving library from caching by itself.
            flags = 0x8180 | (0 if addresses else 3)
            answer = query[:2] + struct.pack("!5H", flags, 1, len(records), 0, 0) + question
            for record in records:
                answer += struct.pack("!HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(record)
            self._socket.sendto(answer, received[1])
