"""Asks a server of OpenAI's chat-completions protocol to rewrite: many prompts at a time, each
answered, by a text or by the fault of its request, in bounded time."""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass, replace
from types import TracebackType

import aiohttp

from facecap import __version__
from facecap.schemas.captions import Fault, RewriteFault
from facecap.transforms.rewrite import chat_completion
from facecap.transforms.rewrite.backend import Answer, Message, Prompt
from facecap.transforms.rewrite.chat_errors import (
    MAY_PASS,
    ServerRefuses,
    ServerUnreachable,
    read_error,
    status_fault,
    transport_fault,
)
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.pace import Pace, backoff, ceiling
from facecap.transforms.web.client import retry_after

log = logging.getLogger("facecap")

MAX_BODY = 2**20
"""Bytes of an answer; a caption's has about a thousand."""

KEEP_ALIVE_S = 4.0
"""Less than the 5 of uvicorn, on which vLLM and SGLang run: a server that closes first may do so
while the next request is on its way."""

SHORTEST_KEY = 8
"""Characters; a shorter one may be a word of a caption, and is no secret."""

TRIAL = Prompt((Message("user", "Answer with one word: are you there?"),), seed=0)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request brought: a status and a body, or the fault that came before they were
    complete. `structured` says whether it asked for structured output."""

    structured: bool
    status: int = 0
    body: bytes = b""
    retry_after: float | None = None
    fault: Fault | None = None


class ChatServer:
    """A server of OpenAI's chat-completions protocol: vLLM, SGLang, llama.cpp, a hosted one.

    To be opened (`async with`), used and closed in one event loop. `api_key` is sent as a bearer
    token and appears in no error, fault or log line; ServerRefuses is raised for one that cannot
    be sent.
    """

    def __init__(self, options: RewriteOptions, api_key: str | None = None) -> None:
        self._options = options
        self._key = (api_key or "").strip() or None
        if self._key and not all("!" <= character <= "~" for character in self._key):
            raise ServerRefuses(
                f"rewrite.api_key_env: the environment variable {options.api_key_env} holds no "
                "key, but something with spaces or with characters outside ASCII"
            )
        self._url = f"{options.base_url}/chat/completions"
        self._structured = options.structured != "never"

    async def __aenter__(self) -> ChatServer:
        headers = {"User-Agent": f"facecap/{__version__}", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._pace = Pace(self._options.concurrency)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._options.concurrency,
                keepalive_timeout=KEEP_ALIVE_S,
                resolver=aiohttp.ThreadedResolver(),  # names as every other program knows them
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # it is _send's
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pace.close()
        await self._session.close()

    async def ask(self, prompt: Prompt) -> Answer:
        """The caption, or the fault of the request after all attempts. Raises ServerRefuses where
        no prompt would fare better until a setting changes, and OSError where this machine has no
        more memory."""
        reply = await self._exchange(prompt, self._options.retries)
        if reply.fault is not None:
            return Answer(None, reply.fault)
        try:
            completion = chat_completion.read_completion(reply.body)
        except ValueError as error:
            return Answer(None, Fault(RewriteFault.MALFORMED, str(error)))
        must_be_json = reply.structured and self._options.structured == "always"
        answer = chat_completion.read_answer(completion, must_be_json)
        if self._key and len(self._key) >= SHORTEST_KEY and self._key in (answer.text or ""):
            return Answer(None, Fault(RewriteFault.MALFORMED, "the answer repeats the API key"))
        return answer

    async def check(self) -> None:
        """Try the server with one tiny request, before a build relies on it. Raises ServerRefuses
        for settings that are wrong, ServerUnreachable for a server that does not answer."""
        reply = await self._exchange(TRIAL, min(1, self._options.retries))
        fault, base_url = reply.fault, self._options.base_url
        if fault is not None and fault.kind in MAY_PASS:
            raise ServerUnreachable(
                f"rewrite.base_url: {base_url} does not answer ({fault.detail}); start the server, "
                "or set rewrite.base_url, or rewrite.backend to none"
            )
        try:
            if fault is None:
                chat_completion.read_completion(reply.body)
        except ValueError as error:
            fault = Fault(RewriteFault.MALFORMED, str(error))
        if fault is not None and fault.kind is RewriteFault.MALFORMED:
            raise ServerRefuses(
                f"rewrite.base_url: {base_url} does not speak OpenAI's protocol ({fault.detail}); "
                "set it up to and with the version, usually /v1"
            )

    async def _exchange(self, prompt: Prompt, retries: int) -> Reply:
        """The last reply to `prompt`: one with status 200, or one with a fault."""
        attempt = 0
        while True:
            reply = await self._post(prompt, self._structured, attempt)
            if reply.structured and reply.status in (400, 422, 501):
                reply = await self._without_schema(prompt, reply, attempt)
            fault = reply.fault
            if fault is None and reply.status != 200:
                error = read_error(reply.body)
                fault = status_fault(reply.status, error, self._options, self._key)
            if fault is None or fault.kind not in MAY_PASS or attempt >= retries:
                return replace(reply, fault=fault)
            await asyncio.sleep(backoff(attempt, reply.retry_after))
            attempt += 1

    async def _without_schema(self, prompt: Prompt, reply: Reply, attempt: int) -> Reply:
        """The reply to the same request without structured output, where that may be what `reply`
        rejects; `reply` itself elsewhere. What is learnt here holds for later requests."""
        error = read_error(reply.body)
        if error.about_content:
            return reply
        if self._options.structured == "always":
            if error.about_schema or reply.status == 501:
                raise ServerRefuses(
                    f"rewrite.structured: {self._options.base_url} has no structured output, set "
                    f"auto or never; the server answers HTTP {reply.status}: "
                    f"{error.quoted(self._key)}"
                )
            return reply
        plain = await self._post(prompt, False, attempt)
        if self._structured and (error.about_schema or plain.status == 200):
            self._structured = False
            log.warning(
                "rewrite.structured: %s has no structured output; captions are asked for as plain "
                "text",
                self._options.base_url,
            )
        return plain

    async def _post(self, prompt: Prompt, structured: bool, attempt: int) -> Reply:
        """One request, when the pace allows it."""
        async with self._pace.slot() as began:
            reply = await self._send(prompt, structured)
            if reply.status == 429:
                seconds = max(ceiling(attempt), reply.retry_after or 0.0)
                self._pace.slow_down(seconds, began)
            elif reply.status == 503 and reply.retry_after:
                self._pace.slow_down(reply.retry_after, began)
            elif reply.status == 200:
                self._pace.answered()
        return reply

    async def _send(self, prompt: Prompt, structured: bool) -> Reply:
        body = chat_completion.request(self._options, prompt, structured)
        seconds, status = self._options.timeout_s, None
        try:
            # aiohttp's own time limits are rounded up to whole seconds from 5 seconds on.
            async with asyncio.timeout(seconds):
                async with self._session.post(
                    self._url, json=body, allow_redirects=False
                ) as response:
                    status = response.status
                    content = await _read(response)
        except TimeoutError:
            return Reply(structured, fault=Fault(RewriteFault.TIMEOUT, f"none in {seconds:g} s"))
        except (aiohttp.ClientError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                raise ServerRefuses(
                    "rewrite.concurrency: this process may open no more connections than it has; "
                    f"lower {self._options.concurrency}, or raise `ulimit -n`"
                ) from error
            return Reply(structured, fault=transport_fault(error, status))
        if content is None:
            fault = Fault(RewriteFault.MALFORMED, "the server's answer is larger than 1 MiB")
            return Reply(structured, fault=fault)
        after = retry_after(response.headers.get("Retry-After", ""))
        return Reply(structured, status, content, after)


async def check(options: RewriteOptions, api_key: str | None) -> None:
    """`ChatServer.check` of a server opened for it alone."""
    async with ChatServer(options, api_key) as server:
        await server.check()


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, of which no more than MAX_BODY bytes are read; None: there is more of it."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)
