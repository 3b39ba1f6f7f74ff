"""Prompts of many tasks to a model in this process, some at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.local_model import LocalModel
from facecap.transforms.rewrite.options import RewriteOptions


class LocalBackend:
    """Gathers what is asked while the model is busy, and gives it that at once,
    `rewrite.batch_size` at most. Answers do not depend on who shares a batch (see LocalModel)."""

    def __init__(self, options: RewriteOptions) -> None:
        self._options = options
        self._waiting: asyncio.Queue[tuple[Prompt, asyncio.Future[Answer]]] = asyncio.Queue()
        # One thread: a model answers one batch at a time.
        self._pool = ThreadPoolExecutor(1, "facecap-model")
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LocalBackend:
        """Loads the model. Raises LocalModelError."""
        loop = asyncio.get_running_loop()
        model = await loop.run_in_executor(self._pool, LocalModel, self._options)
        self._serving = loop.create_task(self._serve(model))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._pool.shutdown()

    async def ask(self, prompt: Prompt) -> Answer:
        """The model's answer. Raises what the model raised for its batch."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((prompt, answer))
        return await answer

    async def _serve(self, model: LocalModel) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._options.batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [(prompt, answer) for prompt, answer in batch if not answer.cancelled()]
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(
                    self._pool, model.ask, [prompt for prompt, _ in batch]
                )
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                for _, waiting in batch:
                    if not waiting.cancelled():
                        waiting.set_exception(error)
                continue
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.cancelled():
                    waiting.set_result(answer)
