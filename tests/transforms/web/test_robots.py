"""robots.txt against a real server, by RFC 9309."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import pytest

from facecap.schemas.outcomes import Reason
from facecap.transforms.web import robots
from facecap.transforms.web.fetch import Fetcher
from facecap.transforms.web.gate import Gate
from facecap.transforms.web.robots import MAX_BYTES, parse_rules
from tests.servers import Answer, ImageServer, Route
from tests.transforms.web.test_fetch import fetch_all, options, outcome

NO_A = b"User-agent: *\nDisallow: /a\n"


def reasons(server: ImageServer, *paths: str, **changes: Any) -> list[Any]:
    got = asyncio.run(fetch_all(options(server, **changes), [server.url(p) for p in paths]))
    return [outcome(result)[0] for result in got]


def robots_requests(server: ImageServer) -> int:
    return sum(seen.path == "/robots.txt" for seen in server.requests)


@pytest.mark.parametrize(
    ("robots", "expected"),
    [
        (Route(NO_A), Reason.ROBOTS_DISALLOWED),
        (Route(b"\xef\xbb\xbf" + NO_A), Reason.ROBOTS_DISALLOWED),
        (Route(b"User-agent: facecap\nDisallow: /\n"), Reason.ROBOTS_DISALLOWED),
        (Route(b"User-agent: FaceCap\nDisallow: /\n"), Reason.ROBOTS_DISALLOWED),
        (Route(NO_A + b"User-agent: facecap\nAllow: /\n"), 200),
        (Route(b"User-agent: other\nDisallow: /\n"), 200),
        (Route(b"User-agent: *\nDisallow: /\nAllow: /a.jpg\n"), 200),
        (Route(b"<html>not a robots file</html>"), 200),
        (Route(b"\xff\xfe\x00" * 1000), 200),
        (Route(b""), 200),
        (Route(status=204), 200),
        (Route(status=404), 200),
        (Route(NO_A, status=403), 200),
        (Route(status=500), Reason.ROBOTS_UNREACHABLE),
        (Route(status=503), Reason.ROBOTS_UNREACHABLE),
        (Route(reset=True), Reason.ROBOTS_UNREACHABLE),
        (Route(delay=30), Reason.ROBOTS_UNREACHABLE),
        (Route(status=302, headers={"Location": "/moved-robots"}), Reason.ROBOTS_DISALLOWED),
        (Route(status=302, headers={"Location": "/robots.txt"}), 200),  # more than five: none
        (
            Route(status=302, headers={"Location": "http://169.254.169.254/"}),
            Reason.ROBOTS_UNREACHABLE,
        ),
        (Route(status=302, headers={"Location": "file:///x"}), Reason.ROBOTS_UNREACHABLE),
    ],
)
def test_what_robots_txt_says(robots: Route, expected: Any) -> None:
    routes: dict[str, Answer] = {"/robots.txt": robots, "/a.jpg": b"body", "/moved-robots": NO_A}
    with ImageServer(routes) as server:
        assert reasons(server, "/a.jpg", timeout_s=2.0) == [expected]
        assert ("/a.jpg" in server.paths()) == (expected == 200)


def test_it_can_be_switched_off_with_the_headers() -> None:
    headers = {"X-Robots-Tag": "noai", "TDM-Reservation": "1"}
    with ImageServer({"/robots.txt": NO_A, "/a.jpg": Route(b"body", headers=headers)}) as server:
        assert reasons(server, "/a.jpg", respect_robots=False) == [200]
        assert robots_requests(server) == 0


def test_it_is_asked_once_per_host_and_by_waiters_together() -> None:
    routes: dict[str, Answer] = {"/robots.txt": Route(NO_A, delay=0.2), "/b.jpg": b"body"}
    with ImageServer(routes) as server:
        assert reasons(server, *["/b.jpg"] * 40) == [200] * 40
        assert robots_requests(server) == 1


def test_a_failing_one_is_tried_twice_and_remembered() -> None:
    with ImageServer({"/robots.txt": Route(status=503), "/b.jpg": b"body"}) as server:
        got = reasons(server, *["/b.jpg"] * 10, retries=3)
        assert got == [Reason.ROBOTS_UNREACHABLE] * 10
        assert robots_requests(server) == 2


def test_a_flaky_one_gets_better() -> None:
    routes: dict[str, Answer] = {
        "/robots.txt": [Route(status=503), Route(NO_A)],
        "/a": b"x",
        "/b": b"x",
    }
    with ImageServer(routes) as server:
        assert reasons(server, "/a", "/b", retries=1) == [Reason.ROBOTS_DISALLOWED, 200]


def test_a_slow_one_does_not_take_the_whole_deadline() -> None:
    with ImageServer({"/robots.txt": Route(delay=30), "/b.jpg": b"body"}) as server:
        start = time.monotonic()
        got = reasons(server, *["/b.jpg"] * 20, timeout_s=2.0, per_host=4)
        assert got == [Reason.ROBOTS_UNREACHABLE] * 20
        assert time.monotonic() - start < 2.5


def test_it_holds_on_every_hop() -> None:
    with ImageServer({"/robots.txt": NO_A, "/a.jpg": b"body"}) as target:
        location = {"Location": target.url("/a.jpg")}
        with ImageServer({"/hop": Route(status=302, headers=location)}) as server:
            allowed = (server.host_port, target.host_port)
            got = reasons(server, "/hop", allow_private_hosts=allowed)
        assert got == [Reason.ROBOTS_DISALLOWED]
        assert target.paths() == []


def test_only_the_first_500_kib_count() -> None:
    filler = b"# " + b"x" * 997 + b"\n"
    inside = NO_A + filler * 600
    beyond = filler * 600 + NO_A
    with ImageServer({"/robots.txt": inside, "/a": b"x"}) as server:
        assert reasons(server, "/a") == [Reason.ROBOTS_DISALLOWED]
    with ImageServer({"/robots.txt": beyond, "/a": b"x"}) as server:
        assert reasons(server, "/a") == [200]


def test_a_cut_line_is_left_out() -> None:
    text = b"User-agent: *\n" + b"#" * (MAX_BYTES - 14 - 11) + b"\nDisallow: /"
    assert parse_rules(text[:MAX_BYTES], "facecap").allow("http://x/a")


def test_many_agents_with_many_rules_take_no_time() -> None:
    agents = b"".join(b"User-agent: agent%d\n" % number for number in range(12_000))
    rules = b"".join(b"Disallow: /a%d$\n" % number for number in range(12_000))
    start = time.monotonic()
    rules_of_all = parse_rules((agents + b"User-agent: *\n" + rules)[:MAX_BYTES], "facecap")
    rules_of_all.allow("http://x/" + "a" * 5000)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([b"Allow:*aab"] * 1000, 200),
        ([b"Allow:*" + b"a*" * 250 + b"b"] * 1000, 200),
        ([b"Allow:*aab"] * 47_000, Reason.ROBOTS_UNREACHABLE),
        ([b"User-agent: other", *[b"Allow:*aab"] * 46_000], 200),
    ],
)
def test_hostile_wildcards_do_not_hold_up_the_loop(rules: list[bytes], expected: Any) -> None:
    path = "/" + "a" * 8000
    body = b"\n".join([b"User-agent: *", b"Disallow: /no", *rules])[:MAX_BYTES]
    with ImageServer({"/robots.txt": body, path: b"body"}) as server:

        async def scenario() -> list[Any]:
            watch = asyncio.create_task(longest_pause())
            got = await fetch_all(options(server, per_host=8), [server.url(path)] * 8)
            watch.cancel()
            pause = await watch
            return [pause, *(outcome(result)[0] for result in got)]

        pause, *got = asyncio.run(scenario())
    assert got == [expected] * 8
    assert pause < 0.05


async def longest_pause() -> float:
    """The longest time that the loop did not come round, in CPU seconds of its own thread, so
    that other threads and processes do not count. To be cancelled."""
    longest = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            start = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - start)
    return longest


def test_a_host_that_comes_up_late_is_reached_by_the_retries() -> None:
    random.seed(1)
    with ImageServer({}) as closed:
        pass

    async def scenario() -> Any:
        settings = options(closed, retries=5, timeout_s=20.0)
        fetching = asyncio.create_task(fetch_all(settings, [closed.url("/a")]))
        await asyncio.sleep(1.2)
        with ImageServer({"/a": b"body"}, port=closed.port):
            return await fetching

    (result,) = asyncio.run(scenario())
    assert outcome(result) == (200, b"body")


def test_the_kept_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MAX_KEPT_BYTES", 2 * robots.RULES_OVERHEAD + 2 * len(NO_A))

    async def scenario(servers: list[ImageServer]) -> None:
        allowed = tuple(server.host_port for server in servers)
        settings = options(servers[0], allow_private_hosts=allowed)
        fetcher = Fetcher(settings, Gate(8, 8, 1000))
        for server in (*servers, *servers[1:], servers[0]):
            await fetcher.fetch(server.url("/b"))
        await fetcher.close()

    routes: dict[str, Answer] = {"/robots.txt": NO_A, "/b": b"body"}
    with ImageServer(routes) as first, ImageServer(routes) as second, ImageServer(routes) as third:
        asyncio.run(scenario([first, second, third]))
        assert list(map(robots_requests, (first, second, third))) == [2, 1, 1]


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ("User-agent: facecap/0.1\nDisallow: /", False),
        ("User-agent: facecap*\nDisallow: /", False),
        ("User-agent: face\nAllow: /\nUser-agent: *\nDisallow: /", False),
        ("User-agent: facecapper\nAllow: /\nUser-agent: *\nDisallow: /", False),
        ("User-agent: x\nCrawl-delay: 5\nUser-agent: facecap\nDisallow: /", False),
        ("User-agent: facecap\nCrawl-delay: 5\nUser-agent: x\nDisallow: /", False),
        ("User-agent: facecap\nNoindex: /\nSitemap: /s\nUser-agent: x\nDisallow: /", False),
        ("User-agent: facecap\nAllow: /x\nUser-agent: x\nDisallow: /", True),
        ("User-agent: *\nDisallow: /\nUser-agent: facecap\nDisallow:\n", True),
        ("User-agent: facecap\nDisallow: /b\n\nUser-agent: facecap\nDisallow: /a", False),
        ("User agent facecap # us\nDisalow /", False),
        ("Disallow: /", True),
    ],
)
def test_groups(lines: str, allowed: bool) -> None:
    assert parse_rules(lines.encode(), "FaceCap").allow("http://x/a") is allowed
