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

from facecap.schemas.outcomes import Reason
from facecap.transforms.web.failure import Failed

DEAD_ATTEMPTS = 8
PROBE_EVERY_S = 30.0
MAX_PAUSE_S = 30.0
FREE_PAUSE_S = 60.0
MAX_HOSTS = 100_000


@dataclass(slots=True)
class _Host:
    """`failures` attempts in a row made no connection, the first of them at `failing_since`.
    `why` is set for a host given up, which is tried again at `next_probe`."""

    failures: int = 0
    failing_since: float = 0.0
    why: Failed | None = None
    next_probe: float = 0.0
    known_since: float = field(default_factory=time.monotonic)
    paused_until: float = 0.0
    paused_s: float = 0.0


class Hosts:
    """Keeps a record of hosts (with their ports) that failed; most never do.

    A host is given up when DEAD_ATTEMPTS attempts or more in a row, the first and the last at
    least `patience_s` apart, brought no connection about: no answer to SYN or from the name
    server, or a refusal. From then on one URL in PROBE_EVERY_S is tried; any other outcome than
    these, of it or of one still under way, and the host is as good as new. What is left out
    fails exactly as what was tried did, so the ledger does not tell the two apart. An HTTP status
    never counts.
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
        if host is not None and host.why is not None:
            now = time.monotonic()
            if now < host.next_probe:
                failed = host.why.copy()
                failed.may_retry = False
                raise failed
            host.next_probe = now + PROBE_EVERY_S
        try:
            yield
        except Failed as failed:
            if failed.attempted:
                self._note(key, failed)
            if failed.retry_after:
                self._pause(key, failed.retry_after)
            raise
        self._forgive(key)

    def _note(self, key: str, failed: Failed) -> None:
        if not failed.connected and failed.may_retry:
            self._count(key, failed)
        elif failed.connected or failed.drop.reason is not Reason.TIMEOUT:
            self._forgive(key)  # but the end of a deadline tells nothing

    def _forgive(self, key: str) -> None:
        host = self._hosts.get(key)
        if host is not None:
            host.failures, host.why = 0, None

    def _count(self, key: str, failed: Failed) -> None:
        host, now = self._record(key), time.monotonic()
        if not host.failures:
            # Not when it began: the host may have answered another URL since.
            host.failing_since = now
        host.failures += 1
        if host.failures >= DEAD_ATTEMPTS and now - host.failing_since >= self._patience_s:
            if host.why is None:
                host.next_probe = now + PROBE_EVERY_S
            host.why = failed.copy()

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
