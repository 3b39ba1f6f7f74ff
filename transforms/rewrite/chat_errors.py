"""What went wrong with a request to a chat server: a fault of this prompt, something that may
pass, or a setting that no prompt would fare better with."""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from facecap.schemas.captions import Fault, RewriteFault
from facecap.transforms.railway import MACHINE_ERRORS
from facecap.transforms.rewrite.options import RewriteOptions

MAX_QUOTED = 200
"""Characters of a server's message that an error quotes."""

MAY_PASS = frozenset(
    {
        RewriteFault.RATE_LIMITED,
        RewriteFault.SERVER_ERROR,
        RewriteFault.TIMEOUT,
        RewriteFault.CONNECTION,
        RewriteFault.TRUNCATED,
    }
)
"""Faults of a request after which it is made again."""

_ABOUT_CONTENT = re.compile(
    r"content[ _-]?(policy|policies|filter|management|moderation)|moderation|flagged|safety", re.I
)
_ABOUT_SCHEMA = re.compile(
    r"response_?format|json_?(schema|object)|guided|grammar|structured|constrained", re.I
)
_ABOUT_LENGTH = re.compile(r"context (length|size|window)|maximum context|too (long|large)", re.I)
_SAMPLING = ("max_tokens", "temperature", "top_p", "seed", "model")


class ServerRefuses(RuntimeError):
    """The server answers, but a setting must change before it rewrites anything."""


class ServerUnreachable(RuntimeError):
    """The server does not answer now."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """What the body of an answer other than 200 says: its message, in one line, and the code and
    the parameter where they are given."""

    message: str
    code: str = ""
    param: str = ""

    @property
    def about_content(self) -> bool:
        """Whether the server declines what the prompt says."""
        return bool(_ABOUT_CONTENT.search(f"{self.code} {self.message}"))

    @property
    def about_schema(self) -> bool:
        """Whether the server cannot do structured output."""
        return bool(_ABOUT_SCHEMA.search(f"{self.param} {self.code} {self.message}"))

    def quoted(self, key: str | None) -> str:
        """At most MAX_QUOTED characters of the message, without the key or a part of it."""
        text = _without_key(self.message, key) if key else self.message
        return f'"{text[:MAX_QUOTED]}"' if text else "nothing more"


def read_error(body: bytes) -> ServerError:
    """Reads the shapes of OpenAI, vLLM, FastAPI and Ollama; of anything else, the text itself."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ServerError(_one_line(body.decode(errors="replace")))
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return ServerError(_one_line(error))
    message = error.get("message", error.get("detail"))
    if isinstance(message, list):  # FastAPI's: where, what, and the input, which is not repeated
        entries = [entry for entry in message if isinstance(entry, dict)]
        message = "; ".join(f"{entry.get('loc')}: {entry.get('msg')}" for entry in entries)
    code = error.get("code") or error.get("type")
    return ServerError(_one_line(message), _one_line(code), _one_line(error.get("param")))


def status_fault(
    status: int, error: ServerError, options: RewriteOptions, key: str | None
) -> Fault:
    """The fault of a request that was answered with a status other than 200. Raises ServerRefuses
    where every other request would be answered alike until a setting changes."""
    if status in (400, 403, 422) and error.about_content:
        return Fault(RewriteFault.REFUSED, f"the server declined the prompt (HTTP {status})")
    if status == 429 and error.code != "insufficient_quota":
        return Fault(RewriteFault.RATE_LIMITED, "HTTP 429")
    if status == 408:
        return Fault(RewriteFault.TIMEOUT, "HTTP 408")
    if 500 <= status <= 599:
        return Fault(RewriteFault.SERVER_ERROR, f"HTTP {status}")
    remedy = _remedy(status, error, options, key)
    if remedy is None:
        return Fault(RewriteFault.MALFORMED, f"HTTP {status} is no answer of the protocol")
    raise ServerRefuses(f"{remedy}; the server answers HTTP {status}: {error.quoted(key)}")


def transport_fault(error: Exception, status: int | None) -> Fault:
    """What an exception of aiohttp means; `status` is that of the answer if it had begun. Raises
    the exception again where this machine is at fault: no file descriptors or memory left."""
    tls = isinstance(error, ssl.SSLError | aiohttp.ClientSSLError)
    if isinstance(error, OSError) and not tls and error.errno in MACHINE_ERRORS:
        raise error
    match error:
        case aiohttp.ClientPayloadError() if isinstance(error.__cause__, ContentEncodingError):
            return Fault(RewriteFault.MALFORMED, "the answer's content encoding is broken")
        case aiohttp.ClientConnectorCertificateError():
            return Fault(RewriteFault.CONNECTION, "its certificate is not trusted")
        case aiohttp.ClientSSLError():
            return Fault(RewriteFault.CONNECTION, "no TLS connection")
        case aiohttp.ClientConnectorDNSError():
            return Fault(RewriteFault.CONNECTION, "its name is not known")
        case aiohttp.ClientConnectorError():
            return Fault(RewriteFault.CONNECTION, "no connection")
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
            if status is None:
                return Fault(RewriteFault.CONNECTION, "the connection was lost")
            return Fault(RewriteFault.TRUNCATED, "the connection was lost within the answer")
    return Fault(RewriteFault.MALFORMED, "the answer is not HTTP")


def _remedy(
    status: int, error: ServerError, options: RewriteOptions, key: str | None
) -> str | None:
    """Which setting is wrong, and how; None: none is."""
    variable = f"the environment variable {options.api_key_env}"
    if status in (402, 429):
        return f"rewrite.api_key_env: the account of the key in {variable} has no credit"
    if status in (401, 403):
        why = f"does not take the key in {variable}" if key else f"wants a key, set {variable}"
        return f"rewrite.api_key_env: {options.base_url} {why}"
    if status in (404, 405, 410):
        if "model" in error.message.lower():
            return f"rewrite.model: {options.base_url} has no model {options.model!r}"
        return f"rewrite.base_url: {options.base_url}/chat/completions is not there"
    if status not in (400, 413, 422):
        return None
    named = f"{error.param} {error.message}".lower()
    setting = next((name for name in _SAMPLING if re.search(rf"\b{name}\b", named)), None)
    if _ABOUT_LENGTH.search(named):
        return "rewrite.max_tokens or rewrite.prompts: more tokens than the model takes"
    if setting is None:
        return f"rewrite.model or rewrite.prompts: {options.base_url} rejects the request"
    return f"rewrite.{setting}: {options.base_url} rejects the request"


def _one_line(text: Any) -> str:
    """Printable: what a server sends is shown on terminals."""
    printable = "".join(c if c.isprintable() else " " for c in str(text or "")[:10_000])
    return " ".join(printable.split())


def _without_key(text: str, key: str) -> str:
    """Words that hold any eight characters in a row of the key become `[key]`."""
    parts = {key[start : start + 8] for start in range(max(1, len(key) - 7))}
    return re.sub(
        r"\S+", lambda word: "[key]" if any(part in word[0] for part in parts) else word[0], text
    )
