"""Which URLs and which addresses may be reached.

The check of addresses sits where a socket is made (`checked_socket`, the connector's
`socket_factory`): every new connection passes it, whether its address came from DNS, from a
literal in the URL or from a redirect. A pooled connection is reused only for the host and
port that it was made for, and the permission depends on nothing else.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import quote, unquote, urljoin

from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.web.failure import Failed

MAX_URL_CHARS = 8192
MAX_HOST_CHARS = 253

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")

# IANA's special-purpose registry, and multicast. The last is Azure's metadata and DNS service,
# the one cloud metadata address outside the private ranges.
_BLOCKED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    )
)
# Only global unicast is open at all, which shuts out loopback, mapped, NAT64, ULA, link-local,
# site-local and multicast addresses; of it, not Teredo and its neighbours, documentation, 6to4.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_BLOCKED_IPV6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def is_public(address: str) -> bool:
    """Whether an IP address in its usual spelling belongs to the public internet."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _BLOCKED_IPV4)
    if ip.scope_id is not None or ip not in _GLOBAL_IPV6:
        return False
    return not any(ip in network for network in _BLOCKED_IPV6)


class AllowedHosts:
    """The hosts that may have non-public addresses, as named by `allow_private_hosts`."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._allowed = {self._parse(entry) for entry in entries}

    @staticmethod
    def _parse(entry: str) -> tuple[str, int | None]:
        bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
        try:
            url = parse_url(f"http://[{entry}]" if bare_ipv6 else f"http://{entry}")
        except Failed:
            url = None
        if url is None or "/" in entry or "@" in entry or "?" in entry or "#" in entry:
            raise ValueError(f"{entry!r} is not a host or host:port")
        return host_of(url), url.explicit_port

    def __contains__(self, url: URL) -> bool:
        host = host_of(url)
        return (host, None) in self._allowed or (host, url.port) in self._allowed


@dataclass(slots=True)
class Hop:
    """One request on the way to an image. `private` says whether its host may have a
    non-public address; `refused` and `tried` count the addresses; `status` is the answer's."""

    private: bool
    refused: int = 0
    tried: int = 0
    status: int | None = None


current_hop: ContextVar[Hop] = ContextVar("current_hop")
"""Set anew for every request. Tasks started while connecting (happy eyeballs) copy it. It has
no default: a connection made outside a hop is a defect and fails."""


def checked_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """The `socket_factory` of the connector. Raises PermissionError for a non-public address."""
    family, kind, protocol, _, address = address_info
    hop = current_hop.get()
    if not hop.private and not is_public(address[0]):
        hop.refused += 1
        raise PermissionError(errno.EACCES, "not a public address")
    hop.tried += 1
    return socket.socket(family, kind, protocol)


def parse_url(text: str) -> URL:
    """A URL as it will be requested: http or https, its host in canonical spelling, without
    credentials and fragment. Raises Failed: invalid_url, scheme_not_allowed, private_address.
    """
    text = text.strip()
    if len(text) > MAX_URL_CHARS:
        raise Failed(Reason.INVALID_URL, "too long")
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise Failed(Reason.INVALID_URL, "no scheme")
    if scheme[1].lower() not in ("http", "https"):
        raise Failed(Reason.SCHEME_NOT_ALLOWED, scheme[1].lower()[:20])
    try:
        # yarl's with_...() cost more than the parsing, and most URLs need none of them.
        url = URL(text)
        if "#" in text:
            url = url.with_fragment(None)
        if not url.raw_host or not url.port:
            raise Failed(Reason.INVALID_URL, "no host or port 0")
        if "@" in url.raw_authority:
            url = url.with_user(None)
        host = _canonical_host(url)
        return url if host == url.raw_host else url.with_host(host)
    # yarl's and idna's; unicode errors are ValueErrors too. yarl's IndexError: `http://[::1]@`.
    except (ValueError, IndexError) as error:
        raise Failed(Reason.INVALID_URL, type(error).__name__) from error


def redirect_target(url: URL, location: str) -> URL:
    """The absolute URL that `location`, a Location header, names when found at `url`."""
    # Header bytes beyond UTF-8 arrive as surrogates; they are sent back as they came.
    raw = location.encode("utf-8", "surrogateescape")
    try:
        return parse_url(urljoin(str(url), quote(raw, safe="".join(map(chr, range(33, 127))))))
    except ValueError as error:
        raise Failed(Reason.INVALID_URL, type(error).__name__) from error


def host_of(url: URL) -> str:
    """The host of a URL from `parse_url`."""
    assert url.raw_host is not None
    return url.raw_host


def _canonical_host(url: URL) -> str:
    """The host as DNS or an IP address has it. Browsers and libc read many spellings of an
    IPv4 address (hexadecimal, octal, short); all become four decimal numbers here.
    """
    host = host_of(url)
    if ":" in host:
        if "%" in host:
            raise Failed(Reason.PRIVATE_ADDRESS, "zone id")
        return str(IPv6Address(host))
    if "%" in host:
        host = host_of(url.with_host(unquote(host)))
    host = host.lower().rstrip(".")
    if len(host) > MAX_HOST_CHARS or not _HOST_NAME.match(host):
        raise Failed(Reason.INVALID_URL, "bad host")
    if _NUMBER.match(host.rsplit(".", 1)[-1]):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError as error:
            raise Failed(Reason.INVALID_URL, "bad IPv4 address") from error
    return host
