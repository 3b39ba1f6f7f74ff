"""Grammar errors by both checkers: LanguageTool, and our patterns for what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.captions import agreement, breakages, language_tool
from benchmarks.captions.language_tool import Errors, NotAvailable
from benchmarks.captions.report import percent, table


@dataclass(frozen=True)
class Found:
    """What both found in a set of texts; only ours, and the reason, where LanguageTool did not
    run."""

    errors: Errors
    language_tool: Errors | None
    reason: str = ""

    @property
    def language_tool_per_100(self) -> str:
        return "not run" if self.language_tool is None else f"{self.language_tool.per_100:.2f}"

    @property
    def both_per_100(self) -> str:
        return "not run" if self.language_tool is None else f"{self.errors.per_100:.2f}"


def find(texts: Sequence[str], language: str) -> Found:
    """The errors in `texts`, LanguageTool's by the rules of `language`."""
    ours = agreement.check(texts)
    try:
        matches = language_tool.check(texts, language)
    except NotAvailable as reason:
        return Found(language_tool.summarise(texts, ours), None, str(reason))
    both = language_tool.summarise(texts, [*matches, *ours])
    return Found(both, language_tool.summarise(texts, matches))


def heading() -> str:
    """What counts, for a reader of the figures."""
    return (
        "**Grammar errors**: a caption is wrong where a rule of LanguageTool matches that counts, "
        f"or a pattern of ours (OUR_...). Rules of the types {', '.join(language_tool.TASTE)} do "
        f"not count, but for {', '.join(language_tool.COUNTED_RULES)}. In brackets: what matched."
    )


def rules(name: str, language: str, found: Found) -> str:
    """The most frequent rules in a set of texts, with an example each."""
    errors = found.errors
    title = f"{name} ({language}): {errors.wrong:,} of {errors.texts:,} captions wrong"
    if found.language_tool is None:
        title = f"{title} by our patterns; LanguageTool was not run: {found.reason}"
    rows = [(rule, n, "yes", example) for rule, n, example in errors.rules]
    rows += [(rule, n, "no", example) for rule, n, example in errors.taste]
    if not rows:
        return f"{title}; no rule matched."
    return f"{title}\n\n{table(['rule', 'matches', 'counts', 'example'], rows)}"


def breakage_report(texts: Sequence[str]) -> str:
    """What share of captions broken on purpose both checkers see, by breakage."""
    made = breakages.broken(texts)
    flat = [text for of_kind in made.values() for text in of_kind]
    try:
        matches = language_tool.check(flat)
    except NotAvailable:
        return "LanguageTool was not run: what it sees of broken captions is not known."
    alone = {match.line for match in matches if match.counts}
    both = alone | {match.line for match in agreement.check(flat)}
    rows: list[tuple[object, ...]] = []
    start = 0
    for name, of_kind in [*made.items(), ("all", flat)]:
        lines = set(range(start, start + len(of_kind))) if name != "all" else set(range(len(flat)))
        shares = (percent(len(lines & seen) / len(lines), 0) for seen in (alone, both))
        rows.append((name, len(of_kind), *shares))
        start += len(of_kind)
    head = (
        "What the checkers see of captions of ours that were broken on purpose, once each (our "
        "patterns were written with these breakages in mind):"
    )
    return f"{head}\n\n{table(['breakage', 'captions', 'LanguageTool', 'with ours'], rows)}"
