"""One URL from its text to its body: hops, attempts and back-off under one deadline."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import Fetched
from facecap.transforms.web.addresses import Hop, host_of, parse_url, redirect_target
from facecap.transforms.web.client import REDIRECTS, Client, read_body, status_failure
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.gate import Gate
from facecap.transforms.web.hosts import Hosts
from facecap.transforms.web.optout import reservation
from facecap.transforms.web.robots import Robots

if TYPE_CHECKING:
    from facecap.transforms.download import DownloadOptions

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0


class Redirect(NamedTuple):
    """An answer that names another place; `location` is its Location header."""

    status: int
    location: str


class TimeLeft:
    """The seconds a URL has left: for DNS, robots.txt, requests and the pauses between them.
    Waiting in the queue for a slot takes nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Raises TimeoutError when the time is up."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self.seconds):
                yield
        finally:
            self.seconds -= time.monotonic() - start


class Fetcher:
    """Fetches URLs with one client, one robots cache and one gate."""

    def __init__(
        self, options: DownloadOptions, gate: Gate, screen: Callable[[URL], None] | None = None
    ) -> None:
        """`screen` is shown every URL that a redirect leads to. It raises Failed."""
        self._options = options
        self._screen = screen
        self._gate = gate
        self._hosts = Hosts(options.timeout_s)
        self._client = Client(options)
        self._robots = Robots(options, self._client)

    async def fetch(self, text: str) -> Fetched:
        """The image at a URL as written in the input. Raises Failed."""
        url = parse_url(text)
        left = TimeLeft(self._options.timeout_s)
        attempt = redirects = 0
        while True:
            try:
                answer = await self._exchange(url, left)
            except Failed as failed:
                pause = backoff(attempt, failed.retry_after)
                hopeless = not failed.may_retry or attempt >= self._options.retries
                if hopeless or pause >= left.seconds:
                    raise
                attempt += 1
                await asyncio.sleep(pause)
                left.seconds -= pause
                continue
            if isinstance(answer, Fetched):
                return answer
            redirects += 1
            if redirects > self._options.max_redirects:
                raise Failed(Reason.TOO_MANY_REDIRECTS, http_status=answer.status)
            url = redirect_target(url, answer.location)
            if self._screen is not None:
                self._screen(url)

    async def close(self) -> None:
        await self._robots.close()
        await self._client.close()

    async def _exchange(self, url: URL, left: TimeLeft) -> Fetched | Redirect:
        """One request, admitted by the gate and by robots.txt: the image, or where it moved."""
        while True:
            await self._hosts.ready(url)
            async with self._gate.slot(host_of(url)):
                if not self._hosts.paused(url):  # it may be since, while this one queued
                    with self._hosts.visit(url):
                        return await self._visit(url, left)

    async def _visit(self, url: URL, left: TimeLeft) -> Fetched | Redirect:
        hop = self._client.hop(url)
        try:
            async with left.counting():
                if self._options.respect_robots:
                    await self._robots.check(url)
                answer = await self._get(url, hop)
        except TimeoutError as error:
            raise Failed(
                Reason.TIMEOUT,
                http_status=hop.status,
                may_retry=False,
                connected=hop.status is not None,
            ) from error
        if isinstance(answer, Fetched) and answer.body:
            # Before the slot is free: the next one in must see these bytes.
            self._gate.deliver(len(answer.body))
        return answer

    async def _get(self, url: URL, hop: Hop) -> Fetched | Redirect:
        async with self._client.get(url, hop) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                return Redirect(response.status, response.headers["Location"])
            if response.status != 200:
                raise status_failure(response)
            if self._options.respect_robots:
                reserved = reservation(response.headers, self._options.product)
                if reserved:
                    raise Failed(Reason.OPTED_OUT, reserved, http_status=200)
            body = await read_body(response, self._options.max_bytes)
        if not body:
            raise Failed(Reason.EMPTY_BODY, http_status=200)
        return Fetched(http_status=200, body=body, sha256=hashlib.sha256(body).hexdigest())


def backoff(attempt: int, asked: float | None) -> float:
    """Seconds to wait after failed attempt number `attempt`, from 0: doubled every time, with
    jitter, and never less than the server asked for."""
    pause = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt) * random.uniform(0.5, 1.5)
    return max(pause, asked or 0.0)
