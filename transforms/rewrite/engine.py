"""The thread that asks an LLM, and the desk at which a caller hands in tasks and takes out what
became of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import PromptSet
from facecap.transforms.rewrite.rewriter import Done, Task, rewrite

Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)

PATIENCE = 4
"""The engine gives up when so many times `rewrite.concurrency` tasks in a row got no answer."""


class Unanswered(RuntimeError):
    """The server is gone: the build ends, rather than fall back for all that is left."""


class Backend(Protocol):
    """Answers prompts; opened and used in the engine's loop."""

    async def ask(self, prompt: Prompt) -> Answer:
        """One answer. Raises where no prompt will ever be answered: that ends the build."""


@dataclass(frozen=True)
class RewriteConfig:
    """What it takes to rewrite: plain data, part of the graph."""

    options: RewriteOptions
    prompts: PromptSet

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles to draw from, sorted."""
        return tuple(sorted(self.options.styles or self.prompts.styles))

    @property
    def in_flight(self) -> int:
        """How many tasks it takes to keep the backend busy."""
        options = self.options
        return 2 * (options.concurrency if options.backend == "openai" else options.batch_size)


def open_backend(options: RewriteOptions) -> AbstractAsyncContextManager[Backend]:
    """The backend that `options.backend` names."""
    if options.backend == "openai":
        from facecap.transforms.rewrite.chat_server import ChatServer

        return ChatServer(options, os.environ.get(options.api_key_env))
    from facecap.transforms.rewrite.batches import LocalBackend

    return LocalBackend(options)


class Rewriter:
    """One per process, shared by its DoFn instances. The thread and its connections live from the
    first `open_desk` to the last `close_desk`, and may live again after that."""

    def __init__(self, config: RewriteConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._desks: set[Desk[Any]] = set()
        self._engine: Engine | None = None

    def open_desk(self) -> Desk[Any]:
        with self._lock:
            if self._engine is None:
                self._engine = Engine(self._config)
            desk: Desk[Any] = Desk(self._engine)
            self._desks.add(desk)
            return desk

    def close_desk(self, desk: Desk[Any]) -> None:
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
    """The running thread: an event loop and the backend in it."""

    def __init__(self, config: RewriteConfig) -> None:
        self._config = config
        self._checker = Checker()
        self._unanswered = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="facecap-rewrite", daemon=True
        )
        self._thread.start()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            manager = open_backend(config.options)
            self._leave = partial(manager.__aexit__, None, None, None)
            self._backend: Backend = self.call(manager.__aenter__())
            undo.pop_all()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def start(
        self, task: Task, tasks: set[asyncio.Task[Done]], done: Callable[[asyncio.Task[Done]], None]
    ) -> None:
        """Start a task, kept in `tasks` until it is done. To be called in the loop."""
        running = self.loop.create_task(self._rewrite(task))
        tasks.add(running)
        running.add_done_callback(tasks.discard)
        running.add_done_callback(done)

    def close(self) -> None:
        self.call(self._close())
        self._stop()

    def _stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _close(self) -> None:
        await self._leave()

    async def _rewrite(self, task: Task) -> Done:
        done = await rewrite(task, self._backend.ask, self._config.prompts, self._checker)
        self._unanswered = 0 if done.answered else self._unanswered + 1
        options = self._config.options
        if options.min_answered and self._unanswered >= PATIENCE * options.concurrency:
            fault = done.rewrite.fault
            raise Unanswered(
                f"rewrite.base_url {options.base_url}: no answer to the last {self._unanswered} "
                f"captions ({fault.detail if fault else ''}); see to the server and give the same "
                "command to continue"
            )
        return done


class Desk(Generic[Key]):
    """One caller's side. Its methods are called by that caller's thread alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[Done]] = set()
        self._done: queue.SimpleQueue[tuple[int, Key, asyncio.Task[Done]]] = queue.SimpleQueue()
        self._round = 0
        self.in_flight = 0

    def submit(self, key: Key, task: Task) -> None:
        """Hand in a task; `take` gives back its `key` with what became of it."""
        self.in_flight += 1
        report = partial(self._report, self._round, key)
        self._engine.loop.call_soon_threadsafe(self._engine.start, task, self._tasks, report)

    def _report(self, number: int, key: Key, task: asyncio.Task[Done]) -> None:
        self._done.put((number, key, task))

    def take(self) -> tuple[Key, Done]:
        """The next that is done; waits for it. Raises what ended it: then the build must end."""
        while True:
            number, key, task = self._done.get()
            if number == self._round:
                self.in_flight -= 1
                return key, task.result()

    def cancel(self) -> None:
        """Forget everything handed in."""
        self._round += 1
        self.in_flight = 0
        self._engine.call(self._cancel_tasks())

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
