"""One caption's way to a real server and back: checked, asked once more, or left to the grammar."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from facecap.schemas.captions import Caption, RewriteFault
from facecap.transforms.rewrite.engine import Engine, RewriteConfig, Rewriter, Unanswered
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import load_prompts
from facecap.transforms.rewrite.rewriter import Done, Task, make_task
from tests.llm_server import LlmServer

PROMPTS = load_prompts()
SAID = (
    RewriteFault.ADDED,
    RewriteFault.MISSING,
    RewriteFault.META_TEXT,
)
"""Of these here, faults of a text."""
CAPTION = Caption(
    "The woman has black hair. She is wearing a hat. She is smiling.",
    ("Black_Hair", "Wearing_Hat", "Smiling"),
    "woman",
)


def config(server: LlmServer | None, **changes: Any) -> RewriteConfig:
    url = server.base_url if server else "http://127.0.0.1:9/v1"
    given = {"backend": "openai", "base_url": url, "retries": 0, "timeout_s": 5.0}
    return RewriteConfig(RewriteOptions(**{**given, **changes}), PROMPTS)


TASK = make_task(CAPTION, "key 0", 0, config(None).styles, config(None).options)


def rewrite_all(how: RewriteConfig, count: int = 1) -> list[Done]:
    """`count` rewrites of CAPTION, each of another face."""
    rewriter = Rewriter(how)
    desk = rewriter.open_desk()
    try:
        for i in range(count):
            desk.submit(i, make_task(CAPTION, f"key {i}", 0, how.styles, how.options))
        done = dict(desk.take() for _ in range(count))
        return [done[i] for i in range(count)]
    finally:
        rewriter.close_desk(desk)


def test_a_true_rewrite_is_taken() -> None:
    with LlmServer() as server:
        how = config(server)
        done = rewrite_all(how, 20)
        asked = server.requests()
    assert all(one.rewrite.fault is None and one.rewrite.tries == 1 for one in done)
    assert all(Checker().check(one.rewrite.text, CAPTION.stated, "woman") is None for one in done)
    assert len({one.rewrite.text for one in done}) > 1
    assert {one.rewrite.style for one in done} == set(PROMPTS.styles)
    assert len(asked) == 20 and all(one.prompt_tokens and one.completion_tokens for one in done)
    assert {entry["request"]["seed"] for entry in asked} == {one.rewrite.seed for one in done}


@pytest.mark.parametrize(
    ("schedule", "kind", "tries"),
    [
        ("liar", RewriteFault.ADDED, 2),
        ("dropper", RewriteFault.MISSING, 2),
        ("negator", RewriteFault.ADDED, 2),
        ("meta", RewriteFault.META_TEXT, 2),
        ("length", RewriteFault.TRUNCATED, 2),
        ("empty", RewriteFault.MALFORMED, 2),
        ("malformed", RewriteFault.MALFORMED, 2),
        ("refusal", RewriteFault.REFUSED, 2),
        ("500", RewriteFault.SERVER_ERROR, 1),
        ("429", RewriteFault.RATE_LIMITED, 1),
        ("slow", RewriteFault.TIMEOUT, 1),
        ("reset", RewriteFault.CONNECTION, 1),
    ],
)
def test_every_fault_leaves_the_grammars_text(
    schedule: str, kind: RewriteFault, tries: int
) -> None:
    with LlmServer(schedule=schedule, slow=3) as server:
        (done,) = rewrite_all(config(server, timeout_s=1.0))
    rewrite = done.rewrite
    assert rewrite.text is None and rewrite.fault is not None
    assert (rewrite.fault.kind, rewrite.tries) == (kind, tries), rewrite.fault
    assert done.answered is (kind in (*SAID, RewriteFault.REFUSED))
    assert (rewrite.seed == TASK.seed) is (tries == 1), "the seed that it was sampled with"


def test_a_liar_is_told_and_tells_the_truth() -> None:
    with LlmServer(schedule="liar_once") as server:
        (done,) = rewrite_all(config(server))
        first, second = server.requests()
    assert done.rewrite.text and done.rewrite.fault is None and done.rewrite.tries == 2
    assert Checker().check(done.rewrite.text, CAPTION.stated, "woman") is None
    told = second["request"]["messages"]
    assert told[: len(first["request"]["messages"])] == first["request"]["messages"]
    assert told[-2]["role"] == "assistant" and "scarf" in told[-2]["content"]
    assert "Fault: " in told[-1]["content"] and "was not given" in told[-1]["content"]


def test_where_there_was_no_text_the_same_is_asked_again() -> None:
    with LlmServer(schedule="malformed") as server:
        (done,) = rewrite_all(config(server))
        first, second = server.requests()
    assert done.rewrite.tries == 2
    assert second["request"]["messages"] == first["request"]["messages"]
    assert second["request"]["seed"] == done.rewrite.seed == first["request"]["seed"] + 1


@pytest.mark.parametrize(
    "text", ["The man's 'n't ", "not ", "She has no beard, ", "x" * 50, "hat "]
)
def test_a_text_of_any_length_is_judged_at_once(text: str) -> None:
    started = time.perf_counter()
    fault = Checker().check(text * 20_000, CAPTION.stated, "woman")
    assert fault is not None and time.perf_counter() - started < 0.5
    started = time.perf_counter()
    assert Checker().check((text * 20_000)[:4000], CAPTION.stated, "woman") is not None
    assert time.perf_counter() - started < 3


def test_what_a_server_sends_is_stored_to_a_length() -> None:
    with LlmServer(schedule="liar") as server:
        how = config(server)
        long = Caption("The woman is " + "z" * 3000 + ".", ("Smiling",), "woman")
        rewriter = Rewriter(how)
        desk = rewriter.open_desk()
        desk.submit(0, make_task(long, "k", 0, how.styles, how.options))
        _, done = desk.take()
        rewriter.close_desk(desk)
        retry = server.requests()[-1]["request"]["messages"]
    assert len(done.rewrite.fault.detail) <= 200
    assert len(retry[-2]["content"]) <= 1000


def test_the_captions_of_a_face_have_different_styles() -> None:
    how = config(None)
    for i in range(50):
        tasks = [make_task(CAPTION, f"key {i}", n, how.styles, how.options) for n in range(6)]
        assert len({task.style for task in tasks}) == len(how.styles) == 6
        assert len({task.seed for task in tasks}) == 6


def test_what_is_asked_follows_from_the_key() -> None:
    how = config(None)
    tasks = [make_task(CAPTION, f"key {i}", 0, how.styles, how.options) for i in range(600)]
    assert tasks == [make_task(CAPTION, f"key {i}", 0, how.styles, how.options) for i in range(600)]
    styles = Counter(task.style for task in tasks)
    assert set(styles) == set(PROMPTS.styles) and min(styles.values()) > 60
    assert len({task.seed for task in tasks}) == 600 and max(t.seed for t in tasks) < 2**31
    assert make_task(CAPTION, "key 1", 1, how.styles, how.options) != tasks[1]
    other = config(None, seed=1)
    assert make_task(CAPTION, "key 1", 0, how.styles, other.options) != tasks[1]
    some = config(None, styles=("brief", "plain"))
    assert some.styles == ("brief", "plain")


def test_a_wrong_setting_ends_the_build() -> None:
    with LlmServer(schedule="401") as server, pytest.raises(RuntimeError, match="api_key_env"):
        rewrite_all(config(server))


def test_a_server_that_is_gone_ends_the_build() -> None:
    with LlmServer(schedule="500") as server:
        with pytest.raises(Unanswered, match=r"rewrite\.base_url .* no answer to the last 8"):
            rewrite_all(config(server, concurrency=2), 20)
        assert len(rewrite_all(config(server, concurrency=2, min_answered=0.0), 20)) == 20


def test_what_is_cancelled_is_forgotten() -> None:
    with LlmServer(latency=200) as server:
        how = config(server, concurrency=2)
        engine = Engine(how)
        rewriter = Rewriter(how)
        desk = rewriter.open_desk()
        try:
            task = Task("k", CAPTION.raw, CAPTION.stated, "woman", "plain", 1)
            for i in range(6):
                desk.submit(("old", i), task)
            desk.take()
            desk.cancel()
            assert desk.in_flight == 0
            desk.submit(("new", 0), task)
            key, done = desk.take()
            assert key == ("new", 0) and done.rewrite.text
        finally:
            rewriter.close_desk(desk)
            engine.close()
        assert server.stats()["busiest"] <= 2


def test_an_engine_that_cannot_open_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    before = threading.active_count()
    monkeypatch.setenv("OPENAI_API_KEY", "bad\nkey")
    with pytest.raises(RuntimeError, match="api_key_env"):
        Engine(config(None))
    assert threading.active_count() == before
