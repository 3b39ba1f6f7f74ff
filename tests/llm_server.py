"""A real server of OpenAI's chat-completions protocol on loopback, in a process of its own. It
rewrites captions by rules, truthfully, and can be slow, wrong, limited and untruthful on demand.

    with LlmServer(schedule="500,429,ok", latency=50) as server:
        ask(server.base_url)
        assert [seen["fault"] for seen in server.requests()] == ["500", "429", "ok"]

or `python -m tests.llm_server --port 8000`. It finds the caption in the line `Caption: ...` of a
user message, and takes a later user message with `Fault: ...` for a retry.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from aiohttp import web

from tests.llm_answers import FAULTS, MODEL, REFUSALS, Drawing, completion

ROOT = Path(__file__).parents[1]


class Served:
    """The handlers and what they count."""

    def __init__(self, options: argparse.Namespace, log: TextIO | None) -> None:
        self._options = options
        self._log = log
        self._drawing = Drawing(options)
        self._machine = asyncio.Semaphore(options.max_concurrent or 2**30)
        self._recent: deque[float] = deque()
        self._busy = 0
        self.busiest = 0
        self.faults: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/stats", self.stats)
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": self.faults.total(),
                "busy": self._busy,
                "busiest": self.busiest,
                "faults": self.faults,
            }
        )

    async def complete(self, http: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        request = await http.json()
        with self._counted():
            fault, attempt = self._drawing.draw(request)
            if self._over_rate(began):
                fault = "429"
            key = http.headers.get("Authorization", "")
            if self._options.key and key != f"Bearer {self._options.key}":
                fault = "401"
            self.faults[fault] += 1
            self._write(request, http, fault, attempt, began)
            if fault == "slow":
                await asyncio.sleep(self._options.slow)
            if not fault.startswith(("4", "3")):
                async with self._machine:
                    await asyncio.sleep(self._options.latency / 1000)
        return await self._answer(http, request, fault)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            yield
        finally:
            self._busy -= 1

    def _over_rate(self, now: float) -> bool:
        """Whether more than --per-second requests came within a second."""
        if not self._options.per_second:
            return False
        while self._recent and self._recent[0] < now - 1:
            self._recent.popleft()
        if len(self._recent) >= self._options.per_second:
            return True
        self._recent.append(now)
        return False

    def _write(
        self, request: dict[str, Any], http: web.Request, fault: str, attempt: int, began: float
    ) -> None:
        if self._log is None:
            return
        headers = {name: http.headers[name] for name in http.headers if name != "Authorization"}
        seen = {
            "fault": fault,
            "attempt": attempt,
            "time": began,
            "keyed": "Authorization" in http.headers,
            "headers": headers,
            "request": request,
        }
        print(json.dumps(seen), file=self._log, flush=True)

    async def _answer(
        self, http: web.Request, request: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        structured = "response_format" in request
        if fault == "no_schema" and structured:
            return _error(400, "response_format is not supported by this server")
        if fault == "no_schema_silent" and structured:
            return _error(400, "Bad Request")
        if fault in REFUSALS:
            status, message, code, headers = REFUSALS[fault]
            key = http.headers.get("Authorization", "").removeprefix("Bearer ")
            return _error(status, message.replace("KEY", key), code, headers)
        if fault == "429-date":
            when = formatdate(time.time() + self._options.retry_after, usegmt=True)
            return _error(429, "Too many requests", headers={"Retry-After": when})
        if fault in ("429-seconds", "500-seconds"):
            after = str(self._options.retry_after)
            return _error(int(fault[:3]), "Slow down", headers={"Retry-After": after})
        if fault == "malformed":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if fault == "wrong_shape":
            return web.json_response({"object": "chat.completion", "choices": []})
        answer = completion(request, fault)
        if fault == "huge":
            answer["padding"] = "x" * 2_000_000
        if fault in ("truncated", "truncated_chunks", "reset"):
            return await _cut(http, json.dumps(answer).encode(), fault)
        return web.json_response(answer)


def _error(
    status: int, message: str, code: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    error = {"message": message, "type": "error", "param": None, "code": code or None}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _cut(http: web.Request, body: bytes, fault: str) -> web.StreamResponse:
    assert isinstance(http.transport, asyncio.Transport)
    half = body[: len(body) // 2]
    if fault == "truncated":
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        http.transport.write(head + half)
    elif fault == "truncated_chunks":
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = f"{len(half):x}\r\n".encode() + half + b"\r\n"
        http.transport.write(head + chunk)
    http.transport.close()
    return web.Response()


async def serve(options: argparse.Namespace) -> None:
    log = Path(options.log).open("w") if options.log else None  # noqa: SIM115 - the process's own
    served = Served(options, log)
    # A handler ends when its client has gone: what a client gave up is no longer counted.
    runner = web.AppRunner(served.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    if options.until_stdin_closes:
        asyncio.get_running_loop().add_reader(0, stop.set)  # nobody writes: it has ended
    await stop.wait()
    await runner.cleanup()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.llm_server",
        description="A chat-completions server that rewrites captions by rules. Prints its port.",
        epilog="Faults: " + "; ".join(f"{name}: {what}" for name, what in FAULTS.items()),
    )
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--schedule", default="ok", help="faults of the attempts at each prompt, the last for ever")
    add("--rate", action="append", default=[], metavar="FAULT=SHARE", help="drawn by chance")
    add("--force", action="append", default=[], metavar="FAULT=REGEX", help="for such captions")
    add("--draw-by", choices=("attempt", "prompt"), default="attempt")
    add("--seed", type=int, default=0)
    add("--latency", type=float, default=0.0, metavar="MS")
    add("--max-concurrent", type=int, default=0, help="answers made at a time; others queue")
    add("--per-second", type=int, default=0, help="429 for what is more")
    add("--retry-after", type=int, default=1, metavar="S")
    add("--slow", type=float, default=30.0, metavar="S")
    add("--key", default="", help="401 for any other")
    add("--log", default="", help="file of the requests, as JSON lines, without keys")
    add("--until-stdin-closes", action="store_true")
    return parser.parse_args(arguments)


class LlmServer:
    """Runs the server while the context is open. Settings are those of the command line:
    `LlmServer(latency=50, rate=["500=0.1", "slow=0.05"])`."""

    def __init__(self, *, log: bool = True, **settings: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llm-server-")
        self._log = Path(self._folder.name, "requests.jsonl")
        arguments = ["--until-stdin-closes", *(["--log", str(self._log)] if log else [])]
        for name, value in settings.items():
            for one in value if isinstance(value, list) else [value]:
                arguments += [f"--{name.replace('_', '-')}", str(one)]
        self._arguments = arguments

    def __enter__(self) -> LlmServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.llm_server", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()  # printed when it listens
        if not port:
            self.__exit__(None, None, None)
            raise RuntimeError("the server did not start")
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"
        self.pid = self._process.pid
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        with process:  # closes its pipes, waits for it
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
        self._folder.cleanup()

    def stats(self) -> dict[str, Any]:
        """Numbers of requests, by fault too, now and at most at a time."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as answer:
            return json.load(answer)

    def requests(self) -> list[dict[str, Any]]:
        """What was asked so far, in order of arrival."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parse(sys.argv[1:])))
