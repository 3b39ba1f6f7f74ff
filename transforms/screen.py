"""Screen: leaves out what a list forbids (by URL before the download, by hash after it), what is
not what the input promised, and the pictures that hosts send in place of one they have no more."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import apache_beam as beam
import yaml
from yarl import URL

from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Reason, Stage
from facecap.schemas.sample import Sample, SampleBatch
from facecap.transforms import block_list, railway
from facecap.transforms.railway import Dropped
from facecap.transforms.web.addresses import host_of, parse_url
from facecap.transforms.web.failure import Failed

UNAVAILABLE_FILE = "unavailable.yaml"


class ScreenOptions(Options):
    """What is left out whatever is in it. Lists have one entry per line, `#` comments, any fsspec
    path, .gz too; what is in them enters the fingerprint, where they lie does not."""

    block_urls: str | None = run(
        None, "file of URLs to leave out, also where redirects lead; http and https alike"
    )
    block_domains: str | None = run(
        None,
        "file of domains (with their subdomains) and IP addresses to leave out, also redirects",
    )
    block_hashes: str | None = run(
        None, "file of hashes (md5, sha1, sha256 or sha512 in hex) of images to leave out"
    )
    unavailable: bool = content(
        True, "leave out known 'photo unavailable' pictures (transforms/unavailable.yaml)"
    )
    unavailable_hashes: str | None = run(None, "file of hashes of further such pictures")


@dataclass(frozen=True)
class UnavailablePictures:
    """The list in the package: hashes as `ALGORITHM:HEX` by the picture's size in bytes, and the
    keys (block_list.url_key) of URLs that hosts redirect to."""

    version: int
    sha256: str
    by_size: dict[int, frozenset[str]]
    urls: frozenset[str]


@functools.cache
def unavailable_pictures() -> UnavailablePictures:
    data = resources.files("facecap.transforms").joinpath(UNAVAILABLE_FILE).read_bytes()
    tree = yaml.safe_load(data)
    by_size: dict[int, frozenset[str]] = {}
    for entry in tree["pictures"]:
        known = by_size.get(entry["bytes"], frozenset())
        by_size[entry["bytes"]] = known | {block_list.hash_key(entry["hash"])}
    urls = frozenset(block_list.url_key(entry["url"]) for entry in tree["urls"])
    return UnavailablePictures(tree["version"], hashlib.sha256(data).hexdigest(), by_size, urls)


@dataclass(frozen=True)
class HashList:
    """A list of hashes: the file of its digests (block_list.load), the algorithms in it."""

    path: str
    algorithms: tuple[str, ...]

    def match(self, digests: Digests) -> str | None:
        """The algorithm by which the body is in the list, None when it is not."""
        keys = block_list.load(self.path)
        return next(
            (a for a in self.algorithms if block_list.contains(keys, f"{a}:{digests[a]}")), None
        )


class Digests(dict[str, str]):
    """The hashes of a body by algorithm, in hex, each computed when it is asked for."""

    def __init__(self, body: bytes, sha256: str | None) -> None:
        super().__init__({"sha256": sha256} if sha256 else {})
        self._body = body

    def __missing__(self, algorithm: str) -> str:
        value = hashlib.new(algorithm, self._body, usedforsecurity=False).hexdigest()
        self[algorithm] = value
        return value


@dataclass(frozen=True)
class ScreenConfig:
    """The lists of a build, ready for the workers: plain data, part of the graph. `urls` and
    `domains` are files of digests (block_list.load)."""

    urls: str | None = None
    domains: str | None = None
    hashes: HashList | None = None
    unavailable: bool = True
    unavailable_hashes: HashList | None = None
    hash_column: str | None = None

    def check_redirect(self, url: URL) -> None:
        """For every URL (from `parse_url`) that a redirect leads to. Raises Failed."""
        if self.unavailable and block_list.key_of(url) in unavailable_pictures().urls:
            raise Failed(Reason.UNAVAILABLE_PICTURE, "redirect")
        found = self.blocked(url)
        if found is not None:
            raise Failed(*found)

    def blocked(self, url: URL) -> tuple[Reason, str | None] | None:
        """Why a URL (from `parse_url`) must not be fetched, None when it may."""
        if self.domains:
            domain = block_list.blocked_domain(block_list.load(self.domains), host_of(url))
            if domain is not None:
                return Reason.BLOCKED_DOMAIN, domain
        if self.urls and block_list.contains(block_list.load(self.urls), block_list.key_of(url)):
            return Reason.BLOCKED_URL, None
        return None


def screen_row(sample: Sample, config: ScreenConfig) -> Sample:
    """Raises Dropped where the URL is blocked or the expected hash is none. A URL that cannot be
    parsed is left to Download."""
    expected_hash(sample, config)
    if config.urls or config.domains:
        try:
            found = config.blocked(parse_url(sample.url))
        except Failed:
            return sample
        if found is not None:
            raise Dropped(Stage.READ, *found)
    return sample


def expected_hash(sample: Sample, config: ScreenConfig) -> str | None:
    """`ALGORITHM:HEX` from the input's hash column; None where it is empty. Raises Dropped where
    it holds something else."""
    cell = sample.extra.get(config.hash_column) if config.hash_column else None
    text = "" if cell is None else str(cell).strip()
    try:
        return block_list.hash_key(text) if text else None
    except ValueError:
        raise Dropped(Stage.READ, Reason.INVALID_HASH) from None


def screen_body(sample: Sample, config: ScreenConfig) -> Sample:
    """Raises Dropped where the body is blocked, known for no photograph, or not the expected."""
    assert sample.fetched is not None and sample.fetched.body is not None  # it was fetched
    digests = Digests(sample.fetched.body, sample.fetched.sha256)
    if config.hashes and (algorithm := config.hashes.match(digests)):
        raise Dropped(Stage.SCREEN, Reason.BLOCKED_HASH, algorithm)
    if config.unavailable:
        known = unavailable_pictures().by_size.get(len(sample.fetched.body), frozenset())
        for key in known:
            algorithm, _, value = key.partition(":")
            if digests[algorithm] == value:
                raise Dropped(Stage.SCREEN, Reason.UNAVAILABLE_PICTURE)
    if config.unavailable_hashes and config.unavailable_hashes.match(digests):
        raise Dropped(Stage.SCREEN, Reason.UNAVAILABLE_PICTURE)
    expected = expected_hash(sample, config)
    if expected is not None:
        algorithm, _, value = expected.partition(":")
        if digests[algorithm] != value:
            raise Dropped(Stage.SCREEN, Reason.HASH_MISMATCH, algorithm)
    return sample


class ScreenFn(beam.DoFn):
    """Screens the live samples of a batch by `check`."""

    def __init__(
        self, config: ScreenConfig, stage: Stage, check: Callable[[Sample, ScreenConfig], Sample]
    ) -> None:
        self._config, self._stage, self._check = config, stage, check

    def process(self, batch: SampleBatch) -> Any:
        batch = railway.map_live(batch, self._stage, lambda s: self._check(s, self._config))
        if self._stage is Stage.READ and any(s.drop and s.fetched for s in batch.samples):
            # A tar brings its images along; a row that must not be fetched has none, as by URL.
            kept = (replace(s, fetched=None) if s.drop else s for s in batch.samples)
            batch = replace(batch, samples=tuple(kept))
        yield batch


class ScreenRows(beam.PTransform):
    """SampleBatch -> SampleBatch without what must not be fetched."""

    def __init__(self, config: ScreenConfig) -> None:
        super().__init__()
        self._fn = ScreenFn(config, Stage.READ, screen_row)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.ParDo(self._fn).with_output_types(SampleBatch)


class ScreenBodies(beam.PTransform):
    """SampleBatch -> SampleBatch without fetched bodies that must not be used."""

    def __init__(self, config: ScreenConfig) -> None:
        super().__init__()
        self._fn = ScreenFn(config, Stage.SCREEN, screen_body)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.ParDo(self._fn).with_output_types(SampleBatch)
