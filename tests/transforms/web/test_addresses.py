"""URLs and addresses: canonical spelling, what is blocked, and that no text crashes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.web.addresses import (
    AllowedHosts,
    Hop,
    checked_socket,
    current_hop,
    is_public,
    parse_url,
    redirect_target,
)
from facecap.transforms.web.failure import Failed


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",  # metadata of Alibaba Cloud
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # metadata of Azure
        "169.254.169.254",  # metadata of most others
        "172.31.0.1",
        "192.0.0.192",  # metadata of Oracle Cloud
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "2001:db8::1",
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",  # metadata of AWS
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
        "not an address",
        "",
    ],
)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111"]
)
def test_these_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://0X7F.1/", "http://127.0.0.1/"),
        ("http://0177.0.0.1/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://127.0.0.1./", "http://127.0.0.1/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://１２７.０.０.１/", "http://127.0.0.1/"),
        ("http://①②⑦.0.0.1/", "http://127.0.0.1/"),
        ("http://%31%32%37.0.0.1/", "http://127.0.0.1/"),
        ("http://[::FFFF:127.0.0.1]:81/", "http://[::ffff:7f00:1]:81/"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
        ("HTTPS://User:Pass@Example.COM:443/A b?q=é#top", "https://example.com/A%20b?q=%C3%A9"),
        ("http://Bücher.example./x", "http://xn--bcher-kva.example/x"),
        ("  http://example.com/x\n", "http://example.com/x"),
        ("http://ex_ample.com/%2fa", "http://ex_ample.com/%2Fa"),
    ],
)
def test_every_spelling_becomes_canonical(text: str, canonical: str) -> None:
    assert str(parse_url(text)) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.INVALID_URL),
        ("example.com/a.jpg", Reason.INVALID_URL),
        ("//example.com/a.jpg", Reason.INVALID_URL),
        ("http:///a.jpg", Reason.INVALID_URL),
        ("http://", Reason.INVALID_URL),
        ("http://a b/", Reason.INVALID_URL),
        ("http://a..b/", Reason.INVALID_URL),
        ("http://x:99999/", Reason.INVALID_URL),
        ("http://x:0/", Reason.INVALID_URL),
        ("http://x:port/", Reason.INVALID_URL),
        ("http://[::1/", Reason.INVALID_URL),
        ("http://1.2.3.4.5/", Reason.INVALID_URL),
        ("http://a.08/", Reason.INVALID_URL),
        ("http://\x00/", Reason.INVALID_URL),
        ("http://a\\@127.0.0.1/", Reason.INVALID_URL),
        ("http://" + "a" * 64 + "/", Reason.INVALID_URL),
        ("http://x/" + "a" * 10_000, Reason.INVALID_URL),
        ("http://[fe80::1%25eth0]/", Reason.PRIVATE_ADDRESS),
        ("file:///etc/passwd", Reason.SCHEME_NOT_ALLOWED),
        ("data:image/png;base64,AA", Reason.SCHEME_NOT_ALLOWED),
        ("ftp://example.com/a.jpg", Reason.SCHEME_NOT_ALLOWED),
        ("gopher://127.0.0.1/", Reason.SCHEME_NOT_ALLOWED),
    ],
)
def test_what_cannot_be_requested(text: str, reason: Reason) -> None:
    with pytest.raises(Failed) as raised:
        parse_url(text)
    assert raised.value.drop.reason is reason


hostile = st.one_of(
    st.text(),
    st.builds("http://{}/{}".format, st.text(), st.text()),
    st.builds("http://{}".format, st.text(alphabet="0123456789abcdefx.:[]%@\\/?#-_ 。１\x00")),
    st.builds("https://{}:{}@{}:{}/".format, st.text(), st.text(), st.text(), st.integers()),
    st.text(alphabet=st.characters(categories=["Cs", "Co", "Cn", "Cc", "Mn"])),
)


@settings(max_examples=500, deadline=None)
@given(hostile)
@example("http://[::1]@")
@example("http://user[1]:pw@/a.jpg")
@example("http://[]@")
@example("http://[::1][@")
@example("http://[::1]x@")
@example("http://[::1]:80@")
def test_no_text_raises_anything_but_failed(text: str) -> None:
    try:
        url = parse_url(text)
    except Failed as failed:
        assert failed.drop.error is None or len(failed.drop.error) < 100
        return
    assert url.scheme in ("http", "https")
    assert url.user is None and url.password is None and not url.fragment
    assert str(parse_url(str(url))) == str(url), "canonical URLs stay as they are"


@settings(max_examples=300, deadline=None)
@given(st.one_of(hostile, st.binary().map(lambda b: b.decode("utf-8", "surrogateescape"))))
@example("http://[::1]@")
@example("//user[1]:pw@/a.jpg")
def test_no_location_raises_anything_but_failed(location: str) -> None:
    base = URL("http://example.com/a/b.jpg")
    try:
        encodable = location.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # aiohttp cannot have read it from a socket
    try:
        target = redirect_target(base, encodable.decode("utf-8", "surrogateescape"))
    except Failed:
        return
    assert target.scheme in ("http", "https")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("c.jpg", "http://example.com/a/c.jpg"),
        ("/c.jpg?x=1", "http://example.com/c.jpg?x=1"),
        ("//other.example/c", "http://other.example/c"),
        ("https://other.example/c d", "https://other.example/c%20d"),
        ("/caf\udce9", "http://example.com/caf%E9"),
        ("/café", "http://example.com/caf%C3%A9"),
    ],
)
def test_redirect_targets(location: str, target: str) -> None:
    assert str(redirect_target(URL("http://example.com/a/b.jpg"), location)) == target


def test_allowed_hosts_are_exact() -> None:
    allowed = AllowedHosts(["localhost:8080", "127.0.0.1", "::1", "[fd00::1]:81"])

    def may(url: str) -> bool:
        return parse_url(url) in allowed

    assert may("http://localhost:8080/x")
    assert not may("http://localhost/x")
    assert not may("http://sub.localhost:8080/x")
    assert may("http://127.0.0.1:9/x") and may("http://2130706433/")
    assert not may("http://127.0.0.2/")
    assert may("http://[::1]:9/") and may("http://[fd00::1]:81/")
    assert not may("http://[fd00::1]:82/")


@pytest.mark.parametrize("entry", ["", "http://x", "a b", "x/y", "user@x", "x:99999", "*"])
def test_bad_allowed_hosts_are_named(entry: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        AllowedHosts([entry])


def test_no_socket_outside_a_hop() -> None:
    with pytest.raises(LookupError):
        checked_socket((2, 1, 6, "", ("8.8.8.8", 80)))


def test_the_socket_factory_counts_and_refuses() -> None:
    hop = Hop(private=False)
    token = current_hop.set(hop)
    try:
        with pytest.raises(PermissionError):
            checked_socket((2, 1, 6, "", ("127.0.0.1", 80)))
        checked_socket((2, 1, 6, "", ("8.8.8.8", 80))).close()
    finally:
        current_hop.reset(token)
    assert (hop.refused, hop.tried) == (1, 1)
