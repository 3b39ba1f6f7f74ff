"""Idle connections are bounded, whatever the number of hosts, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc

import pytest
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from facecap.transforms.download import DownloadOptions
from facecap.transforms.web import connector
from facecap.transforms.web.client import Client, read_body

HOSTS = [f"127.1.0.{number}" for number in range(1, 41)]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


class Server:
    """Answers every request, keeps connections open, and counts them."""

    def __init__(self) -> None:
        self.open = self.opened = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open, self.opened = self.open + 1, self.opened + 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.open -= 1
        finally:
            writer.close()


async def get_all(hosts: list[str]) -> Server:
    server = Server()
    listening = await asyncio.start_server(server.handle, "0.0.0.0", 0)
    port = listening.sockets[0].getsockname()[1]
    client = Client(DownloadOptions(allow_private_hosts=tuple(hosts)))
    for host in hosts:
        url = URL(f"http://{host}:{port}/")
        async with client.get(url, client.hop(url)) as response:
            assert await read_body(response, 100) == b"body"
    await asyncio.sleep(0.05)
    still_open = server.open
    await client.close()
    listening.close()
    await asyncio.sleep(0.05)
    server.open = still_open
    return server


def test_the_longest_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "MAX_IDLE", 10)
    server = asyncio.run(get_all(HOSTS))
    assert server.opened == len(HOSTS)
    assert server.open == 10


def test_one_host_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "MAX_IDLE", 1)
    assert asyncio.run(get_all(HOSTS[:1] * 20)).opened == 1


def protocols() -> int:
    return sum(isinstance(each, ResponseHandler) for each in gc.get_objects())


def test_a_connection_is_no_reference_cycle() -> None:
    async def left() -> int:
        await get_all(HOSTS[:5])
        return protocols()

    gc.collect()
    before = protocols()  # what other tests hold on to
    gc.disable()
    try:
        assert asyncio.run(left()) == before
    finally:
        gc.enable()
