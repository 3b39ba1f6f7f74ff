"""One URL against a real server: every reason, hops, addresses, manners."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import random
import shutil
import ssl
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import Fetched
from facecap.transforms.download import DownloadOptions
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.fetch import Fetcher
from facecap.transforms.web.gate import Gate
from tests.servers import ImageServer, Route


def raw(text: str, body: bytes = b"") -> bytes:
    return text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


ROUTES: dict[str, Any] = {
    "/ok": b"body",
    "/moved": Route(status=301, headers={"Location": "/ok"}),
    "/moved-twice": Route(status=307, headers={"Location": "moved"}),
    "/round": Route(status=302, headers={"Location": "/round"}),
    "/no-location": Route(status=302),
    "/to-metadata": Route(status=302, headers={"Location": "http://169.254.169.254/latest/"}),
    "/to-ipv6": Route(status=302, headers={"Location": "http://[::1]:80/"}),
    "/to-mapped": Route(status=302, headers={"Location": "http://[::ffff:127.0.0.1]/"}),
    "/to-decimal": Route(status=302, headers={"Location": "http://2130706433/"}),
    "/to-file": Route(status=302, headers={"Location": "file:///etc/passwd"}),
    "/to-data": Route(status=302, headers={"Location": "data:image/png;base64,AA"}),
    "/to-nowhere": Route(status=302, headers={"Location": "http://[/"}),
    "/204": Route(status=204),
    "/206": Route(b"part", status=206),
    "/400": Route(status=400),
    "/401": Route(status=401),
    "/403": Route(status=403),
    "/404": Route(status=404),
    "/410": Route(status=410),
    "/429": Route(status=429),
    "/429-later": Route(status=429, headers={"Retry-After": "3600"}),
    "/451": Route(status=451),
    "/500": Route(status=500),
    "/503": Route(status=503),
    "/empty": b"",
    "/large": b"x" * 100_001,
    "/endless": Route(chunks=itertools.repeat(b"x" * 10_000)),
    "/bomb": Route(gzip.compress(b"\0" * 50_000_000), headers={"Content-Encoding": "gzip"}),
    "/gzip": Route(gzip.compress(b"body"), headers={"Content-Encoding": "gzip"}),
    "/bad-gzip": Route(b"this is not gzip", headers={"Content-Encoding": "gzip"}),
    "/cut": Route(raw=raw("HTTP/1.1 200 OK\nContent-Length: 100", b"abc")),
    "/cut-chunk": Route(raw=raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"9\r\nabc")),
    "/reset-body": Route(raw=raw("HTTP/1.1 200 OK\nContent-Length: 9", b"abc"), reset=True),
    "/reset": Route(reset=True),
    "/closed": Route(raw=b""),
    "/not-http": Route(raw=b"SSH-2.0-OpenSSH_9.6\r\n"),
    "/long-header": Route(raw=raw("HTTP/1.1 200 OK\nX: " + "a" * 100_000)),
    "/many-headers": Route(raw=raw("HTTP/1.1 200 OK\n" + "X: a\n" * 5000 + "Y: b")),
    "/drip": Route(chunks=itertools.repeat(b"x"), pause=0.1),
    "/silent": Route(delay=30),
    "/noai": Route(b"body", headers={"X-Robots-Tag": "noai"}),
    "/tdm": Route(b"body", headers={"TDM-Reservation": "1"}),
    "/cookie": Route(b"body", headers={"Set-Cookie": "id=1; Path=/"}),
}


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer(ROUTES) as running:
        yield running


def options(server: ImageServer, **changes: Any) -> DownloadOptions:
    given = {
        "allow_private_hosts": (server.host_port,),
        "timeout_s": 4.0,
        "retries": 0,
        "max_bytes": 100_000,
    }
    return DownloadOptions(**{**given, **changes})


Result = Fetched | Failed


async def fetch_all(settings: DownloadOptions, urls: list[str]) -> list[Result]:
    gate = Gate(settings.concurrency, settings.per_host, settings.prefetch_bytes)
    fetcher = Fetcher(settings, gate)
    try:
        got = await asyncio.gather(*map(fetcher.fetch, urls), return_exceptions=True)
    finally:
        await fetcher.close()
    results: list[Result] = []
    for result in got:
        if not isinstance(result, Fetched | Failed):
            assert isinstance(result, BaseException)
            raise result
        results.append(result)
    return results


def fetch(settings: DownloadOptions, url: str) -> Result:
    return asyncio.run(fetch_all(settings, [url]))[0]


def outcome(result: Result) -> tuple[Any, ...]:
    if isinstance(result, Failed):
        return result.drop.reason, result.http_status, result.drop.error
    return result.http_status, result.body


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ok", (200, b"body")),
        ("/moved", (200, b"body")),
        ("/moved-twice", (200, b"body")),
        ("/gzip", (200, b"body")),
        ("/round", (Reason.TOO_MANY_REDIRECTS, 302, None)),
        ("/no-location", (Reason.HTTP_STATUS, 302, "HTTP 302")),
        ("/to-metadata", (Reason.PRIVATE_ADDRESS, None, None)),
        ("/to-ipv6", (Reason.PRIVATE_ADDRESS, None, None)),
        ("/to-mapped", (Reason.PRIVATE_ADDRESS, None, None)),
        ("/to-decimal", (Reason.PRIVATE_ADDRESS, None, None)),
        ("/to-file", (Reason.SCHEME_NOT_ALLOWED, None, "file")),
        ("/to-data", (Reason.SCHEME_NOT_ALLOWED, None, "data")),
        ("/to-nowhere", (Reason.INVALID_URL, None, "ValueError")),
        ("/204", (Reason.HTTP_STATUS, 204, "HTTP 204")),
        ("/206", (Reason.HTTP_STATUS, 206, "HTTP 206")),
        ("/400", (Reason.HTTP_STATUS, 400, "HTTP 400")),
        ("/401", (Reason.FORBIDDEN, 401, "HTTP 401")),
        ("/403", (Reason.FORBIDDEN, 403, "HTTP 403")),
        ("/404", (Reason.NOT_FOUND, 404, "HTTP 404")),
        ("/410", (Reason.NOT_FOUND, 410, "HTTP 410")),
        ("/429", (Reason.RATE_LIMITED, 429, "HTTP 429")),
        ("/451", (Reason.FORBIDDEN, 451, "HTTP 451")),
        ("/500", (Reason.SERVER_ERROR, 500, "HTTP 500")),
        ("/503", (Reason.SERVER_ERROR, 503, "HTTP 503")),
        ("/empty", (Reason.EMPTY_BODY, 200, None)),
        ("/large", (Reason.TOO_LARGE, 200, None)),
        ("/endless", (Reason.TOO_LARGE, 200, None)),
        ("/bomb", (Reason.TOO_LARGE, 200, None)),
        ("/bad-gzip", (Reason.BAD_RESPONSE, 200, "content encoding")),
        ("/cut", (Reason.TRUNCATED_BODY, 200, None)),
        ("/cut-chunk", (Reason.TRUNCATED_BODY, 200, None)),
        ("/reset-body", (Reason.TRUNCATED_BODY, 200, None)),
        ("/reset", (Reason.CONNECTION, None, None)),
        ("/closed", (Reason.CONNECTION, None, None)),
        ("/not-http", (Reason.BAD_RESPONSE, None, "ClientResponseError")),
        ("/long-header", (Reason.BAD_RESPONSE, None, "ClientResponseError")),
        ("/many-headers", (Reason.BAD_RESPONSE, None, "ClientResponseError")),
        ("/noai", (Reason.OPTED_OUT, 200, "X-Robots-Tag noai")),
        ("/tdm", (Reason.OPTED_OUT, 200, "TDM-Reservation")),
    ],
)
def test_what_becomes_of_an_answer(
    server: ImageServer, path: str, expected: tuple[Any, ...]
) -> None:
    assert outcome(fetch(options(server), server.url(path))) == expected


def test_sha256_is_of_the_decoded_body(server: ImageServer) -> None:
    result = fetch(options(server), server.url("/gzip"))
    assert isinstance(result, Fetched)
    assert result.sha256 == hashlib.sha256(b"body").hexdigest()


def test_a_bomb_does_not_take_memory(server: ImageServer) -> None:
    tracemalloc.start()
    fetch(options(server), server.url("/bomb"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::1]"],
)
def test_hosts_that_were_not_allowed(server: ImageServer, host: str) -> None:
    # The server listens on an allowed address, but the permission belongs to another name.
    settings = options(server, allow_private_hosts=("images.test", f"127.0.0.1:{server.port + 1}"))
    result = fetch(settings, server.url("/ok", host))
    assert outcome(result) == (Reason.PRIVATE_ADDRESS, None, None)
    assert not server.requests


def test_the_permission_of_a_name_is_not_that_of_its_address(server: ImageServer) -> None:
    for allowed, other in (("localhost", "127.0.0.1"), ("127.0.0.1", "localhost")):
        settings = options(server, allow_private_hosts=(f"{allowed}:{server.port}",))
        urls = [server.url("/ok", allowed), server.url("/ok", other)] * 3
        got = asyncio.run(fetch_all(settings, urls))
        assert [outcome(result)[0] for result in got] == [200, Reason.PRIVATE_ADDRESS] * 3


def test_a_redirect_from_an_allowed_host_to_another_name_of_it_is_refused(
    server: ImageServer,
) -> None:
    server.routes["/hop"] = Route(
        status=302, headers={"Location": server.url("/ok", host="localhost")}
    )
    assert outcome(fetch(options(server), server.url("/hop")))[0] is Reason.PRIVATE_ADDRESS
    assert server.paths() == ["/hop"]


def test_no_server_name_and_tls(server: ImageServer) -> None:
    settings = options(server, allow_private_hosts=("127.0.0.1",))
    with ImageServer({}) as closed:
        pass
    assert outcome(fetch(settings, closed.url())) == (Reason.CONNECTION, None, None)
    assert fetch(settings, "http://no-such-name.invalid/").drop.reason is Reason.DNS  # type: ignore[union-attr]
    not_tls = server.url("/ok").replace("http:", "https:")
    assert outcome(fetch(settings, not_tls)) == (Reason.TLS, None, None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_a_self_signed_certificate_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 1"
    command += f" -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ImageServer({"/ok": b"body"}, tls=context) as secure:
        result = fetch(options(secure), secure.url("/ok"))
    assert outcome(result) == (Reason.TLS, None, "SSLCertVerificationError")
    assert not secure.requests


def test_what_the_server_gets_to_know(server: ImageServer) -> None:
    settings = options(server, contact="https://example.org/bot")
    url = server.url("/cookie").replace("http://", "http://user:secret@") + "#part"
    asyncio.run(fetch_all(settings, [url]))
    asyncio.run(fetch_all(settings, [url, url]))
    for seen in server.requests:
        assert seen.headers["User-Agent"].startswith("facecap/")
        assert seen.headers["User-Agent"].endswith(" (+https://example.org/bot)")
        assert not {"Cookie", "Authorization", "Referer"} & set(seen.headers)
    assert set(server.paths()) == {"/cookie"}


def test_the_environment_cannot_redirect_requests(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    assert outcome(fetch(options(server), server.url("/ok"))) == (200, b"body")


def test_hostile_answers_never_count_as_defects() -> None:
    """Mutations of a valid answer: whatever comes, Failed or Fetched."""
    rng = random.Random(7)
    valid = raw("HTTP/1.1 200 OK\nContent-Type: image/jpeg\nContent-Length: 4", b"body")
    routes: dict[str, Any] = {}
    for number in range(150):
        answer = bytearray(valid)
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(answer))
            if rng.random() < 0.5:
                answer[at] = rng.randrange(256)
            elif rng.random() < 0.5:
                del answer[at : at + rng.randrange(1, 9)]
            else:
                answer[at:at] = rng.randbytes(3)
        routes[f"/{number}"] = Route(raw=bytes(answer))
    with ImageServer(routes) as server:
        settings = options(server, timeout_s=2.0, per_host=32)
        got = asyncio.run(fetch_all(settings, [server.url(path) for path in routes]))
    assert len(got) == len(routes)
