"""All misbehaviours at once through the stage, round after round: nothing hangs, no row is lost,
and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from facecap.schemas.outcomes import Reason
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms.download import DownloadDoFn
from facecap.transforms.web import hosts
from tests.hostile import HostileServer
from tests.servers import ImageServer, Route
from tests.transforms.test_download import run_bundle
from tests.transforms.web.test_hostile import settings_for

TIMEOUT_S = 2.0
ROUNDS = 4


@dataclass(frozen=True)
class Resources:
    """What this process holds."""

    tasks: int
    sockets: int
    files: int
    threads: int
    rss: int

    @classmethod
    def now(cls, loop: asyncio.AbstractEventLoop | None) -> Resources:
        gc.collect()
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
        targets = [str(link.readlink()) for link in links if link.is_symlink()]
        return cls(
            tasks=len(asyncio.all_tasks(loop)) if loop else 0,
            sockets=sum(target.startswith("socket:") for target in targets),
            files=len(targets),
            threads=threading.active_count(),
            rss=rss(),
        )


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_rounds_of_everything_hostile_end_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "MAX_PAUSE_S", 0.2)  # or a Retry-After of years takes a minute
    monkeypatch.setattr(hosts, "FREE_PAUSE_S", 0.4)
    settings = settings_for(
        timeout_s=TIMEOUT_S, retries=1, per_host=64, concurrency=256, respect_robots=True
    )
    uvloop.new_event_loop().close()  # the first one opens a pipe for the life of the process
    before = Resources.now(None)
    held: list[Resources] = []
    with HostileServer() as server:
        dofn = pickle.loads(pickle.dumps(DownloadDoFn(settings, 32)))
        dofn.setup()
        loop = dofn._desk._engine.loop
        for number in range(ROUNDS):
            urls = [f"{url}?{number}" for url in server.urls()] * 2
            spec = ShardSpec(number, 1000 * number, (InputRange("x", 1000 * number, len(urls)),))
            samples = tuple(Sample(spec.first_row + n, url) for n, url in enumerate(urls))
            batches = [
                SampleBatch(spec, samples[at : at + 32]) for at in range(0, len(samples), 32)
            ]
            start = time.monotonic()
            got = [sample for batch in run_bundle(dofn, batches) for sample in batch.samples]
            seconds = time.monotonic() - start
            # Some wait for one of 64 slots; the deadline of each is TIMEOUT_S.
            assert seconds < 15 * TIMEOUT_S, "a round hung"
            assert sorted(s.row for s in got) == [s.row for s in samples], "a row was lost"
            for sample in got:
                assert sample.fetched is not None
                assert sample.drop or sample.fetched.body
                assert not sample.drop or sample.drop.reason is not Reason.INTERNAL_ERROR, sample
            time.sleep(0.2)  # connections that are being closed
            held.append(Resources.now(loop))
        dofn.teardown()
    del dofn, loop
    after = Resources.now(None)
    with capsys.disabled():
        for name, seen in (("before", before), *enumerate(held), ("after", after)):
            print(f"\n{name}: {seen}", end="")
    warm, last = held[0], held[-1]
    assert last.tasks <= warm.tasks, "a task is left from each round"
    # Idle connections are kept for reuse: at most one for each slot of a host.
    assert last.sockets <= warm.sockets + 16
    assert last.threads <= warm.threads + 2
    assert last.rss - held[1].rss < 20e6
    assert (after.files, after.sockets, after.tasks) == (before.files, before.sockets, 0)
    assert after.threads <= before.threads + 1  # aiodns keeps one in each process


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_body_that_breaks_off_is_released_before_garbage_is_collected() -> None:
    """Workers collect it seldom, and 16 MiB are received before such an answer is known for one."""
    size, count = 4 << 20, 50
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * size)
    with ImageServer({"/cut": Route(raw=head + bytes(size))}) as server:
        settings = settings_for(timeout_s=60, max_bytes=3 * size, concurrency=2)
        dofn = pickle.loads(pickle.dumps(DownloadDoFn(settings, 32)))
        dofn.setup()
        grown = []
        gc.collect()
        gc.disable()
        try:
            for number in range(2):  # the first one warms up
                before = rss()
                spec = ShardSpec(number, 0, (InputRange("x", 0, count),))
                samples = tuple(Sample(n, f"{server.url('/cut')}?{n}") for n in range(count))
                found = [
                    s for b in run_bundle(dofn, [SampleBatch(spec, samples)]) for s in b.samples
                ]
                assert {s.drop.reason for s in found if s.drop} == {Reason.TRUNCATED_BODY}
                grown.append(rss() - before)
        finally:
            gc.enable()
            dofn.teardown()
    assert grown[-1] < count * size / 4, grown


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_running_out_of_file_descriptors_is_no_fault_of_a_host() -> None:
    """It fails the shard, instead of turning its rows into unreachable hosts."""
    with HostileServer() as server:
        settings = settings_for(timeout_s=TIMEOUT_S, respect_robots=False)
        dofn = pickle.loads(pickle.dumps(DownloadDoFn(settings, 32)))
        dofn.setup()
        spec = ShardSpec(0, 0, (InputRange("x", 0, 60),))
        urls = [server.url(f"/silent?{n}") for n in range(60)]
        batch = SampleBatch(spec, tuple(Sample(n, url) for n, url in enumerate(urls)))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 10, hard)
        )
        try:
            got = run_bundle(dofn, [batch])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            dofn.teardown()
    assert {b.failure for b in got if b.failure} == {"download: Too many open files"}
    reasons = {s.drop.reason for b in got if not b.failure for s in b.samples if s.drop}
    assert reasons <= {Reason.TIMEOUT}
