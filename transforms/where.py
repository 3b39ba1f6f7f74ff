"""input.where: a SQL condition over the input's columns, checked when the build is planned and
looked at once per Arrow batch, in DuckDB.

Only an expression over the row itself is let through: equal rows must give equal answers in every
run, so no subqueries, no functions but those listed here, no clock, no files, no settings.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

MAX_LENGTH = 10_000

_NAMES = (
    "+ - * / // % ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape "
    "|| ^@ abs sign round floor ceil ceiling trunc least greatest ln log log2 log10 sqrt exp pow "
    "power mod isnan isinf isfinite coalesce ifnull nullif lower upper lcase ucase length len "
    "strlen trim ltrim rtrim left right substr substring replace split_part concat contains "
    "starts_with prefix suffix ends_with strpos instr position regexp_matches regexp_full_match "
    "regexp_extract regexp_replace list_contains list_has array_contains array_has list_has_any "
    "list_has_all list_position list_extract array_extract array_length struct_extract "
    "date_part date_trunc year month day hour minute second to_days to_hours to_minutes "
    "to_seconds to_months to_years"
)
FUNCTIONS = frozenset(_NAMES.split())
"""Functions and operators of DuckDB that may be used: of the row alone, the same everywhere."""

_ALLOWED = "BETWEEN CASE CAST COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION OPERATOR TYPE"
_CLASSES = frozenset(_ALLOWED.split())
_QUERY = "SELECT ({}\n) FROM rows"  # the line's end ends a comment
_TRY = "SELECT TRY(({}\n)) FROM rows"


class WhereError(ValueError):
    """A condition that cannot be used; the text says why, and the remedy."""


@dataclass(frozen=True)
class Where:
    """A condition that was checked against the input, and the columns it looks at."""

    condition: str
    columns: tuple[str, ...]

    def satisfied(self, rows: pa.Table) -> list[bool | None]:
        """For each row of a table that holds `columns` whether it satisfies the condition; None
        where SQL says NULL or the condition cannot be evaluated (a cast of a text that is no
        number). Texts must be UTF-8."""
        import duckdb

        try:
            return self._evaluate(rows)
        # TRY does not catch them all (a bad ESCAPE); one row must not take the others along.
        except (
            duckdb.DataError,
            duckdb.NotSupportedError,
            duckdb.OutOfMemoryException,
            duckdb.ProgrammingError,
        ):
            if len(rows) == 1:
                return [None]
            return [self.satisfied(rows.slice(n, 1))[0] for n in range(len(rows))]

    def _evaluate(self, rows: pa.Table) -> list[bool | None]:
        """As `satisfied`; raises duckdb.Error."""
        found = _query(rows.select(self.columns), _TRY.format(self.condition))
        values: list[bool | None] = found.to_arrow_table().column(0).to_pylist()
        return values


def check(condition: str, types: Mapping[str, pa.DataType]) -> Where:
    """`condition` over an input with columns of these types. Raises WhereError."""
    import duckdb

    if not condition.strip():
        raise WhereError("is empty; leave it out, or write a condition")
    if len(condition) > MAX_LENGTH:
        raise WhereError(f"is longer than {MAX_LENGTH} characters; filter the list beforehand")
    try:
        tree = _parse(condition)
        columns = _columns(tree, types)
        empty = pa.table({name: pa.array([], types[name]) for name in columns})
        (kind,) = _query(empty, _QUERY.format(condition)).types
        where = Where(condition, columns)
        where._evaluate(empty)
        made_up = [
            pa.array(["x"] if pa.types.is_string(t) else [None], t) for t in empty.schema.types
        ]
        where._evaluate(pa.table(made_up, list(columns)))
    except (duckdb.Error, pa.ArrowException, UnicodeError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        if "Cannot compare" in reason or "No function matches" in reason:
            reason += "; write CAST(NAME AS DOUBLE) where a text holds numbers"
        raise WhereError(f"{reason}; {_has(types)}") from None
    if str(kind) != "BOOLEAN":
        raise WhereError(f"is {str(kind)[:60]}, not true or false; compare it with something")
    return where


def _query(rows: pa.Table, query: str) -> duckdb.DuckDBPyRelation:
    relation = _connection().from_arrow(rows).query("rows", query)
    assert relation is not None  # it is a SELECT
    return relation


def _has(types: Mapping[str, pa.DataType]) -> str:
    text = ", ".join(f"{name} ({str(kind)[:30]})" for name, kind in types.items())
    return f"the columns are: {text[:600]}"


def _parse(condition: str) -> Any:
    """The syntax tree of the condition. Raises WhereError where it is more than an expression."""
    wanted = _select("true")
    found = _select(condition)
    if {**found, "select_list": 0} != {**wanted, "select_list": 0} or len(found["select_list"]) > 1:
        raise WhereError("must be one expression such as: punsafe < 0.5 AND NSFW = 'UNLIKELY'")
    return found["select_list"][0]


def _select(condition: str) -> dict[str, Any]:
    query = _QUERY.format(condition)
    row = _connection().execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    tree = _without_places(json.loads(row[0][0]))
    if tree["error"]:
        reason = " ".join(str(tree["error_message"]).split("\n")[0].split())[:200]
        raise WhereError(f"is no SQL expression ({reason})")
    if len(tree["statements"]) != 1:
        raise WhereError("must be one expression, not several statements")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        kept = ((k, v) for k, v in tree.items() if not k.startswith("query_location"))
        return {key: _without_places(value) for key, value in kept}
    return [_without_places(item) for item in tree] if isinstance(tree, list) else tree


def _columns(tree: Any, types: Mapping[str, pa.DataType]) -> tuple[str, ...]:
    """The columns that the condition names. Raises WhereError on one that is not there, and on
    whatever else is not allowed."""
    by_case: dict[str, list[str]] = {}
    for name in types:
        by_case.setdefault(name.lower(), []).append(name)  # SQL tells no case
    named: set[str] = set()
    for node in _expressions(tree):
        kind = node["class"]
        if kind not in _CLASSES:
            words = str(kind).lower().replace("_", " ")
            raise WhereError(f"a {words} is not allowed; use the row's columns and constants alone")
        if kind == "FUNCTION" and node["function_name"].lower() not in FUNCTIONS:
            raise WhereError(
                f"the function {node['function_name']} is not allowed; these are: "
                f"{', '.join(sorted(f for f in FUNCTIONS if f.isidentifier()))}"
            )
        if kind == "COLUMN_REF":
            name = str(node["column_names"][0])
            matching = by_case.get(name.lower(), [])
            if not matching:
                raise WhereError(f"the input has no column {name!r}; {_has(types)}")
            if len(matching) > 1:
                raise WhereError(f"{' and '.join(matching)} differ in case alone; rename one")
            named.add(matching[0])
    if not named:
        raise WhereError(f"names no column; {_has(types)}")
    return tuple(sorted(named))


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _expressions(item)


_local = threading.local()


def _connection() -> duckdb.DuckDBPyConnection:
    """This thread's own: a connection serves one thread at a time."""
    if not hasattr(_local, "connection"):
        _local.connection = _connect()
    connection: duckdb.DuckDBPyConnection = _local.connection
    return connection


def _connect() -> duckdb.DuckDBPyConnection:
    """DuckDB with neither files, network nor extensions, on one thread, with little memory."""
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "python_enable_replacements": "false",
            "threads": "1",
            "memory_limit": "256MB",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection
