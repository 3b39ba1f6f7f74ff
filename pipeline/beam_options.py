"""Options for Apache Beam: those that a runner sets, and those that a person gives after `--`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline.errors import UsageError


def beam_options(flags: Sequence[str], extra: Sequence[str]) -> PipelineOptions:
    """The options of `flags`, which facecap made, and `extra`, which a person gave.

    Raises UsageError on an option that Beam does not know, or a value that it cannot use.
    """
    options = PipelineOptions([*flags, *extra])
    options.get_all_options(add_extra_args_fn=lambda parser: _refuse_unknown(parser, extra))
    return options


def given(extra: Sequence[str]) -> dict[str, Any]:
    """Those options of `extra` that are not Beam's defaults, by Beam's name. Raises UsageError as
    `beam_options` does."""
    return dict(beam_options([], extra).get_all_options(drop_default=True))


def _refuse_unknown(parser: argparse.ArgumentParser, extra: Sequence[str]) -> None:
    def error(message: str) -> NoReturn:
        raise UsageError(f"Beam option: {message}")

    parser.error = error  # type: ignore[method-assign]
    _, unknown = parser.parse_known_args(extra)
    if unknown and unknown[0].startswith("-"):
        raise UsageError(f"{unknown[0]}: Beam knows no such option")
    if unknown:
        # Most likely what the shell made of an unquoted glob.
        raise UsageError(f"{unknown[0]}: not expected here; quote a glob given to --input")
