"""`facecap models list`: the registry as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from facecap.transforms.models import REGISTRY, ModelError, locate


def print_models() -> None:
    """Print every registered model, whether it is here, and where it comes from."""
    table = Table()
    for heading in ("name", "kind", "here", "licence", "source"):
        table.add_column(heading)
    for entry in REGISTRY.values():
        try:
            locate(entry.name, None)
            here = "yes"
        except ModelError:
            here = "no"
        table.add_row(entry.name, entry.kind, here, entry.licence, entry.source)
    Console().print(table)
