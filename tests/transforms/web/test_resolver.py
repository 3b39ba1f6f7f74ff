"""Name resolution against a real name server on loopback, and hosts that are dead."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import aiodns
import pytest

from facecap.schemas.outcomes import Reason
from facecap.transforms.download import DownloadOptions
from facecap.transforms.web import resolver
from facecap.transforms.web.limits import Limits
from facecap.transforms.web.resolver import CachingResolver, NotResolved
from tests.servers import ImageServer, NameServer
from tests.transforms.web.test_fetch import fetch, options, outcome

ONE_TRY = {"tries": 1}
"""Every resolution is one query."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer({"images.test": "127.0.0.1", "silent.test": None}) as server:
        make = partial(aiodns.DNSResolver, nameservers=[server.host_port])
        monkeypatch.setattr(resolver.aiodns, "DNSResolver", make)
        yield server


async def resolve(host: str, times: int, timeout_s: float = 2.0, pause: float = 0.0) -> list[Any]:
    """What `times` resolutions of `host`, one after another, gave: addresses or `definite`."""
    names = CachingResolver(timeout_s)
    got: list[Any] = []
    for _ in range(times):
        try:
            got.append([result["host"] for result in await names.resolve(host, 80)])
        except NotResolved as error:
            got.append(error.definite)
        await asyncio.sleep(pause)
    await names.close()
    return got


def test_an_address_is_asked_for_once(names: NameServer) -> None:
    assert asyncio.run(resolve("images.test", 3)) == [["127.0.0.1"]] * 3
    assert names.asked == ["images.test"]


def test_that_a_name_does_not_exist_is_asked_once(names: NameServer) -> None:
    assert asyncio.run(resolve("no.test", 3)) == [True] * 3
    assert names.asked.count("no.test") == 1


def test_what_was_found_is_asked_for_again_in_time(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "FOUND_S", 0.05)
    monkeypatch.setattr(resolver, "NOT_FOUND_S", 0.05)
    asyncio.run(resolve("images.test", 2, pause=0.1))
    asyncio.run(resolve("no.test", 2, pause=0.1))
    assert names.asked.count("images.test") == 2 and names.asked.count("no.test") == 2


def test_silence_ends_in_time_and_is_not_kept(names: NameServer) -> None:
    start = time.monotonic()
    assert asyncio.run(resolve("silent.test", 2, timeout_s=0.4)) == [False] * 2
    assert 0.5 < time.monotonic() - start < 1.2
    assert len(names.asked) >= 2


@contextmanager
def black_hole() -> Iterator[int]:
    """A port on loopback that lets no connection come about: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for client in clients:
            client.close()


@pytest.mark.parametrize("respect_robots", [True, False])
def test_dead_hosts_have_the_same_reason_with_and_without_robots_txt(
    names: NameServer, respect_robots: bool
) -> None:
    settings = options(
        ImageServer({}),
        allow_private_hosts=("127.0.0.1",),
        timeout_s=1.5,
        respect_robots=respect_robots,
    )
    got = outcome(fetch(settings, "http://silent.test/a"))
    assert got == (Reason.DNS, None, None)
    with black_hole() as port:
        got = outcome(fetch(settings, f"http://127.0.0.1:{port}/a"))
    assert got == (Reason.TIMEOUT, None, None)


@pytest.mark.parametrize("respect_robots", [True, False])
def test_a_dead_name_is_tried_as_often_as_asked(
    names: NameServer, monkeypatch: pytest.MonkeyPatch, respect_robots: bool
) -> None:
    make = resolver.aiodns.DNSResolver
    monkeypatch.setattr(resolver.aiodns, "DNSResolver", lambda **given: make(**given | ONE_TRY))
    settings = options(
        ImageServer({}), timeout_s=10.0, retries=2, dns_timeout_s=0.1, respect_robots=respect_robots
    )
    assert outcome(fetch(settings, "http://silent.test/a"))[0] is Reason.DNS
    assert names.asked == ["silent.test"] * 3


@pytest.mark.parametrize("timeout_s", [0.5, 30.0, 300.0])
@pytest.mark.parametrize("dns_timeout_s", [0.1, 7.5, 120.0])
def test_each_limit_ends_before_the_one_around_it(timeout_s: float, dns_timeout_s: float) -> None:
    limits = Limits.of(DownloadOptions(timeout_s=timeout_s, dns_timeout_s=dns_timeout_s))
    assert limits.dns + limits.address < limits.connect < limits.robots < timeout_s
    assert limits.dns <= dns_timeout_s
