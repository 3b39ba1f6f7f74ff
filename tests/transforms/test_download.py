"""The stage: options, the DoFn and its thread, and a real Beam pipeline."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.download import Download, DownloadDoFn, DownloadOptions
from facecap.transforms.web import fetch
from tests.servers import ImageServer, Route

SPECS = [ShardSpec(k, 1000 * k, (InputRange("x", 1000 * k, 1000),)) for k in range(4)]
MISSING = Drop(Stage.READ, Reason.MISSING_URL)


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    routes: dict[str, Any] = {
        "/ok": b"body",
        "/big": b"x" * 10_000,
        "/404": Route(status=404),
        "/503": Route(status=503),
        "/slow": Route(b"slow", delay=0.1),
        "/slower": Route(b"slower", delay=1.0),
        "/private": Route(status=302, headers={"Location": "http://10.0.0.1/"}),
        "/cut": Route(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
        "/empty": b"",
    }
    with ImageServer(routes) as running:
        yield running


def make_options(server: ImageServer, **changes: Any) -> DownloadOptions:
    given = {"allow_private_hosts": (server.host_port,), "timeout_s": 5.0, "retries": 0}
    return DownloadOptions(**{**given, **changes})


def make_batch(
    server: ImageServer, paths: list[str], shard: int = 0, first: int = 0
) -> SampleBatch:
    rows = range(SPECS[shard].first_row + first, SPECS[shard].first_row + first + len(paths))
    return SampleBatch(
        SPECS[shard],
        tuple(
            Sample(row, server.url(path) if path else "", drop=None if path else MISSING)
            for row, path in zip(rows, paths, strict=True)
        ),
    )


def run_dofn(
    options: DownloadOptions, batches: list[SampleBatch], batch_size: int = 4
) -> list[SampleBatch]:
    """Run a DoFn through one bundle of batches, as Beam would."""
    dofn = DownloadDoFn(options, batch_size)
    dofn.setup()
    try:
        return run_bundle(dofn, batches)
    finally:
        dofn.teardown()


def run_bundle(dofn: DownloadDoFn, batches: list[SampleBatch]) -> list[SampleBatch]:
    dofn.start_bundle()
    got = [out for batch in batches for out in dofn.process(batch)]
    return got + [windowed.value for windowed in dofn.finish_bundle()]


def rows(batches: list[SampleBatch]) -> list[int]:
    return sorted(sample.row for batch in batches for sample in batch.samples)


# Options


def test_every_option_has_a_tag_and_a_description() -> None:
    content = set()
    for name, field in DownloadOptions.model_fields.items():
        assert field.description
        assert isinstance(field.json_schema_extra, dict)
        if field.json_schema_extra["tag"] == "content":
            content.add(name)
    assert content == {
        "allow_private_hosts",
        "max_bytes",
        "max_redirects",
        "respect_robots",
        "user_agent",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout_s", 0),
        ("concurrency", 0),
        ("per_host", 0),
        ("max_bytes", 0),
        ("retries", -1),
        ("max_redirects", 21),
        ("prefetch_bytes", 0),
        ("allow_private_hosts", ["http://x"]),
        ("contact", "a\r\nX-Evil: 1"),
        ("user_agent", ""),
        ("user_agent", "1bot"),
    ],
)
def test_bad_options_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        DownloadOptions(**{name: value})


def test_user_agent() -> None:
    assert DownloadOptions().product == "facecap"
    options = DownloadOptions(user_agent="mybot/2.0", contact="me@example.org")
    assert options.product == "mybot"
    assert options.user_agent_header == "mybot/2.0 (+me@example.org)"
    assert pickle.loads(pickle.dumps(options)) == options


# The DoFn

PATHS = ["/ok", "/big", "/404", "/503", "/slow", "/private", "/cut", "/empty", "", "/no"]
REASONS = {
    "/404": Reason.NOT_FOUND,
    "/no": Reason.NOT_FOUND,
    "/503": Reason.SERVER_ERROR,
    "/private": Reason.PRIVATE_ADDRESS,
    "/cut": Reason.TRUNCATED_BODY,
    "/empty": Reason.EMPTY_BODY,
    "": Reason.MISSING_URL,
}


@given(
    batches=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.sampled_from(PATHS), max_size=12)), max_size=6
    ),
    batch_size=st.integers(1, 9),
    lookahead=st.sampled_from([0, 3, 1000]),
    prefetch=st.sampled_from([1, 10_000, 10**9]),
    concurrency=st.sampled_from([1, 4, 64]),
)
@settings(max_examples=25, deadline=None)
def test_conservation(
    server: ImageServer,
    batches: list[tuple[int, list[str]]],
    batch_size: int,
    lookahead: int,
    prefetch: int,
    concurrency: int,
) -> None:
    options = make_options(
        server,
        lookahead_rows=lookahead,
        prefetch_bytes=prefetch,
        concurrency=concurrency,
        per_host=concurrency,
    )
    seen: Counter[int] = Counter()
    expected: dict[int, tuple[int, str]] = {}
    elements = []
    for shard, paths in batches:
        batch = make_batch(server, paths, shard, first=seen[shard])
        seen[shard] += len(paths)
        elements.append(batch)
        expected |= {s.row: (shard, path) for s, path in zip(batch.samples, paths, strict=True)}
    got = run_dofn(options, elements, batch_size)
    assert rows(got) == sorted(expected)
    for batch in got:
        assert 1 <= len(batch) <= batch_size and batch.failure is None
        for sample in batch.samples:
            shard, path = expected[sample.row]
            assert batch.shard.number == shard
            assert (sample.drop.reason if sample.drop else None) == REASONS.get(path)
            if sample.drop is None:
                assert sample.fetched and sample.fetched.body and sample.fetched.sha256


def test_status_is_kept_on_drops(server: ImageServer) -> None:
    (batch,) = run_dofn(make_options(server), [make_batch(server, ["/404", "/private"])])
    by_row = {sample.row: sample.fetched for sample in batch.samples}
    assert by_row == {0: Fetched(http_status=404), 1: Fetched(http_status=None)}


def test_a_failed_batch_passes_at_once(server: ImageServer) -> None:
    dofn = DownloadDoFn(make_options(server), 4)
    dofn.setup()
    dofn.start_bundle()
    failed = SampleBatch(SPECS[0], (Sample(0, server.url("/ok")),), failure="read: boom")
    assert list(dofn.process(failed)) == [failed]
    assert list(dofn.finish_bundle()) == []
    dofn.teardown()


def test_a_slow_row_holds_back_nothing_but_its_shard_tail(server: ImageServer) -> None:
    dofn = DownloadDoFn(make_options(server, lookahead_rows=1), 4)
    dofn.setup()
    dofn.start_bundle()
    start = time.monotonic()
    first = list(dofn.process(make_batch(server, ["/slower"] + ["/ok"] * 8, 0)))
    second = list(dofn.process(make_batch(server, ["/ok"] * 3, 1)))
    assert time.monotonic() - start < 0.8
    assert rows(first + second) == [*range(1, 9), 1000, 1001, 1002]
    tail = list(dofn.finish_bundle())
    assert [sample.row for batch in tail for sample in batch.value.samples] == [0]
    dofn.teardown()


def test_lookahead_is_bounded(server: ImageServer) -> None:
    dofn = DownloadDoFn(make_options(server, lookahead_rows=10, per_host=2), 4)
    dofn.setup()
    dofn.start_bundle()
    got = []
    for turn in range(8):
        got += list(dofn.process(make_batch(server, ["/slow"] * 4, 0, first=4 * turn)))
        assert dofn._desk.in_flight <= 10
    got += [windowed.value for windowed in dofn.finish_bundle()]
    assert rows(got) == list(range(32))
    dofn.teardown()


@pytest.mark.parametrize(
    ("error", "fails_the_shard"), [(TypeError("broken"), True), (ZeroDivisionError("odd"), False)]
)
def test_a_defect_is_neither_lost_nor_an_outcome(
    server: ImageServer,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    fails_the_shard: bool,
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(fetch, "reservation", broken)
    got = run_dofn(make_options(server), [make_batch(server, ["/ok", "/404"])])
    by_row = {sample.row: (sample.drop, batch.failure) for batch in got for sample in batch.samples}
    assert by_row[1][0] == Drop(Stage.DOWNLOAD, Reason.NOT_FOUND, "HTTP 404")
    drop, failure = by_row[0]
    if fails_the_shard:
        assert drop is None and failure is not None and "download: TypeError" in failure
    else:
        assert drop is not None and failure is None
        assert drop.reason is Reason.INTERNAL_ERROR and "ZeroDivisionError" in (drop.error or "")


# Beam


def test_in_a_pipeline(server: ImageServer) -> None:
    elements = [
        make_batch(server, ["/ok", "/404", "/slow", ""], 0),
        make_batch(server, ["/ok"] * 7, 1),
        make_batch(server, ["/cut", "/big"], 2),
    ]

    def check(got: list[SampleBatch]) -> None:
        assert rows(got) == [*range(4), *range(1000, 1007), 2000, 2001]
        reasons = {s.row: s.drop.reason for batch in got for s in batch.samples if s.drop}
        assert reasons == {
            1: Reason.NOT_FOUND,
            3: Reason.MISSING_URL,
            2000: Reason.TRUNCATED_BODY,
        }
        assert max(map(len, got)) <= 4

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        batches = (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(lambda _: elements)
            | Download(make_options(server), 4)
        )
        assert_that(batches, check)
    assert not [t for t in threading.enumerate() if t.name == "facecap-download"]


def test_a_failing_pipeline_closes_the_downloader(server: ImageServer) -> None:
    elements = [make_batch(server, ["/ok"] * 8 + ["/slower"], 0)]

    def fail(batch: SampleBatch) -> SampleBatch:
        raise OSError(f"disk full at {len(batch)}")

    with (
        pytest.raises(Exception, match="disk full"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        _ = (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(lambda _: elements)
            | Download(make_options(server), 4)
            | beam.Map(fail)
        )
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(
        thread.name == "facecap-download" for thread in threading.enumerate()
    ):
        time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name == "facecap-download"]
