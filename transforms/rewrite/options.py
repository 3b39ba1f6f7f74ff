"""The settings of the rewriting."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator
from yarl import URL

from facecap.schemas.options import Options, content, run


class RewriteOptions(Options):
    """How an LLM rewrites the grammar's captions. Limits are per worker process."""

    backend: Literal["none", "openai", "transformers"] = content(
        "none",
        "none; openai: a server of OpenAI's protocol (vLLM, SGLang, llama.cpp, a hosted one); "
        "transformers: in this process, with the extra [transformers]",
    )
    model: str = content(
        "Qwen/Qwen2.5-7B-Instruct",
        "the model's name at the server, or on Hugging Face; for transformers also a folder",
        min_length=1,
        max_length=300,
    )
    temperature: float = content(0.7, "sampling temperature; 0: the likeliest word", ge=0, le=2)
    top_p: float = content(0.9, "share of the probability that is sampled from", gt=0, le=1)
    max_tokens: int = content(200, "tokens an answer may have", ge=16, le=4096)
    seed: int = content(0, "seed of the styles and of the sampling", ge=0)
    # Its place is no content; its sha256 enters the fingerprint.
    prompts: str | None = run(None, "YAML file of another prompt set; null: the packaged one")
    styles: tuple[str, ...] | None = content(
        None, "styles of the prompt set to draw from, in turn by chance; null: all of them"
    )
    structured: Literal["auto", "always", "never"] = content(
        "auto",
        "JSON by schema (response_format): auto: where the server takes it; always: a server that "
        "does not fails the build; never",
    )
    base_url: str = run(
        "http://127.0.0.1:8000/v1", "the server, up to and with its version, usually /v1"
    )
    api_key_env: str = run(
        "OPENAI_API_KEY", "environment variable that holds the server's key; unset: none is sent"
    )
    concurrency: int = run(64, "requests at a time", ge=1, le=4096)
    timeout_s: float = run(60.0, "seconds per request, connecting included", ge=0.1, le=3600)
    retries: int = run(
        4, "further attempts after 429, 5xx, a timeout or a lost connection", ge=0, le=20
    )
    min_answered: float = run(
        0.9,
        "share of a shard's captions that must be answered, well or badly; with less, the shard "
        "stays uncommitted",
        ge=0,
        le=1,
    )
    reuse: int = content(
        1,
        "faces with equal labels that may share a rewrite, in `facecap recaption` "
        "(a build does not know yet how many there will be)",
        ge=1,
        le=1000,
    )
    block_shards: int = content(
        64, "consecutive shards within which rewrites are shared", ge=1, le=100_000
    )
    batch_size: int = run(16, "transformers: captions generated at a time", ge=1, le=1024)
    device: str = run("auto", "transformers: auto (cuda where there is one), cpu, cuda, cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = content(
        "auto", "transformers: numbers computed with; auto: the model's own"
    )
    revision: str | None = content(
        None, "transformers: commit of the model on Hugging Face; null: the newest"
    )

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, text: str) -> str:
        try:
            url = URL(text)
        except ValueError:
            raise ValueError("is no URL") from None
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise ValueError("must be like http://HOST:PORT/v1")
        if url.user is not None or url.password is not None:
            raise ValueError(
                "must hold no key: name an environment variable in rewrite.api_key_env"
            )
        return text.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("must be the NAME of an environment variable, not the key")
        return name

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return name

    @field_validator("styles")
    @classmethod
    def _styles_are_names(cls, styles: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if styles is not None and (not styles or len(set(styles)) < len(styles)):
            raise ValueError("must be a list of different names")
        return styles
