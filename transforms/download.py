"""Download: every URL becomes a body or a listed reason, while later stages compute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue
from pydantic import field_validator
from yarl import URL

from facecap import __version__
from facecap.schemas.options import Options, content, run
from facecap.schemas.sample import SampleBatch
from facecap.transforms.regroup import Regrouper
from facecap.transforms.web.addresses import AllowedHosts
from facecap.transforms.web.downloader import Desk, Downloader

MIB = 1024 * 1024


class DownloadOptions(Options):
    """How URLs are fetched. Limits are per worker process."""

    allow_private_hosts: tuple[str, ...] = content(
        (), "hosts (NAME or NAME:PORT) that may have non-public addresses; for tests"
    )
    max_bytes: int = content(
        16 * MIB, "largest body, in bytes, content decoding undone", ge=1, le=1024 * MIB
    )
    max_redirects: int = content(5, "redirects followed per URL", ge=0, le=20)
    respect_robots: bool = content(
        True, "obey robots.txt, X-Robots-Tag and TDM-Reservation (all three, or none)"
    )
    user_agent: str = content(
        f"facecap/{__version__}",
        "User-Agent; robots.txt rules are looked up by its first word, up to the slash",
        min_length=1,
        max_length=200,
    )
    contact: str = run(
        "", "URL or e-mail address, appended to User-Agent for site owners", max_length=200
    )
    timeout_s: float = run(
        30.0,
        "seconds per URL over all redirects, attempts and pauses; not counted: the queue, and "
        "pauses (30 s each at most) that the host asked for when it answered other URLs",
        ge=0.1,
        le=3600,
    )
    dns_timeout_s: float = run(
        7.5, "seconds for one name resolution, at most a quarter of timeout_s", ge=0.1, le=120
    )
    retries: int = run(2, "further attempts after a failure that may get better", ge=0, le=10)
    concurrency: int = run(128, "requests at a time", ge=1, le=10_000)
    per_host: int = run(8, "requests at a time to one host", ge=1, le=1000)
    prefetch_bytes: int = run(
        32 * MIB, "bytes fetched ahead of the later stages; full, no request starts", ge=1
    )
    lookahead_rows: int = run(2048, "rows handed to the downloader ahead", ge=0, le=1_000_000)

    @field_validator("allow_private_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        AllowedHosts(hosts)
        return hosts

    @field_validator("user_agent", "contact")
    @classmethod
    def _header_text(cls, text: str) -> str:
        if not (text.isascii() and text.isprintable()) or text != text.strip():
            raise ValueError("must be printable ASCII without spaces at its ends")
        return text

    @field_validator("user_agent")
    @classmethod
    def _has_product(cls, text: str) -> str:
        if not re.match(r"[A-Za-z_-]", text):
            raise ValueError("must begin with a name of letters, '-' and '_', as in 'mybot/1.0'")
        return text

    @cached_property
    def product(self) -> str:
        """The product token of RFC 9309 that robots.txt and X-Robots-Tag may name."""
        match = re.match(r"[A-Za-z_-]+", self.user_agent)
        return match[0] if match else ""

    @cached_property
    def user_agent_header(self) -> str:
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent


class DownloadDoFn(beam.DoFn):
    """Feeds the downloader ahead of need and yields batches as they complete, so a slow host
    holds back nothing but its own rows."""

    def __init__(
        self,
        options: DownloadOptions,
        batch_size: int,
        screen: Callable[[URL], None] | None = None,
    ) -> None:
        self._options = options
        self._batch_size = batch_size
        self._screen = screen
        self._shared = Shared()
        self._downloader: Downloader | None = None

    def setup(self) -> None:
        self._downloader = self._shared.acquire(lambda: Downloader(self._options, self._screen))
        self._desk: Desk = self._downloader.open_desk()

    def start_bundle(self) -> None:
        # What a failed bundle left behind; Beam never calls finish_bundle for it.
        self._desk.cancel()
        self._regrouper = Regrouper(self._batch_size)

    def process(self, batch: SampleBatch) -> Iterator[SampleBatch]:
        if batch.failure:
            yield batch
            return
        live = self._regrouper.add(batch)
        if live:
            self._desk.submit(batch.shard.number, live)
        yield from self._deliver(self._options.lookahead_rows)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for batch in self._deliver(0):
            yield WindowedValue(batch, window.max_timestamp(), (window,))

    def teardown(self) -> None:
        if self._downloader is not None:
            self._downloader.close_desk(self._desk)
            self._downloader = None

    def _deliver(self, most: int) -> Iterator[SampleBatch]:
        """Yield what is complete until at most `most` rows are in flight."""
        while True:
            for finished in self._desk.take():
                self._regrouper.settle(finished.shard, finished.sample, finished.failure)
            yield from self._emit(partial=False)
            if self._desk.in_flight <= most:
                return
            if self._desk.gate_full:
                # The bytes held here may be the very ones that keep the others out.
                yield from self._emit(partial=True)
            self._desk.wait()

    def _emit(self, *, partial: bool) -> Iterator[SampleBatch]:
        for batch in self._regrouper.batches(partial=partial):
            yield batch
            # Back here, the later stages are through with it.
            self._desk.consumed(batch.nbytes)


class Download(beam.PTransform):
    """SampleBatch -> SampleBatch of `batch_size`: `fetched` or `drop` set on every sample.

    `screen` is shown every URL that a redirect leads to; it raises Failed for one to leave out.
    """

    def __init__(
        self,
        options: DownloadOptions,
        batch_size: int,
        screen: Callable[[URL], None] | None = None,
    ) -> None:
        super().__init__()
        self._options = options
        self._batch_size = batch_size
        self._screen = screen

    def expand(self, batches: Any) -> Any:
        return batches | beam.ParDo(
            DownloadDoFn(self._options, self._batch_size, self._screen)
        ).with_output_types(SampleBatch)
