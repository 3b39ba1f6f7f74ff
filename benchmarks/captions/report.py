"""Tables, and the document that holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "captions-figures.md"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    rule = [":--", *["--:"] * (len(head) - 1)]
    lines = [[_cell(value) for value in row] for row in (head, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def write_section(name: str, body: str, command: str, document: Path = DOCUMENT) -> None:
    """Replaces what stands between the marks of section `name` in `document` by the command line
    and `body`. Raises `ValueError` where the document has no such section."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = document.read_text("utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new = f"{begin}\n## {name.capitalize()}\n\n`{command}`\n\n{body.strip()}\n{end}"
    replaced, count = pattern.subn(lambda _: new, text)
    if count != 1:
        raise ValueError(f"{document}: must have one section {name}, has {count}")
    document.write_text(replaced, "utf-8")
