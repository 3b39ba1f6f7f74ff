"""Name resolution off the threads: aiodns, with a time limit of its own and a cache of what
was found and of what was not. Addresses are not judged here but where the socket is made."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import aiodns
from aiohttp.abc import AbstractResolver, ResolveResult

from facecap.transforms.web.cache import Entry, SharedCache

FOUND_S = 300.0
NOT_FOUND_S = 60.0
MAX_NAMES = 100_000
MAX_ADDRESSES = 6
"""More addresses of one name would only multiply the waiting for a dead host."""

_NO_SUCH_NAME = (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA)


class NotResolved(OSError):
    """A name without an address; `definite` when the name server said so, as opposed to a
    name server that did not answer or could not tell."""

    def __init__(self, definite: bool) -> None:
        super().__init__("no such name" if definite else "no answer from the name server")
        self.definite = definite


@dataclass(frozen=True)
class _Missing:
    definite: bool


class CachingResolver(AbstractResolver):
    """Resolves for aiohttp's connector, whose own cache keeps no failures."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._dns = aiodns.DNSResolver(timeout=timeout_s / 2, tries=2)
        self._cache: SharedCache[list[ResolveResult] | _Missing] = SharedCache(
            self._load, MAX_NAMES
        )

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of `host`. Raises NotResolved."""
        answer = await self._cache.get(host)
        if isinstance(answer, _Missing):
            raise NotResolved(answer.definite)
        return [{**result, "port": port} for result in answer]

    async def _load(self, host: str) -> Entry[list[ResolveResult] | _Missing]:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._dns.getaddrinfo(
                    host, socket.AF_UNSPEC, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
        except TimeoutError:
            return Entry(_Missing(definite=False), 0.0)
        except aiodns.error.DNSError as error:
            definite = error.args[0] in _NO_SUCH_NAME
            return Entry(_Missing(definite), NOT_FOUND_S if definite else 0.0)
        found = [
            ResolveResult(
                hostname=host,
                host=node.addr[0].decode("ascii"),
                port=0,
                family=node.family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for node in answer.nodes[:MAX_ADDRESSES]
        ]
        return Entry(found, FOUND_S) if found else Entry(_Missing(definite=True), NOT_FOUND_S)

    async def close(self) -> None:
        await self._cache.close()
        await self._dns.close()
