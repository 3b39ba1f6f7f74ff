from __future__ import annotations

import errno
import json

import pytest

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.chat_errors import (
    ServerError,
    ServerRefuses,
    read_error,
    status_fault,
    transport_fault,
)
from facecap.transforms.rewrite.options import RewriteOptions

OPTIONS = RewriteOptions(model="some/model", api_key_env="MY_KEY")
KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no\nmodel", "code": "c", "param": "model"}}, "no model"),
        ({"object": "error", "message": "no model", "code": 404}, "no model"),
        ({"detail": "no model"}, "no model"),
        ({"detail": [{"loc": ["body", "n"], "msg": "bad", "input": KEY}]}, "['body', 'n']: bad"),
        ({"error": "no model"}, "no model"),
        ("no model", "no model"),
        (None, ""),
        ({}, ""),
    ],
)
def test_shapes_of_errors(body: object, message: str) -> None:
    assert read_error(json.dumps(body).encode()).message == message


def test_text_is_an_error_too_and_stays_in_one_printable_line() -> None:
    assert read_error(b"<p>no\r\n\x1b[31m\xffmodel").message == "<p>no [31m\ufffdmodel"


@pytest.mark.parametrize(
    ("status", "error", "named"),
    [
        (401, ServerError("no"), "rewrite.api_key_env"),
        (403, ServerError("no"), "rewrite.api_key_env"),
        (402, ServerError("no"), "rewrite.api_key_env"),
        (429, ServerError("no", "insufficient_quota"), "rewrite.api_key_env"),
        (404, ServerError("The model is not here"), "rewrite.model"),
        (404, ServerError("Not Found"), "rewrite.base_url"),
        (405, ServerError(""), "rewrite.base_url"),
        (400, ServerError("bad", param="temperature"), "rewrite.temperature"),
        (422, ServerError("['body', 'top_p']: bad"), "rewrite.top_p"),
        (400, ServerError("The model's maximum context length is 9"), "rewrite.max_tokens"),
        (413, ServerError("Payload too large"), "rewrite.max_tokens"),
        (400, ServerError("bad"), "rewrite.model"),
    ],
)
def test_wrong_settings_are_named(status: int, error: ServerError, named: str) -> None:
    with pytest.raises(ServerRefuses, match=f"^{named}") as caught:
        status_fault(status, error, OPTIONS, KEY)
    assert "\n" not in str(caught.value)
    assert f"HTTP {status}" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, ServerError("Blocked by our content policy"), RewriteFault.REFUSED),
        (400, ServerError("no", "content_filter"), RewriteFault.REFUSED),
        (403, ServerError("Your input was flagged"), RewriteFault.REFUSED),
        (429, ServerError("wait"), RewriteFault.RATE_LIMITED),
        (408, ServerError(""), RewriteFault.TIMEOUT),
        (503, ServerError("Loading model"), RewriteFault.SERVER_ERROR),
        (599, ServerError(""), RewriteFault.SERVER_ERROR),
        (204, ServerError(""), RewriteFault.MALFORMED),
        (301, ServerError(""), RewriteFault.MALFORMED),
        (418, ServerError(""), RewriteFault.MALFORMED),
    ],
)
def test_faults_of_one_prompt(status: int, error: ServerError, kind: RewriteFault) -> None:
    assert status_fault(status, error, OPTIONS, None).kind is kind


@pytest.mark.parametrize("text", ["bad key: {}", "'{}'.", "x{}x", "Bearer {}", "x" * 190 + "{}"])
@pytest.mark.parametrize("key", [KEY, "short"])
def test_the_key_is_not_quoted(key: str, text: str) -> None:
    quoted = ServerError(text.format(key)).quoted(key)
    assert key[:5] not in quoted
    assert len(quoted) <= 202


def test_neither_is_a_part_of_it() -> None:
    assert ServerError(f"bad key {KEY[:-4]}****").quoted(KEY) == '"bad key [key]"'
    assert ServerError("bad key, go away").quoted(KEY) == '"bad key, go away"'


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("response_format is not supported", True),
        ("Guided decoding needs xgrammar", True),
        ("unknown field: json_schema", True),
        ("temperature must be below 2", False),
        ("", False),
    ],
)
def test_errors_about_structured_output(text: str, about: bool) -> None:
    assert ServerError(text).about_schema is about


def test_a_machine_without_file_descriptors_is_no_fault_of_the_server() -> None:
    with pytest.raises(OSError, match="Too many") as caught:
        transport_fault(OSError(errno.EMFILE, "Too many open files"), None)
    assert caught.value.errno == errno.EMFILE
    assert transport_fault(OSError(errno.ECONNRESET, "x"), None).kind is RewriteFault.CONNECTION
    assert transport_fault(OSError(errno.ECONNRESET, "x"), 200).kind is RewriteFault.TRUNCATED
