"""The thread that downloads, and the desk at which each DoFn instance hands in samples and
takes out finished ones."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from facecap.schemas.outcomes import Stage
from facecap.schemas.sample import Fetched, Sample
from facecap.transforms import railway
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.fetch import Fetcher
from facecap.transforms.web.gate import Gate

if TYPE_CHECKING:
    from yarl import URL

    from facecap.transforms.download import DownloadOptions

Result = TypeVar("Result")

WAIT_S = 0.2
"""How long `Desk.wait` blocks at most, so that its caller looks at the gate again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A sample with `fetched` or `drop` set; `failure` is what its batch must carry."""

    shard: int
    sample: Sample
    failure: str | None

    @property
    def size(self) -> int:
        fetched = self.sample.fetched
        return len(fetched.body or b"") if fetched else 0


class Downloader:
    """One per process, shared by its DoFn instances. The thread, its event loop and its sockets
    live from the first `open_desk` to the last `close_desk`, and may live again after that.
    """

    def __init__(
        self, options: DownloadOptions, screen: Callable[[URL], None] | None = None
    ) -> None:
        self._options = options
        self._screen = screen
        self._lock = threading.Lock()
        self._desks: set[Desk] = set()
        self._engine: Engine | None = None

    def open_desk(self) -> Desk:
        with self._lock:
            if self._engine is None:
                self._engine = Engine(self._options, self._screen)
            desk = Desk(self._engine)
            self._desks.add(desk)
            return desk

    def close_desk(self, desk: Desk) -> None:
        """Cancel what the desk has in flight; the last desk closes the thread and joins it."""
        with self._lock:
            if desk not in self._desks:
                return
            desk.cancel()
            self._desks.remove(desk)
            if not self._desks and self._engine is not None:
                self._engine.close()
                self._engine = None


class Engine:
    """The running thread: an event loop, its fetcher and its gate."""

    def __init__(
        self, options: DownloadOptions, screen: Callable[[URL], None] | None = None
    ) -> None:
        self.gate = Gate(options.concurrency, options.per_host, options.prefetch_bytes)
        # Fetching alone: 843 images/s became 1,002 (medians of 4 runs).
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="facecap-download", daemon=True)
        self._thread.start()
        self._fetcher = self.call(self._open(options, screen))

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self, desk: Desk, shard: int, samples: Sequence[Sample]) -> None:
        """Start one task per sample. To be called in the loop."""
        for sample in samples:
            task = self.loop.create_task(self._fetch(sample))
            desk.tasks.add(task)
            task.add_done_callback(partial(self._finish, desk, shard, sample))

    def close(self) -> None:
        if self.alive:
            self.call(self._fetcher.close())
            self.call(self.loop.shutdown_default_executor())
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _open(
        self, options: DownloadOptions, screen: Callable[[URL], None] | None
    ) -> Fetcher:
        return Fetcher(options, self.gate, screen)

    async def _fetch(self, sample: Sample) -> Sample:
        try:
            return replace(sample, fetched=await self._fetcher.fetch(sample.url))
        except Failed as failed:
            return replace(
                sample, drop=failed.drop, fetched=Fetched(http_status=failed.http_status)
            )

    def _finish(self, desk: Desk, shard: int, sample: Sample, task: asyncio.Task[Sample]) -> None:
        desk.tasks.discard(task)
        if task.cancelled() and desk.cancelling:
            return

        def result(_: Sample) -> Sample:
            try:
                return task.result()
            except asyncio.CancelledError as error:
                raise RuntimeError("a download was cancelled from inside") from error

        done, failure = railway.settle(sample, Stage.DOWNLOAD, result)
        desk.done.put(Finished(shard, done, failure))


class Desk:
    """One DoFn instance's side. Its methods are called by that instance's thread alone; `tasks`
    and `cancelling` belong to the loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tasks: set[asyncio.Task[Sample]] = set()
        self.cancelling = False
        self.done: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._arrived: Finished | None = None
        self._held = 0
        self.in_flight = 0

    @property
    def gate_full(self) -> bool:
        return self._engine.gate.full

    def submit(self, shard: int, samples: Sequence[Sample]) -> None:
        self.in_flight += len(samples)
        self._engine.loop.call_soon_threadsafe(self._engine.start, self, shard, samples)

    def take(self) -> list[Finished]:
        """All that is finished now, possibly nothing. Their bytes count as unconsumed until
        `consumed` is told of them."""
        taken = []
        if self._arrived is not None:
            taken.append(self._arrived)
            self._arrived = None
        while not self.done.empty():
            taken.append(self.done.get())
        self.in_flight -= len(taken)
        self._held += sum(finished.size for finished in taken)
        return taken

    def wait(self) -> None:
        """Return when something is finished, or after WAIT_S."""
        if self._arrived is not None:
            return
        try:
            self._arrived = self.done.get(timeout=WAIT_S)
        except queue.Empty:
            if not self._engine.alive:
                raise RuntimeError("the download thread has died") from None

    def consumed(self, size: int) -> None:
        """`size` bytes of what was taken have gone downstream."""
        self._held -= size
        if size:
            self._engine.loop.call_soon_threadsafe(self._engine.gate.consume, size)

    def cancel(self) -> None:
        """Forget everything handed in and not yet gone downstream."""
        if self._engine.alive:
            self._engine.call(self._cancel_tasks())
        self.take()
        self.consumed(self._held)
        self.in_flight = 0

    async def _cancel_tasks(self) -> None:
        self.cancelling = True
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.cancelling = False
