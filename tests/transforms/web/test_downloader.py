"""The thread behind the DoFn: memory bound, no lock-ups, clean restarts, nothing leaked."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import SampleBatch
from facecap.transforms.download import DownloadDoFn
from tests.servers import ImageServer, Route
from tests.transforms.test_download import make_batch, make_options, rows, run_bundle


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with ImageServer(
        {
            "/ok": b"body",
            "/big": b"x" * 10_000,
            "/slow": Route(b"slow", delay=0.1),
            "/slower": Route(b"slower", delay=1.0),
            "/private": Route(status=302, headers={"Location": "http://10.0.0.1/"}),
        }
    ) as running:
        yield running


def test_a_bundle_after_a_failed_one_starts_clean(
    server: ImageServer, caplog: pytest.LogCaptureFixture
) -> None:
    dofn = DownloadDoFn(make_options(server, prefetch_bytes=1), 4)
    dofn.setup()
    dofn.start_bundle()
    list(dofn.process(make_batch(server, ["/slower", "/big", "/big"])))  # and then Beam gives up
    time.sleep(0.2)
    start = time.monotonic()
    got = run_bundle(dofn, [make_batch(server, ["/ok", "/big"], shard=1)])
    assert time.monotonic() - start < 0.8
    assert rows(got) == [1000, 1001]
    dofn.teardown()
    assert not caplog.records, "what the desk cancels is no defect"


def test_bodies_in_memory_stay_within_budget(server: ImageServer) -> None:
    options = make_options(server, prefetch_bytes=50_000, concurrency=4, per_host=4)
    dofn = DownloadDoFn(options, 4)
    dofn.setup()
    dofn.start_bundle()
    before = server.paths().count("/big")
    stream = dofn.process(make_batch(server, ["/big"] * 100))
    list(stream)  # returns at once: all 100 rows fit the lookahead
    time.sleep(0.5)  # the later stages are busy
    assert 5 <= server.paths().count("/big") - before <= 5 + 4
    got = [windowed.value for windowed in dofn.finish_bundle()]
    assert rows(got) == list(range(100))
    dofn.teardown()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_body_over_budget_never_locks_up(server: ImageServer, concurrency: int) -> None:
    """Neither what waits for a batch to fill nor a second instance may keep the gate shut."""
    options = make_options(server, prefetch_bytes=1, concurrency=concurrency)
    first = DownloadDoFn(options, 4)
    second = pickle.loads(pickle.dumps(first))
    first = pickle.loads(pickle.dumps(first))
    got: list[SampleBatch] = []

    def work(dofn: DownloadDoFn, shard: int) -> None:
        dofn.setup()
        got.extend(run_bundle(dofn, [make_batch(server, ["/big"] * 11, shard)]))
        dofn.teardown()

    threads = [
        threading.Thread(target=work, args=(dofn, shard), daemon=True)
        for shard, dofn in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert rows(got) == [*range(11), *range(1000, 1011)]


@pytest.mark.timeout(30)
def test_a_download_cancelled_from_inside_is_not_lost(server: ImageServer) -> None:
    dofn = DownloadDoFn(make_options(server), 4)
    dofn.setup()
    dofn.start_bundle()
    list(dofn.process(make_batch(server, ["/slower", "/ok"])))
    engine = dofn._desk._engine
    time.sleep(0.3)  # /slower is waiting for robots.txt or its answer

    async def cancel_inside() -> None:
        for task in dofn._desk.tasks:
            task.cancel()

    engine.call(cancel_inside())
    samples = {s.row: s for w in dofn.finish_bundle() for s in w.value.samples}
    assert samples[1].drop is None
    drop = samples[0].drop
    assert drop is not None and drop.reason is Reason.INTERNAL_ERROR
    dofn.teardown()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts entries, nothing more


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_nothing_leaks(server: ImageServer) -> None:
    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def use(finish: bool) -> None:
        dofn = pickle.loads(pickle.dumps(DownloadDoFn(make_options(server), 4)))
        twin = pickle.loads(pickle.dumps(dofn))
        for instance in (dofn, twin):
            instance.setup()
            instance.start_bundle()
        assert dofn._downloader is twin._downloader, "one downloader per process"
        list(dofn.process(make_batch(server, ["/slower", "/ok", "/404", "/private"])))
        list(twin.process(make_batch(server, ["/ok"] * 20)))
        if finish:
            list(dofn.finish_bundle())
        dofn.teardown()
        assert rows([w.value for w in twin.finish_bundle()]) == list(range(20))
        twin.teardown()

    use(finish=True)
    threads, files, native = threading.active_count(), open_files(), tasks()
    for _ in range(3):
        use(finish=False)
    time.sleep(0.3)
    assert threading.active_count() <= threads
    assert not [t for t in threading.enumerate() if t.name == "facecap-download"]
    assert open_files() <= files + 2, "the server, in this process too, may be closing its ends"
    assert tasks() <= native


def test_downloading_overlaps_computing(server: ImageServer) -> None:
    dofn = DownloadDoFn(make_options(server, per_host=4), 4)
    dofn.setup()
    dofn.start_bundle()
    start = time.monotonic()
    list(dofn.process(make_batch(server, ["/slow"] * 32)))  # 0.8 s of downloading
    time.sleep(0.9)  # and as much of computing
    finish = time.monotonic()
    assert rows([windowed.value for windowed in dofn.finish_bundle()]) == list(range(32))
    assert time.monotonic() - finish < 0.3
    assert time.monotonic() - start < 1.5
    dofn.teardown()
