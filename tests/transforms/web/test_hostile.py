"""Hostile hosts, one by one: each misbehaviour has its reason, and ends in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from aiohttp import compression_utils

from facecap.schemas.outcomes import Reason
from facecap.transforms.download import DownloadOptions
from facecap.transforms.web import client
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.fetch import Fetcher
from facecap.transforms.web.gate import Gate
from tests.hostile import CASES, LOCATIONS, HostileServer

TIMEOUT_S, PATIENCE_S = 3.0, 30.0
BODY = (200, b"body")

BAD = (Reason.BAD_RESPONSE, None, "ClientResponseError")
CLOSED = (Reason.CONNECTION, None, None)
CUT = (Reason.TRUNCATED_BODY, 200, None)
LARGE = (Reason.TOO_LARGE, 200, None)
LATE = (Reason.TIMEOUT, None, None)
LATE_BODY = (Reason.TIMEOUT, 200, None)
LIMITED = (Reason.RATE_LIMITED, 429, "HTTP 429")
PRIVATE = (Reason.PRIVATE_ADDRESS, None, None)
ROUND = (Reason.TOO_MANY_REDIRECTS, 302, None)

PATHS: dict[str, tuple[Any, ...]] = {
    "/drip-head": LATE,
    "/drip-body": LATE_BODY,
    "/drip-chunks": LATE_BODY,
    "/endless-chunks": LARGE,
    "/endless": LARGE,
    "/endless-length": LARGE,
    "/bomb-gzip": LARGE,
    "/bomb-deflate": LARGE,
    "/bomb-br": LARGE if compression_utils.HAS_BROTLI else BAD,
    "/bomb-zstd": LARGE if compression_utils.HAS_ZSTD else BAD,
    "/bomb-nested": (200, b"\x1f\x8b"),  # the inner gzip, some 50 KB of it
    "/bomb-listed": (200, b"\x1f\x8b"),  # and both of them, untouched
    "/not-gzip": (Reason.BAD_RESPONSE, 200, "content encoding"),
    "/unknown-coding": BODY,
    "/loop": ROUND,
    "/loop-a": (Reason.TOO_MANY_REDIRECTS, 308, None),
    "/loop-b": (Reason.TOO_MANY_REDIRECTS, 307, None),
    "/chain-0": (Reason.TOO_MANY_REDIRECTS, 301, None),
    "/chain-24": (Reason.TOO_MANY_REDIRECTS, 301, None),
    "/chain-26": (Reason.NOT_FOUND, 404, "HTTP 404"),  # four hops, and nothing there
    "/to-metadata": PRIVATE,
    "/to-ipv6": PRIVATE,
    "/to-mapped": PRIVATE,
    "/to-zero": PRIVATE,
    "/to-decimal": CLOSED,  # 127.0.0.1, which these tests allow, at port 80
    "/to-octal": CLOSED,
    "/to-hex": CLOSED,
    "/to-file": (Reason.SCHEME_NOT_ALLOWED, None, "file"),
    "/to-data": (Reason.SCHEME_NOT_ALLOWED, None, "data"),
    "/to-javascript": (Reason.SCHEME_NOT_ALLOWED, None, "javascript"),
    "/to-ftp": (Reason.SCHEME_NOT_ALLOWED, None, "ftp"),
    "/to-network": PRIVATE,
    "/to-relative": BODY,
    "/to-empty": ROUND,  # an empty reference is the page itself
    "/to-cr": BAD,
    "/to-lf": BODY,  # the line feed ends the header; what follows is another
    "/to-utf8": BODY,
    "/to-latin1": BODY,
    "/to-userinfo": BODY,
    "/to-bad-port": (Reason.INVALID_URL, None, "ValueError"),
    "/to-brackets": (Reason.INVALID_URL, None, "ValueError"),
    "/to-nul": BAD,
    "/to-long": (Reason.INVALID_URL, None, "too long"),
    "/to-too-long": BAD,
    "/two-locations": BODY,
    "/length-small": BAD,
    "/length-large": CUT,
    "/length-negative": BAD,
    "/length-two": BAD,
    "/length-word": BAD,
    "/length-huge": BAD,
    "/length-and-chunked": BAD,
    "/smuggle": (200, b"ab"),
    "/chunk-word": BAD,
    "/chunk-huge": BAD,
    "/chunk-negative": BAD,
    "/chunk-long": BAD,
    "/chunk-cut": CUT,
    "/chunk-no-end": CUT,
    "/chunk-trailer": BAD,
    "/chunk-trailers": BAD,
    "/chunk-extension": BODY,
    "/429-seconds": LIMITED,
    "/429-date": LIMITED,
    "/429-far": LIMITED,
    "/429-overflow": LIMITED,
    "/429-digits": LIMITED,
    "/429-garbage": LIMITED,
    "/429-words": LIMITED,
    "/429-negative": LIMITED,
    "/503": (Reason.SERVER_ERROR, 503, "HTTP 503"),
    "/reset-body": CUT,
    "/reset-chunks": CUT,
    "/reset": CLOSED,
    "/close": CLOSED,
    "/half-nothing": CLOSED,
    "/half-body": CUT,
    "/half-unsized": BODY,
    "/deaf": BODY,
    "/silent": LATE,
    "/stall-head": LATE,
    "/stall-body": LATE_BODY,
    "/headers": BAD,
    "/header-long": BAD,
    "/header-endless": BAD,
    "/header-no-colon": BAD,
    "/header-space": BODY,
    "/header-nul": BAD,
    "/header-latin1": BODY,
    "/garbage": BAD,
    "/binary": BAD,
    "/http-0.9": BAD,
    "/http-1.0": BODY,
    "/http-2": BAD,
    "/http-2-frame": BAD,
    "/http-9": BAD,
    "/status-word": BAD,
    "/status-long": BAD,
    "/status-0": (Reason.HTTP_STATUS, 0, "HTTP 0"),
    "/status-999": (Reason.HTTP_STATUS, 999, "HTTP 999"),
    "/reason-utf8": BODY,
    "/100-endless": BAD,
    "/100-burst": BAD,
    "/103-endless": BAD,
    "/101": (Reason.HTTP_STATUS, 101, "HTTP 101"),
    "/204": BAD,  # what follows the answer is none
    "/206": (Reason.HTTP_STATUS, 206, "HTTP 206"),
    "/304": BAD,
    "/302-no-location": (Reason.HTTP_STATUS, 302, "HTTP 302"),
    "/gone": (Reason.NOT_FOUND, 410, "HTTP 410"),
    "/ok": BODY,
}

PORTS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("http", "mute"): LATE,
    ("http", "greets"): BAD,
    ("http", "closes"): CLOSED,
    ("http", "resets"): CLOSED,
    ("http", "black-hole"): LATE,
    ("http", "refuses"): CLOSED,
    ("https", "mute"): LATE,  # the TLS handshake stalls
    ("https", "greets"): (Reason.TLS, None, None),  # no TLS on this port
    ("https", "closes"): CLOSED,
    ("https", "resets"): CLOSED,
    ("https", "black-hole"): LATE,
    ("https", "refuses"): CLOSED,
}


class Seen(NamedTuple):
    outcome: tuple[Any, ...]
    seconds: float


async def fetch_each(settings: DownloadOptions, urls: list[str]) -> dict[str, Seen]:
    """What became of every URL, all of them fetched at once."""
    gate = Gate(settings.concurrency, settings.per_host, settings.prefetch_bytes)
    fetcher = Fetcher(settings, gate)

    async def fetch(url: str) -> Seen:
        start = time.monotonic()
        try:
            got = await fetcher.fetch(url)
            outcome: tuple[Any, ...] = (got.http_status, got.body)
        except Failed as failed:
            outcome = (failed.drop.reason, failed.http_status, failed.drop.error)
        return Seen(outcome, time.monotonic() - start)

    try:
        return dict(zip(urls, await asyncio.gather(*map(fetch, urls)), strict=True))
    finally:
        await fetcher.close()


def settings_for(**changes: Any) -> DownloadOptions:
    given = {
        "allow_private_hosts": ("127.0.0.1",),
        "timeout_s": TIMEOUT_S,
        "retries": 0,
        "max_bytes": 100_000,
        "per_host": 200,
        "concurrency": 400,
        "respect_robots": False,
    }
    return DownloadOptions(**{**given, **changes})


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture(scope="module")
def seen(hostile: HostileServer) -> dict[str, Seen]:
    """What has to wait for a deadline has a short one; the rest gets as long as a busy machine
    may need, and a burst, which holds the loop up for 0.1 s, runs apart."""
    late = {hostile.url(path) for path, expected in PATHS.items() if expected in (LATE, LATE_BODY)}
    late |= {
        hostile.port_url(n, scheme) for (scheme, n), expected in PORTS.items() if expected == LATE
    }
    late |= {hostile.port_url(name, "https") for name in ("paths", "limits")}  # no TLS there
    burst = {hostile.url("/100-burst")}
    rest = set(hostile.urls()) - late - burst
    got = {}
    with pytest.MonkeyPatch.context() as patch:
        # A connection for every hop: one that another row's server closed in silence costs an
        # attempt (of `download.retries`, 0 here) when it is used again.
        patch.setattr(client, "KEEP_ALIVE_S", 0)
        for urls, seconds in ((late, TIMEOUT_S), (burst, PATIENCE_S), (rest, PATIENCE_S)):
            got |= asyncio.run(fetch_each(settings_for(timeout_s=seconds), sorted(urls)))
    return got


def check(seen: Seen, expected: tuple[Any, ...]) -> None:
    if expected[0] == 200 and expected != BODY:
        assert seen.outcome[0] == 200 and seen.outcome[1].startswith(expected[1])
        assert len(seen.outcome[1]) <= 100_000
    else:
        assert seen.outcome == expected
    late = expected in (LATE, LATE_BODY)
    assert seen.seconds < (TIMEOUT_S + 1.5 if late else PATIENCE_S), "the deadline is total"


@pytest.mark.parametrize(("path", "expected"), PATHS.items())
def test_what_becomes_of_a_hostile_answer(
    hostile: HostileServer, seen: dict[str, Seen], path: str, expected: tuple[Any, ...]
) -> None:
    check(seen[hostile.url(path)], expected)


@pytest.mark.parametrize(("port", "expected"), PORTS.items())
def test_what_becomes_of_a_hostile_port(
    hostile: HostileServer, seen: dict[str, Seen], port: tuple[str, str], expected: tuple[Any, ...]
) -> None:
    scheme, name = port
    check(seen[hostile.port_url(name, scheme)], expected)


def test_every_misbehaviour_is_in_a_table() -> None:
    assert {path for path in CASES if not path.startswith("/chain-")} <= set(PATHS)
    assert {f"/to-{name}" for name in LOCATIONS} <= set(PATHS)


def test_an_answer_that_nobody_asked_for_never_becomes_that_of_the_next(
    hostile: HostileServer,
) -> None:
    """One connection at a time: the next request would find what /smuggle left in its buffer."""

    async def one_by_one() -> list[bytes | None]:
        settings = settings_for(per_host=1, concurrency=1)
        fetcher = Fetcher(settings, Gate(1, 1, settings.prefetch_bytes))
        paths = ["/ok", "/smuggle", "/ok", "/ok", "/smuggle", "/ok"]
        got = [(await fetcher.fetch(hostile.url(path))).body for path in paths]
        await fetcher.close()
        return got

    body, part = b"body", b"ab"
    assert asyncio.run(one_by_one()) == [body, part, body, body, part, body]


def test_a_flood_of_interim_answers_leaves_the_loop_to_others(hostile: HostileServer) -> None:
    """Unbounded, four of them kept a process busy until their deadline."""
    start = time.process_time()
    asyncio.run(fetch_each(settings_for(), [hostile.url(f"/100-burst?{n}") for n in range(4)]))
    assert time.process_time() - start < TIMEOUT_S / 2
