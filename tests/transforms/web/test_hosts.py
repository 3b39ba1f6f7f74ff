"""Dead hosts are given up, hosts that ask for a pause get it, and neither for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.download import DownloadOptions
from facecap.transforms.web import hosts
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.fetch import Fetcher
from facecap.transforms.web.gate import Gate
from facecap.transforms.web.hosts import Hosts
from tests.hostile import black_hole
from tests.servers import ImageServer, Route
from tests.transforms.web.test_fetch import fetch_all, options, outcome

HOST = URL("http://dead.test/a")
LIMITED = (Reason.RATE_LIMITED, 429, "HTTP 429")


@pytest.fixture
def hole() -> Iterator[int]:
    sockets = black_hole()
    yield sockets[0].getsockname()[1]
    for each in sockets:
        each.close()


def in_time(settings: DownloadOptions, urls: list[str]) -> tuple[list[tuple[Any, ...]], float]:
    start = time.monotonic()
    got = asyncio.run(fetch_all(settings, urls))
    return [outcome(result) for result in got], time.monotonic() - start


@pytest.mark.parametrize("respect_robots", [True, False])
def test_a_black_hole_costs_one_deadline_and_not_one_for_each_row(
    hole: int, respect_robots: bool
) -> None:
    settings = options(
        ImageServer({}),
        allow_private_hosts=("127.0.0.1",),
        timeout_s=0.9,
        retries=2,
        respect_robots=respect_robots,
    )
    # 0.15 s for each of three attempts, eight rows at a time: 11 s if each is tried.
    got, seconds = in_time(settings, [f"http://127.0.0.1:{hole}/{n}" for n in range(200)])
    assert set(got) == {(Reason.TIMEOUT, None, None)}, "tried or not, the outcome is the same"
    assert seconds < 4


def test_a_name_without_an_answer_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Hosts(patience_s=0.0)
    dead = Failed(Reason.DNS, connected=False)
    attempts = 0
    for _ in range(20):
        with pytest.raises(Failed) as failed, known.visit(HOST):
            attempts += 1
            raise dead
        assert failed.value.drop == dead.drop
    assert attempts == hosts.DEAD_ATTEMPTS
    assert not failed.value.may_retry
    with known.visit(HOST.with_port(81)):
        pass  # another port, another host


def fail(known: Hosts, times: int, reason: Reason = Reason.CONNECTION) -> int:
    """Visits that make no connection; returns how many were let through."""
    attempts = 0
    for _ in range(times):
        with pytest.raises(Failed) as failed, known.visit(HOST):
            attempts += 1
            raise Failed(reason, connected=False)
        assert failed.value.drop.reason is reason
    return attempts


def test_one_url_at_a_time_probes_a_host_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PROBE_EVERY_S", 0.05)
    known = Hosts(patience_s=0.0)
    fail(known, 20)
    for _ in range(3):
        time.sleep(0.06)
        assert fail(known, 20) == 1
    time.sleep(0.06)
    with known.visit(HOST):
        pass  # it lives again, and one more failure does not kill it
    assert fail(known, 2, Reason.TIMEOUT) == 2


@pytest.mark.parametrize("refused", [None, Failed(Reason.SERVER_ERROR), Failed(Reason.TLS)])
def test_an_answer_under_way_revives_a_host_given_up(refused: Failed | None) -> None:
    known = Hosts(patience_s=0.0)
    with contextlib.suppress(Failed), known.visit(HOST):
        assert fail(known, 20) == hosts.DEAD_ATTEMPTS
        if refused is not None:
            refused.connected = refused.drop.reason is not Reason.TLS
            raise refused
    assert fail(known, 20) == hosts.DEAD_ATTEMPTS


def test_patience_starts_after_the_last_answer() -> None:
    known = Hosts(patience_s=0.2)
    with contextlib.suppress(Failed), known.visit(HOST):
        time.sleep(0.25)
        with known.visit(HOST):
            pass
        raise Failed(Reason.TIMEOUT, connected=False)
    assert fail(known, 20) == 20


def test_urls_that_share_a_load_of_robots_txt_are_one_attempt(hole: int) -> None:
    settings = options(
        ImageServer({}), allow_private_hosts=("127.0.0.1",), timeout_s=0.9, per_host=16, retries=0
    )

    async def failures() -> int:
        fetcher = Fetcher(settings, Gate(settings.concurrency, settings.per_host, 1 << 30))
        urls = [f"http://127.0.0.1:{hole}/{n}" for n in range(settings.per_host)]
        got = await asyncio.gather(*map(fetcher.fetch, urls), return_exceptions=True)
        assert all(isinstance(each, Failed) for each in got)
        await fetcher.close()
        return fetcher._hosts._hosts[f"127.0.0.1:{hole}"].failures

    assert asyncio.run(failures()) == 1


@pytest.mark.parametrize(
    "harmless",
    [
        Failed(Reason.SERVER_ERROR, http_status=503),
        Failed(Reason.CONNECTION),  # reset after it was connected
        Failed(Reason.TLS, connected=False),
        Failed(Reason.DNS, "no such name", may_retry=False, connected=False),
        Failed(Reason.TIMEOUT, may_retry=False, connected=False),  # the end of a deadline
    ],
)
def test_only_missing_connections_count(harmless: Failed) -> None:
    known = Hosts(patience_s=0.0)
    for _ in range(3 * hosts.DEAD_ATTEMPTS):
        with pytest.raises(Failed) as failed, known.visit(HOST):
            raise harmless
        assert failed.value is harmless


def test_a_host_must_have_failed_for_long() -> None:
    known = Hosts(patience_s=3600.0)
    refused = Failed(Reason.CONNECTION, connected=False)
    for _ in range(100):
        with pytest.raises(Failed) as failed, known.visit(HOST):
            raise refused
        assert failed.value is refused


def test_one_connection_ends_a_run_of_failures() -> None:
    known = Hosts(patience_s=0.0)
    for turn in range(100):
        if turn % hosts.DEAD_ATTEMPTS == hosts.DEAD_ATTEMPTS - 1:
            with known.visit(HOST):
                continue
        refused = Failed(Reason.CONNECTION, connected=False)
        with pytest.raises(Failed) as failed, known.visit(HOST):
            raise refused
        assert failed.value is refused


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_HOSTS", 10)
    known = Hosts(patience_s=0.0)
    for number in range(100):
        with pytest.raises(Failed), known.visit(URL(f"http://{number}.test/")):
            raise Failed(Reason.DNS, connected=False)
    assert len(known._hosts) == 10


def test_retry_after_holds_back_all_urls_of_the_host() -> None:
    limited = Route(status=429, headers={"Retry-After": "1"})
    with ImageServer({"/limited": [limited, Route(b"body")], "/ok": b"body"}) as server:
        settings = options(server, retries=1, per_host=2, respect_robots=False)
        paths = ["/limited", *["/ok"] * 20]
        got, seconds = in_time(settings, [server.url(path) for path in paths])
        assert got == [(200, b"body")] * 21
        assert seconds >= 1
        first = server.requests[0].time
        # One may have been under way when the answer came.
        assert sum(seen.time - first < 0.9 for seen in server.requests) <= 2


def test_pauses_are_bounded_and_lose_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(hosts, "FREE_PAUSE_S", 0.4)
    limited = Route(status=429, headers={"Retry-After": "86400"})
    with ImageServer({"/limited": limited, "/ok": b"body"}) as server:
        settings = options(server, per_host=1, respect_robots=False)
        paths = ["/limited", "/ok"] * 30
        got, seconds = in_time(settings, [server.url(path) for path in paths])
    assert got == [LIMITED, (200, b"body")] * 30
    assert 0.4 < seconds < 3, "thirty pauses of 0.2 s would be 6"
