"""The client against a real server in a process of its own (tests/llm_server.py)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import socket
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite import pace
from facecap.transforms.rewrite.backend import Answer, Message, Prompt
from facecap.transforms.rewrite.chat_server import (
    ChatServer,
    ServerRefuses,
    ServerUnreachable,
    check,
)
from facecap.transforms.rewrite.options import RewriteOptions
from tests.llm_server import LlmServer
from tests.processes import wait_for

CAPTION = "The woman has black hair. She wears a hat. She is smiling."
KEY = "sk-very-secret-0123456789"
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def llm() -> Iterator[LlmServer]:
    """A server whose faults are named by the prompts."""
    with LlmServer(retry_after=1, slow=20) as server:
        yield server


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_BACKOFF_S", 0.02)


def prompt(name: str, schedule: str = "ok", seed: int = 1) -> Prompt:
    """A prompt known by `name`, whose attempts meet the faults of `schedule`."""
    text = f"Caption: {CAPTION}\nAttributes: {name}\nSchedule: {schedule}"
    return Prompt((Message("system", "Rewrite."), Message("user", text)), seed)


def settings(server: LlmServer, **changes: Any) -> RewriteOptions:
    values: dict[str, Any] = {"base_url": server.base_url, "retries": 2, "timeout_s": 10.0}
    return RewriteOptions(**values | changes)


def run(
    options: RewriteOptions, use: Callable[[ChatServer], Awaitable[Result]], key: str | None = None
) -> Result:
    async def scenario() -> Result:
        async with ChatServer(options, key) as chat:
            return await use(chat)

    return asyncio.run(asyncio.wait_for(scenario(), 50))


def ask(options: RewriteOptions, *prompts: Prompt, key: str | None = None) -> list[Answer]:
    async def use(chat: ChatServer) -> list[Answer]:
        return await asyncio.gather(*(chat.ask(prompt) for prompt in prompts))

    return run(options, use, key)


def seen(server: LlmServer, name: str) -> list[dict[str, Any]]:
    """The requests for the prompt of that name."""
    marked = f"Attributes: {name}\n"
    return [
        entry
        for entry in server.requests()
        if marked in entry["request"]["messages"][-1]["content"]
    ]


def sentences(text: str | None) -> list[str]:
    """Sorted, without what the server's rules may change."""
    assert text is not None
    for lead in ("In this photograph, t", "Here, t", "In this close-up, t"):
        text = text.replace(lead, "T")
    return sorted(text.replace("is wearing", "wears").rstrip(".").split(". "))


FAITHFUL = sentences(CAPTION)

PASSING = ["429", "408", "500", "503", "slow", "truncated", "truncated_chunks", "reset"]


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(llm: LlmServer, fast: None, fault: str) -> None:
    name = f"passing {fault}"
    options = settings(llm, timeout_s=0.8 if fault == "slow" else 10.0)
    [answer] = ask(options, prompt(name, f"{fault},{fault},ok"))
    assert answer.fault is None
    assert sentences(answer.text) == FAITHFUL
    assert [entry["fault"] for entry in seen(llm, name)] == [fault, fault, "ok"]


@pytest.mark.parametrize(
    ("fault", "kind", "attempts"),
    [
        ("429", RewriteFault.RATE_LIMITED, 3),
        ("500", RewriteFault.SERVER_ERROR, 3),
        ("503", RewriteFault.SERVER_ERROR, 3),
        ("408", RewriteFault.TIMEOUT, 3),
        ("slow", RewriteFault.TIMEOUT, 3),
        ("truncated", RewriteFault.TRUNCATED, 3),
        ("truncated_chunks", RewriteFault.TRUNCATED, 3),
        ("reset", RewriteFault.CONNECTION, 3),
        ("malformed", RewriteFault.MALFORMED, 1),
        ("wrong_shape", RewriteFault.MALFORMED, 1),
        ("huge", RewriteFault.MALFORMED, 1),
        ("302", RewriteFault.MALFORMED, 1),
        ("empty", RewriteFault.MALFORMED, 1),
        ("length", RewriteFault.TRUNCATED, 1),
        ("refusal", RewriteFault.REFUSED, 1),
        ("content_filter", RewriteFault.REFUSED, 1),
        ("400_content", RewriteFault.REFUSED, 1),
    ],
)
def test_what_does_not_pass_is_a_fault(
    llm: LlmServer, fast: None, fault: str, kind: RewriteFault, attempts: int
) -> None:
    name = f"lasting {fault}"
    began = time.monotonic()
    options = settings(llm, timeout_s=0.5 if fault == "slow" else 10.0)
    [answer] = ask(options, prompt(name, fault))
    assert time.monotonic() - began < 5
    assert answer.text is None
    assert answer.fault is not None
    assert answer.fault.kind is kind
    assert answer.fault.detail
    assert len(seen(llm, name)) == attempts


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("401", "rewrite.api_key_env"),
        ("429-quota", "rewrite.api_key_env"),
        ("404_model", "rewrite.model"),
        ("404_path", "rewrite.base_url"),
        ("400", "rewrite.max_tokens"),
    ],
)
@pytest.mark.parametrize("key", [KEY, None])
def test_wrong_settings_stop_everything_and_no_key_is_told(
    llm: LlmServer, caplog: pytest.LogCaptureFixture, fault: str, named: str, key: str | None
) -> None:
    caplog.set_level(logging.DEBUG)
    name = f"refused {fault} {key is None}"
    with pytest.raises(ServerRefuses, match=f"^{named}") as caught:
        ask(settings(llm), prompt(name, fault), key=key)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert KEY not in told
    assert KEY[3:-3] not in told
    assert "\n" not in str(caught.value)
    assert {entry["keyed"] for entry in seen(llm, name)} == {key is not None}
    # Without a word about structured output, HTTP 400 is tried without it.
    assert len(seen(llm, name)) == (2 if fault == "400" else 1)


def test_an_answer_that_repeats_the_key_is_none(llm: LlmServer) -> None:
    asked = Prompt((Message("user", f"Caption: The man holds {KEY}.\nAttributes: repeats"),), 1)
    (answer,) = ask(settings(llm), asked, key=KEY)
    assert answer.text is None and answer.fault is not None
    assert answer.fault.kind is RewriteFault.MALFORMED and KEY not in answer.fault.detail
    (other,) = ask(settings(llm), asked, key=KEY + "-2")
    assert other.text is not None


def test_a_missing_key_is_told_apart_from_a_wrong_one() -> None:
    with LlmServer(key=KEY) as server:
        options = settings(server, api_key_env="SOME_KEY")
        with pytest.raises(ServerRefuses, match="wants a key, set the environment variable SOME"):
            ask(options, prompt("keyless"))
        with pytest.raises(ServerRefuses, match="does not take the key in the environment"):
            ask(options, prompt("wrong key"), key=KEY + "x")
        [answer] = ask(options, prompt("right key"), key=f" {KEY}\n")
        assert sentences(answer.text) == FAITHFUL


@pytest.mark.parametrize("key", ["two words", "line\nline", "schlüssel", "\x00"])
def test_a_key_that_cannot_be_sent_is_said_without_telling_it(key: str) -> None:
    with pytest.raises(ServerRefuses, match=r"^rewrite\.api_key_env") as caught:
        ChatServer(RewriteOptions(), key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("fault", ["429-seconds", "429-date", "500-seconds"])
def test_retry_after_is_respected(llm: LlmServer, fast: None, fault: str) -> None:
    name = f"after {fault}"
    [answer] = ask(settings(llm), prompt(name, f"{fault},ok"))
    first, second = (entry["time"] for entry in seen(llm, name))
    assert answer.text
    # Dates have whole seconds: the one sent may be as little as nothing ahead, or a second.
    assert second - first >= (0.0 if fault == "429-date" else 1.0)
    assert second - first < 3


def test_retry_after_is_bounded(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_PAUSE_S", 0.3)
    with LlmServer(retry_after=86_400) as server:
        began = time.monotonic()
        answers = ask(settings(server), prompt("years", "429-seconds,429-date,ok"))
        assert answers[0].text
        assert 0.6 <= time.monotonic() - began < 5


def test_a_rate_limit_pauses_all_requests(llm: LlmServer) -> None:
    # One slot: the others queue for it when the answer comes.
    others = [prompt(f"other {number}") for number in range(10)]
    answers = ask(settings(llm, concurrency=1), prompt("limited", "429-seconds,ok"), *others)
    assert all(answer.text for answer in answers)
    limited_at = seen(llm, "limited")[0]["time"]
    times = [seen(llm, f"other {number}")[0]["time"] for number in range(10)]
    assert min(times) - limited_at >= 1.0


def test_a_limited_server_is_not_hammered(capsys: pytest.CaptureFixture[str]) -> None:
    with LlmServer(per_second=40, latency=20) as server:
        began = time.monotonic()
        options = settings(server, concurrency=64, retries=6)
        answers = ask(options, *(prompt(f"limited {number}") for number in range(150)))
        seconds = time.monotonic() - began
        faults = server.stats()["faults"]
    with capsys.disabled():
        print(f"\n150 prompts at 40/s: {seconds:.1f} s, {faults['429']} of them too early")
    assert all(answer.text for answer in answers)
    assert faults["429"] < 150


def test_the_time_limit_holds(llm: LlmServer) -> None:
    for seconds in (0.3, 1.2):
        began = time.monotonic()
        [answer] = ask(
            settings(llm, timeout_s=seconds, retries=0), prompt(f"slow {seconds}", "slow")
        )
        assert answer.fault is not None
        assert answer.fault.kind is RewriteFault.TIMEOUT
        assert seconds <= time.monotonic() - began < seconds + 1


def test_waiting_for_a_slot_takes_no_time_of_the_request() -> None:
    with LlmServer(latency=200) as server:
        options = settings(server, concurrency=1, timeout_s=0.6, retries=0)
        answers = ask(options, *(prompt(f"queued {number}") for number in range(6)))
        assert [answer.fault for answer in answers] == [None] * 6


def test_a_request_that_backs_off_holds_no_slot(
    llm: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    ask(settings(llm, concurrency=1), prompt("failing", "500,ok"), prompt("waiting"))
    failed, again = (entry["time"] for entry in seen(llm, "failing"))
    [other] = (entry["time"] for entry in seen(llm, "waiting"))
    assert failed < other < again
    assert again - failed >= pace.FIRST_BACKOFF_S


def test_nobody_there_is_a_fault_too(fast: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    [answer] = ask(RewriteOptions(base_url=f"http://127.0.0.1:{port}/v1"), prompt("nobody"))
    assert answer.fault is not None
    assert answer.fault.kind is RewriteFault.CONNECTION
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("concurrency", "floor"), [(1, 8), (8, 40), (64, 120)])
def test_throughput_follows_the_concurrency_and_the_bound_holds(
    concurrency: int, floor: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [prompt(f"busy {number}") for number in range(20 * min(concurrency, 30))]
    with LlmServer(log=False, latency=50) as server:
        began = time.monotonic()
        answers = ask(settings(server, concurrency=concurrency), *prompts)
        seconds = time.monotonic() - began
        busiest = server.stats()["busiest"]
    rate = len(prompts) / seconds
    with capsys.disabled():
        print(f"\nconcurrency {concurrency}, 50 ms each: {rate:.0f} captions/s, busiest {busiest}")
    assert all(sentences(answer.text) == FAITHFUL for answer in answers)
    assert busiest == concurrency
    assert rate > floor  # on two busy cores; 20 per slot is what the delay allows


@pytest.mark.parametrize("fault", ["no_schema", "no_schema_silent", "501"])
def test_a_server_without_structured_output_is_asked_without(llm: LlmServer, fault: str) -> None:
    name = f"schemaless {fault}"

    async def use(chat: ChatServer) -> list[Answer]:
        first = await chat.ask(prompt(name, f"{fault},ok"))
        return [first, await chat.ask(prompt(name, seed=2)), await chat.ask(prompt(name, seed=3))]

    answers = run(settings(llm), use)
    assert all(sentences(answer.text) == FAITHFUL for answer in answers)
    sent = ["response_format" in entry["request"] for entry in seen(llm, name)]
    assert sent == [True, False, False, False]


def test_a_server_that_cannot_anyway_is_not_taken_for_one_without(llm: LlmServer) -> None:
    async def use(chat: ChatServer) -> None:
        with pytest.raises(ServerRefuses, match=r"^rewrite\.max_tokens"):
            await chat.ask(prompt("too long", "400"))
        await chat.ask(prompt("short enough"))

    run(settings(llm), use)
    assert len(seen(llm, "too long")) == 2
    assert "response_format" in seen(llm, "short enough")[0]["request"]


def test_structured_output_always(llm: LlmServer) -> None:
    options = settings(llm, structured="always")
    with pytest.raises(ServerRefuses, match=r"^rewrite\.structured"):
        ask(options, prompt("always without", "no_schema"))
    plain, right = ask(options, prompt("plain", "ignores_schema"), prompt("right"))
    assert plain.fault is not None
    assert plain.fault.kind is RewriteFault.MALFORMED
    assert sentences(right.text) == FAITHFUL


@pytest.mark.parametrize("fault", ["fenced", "think", "ignores_schema", "ok"])
@pytest.mark.parametrize("structured", ["auto", "never"])
def test_captions_in_any_wrapping(llm: LlmServer, fault: str, structured: str) -> None:
    name = f"wrapped {fault} {structured}"
    [answer] = ask(settings(llm, structured=structured), prompt(name, fault))
    assert sentences(answer.text) == FAITHFUL
    assert answer.prompt_tokens > 10
    assert answer.completion_tokens > 10
    [entry] = seen(llm, name)
    assert ("response_format" in entry["request"]) is (structured == "auto")


def test_equal_prompts_are_equal_requests_and_answers(llm: LlmServer) -> None:
    first, second = (ask(settings(llm), prompt("equal"))[0] for _ in range(2))
    assert first == second
    one, other = seen(llm, "equal")
    assert one["request"] == other["request"]
    assert one["headers"].keys() == other["headers"].keys()
    assert "Cookie" not in one["headers"]


def test_no_proxy_of_the_environment_is_used(
    llm: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(settings(llm), prompt("direct"))[0].text


def _sockets() -> int:
    gc.collect()
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(str(link.readlink()).startswith("socket:") for link in links if link.is_symlink())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_cancelled_requests_leave_nothing_behind(llm: LlmServer) -> None:
    async def use(chat: ChatServer) -> int:
        # In flight, in the queue for a slot, and in a pause before the next attempt.
        prompts = [prompt(f"cancelled {number}", "slow") for number in range(8)]
        tasks = [asyncio.create_task(chat.ask(p)) for p in (prompt("pausing", "500"), *prompts)]
        await asyncio.to_thread(wait_for, lambda: llm.stats()["busy"] == 4, 5)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        assert (await chat.ask(prompt("after the cancelled"))).text
        return len(asyncio.all_tasks())

    before = _sockets()
    tasks = run(settings(llm, concurrency=4, retries=9, timeout_s=30.0), use)
    assert tasks == 2  # the scenario's own, and that of wait_for around it
    assert _sockets() == before
    wait_for(lambda: llm.stats()["busy"] == 0, 5)


def test_a_server_is_checked(llm: LlmServer, fast: None) -> None:
    asyncio.run(check(settings(llm), KEY))
    with pytest.raises(ServerRefuses, match=r"^rewrite\.base_url"):
        asyncio.run(check(settings(llm, base_url=f"{llm.url}/v2"), None))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = settings(llm, base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ServerUnreachable, match=r"^rewrite\.base_url.*start the server"):
        asyncio.run(check(options, None))


@pytest.mark.parametrize(
    ("schedule", "error", "named"),
    [
        ("401", ServerRefuses, "rewrite.api_key_env"),
        ("404_model", ServerRefuses, "rewrite.model"),
        ("malformed", ServerRefuses, "rewrite.base_url"),
        ("wrong_shape", ServerRefuses, "rewrite.base_url"),
        ("302", ServerRefuses, "rewrite.base_url"),
        ("503", ServerUnreachable, "rewrite.base_url"),
        ("slow", ServerUnreachable, "rewrite.base_url"),
    ],
)
def test_a_server_that_will_not_do_is_found_before_a_build(
    fast: None, schedule: str, error: type[Exception], named: str
) -> None:
    with LlmServer(schedule=schedule) as server:
        with pytest.raises(error, match=f"^{named}") as caught:
            asyncio.run(check(settings(server, timeout_s=1.0, retries=9), KEY))
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)
        assert server.stats()["requests"] <= 2


MIXED = {
    "429": 0.03, "429-seconds": 0.003, "500": 0.08, "503": 0.03, "slow": 0.02, "truncated": 0.05,
    "truncated_chunks": 0.03, "reset": 0.04, "malformed": 0.04, "wrong_shape": 0.02,
    "length": 0.03, "refusal": 0.03, "empty": 0.02, "fenced": 0.05, "think": 0.05,
}  # fmt: skip


def test_every_prompt_gets_one_answer_among_all_faults(
    fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [Prompt((Message("user", f"Caption: {CAPTION}\nFace {n}"),), n) for n in range(300)]
    answers: list[tuple[int, Answer]] = []

    async def use(chat: ChatServer) -> None:
        async def one(number: int) -> None:
            answers.append((number, await chat.ask(prompts[number])))

        await asyncio.gather(*(one(number) for number in range(len(prompts))))

    rates = [f"{name}={share}" for name, share in MIXED.items()]
    with LlmServer(rate=rates, seed=5, latency=10) as server:
        began = time.monotonic()
        run(settings(server, concurrency=32, timeout_s=1.5, retries=3), use)
        seconds = time.monotonic() - began
        requests, stats = server.requests(), server.stats()
    assert sorted(number for number, _ in answers) == list(range(300))
    _assert_each_follows_from_its_last_request(answers, requests)
    faults = Counter(answer.fault.kind for _, answer in answers if answer.fault)
    with capsys.disabled():
        print(
            f"\n300 prompts, {len(requests)} requests, {seconds:.1f} s, "
            f"{stats['busiest']} at a time, faults {dict(faults)}"
        )
    assert len(requests) > 340
    assert stats["busy"] == 0
    assert sum(faults.values()) < 100


LASTING = {
    "malformed": RewriteFault.MALFORMED,
    "wrong_shape": RewriteFault.MALFORMED,
    "empty": RewriteFault.MALFORMED,
    "length": RewriteFault.TRUNCATED,
    "refusal": RewriteFault.REFUSED,
}


def _assert_each_follows_from_its_last_request(
    answers: Sequence[tuple[int, Answer]], requests: Sequence[dict[str, Any]]
) -> None:
    """As the server's log has it: no fault where it answered well at last, and the right one
    where it did not."""
    met: dict[int, list[str]] = {}
    for entry in requests:
        met.setdefault(entry["request"]["seed"], []).append(entry["fault"])
    for number, answer in answers:
        *others, last = met[number]
        assert not set(others) & {"ok", "fenced", "think", *LASTING}
        if last in ("ok", "fenced", "think"):
            assert sentences(answer.text) == FAITHFUL
            continue
        assert answer.fault is not None
        assert answer.fault.kind is LASTING.get(last, answer.fault.kind)
        assert last in LASTING or len(others) == 3
