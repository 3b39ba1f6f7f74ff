"""Hostile names and certificates: what resolves to where it must not, what is no name at all,
what changes its address, and TLS that fails."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiodns
import aiohttp.connector
import pytest

from facecap.schemas.outcomes import Reason
from facecap.transforms.web import addresses, resolver
from tests.servers import Addresses, ImageServer, NameServer
from tests.transforms.web.test_hostile import fetch_each, settings_for

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
"""Only in these tests the first passes for an address of the public internet."""

BODY = (200, b"body")
REFUSED = (Reason.PRIVATE_ADDRESS, None, None)
NO_NAME = (Reason.DNS, None, "no such name")

NAMES: dict[str, Addresses | list[Addresses]] = {
    "public.test": PUBLIC,
    "private.test": "192.168.1.1",
    "loopback.test": PRIVATE,
    "metadata.test": "169.254.169.254",
    "zero.test": "0.0.0.0",
    "broadcast.test": "255.255.255.255",
    "mixed.test": (PRIVATE, PUBLIC, "10.0.0.1"),
    "rebinding.test": [PUBLIC, PRIVATE],
    "many.test": tuple(f"10.0.0.{n}" for n in range(1, 20)),
    "silent.test": None,
    "xn--bcher-kva.test": PUBLIC,
    "xn--a.test": PUBLIC,
    "under_score.test": PUBLIC,
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer(NAMES) as server:
        make = partial(aiodns.DNSResolver, nameservers=[server.host_port])
        monkeypatch.setattr(resolver.aiodns, "DNSResolver", make)
        monkeypatch.setattr(addresses, "is_public", lambda address: address == PUBLIC)
        yield server


@pytest.fixture
def public() -> Iterator[ImageServer]:
    with ImageServer({"/a.jpg": b"body"}, host=PUBLIC) as server:
        yield server


def fetch(urls: list[str], **changes: Any) -> list[tuple[Any, ...]]:
    settings = settings_for(allow_private_hosts=(), dns_timeout_s=0.2, **changes)
    seen = asyncio.run(fetch_each(settings, urls))
    return [seen[url].outcome for url in urls]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("public.test", BODY),
        ("PUBLIC.test.", BODY),
        ("private.test", REFUSED),
        ("loopback.test", REFUSED),
        ("metadata.test", REFUSED),
        ("zero.test", REFUSED),
        ("broadcast.test", REFUSED),
        ("many.test", REFUSED),
        ("localhost", REFUSED),
        ("silent.test", (Reason.DNS, None, None)),
        ("no.test", NO_NAME),
        ("under_score.test", BODY),
        # Internationalised names.
        ("bücher.test", BODY),
        ("BÜCHER.test", BODY),
        ("xn--bcher-kva.test", BODY),
        ("xn--a.test", BODY),  # not punycode of anything, but names are only bytes
        ("xn--.test", NO_NAME),
        ("b\u0443cher.test", NO_NAME),  # Cyrillic among Latin: another name
        ("☃.test", NO_NAME),
        ("\u0661\u0662\u0667.0.0.1", (Reason.INVALID_URL, None, "bad IPv4 address")),  # Arabic 127
        ("１２７.0.0.1", REFUSED),  # full-width ones
        ("127。0。0。1", REFUSED),  # ideographic full stops
        ("a" * 63 + ".test", NO_NAME),
        ("a" * 64 + ".test", (Reason.INVALID_URL, None, "bad host")),
        ("ü" * 64 + ".test", (Reason.INVALID_URL, None)),
        (".".join(["a" * 60] * 5), (Reason.INVALID_URL, None, "bad host")),
        ("a..test", (Reason.INVALID_URL, None, "bad host")),
        (".test", (Reason.INVALID_URL, None, "bad host")),
        ("..", (Reason.INVALID_URL, None)),
        ("%ff.test", (Reason.INVALID_URL, None)),
        ("\udcff.test", (Reason.INVALID_URL, None)),
        ("a\0b.test", (Reason.INVALID_URL, None)),
        ("a%00b.test", (Reason.INVALID_URL, None)),
        ("a b.test", (Reason.INVALID_URL, None)),
        ("a\r\nb.test", NO_NAME),  # as browsers do: line ends are left out
        ("user:pass@public.test", BODY),
        ("public.test@private.test", REFUSED),
    ],
)
def test_what_becomes_of_a_host_name(
    names: NameServer, public: ImageServer, host: str, expected: tuple[Any, ...]
) -> None:
    [outcome] = fetch([f"http://{host}:{public.port}/a.jpg"])
    assert outcome[: len(expected)] == expected
    assert names.asked.count(host) <= 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a\0b", 404), ("/\udcff", 404), ("/ü", 404), ("/a b", 404), ("/%zz", 404), ("/..%2f", 404)],
)
def test_hostile_paths_are_only_paths(
    names: NameServer, public: ImageServer, path: str, expected: int
) -> None:
    [outcome] = fetch([f"http://public.test:{public.port}{path}"])
    assert outcome[0] is Reason.INVALID_URL or outcome[1] == expected


def test_only_the_public_ones_of_several_addresses_are_tried(
    names: NameServer, public: ImageServer
) -> None:
    with ImageServer({"/a.jpg": b"secret"}, host=PRIVATE, port=public.port) as private:
        assert fetch([f"http://mixed.test:{public.port}/a.jpg"] * 3) == [BODY] * 3
        assert not private.requests


def test_a_name_that_changes_its_address_gains_nothing(
    names: NameServer, public: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked is the address that is connected to, in the same place."""
    monkeypatch.setattr(resolver, "FOUND_S", 0.0)
    url = f"http://rebinding.test:{public.port}/a.jpg"
    with ImageServer({"/a.jpg": b"secret"}, host=PRIVATE, port=public.port) as private:
        assert [fetch([url])[0] for _ in range(3)] == [BODY, REFUSED, REFUSED]
        assert not private.requests
    assert names.asked.count("rebinding.test") == 3, "nobody asks again after the check"


# TLS


def certificate(folder: Path, name: str, days: tuple[int, int]) -> Path:
    """A self-signed certificate for `name`, valid between two days from now, with its key."""
    today = datetime.datetime.now(datetime.UTC)
    start, end = (f"{today + datetime.timedelta(d):%y%m%d%H%M%SZ}" for d in days)
    file = folder / "certificate.pem"
    config = folder / "ca.cnf"
    (folder / "index.txt").write_text("")
    config.write_text(
        f"[ca]\ndefault_ca=x\n[x]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=p\nrand_serial=yes\nx509_extensions=e\n"
        f"[p]\ncommonName=supplied\n[e]\nsubjectAltName=DNS:{name}\nbasicConstraints=CA:TRUE\n"
    )
    for command in (
        f"openssl req -new -newkey rsa:2048 -nodes -subj /CN={name}"
        f" -keyout {folder}/key.pem -out {folder}/request.pem",
        f"openssl ca -batch -notext -selfsign -config {config} -keyfile {folder}/key.pem"
        f" -in {folder}/request.pem -out {file} -startdate {start} -enddate {end}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    file.write_text(file.read_text() + (folder / "key.pem").read_text())
    return file


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    ("name", "days", "trusted", "expected"),
    [
        ("public.test", (-2, 2), True, BODY),
        ("public.test", (-2, 2), False, (Reason.TLS, None, "SSLCertVerificationError")),
        ("public.test", (-3, -1), True, (Reason.TLS, None, "SSLCertVerificationError")),
        ("public.test", (1, 3), True, (Reason.TLS, None, "SSLCertVerificationError")),
        ("other.test", (-2, 2), True, (Reason.TLS, None, "SSLCertVerificationError")),
    ],
    ids=["good", "self-signed", "expired", "not yet", "wrong host"],
)
def test_certificates(
    names: NameServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    days: tuple[int, int],
    trusted: bool,
    expected: tuple[Any, ...],
) -> None:
    file = certificate(tmp_path, name, days)
    ours = ssl.create_default_context(cafile=str(file) if trusted else None)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(file)
    with ImageServer({"/a.jpg": b"body"}, host=PUBLIC, tls=theirs) as server:
        assert fetch([f"https://public.test:{server.port}/a.jpg"]) == [expected]
        assert bool(server.requests) == (expected == BODY)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("old protocol", (Reason.TLS, None, None)),
        # TLS 1.3 tells us only when we read, and asyncio not at all.
        ("client certificate", (Reason.CONNECTION, None, None)),
    ],
)
def test_servers_that_want_other_tls_than_ours(
    names: NameServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    expected: tuple[Any, ...],
) -> None:
    file = certificate(tmp_path, "public.test", (-2, 2))
    ours = ssl.create_default_context(cafile=str(file))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(file)
    if kind == "old protocol":
        theirs.set_ciphers("ALL:@SECLEVEL=0")
        theirs.minimum_version = theirs.maximum_version = ssl.TLSVersion.TLSv1
    else:
        theirs.verify_mode = ssl.CERT_REQUIRED
    with greeting_alone(theirs) as port:
        [outcome] = fetch([f"https://public.test:{port}/a.jpg"])
    assert outcome == expected


@contextmanager
def greeting_alone(tls: ssl.SSLContext) -> Iterator[int]:
    """A port that shakes hands, or sends the alert that says why not, and hangs up."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed below; SSLError is one, too
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    tls.wrap_socket(connection, server_side=True).recv(1)

    with socket.create_server((PUBLIC, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
