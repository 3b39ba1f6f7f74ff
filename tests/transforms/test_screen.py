"""Screening: blocked URLs, domains and hashes, expected hashes, 'photo unavailable' pictures."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Fetched, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms import block_list, screen
from facecap.transforms.railway import Dropped
from facecap.transforms.screen import (
    HashList,
    ScreenConfig,
    ScreenFn,
    UnavailablePictures,
    screen_body,
    screen_row,
    unavailable_pictures,
)
from facecap.transforms.web.addresses import parse_url
from facecap.transforms.web.failure import Failed

BODY = b"an image"


def digests(tmp_path: Path, kind: str, *lines: str) -> str:
    text = tmp_path / f"{kind}.txt"
    text.write_text("\n".join(lines))
    path = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}.npy"
    block_list.save(block_list.read_list(str(text), kind).keys, path)
    return str(path)


def fetched(body: bytes = BODY, **extra: Any) -> Sample:
    return Sample(
        0, "http://h/", extra=extra, fetched=Fetched(200, body, hashlib.sha256(body).hexdigest())
    )


def drop_of(
    function: Any, sample: Sample, config: ScreenConfig
) -> tuple[Stage, Reason, Any] | None:
    try:
        assert function(sample, config) is sample
    except Dropped as dropped:
        return dropped.drop.stage, dropped.drop.reason, dropped.drop.error
    return None


@pytest.fixture
def blocks(tmp_path: Path) -> ScreenConfig:
    return ScreenConfig(
        urls=digests(tmp_path, "urls", "http://h.example/a.jpg"),
        domains=digests(tmp_path, "domains", "bad.example", "10.1.2.3"),
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h.example:443/a.jpg#x", (Stage.READ, Reason.BLOCKED_URL, None)),
        ("http://h.example/b.jpg", None),
        ("http://IMG.bad.example./x", (Stage.READ, Reason.BLOCKED_DOMAIN, "bad.example")),
        ("http://0xa.1.515/x", (Stage.READ, Reason.BLOCKED_DOMAIN, "10.1.2.3")),
        ("http://notbad.example/x", None),
        ("no url at all", None),
    ],
)
def test_blocked_urls_and_domains_are_not_fetched(
    blocks: ScreenConfig, url: str, expected: object
) -> None:
    assert drop_of(screen_row, Sample(0, url), blocks) == expected


def test_redirects_are_looked_at_too(blocks: ScreenConfig) -> None:
    config = pickle.loads(pickle.dumps(blocks))
    for url, reason in {
        "http://a.bad.example/": Reason.BLOCKED_DOMAIN,
        "http://h.example/a.jpg": Reason.BLOCKED_URL,
        "http://i.imgur.com/removed.png": Reason.UNAVAILABLE_PICTURE,
    }.items():
        with pytest.raises(Failed) as failed:
            config.check_redirect(parse_url(url))
        assert (failed.value.drop.reason, failed.value.may_retry) == (reason, False)
    config.check_redirect(parse_url("http://h.example/ok.jpg"))
    replace(config, unavailable=False).check_redirect(parse_url("http://i.imgur.com/removed.png"))


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_blocked_hashes_of_each_algorithm(tmp_path: Path, algorithm: str) -> None:
    listed = hashlib.new(algorithm, BODY).hexdigest()
    config = ScreenConfig(
        hashes=HashList(digests(tmp_path, "hashes", listed.upper()), (algorithm,))
    )
    assert drop_of(screen_body, fetched(), config) == (
        Stage.SCREEN,
        Reason.BLOCKED_HASH,
        algorithm,
    )
    assert drop_of(screen_body, fetched(b"another"), config) is None


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_the_expected_hash_is_checked(algorithm: str) -> None:
    config = ScreenConfig(hash_column="hash")
    right = hashlib.new(algorithm, BODY).hexdigest()
    assert drop_of(screen_body, fetched(hash=f" {right.upper()} "), config) is None
    assert drop_of(screen_body, fetched(b"re-encoded", hash=right), config) == (
        Stage.SCREEN,
        Reason.HASH_MISMATCH,
        algorithm,
    )


@pytest.mark.parametrize("cell", [None, "", "  "])
def test_an_empty_cell_is_not_checked(cell: str | None) -> None:
    config = ScreenConfig(hash_column="hash")
    assert drop_of(screen_row, fetched(hash=cell), config) is None
    assert drop_of(screen_body, fetched(hash=cell), config) is None


@pytest.mark.parametrize("cell", ["abc", "z" * 64, "0x" + "a" * 62])
def test_a_malformed_hash_is_dropped_before_the_fetch(cell: str) -> None:
    found = drop_of(screen_row, Sample(0, "http://h/", extra={"hash": cell}), ScreenConfig())
    assert found is None
    found = drop_of(screen_row, Sample(0, "http://h/", extra={"hash": cell}), CHECKED)
    assert found == (Stage.READ, Reason.INVALID_HASH, None)


CHECKED = ScreenConfig(hash_column="hash")


def test_the_list_of_unavailable_pictures_names_its_sources() -> None:
    import yaml

    known = unavailable_pictures()
    assert known.version == 1 and known.by_size[503] and known.by_size[2051]
    assert "i.imgur.com/removed.png" in known.urls
    tree = yaml.safe_load(Path(screen.__file__).with_name("unavailable.yaml").read_text())
    for entry in (*tree["pictures"], *tree["urls"]):
        assert entry["sources"] and all(s.startswith("https://") for s in entry["sources"])


def test_unavailable_pictures_are_known_by_size_and_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    md5 = hashlib.md5(BODY).hexdigest()
    listed = UnavailablePictures(1, "", {len(BODY): frozenset({f"md5:{md5}"})}, frozenset())
    monkeypatch.setattr(screen, "unavailable_pictures", lambda: listed)
    expected = (Stage.SCREEN, Reason.UNAVAILABLE_PICTURE, None)
    assert drop_of(screen_body, fetched(), ScreenConfig()) == expected
    assert drop_of(screen_body, fetched(b"an imago"), ScreenConfig()) is None
    assert drop_of(screen_body, fetched(), ScreenConfig(unavailable=False)) is None
    more = HashList(digests(tmp_path, "hashes", hashlib.sha1(b"x").hexdigest()), ("sha1",))
    assert drop_of(screen_body, fetched(b"x"), ScreenConfig(unavailable_hashes=more)) == expected


def test_only_the_hashes_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = hashlib.new
    monkeypatch.setattr(
        screen.hashlib, "new", lambda name, *a, **k: asked.append(name) or real(name, *a, **k)
    )
    sha256 = hashlib.sha256(BODY).hexdigest()
    screen_body(fetched(hash=sha256), CHECKED)
    assert asked == []


def test_dropped_samples_pass_by() -> None:
    spec = ShardSpec(0, 0, ())
    (batch,) = ScreenFn(ScreenConfig(), Stage.SCREEN, screen_body).process(
        SampleBatch(spec, (fetched(),), shard_rows=1)
    )
    assert batch.samples == (fetched(),) and batch.shard_rows == 1
    empty = SampleBatch(spec, (), shard_rows=0)
    assert list(ScreenFn(ScreenConfig(), Stage.SCREEN, screen_body).process(empty)) == [empty]


def test_a_row_of_a_tar_that_must_not_be_fetched_brings_nothing(blocks: ScreenConfig) -> None:
    blocked = replace(fetched(), url="http://bad.example/")
    batch = SampleBatch(ShardSpec(0, 0, ()), (blocked, fetched()), shard_rows=2)
    (found,) = ScreenFn(blocks, Stage.READ, screen_row).process(batch)
    drop = Drop(Stage.READ, Reason.BLOCKED_DOMAIN, "bad.example")
    assert found.samples == (replace(blocked, drop=drop, fetched=None), fetched())
    assert found.shard_rows == 2
