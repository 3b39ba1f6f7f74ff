"""How settings are declared: bounded, documented, and tagged `content` or `run`.

`content` settings decide the bytes of the dataset and enter its fingerprint; `run` settings
(timeouts, workers, concurrency) may differ between a build and its continuation.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of every settings section: frozen, no unknown names, finite numbers, defaults checked
    too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def content(default: Any, description: str, **bounds: Any) -> Any:
    """A setting that changes the dataset's bytes. `bounds` are pydantic's (ge, le, ...)."""
    return Field(default, description=description, json_schema_extra={"tag": "content"}, **bounds)


def run(default: Any, description: str, **bounds: Any) -> Any:
    """A setting that changes only how the build runs."""
    return Field(default, description=description, json_schema_extra={"tag": "run"}, **bounds)
