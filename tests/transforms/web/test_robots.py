"""robots.txt against a real server, by RFC 9309."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from facecap.schemas.outcomes import Reason
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
    assert parse_rules(text[:MAX_BYTES], "facecap").can_fetch("http://x/a", "facecap")


def test_a_hostile_file_takes_no_time() -> None:
    agents = b"".join(b"User-agent: agent%d\n" % number for number in range(12_000))
    rules = b"".join(b"Disallow: /*a*%d\n" % number for number in range(12_000))
    start = time.monotonic()
    parsed = parse_rules((agents + b"User-agent: *\n" + rules)[:MAX_BYTES], "facecap")
    parsed.can_fetch("http://x/" + "a" * 5000, "facecap")
    assert time.monotonic() - start < 5
