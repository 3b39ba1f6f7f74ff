"""One URL against a real server: its deadline, its attempts and the pauses between them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import pytest

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import Fetched
from facecap.transforms.web.fetch import Fetcher, backoff
from facecap.transforms.web.gate import Gate
from tests.servers import ImageServer, Route
from tests.transforms.web.test_fetch import ROUTES, fetch, fetch_all, options, outcome


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer(ROUTES) as running:
        yield running


@pytest.mark.parametrize("path", ["/drip", "/silent"])
def test_the_deadline_is_total(server: ImageServer, path: str) -> None:
    start = time.monotonic()
    settings = options(server, timeout_s=1.0, retries=5)
    result = fetch(settings, server.url(path))
    assert outcome(result)[0] is Reason.TIMEOUT
    assert 0.4 < time.monotonic() - start < 2


def test_the_deadline_spans_hops_and_attempts(server: ImageServer) -> None:
    server.routes["/slow-round"] = Route(status=302, headers={"Location": "/slow-round"}, delay=0.3)
    start = time.monotonic()
    settings = options(server, timeout_s=1.0, max_redirects=20)
    assert outcome(fetch(settings, server.url("/slow-round")))[0] is Reason.TIMEOUT
    assert 0.9 < time.monotonic() - start < 1.5
    server.routes["/slow-503"] = Route(status=503, delay=0.3)
    start = time.monotonic()
    result = fetch(options(server, timeout_s=1.0, retries=10), server.url("/slow-503"))
    assert outcome(result)[0] in (Reason.TIMEOUT, Reason.SERVER_ERROR)
    assert time.monotonic() - start < 1.5


def test_waiting_for_a_slot_is_not_waiting_for_the_server(server: ImageServer) -> None:
    server.routes["/slow"] = Route(b"body", delay=0.4)
    settings = options(server, timeout_s=1.0, per_host=1)
    got = asyncio.run(fetch_all(settings, [server.url("/slow")] * 4))  # 1.6 s in all
    assert [outcome(result) for result in got] == [(200, b"body")] * 4
    assert server.busiest == 1


def test_a_slow_host_does_not_hold_up_another(server: ImageServer) -> None:
    with ImageServer({"/slow": Route(b"slow", delay=0.5)}) as slow:
        settings = options(
            server,
            allow_private_hosts=("127.0.0.1", "localhost"),
            per_host=1,
            concurrency=2,
        )

        async def scenario() -> float:
            fetcher = Fetcher(settings, Gate(2, 1, 1000))
            queue = [asyncio.create_task(fetcher.fetch(slow.url("/slow"))) for _ in range(3)]
            await asyncio.sleep(0.1)
            start = time.monotonic()
            for _ in range(10):
                await fetcher.fetch(server.url("/ok", host="localhost"))
            taken = time.monotonic() - start
            await asyncio.gather(*queue)
            await fetcher.close()
            return taken

        assert asyncio.run(scenario()) < 0.4


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (Route(status=503), True),
        (Route(status=500), True),
        (Route(status=429, headers={"Retry-After": "1"}), True),
        (Route(reset=True), True),
        (ROUTES["/cut"], True),
        (Route(status=404), False),
        (Route(status=403), False),
        (Route(status=429, headers={"Retry-After": "3600"}), False),
        (Route(b""), False),
    ],
)
def test_only_what_can_get_better_is_tried_again(
    server: ImageServer, first: Route, again: bool
) -> None:
    # aiohttp itself repeats a request once whose connection was reset: two for each attempt.
    failures = 4 if first.reset else 1
    server.routes["/flaky"] = [*[first] * failures, Route(b"body")]
    start = time.monotonic()
    result = fetch(options(server, retries=2), server.url("/flaky"))
    assert isinstance(result, Fetched) is again
    assert len(server.paths()) == failures + again
    asked = dict(first.headers).get("Retry-After")
    if asked == "1":
        assert time.monotonic() - start >= 1


def test_retries_are_bounded(server: ImageServer) -> None:
    result = fetch(options(server, retries=2, timeout_s=10), server.url("/503"))
    assert outcome(result) == (Reason.SERVER_ERROR, 503, "HTTP 503")
    assert server.paths() == ["/503"] * 3


def test_pauses_count_against_the_deadline(server: ImageServer) -> None:
    server.routes["/later"] = Route(status=503, headers={"Retry-After": "1"})
    result = fetch(options(server, retries=5, timeout_s=1.7), server.url("/later"))
    assert outcome(result)[0] is Reason.SERVER_ERROR
    assert server.paths() == ["/later"] * 2


def test_backoff_doubles_and_obeys_the_server() -> None:
    random.seed(1)
    pauses = [backoff(attempt, None) for attempt in range(12)]
    assert 0.25 <= pauses[0] <= 0.75 and 1 <= pauses[2] <= 3 and max(pauses) <= 30
    assert backoff(0, 7.0) == 7.0
