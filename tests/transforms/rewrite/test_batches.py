"""Prompts of many tasks to a model in this process: gathered, answered, each to whoever asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facecap.schemas.captions import Caption, RewriteFault
from facecap.transforms.rewrite.batches import LocalBackend
from facecap.transforms.rewrite.engine import RewriteConfig, Rewriter
from facecap.transforms.rewrite.local_model import LocalModelError
from facecap.transforms.rewrite.prompts import load_prompts
from facecap.transforms.rewrite.rewriter import make_task
from tests.transforms.rewrite.test_local_model import (
    CAPTIONS,
    SAID,
    options,
    prompt,
    torch,  # noqa: F401 - fixtures
    trained,  # noqa: F401
)


def test_each_gets_its_own_answer_whatever_the_batches(trained: Path) -> None:  # noqa: F811
    async def scenario(size: int) -> list[str | None]:
        async with LocalBackend(options(trained, batch_size=size)) as backend:
            asked = [backend.ask(prompt(text)) for text in SAID for _ in range(3)]
            return [answer.text for answer in await asyncio.gather(*asked)]

    expected = [caption for caption in CAPTIONS for _ in range(3)]
    assert asyncio.run(scenario(1)) == asyncio.run(scenario(5)) == expected


def test_what_is_cancelled_holds_nobody_up(trained: Path) -> None:  # noqa: F811
    async def scenario() -> str | None:
        async with LocalBackend(options(trained, batch_size=2)) as backend:
            asked = [asyncio.ensure_future(backend.ask(prompt(text))) for text in SAID]
            await asyncio.sleep(0)
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            return (await backend.ask(prompt("Hat."))).text

    assert asyncio.run(scenario()) == SAID["Hat."]


def test_through_the_engine_every_caption_is_accounted_for(trained: Path) -> None:  # noqa: F811
    """The packaged prompts are longer than what so small a model can take."""
    how = RewriteConfig(options(trained, batch_size=3), load_prompts())
    caption = Caption("The man is bald.", ("Bald", "Male"), "man")
    rewriter = Rewriter(how)
    desk = rewriter.open_desk()
    try:
        for i in range(5):
            desk.submit(i, make_task(caption, f"key {i}", 0, how.styles, how.options))
        found = dict(desk.take() for _ in range(5))
    finally:
        rewriter.close_desk(desk)
    assert set(found) == set(range(5))
    assert {done.rewrite.fault.kind for done in found.values()} == {RewriteFault.REFUSED}


def test_a_model_that_is_not_there_ends_it(torch: Any, tmp_path: Path) -> None:  # noqa: F811
    how = RewriteConfig(options(tmp_path / "none"), load_prompts())
    with pytest.raises(LocalModelError, match=r"rewrite\.model"):
        Rewriter(how).open_desk()
