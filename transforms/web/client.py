"""One HTTP exchange: safe connections, bounded bodies, and every way it can fail by name."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.railway import MACHINE_ERRORS
from facecap.transforms.web.addresses import AllowedHosts, Hop, checked_socket, current_hop
from facecap.transforms.web.connector import BoundedConnector
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.interim import BoundedResponse
from facecap.transforms.web.limits import Limits
from facecap.transforms.web.resolver import CachingResolver, NotResolved

if TYPE_CHECKING:
    from facecap.transforms.download import DownloadOptions

MAX_HEADER_BYTES = 16_384
MAX_HEADERS = 128
KEEP_ALIVE_S = 15.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_FORBIDDEN = frozenset({401, 402, 403, 407, 451})
_GONE = frozenset({404, 410})


class Client:
    """An aiohttp session that nothing in the environment can redirect, and that keeps no
    cookies. To be made, used and closed inside the event loop."""

    def __init__(self, options: DownloadOptions) -> None:
        self._allowed = AllowedHosts(options.allow_private_hosts)
        limits = Limits.of(options)
        self._resolver = CachingResolver(limits.dns)
        # The number of connections is bounded by the gate, which knows the queue from the
        # deadline; aiohttp's own limits do not.
        connector = BoundedConnector(
            limit=0,
            resolver=self._resolver,
            use_dns_cache=False,
            socket_factory=checked_socket,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        timeout = aiohttp.ClientTimeout(
            total=None,  # the fetcher's
            connect=limits.connect,
            sock_connect=limits.address,
            sock_read=limits.read,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=BoundedResponse,
            headers={"User-Agent": options.user_agent_header, "Accept-Encoding": "identity"},
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    def hop(self, url: URL) -> Hop:
        """A new hop to `url`, with the permission its host has."""
        return Hop(private=url in self._allowed)

    @asynccontextmanager
    async def get(self, url: URL, hop: Hop) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to one GET, redirects not followed. Raises Failed, also for what happens
        while the body is read inside the context."""
        token = current_hop.set(hop)
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                hop.status = response.status
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if _machine_failed(error):
                raise
            raise _failure(error, hop) from error
        finally:
            current_hop.reset(token)

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body with its content decoding undone. Stops, and raises Failed too_large, as soon
    as more than `max_bytes` are announced or decoded."""
    size = 0
    chunks = []
    if (response.content_length or 0) > max_bytes:
        raise Failed(Reason.TOO_LARGE, http_status=response.status)
    try:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > max_bytes:
                raise Failed(Reason.TOO_LARGE, http_status=response.status)
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        # What an answer that breaks off raises forms a cycle with this frame: the bodies of
        # hundreds of them would wait for the next garbage collection.
        chunks.clear()


async def read_start(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The first `max_bytes` of the body, whatever follows."""
    start = bytearray()
    async for chunk in response.content.iter_any():
        start += chunk
        if len(start) >= max_bytes:
            break
    return bytes(start[:max_bytes])


def status_failure(response: aiohttp.ClientResponse) -> Failed:
    """The reason for a final status other than 200."""
    status = response.status
    if status in _GONE:
        reason = Reason.NOT_FOUND
    elif status in _FORBIDDEN:
        reason = Reason.FORBIDDEN
    elif status == 429:
        reason = Reason.RATE_LIMITED
    elif 500 <= status <= 599:
        reason = Reason.SERVER_ERROR
    else:
        reason = Reason.HTTP_STATUS
    after = retry_after(response.headers.get("Retry-After", "")) if reason.retryable else None
    return Failed(reason, f"HTTP {status}", http_status=status, retry_after=after)


def retry_after(value: str) -> float | None:
    """Seconds from now that a Retry-After header names, as a number or as an HTTP date."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _machine_failed(error: Exception) -> bool:
    """Whether no file descriptor or memory was left: not the host's fault. The numbers of TLS
    errors are OpenSSL's own, 5 among them, which is EIO elsewhere."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return False
    return isinstance(error, OSError) and error.errno in MACHINE_ERRORS


def _failure(error: Exception, hop: Hop) -> Failed:
    """What an exception of aiohttp means. The texts name nothing that may differ between two
    equal runs, such as the address that was tried."""
    status = hop.status
    if hop.refused and not hop.tried:
        return Failed(Reason.PRIVATE_ADDRESS, connected=False)
    match error:
        case aiohttp.ClientConnectorDNSError(os_error=NotResolved(definite=definite)):
            text = "no such name" if definite else None
            return Failed(Reason.DNS, text, may_retry=not definite, connected=False)
        case aiohttp.ClientConnectorDNSError():
            return Failed(Reason.DNS, connected=False)
        case aiohttp.ClientConnectorCertificateError(certificate_error=certificate_error):
            return Failed(Reason.TLS, type(certificate_error).__name__, connected=False)
        case aiohttp.ClientSSLError():
            return Failed(Reason.TLS, connected=False)
        case aiohttp.ConnectionTimeoutError():
            return Failed(Reason.TIMEOUT, connected=False)
        case aiohttp.ClientConnectorError():
            return Failed(Reason.CONNECTION, connected=False)
        case TimeoutError():
            return Failed(Reason.TIMEOUT, http_status=status)
        case aiohttp.InvalidURL():
            return Failed(Reason.INVALID_URL, type(error).__name__)
        case aiohttp.ClientPayloadError() if isinstance(error.__cause__, ContentEncodingError):
            return Failed(Reason.BAD_RESPONSE, "content encoding", http_status=status)
        case aiohttp.ClientPayloadError():
            return Failed(Reason.TRUNCATED_BODY, http_status=status)
        case aiohttp.ClientConnectionError() | OSError():
            # A reset after part of the body is a truncated body, whichever packet came first.
            reason = Reason.CONNECTION if status is None else Reason.TRUNCATED_BODY
            return Failed(reason, http_status=status)
    return Failed(Reason.BAD_RESPONSE, type(error).__name__, http_status=status)
