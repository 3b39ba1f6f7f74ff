"""Redirects into a block list, over HTTP: the row ends by its name, the target is never asked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiodns
import pytest

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.schemas.shard import InputRange, ShardSpec
from facecap.transforms import block_list
from facecap.transforms.download import DownloadDoFn, DownloadOptions
from facecap.transforms.screen import ScreenConfig
from facecap.transforms.web import resolver
from tests.servers import ImageServer, NameServer, Route

SPEC = ShardSpec(0, 0, (InputRange("x", 0, 1),))
NAMES = ("good.test", "img.blocked.test", "blocked.test", "notblocked.test")
"""All are the one server: what is not held back arrives, and is seen to."""


def moved(location: str) -> Route:
    return Route(status=302, headers={"Location": location})


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with ImageServer({"/secret.jpg": b"must not be fetched", "/fine.jpg": b"fine"}) as running:
        running.routes |= {
            "/to-url": moved(running.url("/secret.jpg", "good.test")),
            "/relative": moved("/secret.jpg#fragment"),
            "/twice": moved("/to-url"),
            "/to-domain": moved(running.url("/domain.jpg", "IMG.blocked.test.")),
            "/to-domain-itself": moved(running.url("/domain.jpg", "blocked.test")),
            "/to-address": moved(running.url("/address.jpg", "0x7f.2")),
            "/to-fine": moved(running.url("/fine.jpg", "notblocked.test")),
            "/domain.jpg": b"must not be fetched either",
            "/address.jpg": b"nor this",
        }
        yield running


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer(dict.fromkeys(NAMES, "127.0.0.1")) as running:
        make = partial(aiodns.DNSResolver, nameservers=[running.host_port])
        monkeypatch.setattr(resolver.aiodns, "DNSResolver", make)
        yield running


def staged(folder: Path, kind: str, *lines: str) -> str:
    text, keys = folder / f"{kind}.txt", folder / f"{kind}.npy"
    text.write_text("\n".join(lines))
    block_list.save(block_list.read_list(str(text), kind).keys, keys)
    return str(keys)


@pytest.fixture
def config(tmp_path: Path, server: ImageServer) -> ScreenConfig:
    listed = f"https://good.test:{server.port}/secret.jpg"
    return ScreenConfig(
        urls=staged(tmp_path, "urls", server.url("/secret.jpg", "good.test"), listed),
        domains=staged(tmp_path, "domains", "blocked.test", "127.0.0.2"),
    )


def download(
    server: ImageServer, path: str, config: ScreenConfig | None
) -> tuple[Sample, list[str]]:
    """The sample of a URL after the stage, and what the server was asked for after the first
    robots.txt, with the hosts."""
    options = DownloadOptions(allow_private_hosts=(*NAMES, "127.0.0.2"), timeout_s=5.0, retries=2)
    before = len(server.requests)
    dofn = DownloadDoFn(options, 1, config.check_redirect if config else None)
    dofn.setup()
    try:
        dofn.start_bundle()
        batch = SampleBatch(SPEC, (Sample(0, server.url(path, "good.test")),))
        found = [*dofn.process(batch), *(w.value for w in dofn.finish_bundle())]
    finally:
        dofn.teardown()
    ((sample,),) = [b.samples for b in found]
    seen = [f"{s.headers['Host'].split(':')[0]}{s.path}" for s in server.requests[before:]]
    assert seen.pop(0) == "good.test/robots.txt"
    return sample, seen


@pytest.mark.parametrize(
    ("path", "reason", "detail", "asked"),
    [
        ("/to-url", Reason.BLOCKED_URL, None, ["good.test/to-url"]),
        ("/relative", Reason.BLOCKED_URL, None, ["good.test/relative"]),
        ("/twice", Reason.BLOCKED_URL, None, ["good.test/twice", "good.test/to-url"]),
        ("/to-domain", Reason.BLOCKED_DOMAIN, "blocked.test", ["good.test/to-domain"]),
        (
            "/to-domain-itself",
            Reason.BLOCKED_DOMAIN,
            "blocked.test",
            ["good.test/to-domain-itself"],
        ),
        ("/to-address", Reason.BLOCKED_DOMAIN, "127.0.0.2", ["good.test/to-address"]),
    ],
)
def test_a_redirect_to_what_is_blocked_ends_unasked(
    server: ImageServer,
    names: NameServer,
    config: ScreenConfig,
    path: str,
    reason: Reason,
    detail: str | None,
    asked: list[str],
) -> None:
    sample, seen = download(server, path, config)
    assert sample.drop == Drop(Stage.DOWNLOAD, reason, detail)
    assert sample.fetched is None or sample.fetched.body is None
    assert seen == asked
    assert set(names.asked) == {"good.test"}  # not even its address was looked up


@pytest.mark.parametrize("path", ["/to-url", "/to-domain"])
def test_without_the_lists_the_same_redirects_are_followed(
    server: ImageServer, names: NameServer, path: str
) -> None:
    for config in (None, ScreenConfig()):
        sample, seen = download(server, path, config)
        assert sample.drop is None and sample.fetched and sample.fetched.body
        assert seen[0] == f"good.test{path}" and seen[-1].endswith(".jpg")


def test_a_redirect_to_what_is_not_listed_is_followed(
    server: ImageServer, names: NameServer, config: ScreenConfig
) -> None:
    sample, seen = download(server, "/to-fine", config)
    assert sample.drop is None and sample.fetched and sample.fetched.body == b"fine"
    others = ["notblocked.test/robots.txt", "notblocked.test/fine.jpg"]
    assert seen == ["good.test/to-fine", *others]
