"""A server on loopback that breaks every rule, in a process of its own, straight onto the socket.

    with HostileServer() as server:
        server.url("/drip-body")             # a path per misbehaviour after a request
        server.port_url("mute")              # a port per misbehaviour before one

It answers robots.txt with 404 and `/ok` with a body. `python -m tests.hostile HOST` prints its
ports as JSON and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import pyarrow as pa

BODY = b"body"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
BOMB_BYTES = 50_000_000
DRIP_S = 0.1


class End(Enum):
    """What becomes of the connection after the answer."""

    CLOSE = auto()
    RESET = auto()
    HALF = auto()
    """Our side is closed, the client's is read on."""
    DEAF = auto()
    """We stop reading, answer, and close only when the client does."""
    STALL = auto()
    """Nothing more, until the client goes away."""


@dataclass(frozen=True)
class Bad:
    """An answer, in one piece or piece by piece, and what follows it."""

    answer: bytes | Callable[[], AsyncIterator[bytes]] = b""
    end: End = End.CLOSE


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("utf-8", "surrogateescape")


def moved(location: str, status: str = "302 Found") -> Bad:
    return Bad(head(f"Location: {location}", "Content-Length: 0", status=status))


def later(value: str, status: str = "429 Too Many Requests") -> Bad:
    return Bad(head(f"Retry-After: {value}", "Content-Length: 0", status=status))


def encoded(name: str, data: bytes) -> Bad:
    return Bad(head(f"Content-Encoding: {name}", f"Content-Length: {len(data)}") + data)


def repeated(start: bytes, piece: bytes, pause: float = 0.0) -> Bad:
    """`start`, and then `piece` for ever."""

    async def pieces() -> AsyncIterator[bytes]:
        yield start
        while True:
            yield piece
            await asyncio.sleep(pause)

    return Bad(pieces)


def dripped(data: bytes) -> Bad:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in data:
            yield bytes([byte])
            await asyncio.sleep(DRIP_S)

    return Bad(pieces)


def _bombs() -> dict[str, Bad]:
    zeros = bytes(BOMB_BYTES)
    squeezed = gzip.compress(zeros)
    return {
        "/bomb-gzip": encoded("gzip", squeezed),
        "/bomb-deflate": encoded("deflate", zlib.compress(zeros)),
        "/bomb-br": encoded("br", pa.compress(zeros, "brotli", asbytes=True)),
        "/bomb-zstd": encoded("zstd", pa.compress(zeros, "zstd", asbytes=True)),
        # Only the outermost coding is ever undone, or none.
        "/bomb-nested": encoded("gzip", gzip.compress(squeezed)),
        "/bomb-listed": encoded("gzip, gzip", gzip.compress(squeezed)),
    }


CHUNKED = head("Transfer-Encoding: chunked")
LOCATIONS = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "ipv6": "http://[::1]/",
    "mapped": "http://[::ffff:127.0.0.1]/",
    "zero": "http://0.0.0.0/",
    "decimal": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "hex": "http://0x7f.1/",
    "file": "file:///etc/passwd",
    "data": "data:image/png;base64,AAAA",
    "javascript": "javascript:alert(1)",
    "ftp": "ftp://192.0.2.1/a.jpg",
    "network": "//169.254.169.254/",
    "relative": "ok",
    "empty": "",
    "cr": "/ok\rX: y",
    "lf": "/ok\nX: y",
    "utf8": "/ok?ü",
    "latin1": "/ok?\udcfc",
    "userinfo": "http://user:secret@HOST/ok",
    "bad-port": "http://127.0.0.1:99999/",
    "brackets": "http://[/",
    "nul": "/ok?\0",
    "long": "/ok?" + "a" * 9_000,
    "too-long": "/ok?" + "a" * 100_000,
}

CASES: dict[str, Bad] = {
    "/drip-head": dripped(head("X: " + "a" * 10_000)),
    "/drip-body": repeated(head("Content-Length: 10000"), b"x", DRIP_S),
    "/drip-chunks": repeated(CHUNKED, b"1\r\nx\r\n", DRIP_S),
    "/endless-chunks": repeated(CHUNKED, b"4000\r\n" + bytes(0x4000) + b"\r\n"),
    "/endless": repeated(head(), bytes(0x4000)),
    "/endless-length": repeated(head("Content-Length: 1000000000000"), bytes(0x4000)),
    **_bombs(),
    "/not-gzip": encoded("gzip", b"this is not gzip"),
    "/unknown-coding": encoded("rot13", BODY),
    "/loop": moved("/loop"),
    "/loop-a": moved("/loop-b", "307 Temporary Redirect"),
    "/loop-b": moved("/loop-a", "308 Permanent Redirect"),
    **{f"/chain-{n}": moved(f"/chain-{n + 1}", "301 Moved Permanently") for n in range(30)},
    **{f"/to-{name}": moved(location) for name, location in LOCATIONS.items()},
    "/two-locations": Bad(head("Location: /ok", "Location: /gone", status="302 Found")),
    "/length-small": Bad(head("Content-Length: 2") + BODY),
    "/length-large": Bad(head("Content-Length: 100") + BODY),
    "/length-negative": Bad(head("Content-Length: -4") + BODY),
    "/length-two": Bad(head("Content-Length: 4", "Content-Length: 5") + BODY),
    "/length-word": Bad(head("Content-Length: four") + BODY),
    "/length-huge": Bad(head("Content-Length: 99999999999999999999999999") + BODY),
    "/length-and-chunked": Bad(head("Content-Length: 4", "Transfer-Encoding: chunked") + BODY),
    "/smuggle": Bad(head("Content-Length: 2") + b"ab" + OK.replace(BODY, b"EVIL"), End.STALL),
    "/chunk-word": Bad(CHUNKED + b"four\r\nbody\r\n0\r\n\r\n"),
    "/chunk-huge": Bad(CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\nbody"),
    "/chunk-negative": Bad(CHUNKED + b"-4\r\nbody\r\n0\r\n\r\n"),
    "/chunk-long": Bad(CHUNKED + b"4\r\nbodybody\r\n0\r\n\r\n"),
    "/chunk-cut": Bad(CHUNKED + b"9\r\nbody"),
    "/chunk-no-end": Bad(CHUNKED + b"4\r\nbody\r\n"),
    "/chunk-trailer": Bad(CHUNKED + b"4\r\nbody\r\n0\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    "/chunk-trailers": Bad(CHUNKED + b"4\r\nbody\r\n0\r\n" + b"X: a\r\n" * 100_000 + b"\r\n"),
    "/chunk-extension": Bad(CHUNKED + b"4;" + b"a" * 1_000_000 + b"\r\nbody\r\n0\r\n\r\n"),
    "/429-seconds": later("1"),
    "/429-date": later("Wed, 21 Oct 2015 07:28:00 GMT"),
    "/429-far": later("Fri, 31 Dec 9999 23:59:59 GMT"),
    "/429-overflow": later("Fri, 31 Dec 99999999999999999999 23:59:59 GMT"),
    "/429-digits": later("9" * 1000),
    "/429-garbage": later("soon \x01"),
    "/429-words": later("soon"),
    "/429-negative": later("-5"),
    "/503": later("0", "503 Service Unavailable"),
    "/reset-body": Bad(head("Content-Length: 100") + BODY, End.RESET),
    "/reset-chunks": Bad(CHUNKED + b"4\r\nbody\r\n", End.RESET),
    "/reset": Bad(b"", End.RESET),
    "/close": Bad(b""),
    "/half-nothing": Bad(b"", End.HALF),
    "/half-body": Bad(head("Content-Length: 100") + BODY, End.HALF),
    "/half-unsized": Bad(head() + BODY, End.HALF),
    "/deaf": Bad(OK, End.DEAF),
    "/silent": Bad(b"", End.STALL),
    "/stall-head": Bad(b"HTTP/1.1 200 OK\r\nContent-Le", End.STALL),
    "/stall-body": Bad(head("Content-Length: 100") + BODY, End.STALL),
    "/headers": Bad(head(*["X: a"] * 100_000, "Content-Length: 4") + BODY),
    "/header-long": Bad(head("X: " + "a" * 10_000_000, "Content-Length: 4") + BODY),
    "/header-endless": repeated(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 10_000),
    "/header-no-colon": Bad(head("nonsense") + BODY),
    "/header-space": Bad(head("Content-Length : 4") + BODY),
    "/header-nul": Bad(head("X: a\0b", "Content-Length: 4") + BODY),
    "/header-latin1": Bad(head("X: \udcfc", "Content-Length: 4") + BODY),
    "/garbage": Bad(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "/binary": Bad(bytes(range(256)) * 40),
    "/http-0.9": Bad(b"<html>body</html>"),
    "/http-1.0": Bad(b"HTTP/1.0 200 OK\r\n\r\nbody"),
    "/http-2": Bad(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "/http-2-frame": Bad(bytes.fromhex("00001204000000000000030000008000040000ffff00060000ffff")),
    "/http-9": Bad(b"HTTP/9.9 200 OK\r\nContent-Length: 4\r\n\r\nbody"),
    "/status-word": Bad(b"HTTP/1.1 abc OK\r\n\r\n"),
    "/status-long": Bad(head("Content-Length: 0", status="99999 What")),
    "/status-0": Bad(head("Content-Length: 0", status="000 Nothing")),
    "/status-999": Bad(head("Content-Length: 4", status="999 Denied") + BODY),
    "/reason-utf8": Bad(head("Content-Length: 4", status="200 \udcff\udcfe") + BODY),
    "/100-endless": repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/100-burst": repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "/103-endless": repeated(b"", head("Link: </a>; rel=preload", status="103 Early Hints"), 0.01),
    "/101": Bad(head("Upgrade: websocket", "Connection: upgrade", status="101 Switching") + BODY),
    "/204": Bad(head("Content-Length: 4", status="204 No Content") + BODY),
    "/206": Bad(
        head("Content-Length: 4", "Content-Range: bytes 0-3/9", status="206 Partial") + BODY
    ),
    "/304": Bad(head("Content-Length: 4", status="304 Not Modified") + BODY),
    "/302-no-location": Bad(head("Content-Length: 4", status="302 Found") + BODY),
    "/gone": Bad(head("Content-Length: 0", status="410 Gone")),
}


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(0x10000):
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _serve_paths(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await reader.readuntil(b"\r\n\r\n")
        target = request.split(b" ", 2)[1].decode().partition("?")[0]
        bad = CASES.get(target)
        if bad is None:
            missing = head("Content-Length: 0", status="404 Not Found")
            writer.write(OK if target == "/ok" else missing)
            await writer.drain()
            continue
        if bad.end is End.DEAF:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
        if isinstance(bad.answer, bytes):
            host = request.lower().partition(b"host: ")[2].partition(b"\r\n")[0]
            writer.write(bad.answer.replace(b"HOST", host))
            await writer.drain()
        else:
            async for piece in bad.answer():
                writer.write(piece)
                await writer.drain()
        if bad.end is End.RESET:
            await asyncio.sleep(0.05)  # let the bytes out before the reset overtakes them
            _reset(writer)
        if bad.end is End.HALF:
            writer.write_eof()
        if bad.end in (End.HALF, End.STALL):
            await _until_gone(reader)
        return


async def _mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await _until_gone(reader)


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()


async def _hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    return


async def _slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _reset(writer)


PORTS: dict[str, Handler] = {
    "paths": _serve_paths,
    "limits": _serve_paths,
    "mute": _mute,
    "greets": _greet,
    "closes": _hang_up,
    "resets": _slam,
}


def _polite(handler: Handler) -> Handler:
    """Clients that have had enough are what this server is for."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return handle


def black_hole(host: str = "127.0.0.1") -> list[socket.socket]:
    """The first is a listener that lets no connection come about: its backlog is full."""
    listener = socket.socket()
    listener.bind((host, 0))
    listener.listen(0)
    clients = [socket.socket() for _ in range(4)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
    return [listener, *clients]


async def _main(host: str) -> None:
    servers = {
        name: await asyncio.start_server(_polite(handler), host, 0, backlog=1000)
        for name, handler in PORTS.items()
    }
    hole = black_hole(host)
    refused = socket.socket()
    refused.bind((host, 0))  # nobody listens, and nobody else can
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    ports["black-hole"], ports["refuses"] = (s.getsockname()[1] for s in (hole[0], refused))
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


class HostileServer:
    """Runs this module in a process, so that what it leaks and burns is not its client's."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host

    def __enter__(self) -> HostileServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile", self.host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def url(self, path: str) -> str:
        # A port of its own for answers that ask for a pause: all its other URLs would get it.
        port = self.ports["limits" if path.startswith(("/429", "/503")) else "paths"]
        return f"http://{self.host}:{port}{path}"

    def port_url(self, name: str, scheme: str = "http") -> str:
        return f"{scheme}://{self.host}:{self.ports[name]}/a.jpg"

    def urls(self) -> list[str]:
        """Every misbehaviour once."""
        paths = itertools.chain(CASES, ("/ok", "/no-such"))
        plain = [self.port_url(name) for name in self.ports]
        secure = [self.port_url(name, "https") for name in self.ports]
        return [*map(self.url, paths), *plain, *secure]


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
