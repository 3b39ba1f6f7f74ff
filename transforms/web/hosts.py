"""What hosts did to this process lately: dead ones are given up, and one that asks for a pause
gets it for all its URLs."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from yarl import URL

from facecap.transforms.web.failure import Failed

DEAD_ATTEMPTS = 8
GIVEN_UP_S = 300.0
MAX_PAUSE_S = 30.0
FREE_PAUSE_S = 60.0
MAX_HOSTS = 100_000


@dataclass(slots=True)
class _Host:
    """`failures` attempts in a row, since `failing_since`, made no connection."""

    failures: int = 0
    failing_since: float = 0.0
    given_up_until: float = 0.0
    why: Failed | None = None
    known_since: float = field(default_factory=time.monotonic)
    paused_until: float = 0.0
    paused_s: float = 0.0


class Hosts:
    """Keeps a record of hosts (with their ports) that failed; most never do.

    A host is given up for GIVEN_UP_S when DEAD_ATTEMPTS attempts or more in a row, over at least
    `patience_s`, brought no connection about: no answer to SYN or from the name server, or a
    refusal. With the deadline of a URL for `patience_s`, no attempt is left out that could have
    succeeded before another URL's retries ran out. What is left out fails exactly as what was
    tried did, so the ledger does not tell the two apart. An HTTP status never counts.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def paused(self, url: URL) -> bool:
        """Whether the host asked not to be asked now."""
        host = self._hosts.get(_key(url))
        return host is not None and time.monotonic() < host.paused_until

    async def ready(self, url: URL) -> None:
        """Wait until the host is not paused."""
        while (host := self._hosts.get(_key(url))) is not None:
            seconds = host.paused_until - time.monotonic()
            if seconds <= 0:
                return
            await asyncio.sleep(seconds)

    @contextmanager
    def visit(self, url: URL) -> Iterator[None]:
        """Around one request; notes how it ends. Raises the last failure of a host given up."""
        key = _key(url)
        host = self._hosts.get(key)
        start = time.monotonic()
        if host is not None and host.why is not None and start < host.given_up_until:
            failed = host.why.copy()
            failed.may_retry = False
            raise failed
        try:
            yield
        except Failed as failed:
            if failed.connected:
                self._forgive(key)
            elif failed.may_retry:
                self._count(key, failed, start)
            if failed.retry_after:
                self._pause(key, failed.retry_after)
            raise
        self._forgive(key)

    def _forgive(self, key: str) -> None:
        host = self._hosts.get(key)
        if host is not None:
            host.failures = 0

    def _count(self, key: str, failed: Failed, start: float) -> None:
        host, now = self._record(key), time.monotonic()
        if not host.failures:
            host.failing_since = start
        host.failures += 1
        if host.failures >= DEAD_ATTEMPTS and now - host.failing_since >= self._patience_s:
            host.given_up_until, host.why = now + GIVEN_UP_S, failed.copy()

    def _pause(self, key: str, seconds: float) -> None:
        """Bounded, because a hostile host asks for years: one pause by MAX_PAUSE_S, all of them
        by FREE_PAUSE_S and the time that the host was not paused."""
        host, now = self._record(key), time.monotonic()
        unpaused = now - host.known_since - host.paused_s
        seconds = min(seconds, MAX_PAUSE_S, FREE_PAUSE_S + unpaused - host.paused_s)
        begin = max(now, host.paused_until)
        if now + seconds > begin:
            host.paused_s += now + seconds - begin
            host.paused_until = now + seconds

    def _record(self, key: str) -> _Host:
        host = self._hosts.setdefault(key, _Host())
        self._hosts.move_to_end(key)
        if len(self._hosts) > MAX_HOSTS:
            self._hosts.popitem(last=False)
        return host


def _key(url: URL) -> str:
    return f"{url.raw_host}:{url.port}"
