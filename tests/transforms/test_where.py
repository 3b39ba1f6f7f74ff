"""input.where: SQL as users know it, about the row alone, and one line where it is not."""

from __future__ import annotations

import pickle
import threading
import time

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facecap.transforms.where import FUNCTIONS, Where, WhereError, check
from tests.memory import forget_peak, peak_bytes

ROWS = pa.table(
    {
        "url": ["http://h/a.jpg", "http://h/b.png", "http://h/c.jpg", None],
        "NSFW": ["UNLIKELY", "NSFW", None, "UNLIKELY"],
        "punsafe": pa.array([0.1, 0.9, 0.2, None], pa.float32()),
        "score": ["0.5", "x", "1e3", ""],
        "size": pa.array([1, 2, 3, 4], pa.int64()),
        "tags": [["a"], [], None, ["a", "b"]],
        "about": [{"w": 1}, {"w": 2}, None, {"w": 4}],
        "day": pa.array([0, 86_400_000_000, None, 1], pa.timestamp("us", "UTC")),
        "Two Words": ["x", "y", "z", None],
        "same": [1, 1, 1, 1],
        "Same": [2, 2, 2, 2],
        "nothing": pa.nulls(4),
    }
)
TYPES = dict(zip(ROWS.schema.names, ROWS.schema.types, strict=True))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("punsafe < 0.5 AND NSFW = 'UNLIKELY'", [True, False, None, None]),
        ("PUNSAFE < .5 or nsfw is null -- a comment", [True, False, True, None]),
        ("CAST(score AS DOUBLE) > 0.7", [False, None, True, None]),
        ("size % 2 = 0", [False, True, False, True]),
        ("NSFW NOT IN ('NSFW', 'UNSURE')", [True, False, None, True]),
        ("url LIKE '%.jpg'", [True, False, True, None]),
        ("regexp_matches(lower(url), 'B[.]')", [False, False, False, None]),
        ("list_contains(tags, 'b')", [False, False, None, True]),
        ("about.w >= 2 AND tags[1] = 'a'", [False, None, None, True]),
        ("day >= TIMESTAMPTZ '1970-01-02'", [False, True, None, False]),
        ("\"Two Words\" = 'y'", [False, True, False, None]),
        ("CASE WHEN size > 2 THEN punsafe < 1 ELSE true END", [True, True, True, None]),
        ("size BETWEEN 2 AND 3 AND coalesce(NSFW, 'NSFW') = 'NSFW'", [False, True, True, False]),
        ("nothing IS NULL", [True, True, True, True]),
    ],
)
def test_conditions(condition: str, expected: list[bool | None]) -> None:
    where = pickle.loads(pickle.dumps(check(condition, TYPES)))
    assert where.satisfied(ROWS) == expected
    assert [where.satisfied(ROWS.slice(n, 1))[0] for n in range(4)] == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "nosuch > 3",
            r"no column 'nosuch'; the columns are: url \(string\), NSFW \(string\), pun",
        ),
        ("punsafe <", "is no SQL expression .*syntax error"),
        ("punsafe", "is FLOAT, not true or false"),
        ("score > 3", r"Cannot compare .* write CAST\(NAME AS DOUBLE\)"),
        ("true", "names no column"),
        ("  ", "is empty"),
        ("-- x", "not allowed|is no SQL"),
        ("same = 1", "same and Same differ in case alone"),
        ("punsafe < 0.5; SELECT 1", "is no SQL expression"),
        ("size > 1) FROM rows; DROP TABLE x; SELECT (size > 1", "is no SQL|several statements"),
        ("size > 1) , (size > 1", "must be one expression"),
        ("size IN (SELECT 1)", "subquery is not allowed"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "subquery is not allowed"),
        ("url = getenv('HOME')", "the function getenv is not allowed; these are: abs, .*upper"),
        ("list_contains(glob('/*'), url)", "the function glob is not allowed"),
        ("punsafe < random()", "the function random is not allowed"),
        ("day < now()", "the function now is not allowed"),
        ("day < current_date", "no column 'current_date'"),
        ("sum(size) > 1", "the function sum is not allowed"),
        ("row_number() OVER () > 1", "window is not allowed"),
        ("COLUMNS(*) > 1", "star is not allowed"),
        ("size > ?", "parameter is not allowed"),
        ("len(list_filter(tags, x -> true)) > 1", "not allowed"),
        ("NSFW COLLATE nocase = 'x'", "collate is not allowed"),
        ("rows IS NULL", "no column 'rows'"),
        ("url = '" + "x" * 20_000 + "'", "longer than 10000 characters"),
        ("NOT " * 2000 + "size > 1", "."),
        ("(" * 4000 + "size > 1" + ")" * 4000, "."),
        ("url = '\ud800'", "."),
    ],
)
def test_what_is_not_about_the_row_alone_is_refused(condition: str, message: str) -> None:
    with pytest.raises(WhereError, match=message) as refused:
        check(condition, TYPES)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 2000


_TOKENS = (
    "punsafe size url NSFW ( ) ( ) , ; = < AND OR NOT NULL 'x' \" 1 0.5 -- /* */ :: CAST AS INT "
    "SELECT FROM rows WHERE IN LIKE CASE WHEN THEN END [ ] { } : . * $1 ? -> read_csv random now "
    "lower WITH UNION PIVOT OVER INTERVAL DAY"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_TOKENS.split()), max_size=12).map(" ".join) | st.text(max_size=20))
@example("size > 1\x00")
def test_any_text_is_a_condition_or_one_line(condition: str) -> None:
    try:
        where = check(condition, TYPES)
    except WhereError as error:
        assert "\n" not in str(error)
    else:
        first = where.satisfied(ROWS)
        assert len(first) == 4 and set(first) <= {True, False, None}
        assert where.satisfied(ROWS) == first


def test_every_listed_function_exists() -> None:
    import duckdb

    known = {
        name for (name,) in duckdb.sql("SELECT function_name FROM duckdb_functions()").fetchall()
    }
    rewritten = {"coalesce", "ifnull", "nullif", "position"}  # by the parser
    assert FUNCTIONS - known <= rewritten


def test_no_listed_function_is_volatile() -> None:
    import duckdb

    rows = duckdb.sql("SELECT function_name, function_type, stability FROM duckdb_functions()")
    bad = {
        n
        for n, kind, stability in rows.fetchall()
        if kind == "scalar" and stability != "CONSISTENT"
    }
    assert not FUNCTIONS & bad


def test_threads_do_not_disturb_each_other() -> None:
    where = check("size > 2", TYPES)
    wrong = []

    def look() -> None:
        for _ in range(20):
            if where.satisfied(ROWS) != [False, False, True, True]:
                wrong.append(1)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_is_cheap_and_keeps_no_memory() -> None:
    rows = 2048
    table = pa.table({"punsafe": [n / rows for n in range(rows)], "NSFW": ["UNLIKELY"] * rows})
    where = Where("punsafe < 0.5 AND NSFW = 'UNLIKELY'", ("NSFW", "punsafe"))
    assert sum(map(bool, where.satisfied(table))) == rows / 2
    forget_peak()
    before, start = peak_bytes(), time.process_time()
    for _ in range(100):
        where.satisfied(table)
    assert (time.process_time() - start) / (100 * rows) < 20e-6  # measured: 2 us
    assert peak_bytes() - before < 32 << 20


def test_a_row_that_duckdb_refuses_costs_no_other_row() -> None:
    where = check("TEXT LIKE '1%!' ESCAPE '!'", {"TEXT": pa.string()})
    rows = pa.table({"TEXT": ["x", "http://127.0.0.1/a,100%!", "100%!", None]})
    found = where.satisfied(rows)
    assert found == [False, False, None, None]
    assert found == [where.satisfied(rows.slice(n, 1))[0] for n in range(4)]


def test_a_condition_that_no_text_can_be_asked_is_refused() -> None:
    with pytest.raises(WhereError, match="escape string"):
        check("TEXT LIKE '%5' ESCAPE 'xx'", {"TEXT": pa.string()})
