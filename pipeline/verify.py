"""`facecap verify OUT`: every hash, every count, every balance of a build."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.manifest import make_manifest, read_records
from facecap.pipeline.output import (
    BUILD_FILE,
    MANIFEST_FILE,
    BuildFile,
    RecaptionFile,
    read_build_file,
    read_recaptions,
    recaption_file,
)
from facecap.schemas.commit import CommitRecord
from facecap.schemas.outcomes import Outcome
from facecap.schemas.shard import SHARD_FILES, commit_file, face_key, shard_file
from facecap.schemas.tables import LEDGER, METADATA, SCHEMA_VERSION
from facecap.transforms.caption_columns import count_captions
from facecap.transforms.commit import record_names
from facecap.transforms.rows import count_ledger
from facecap.transforms.store import Store

TAR_MEMBERS = ("jpg", "json", "txt")
SHARED = ("row", "url", "sha256", "format", "width", "height")
"""Columns that the ledger and the metadata both hold."""


def verify(store: Store) -> Iterator[str]:
    """Every fault of the dataset, one line each; nothing when it is sound. The versions in
    dataset.json are not compared: they are those of whoever wrote it last.

    Raises UsageError when the folder is not the output of a build.
    """
    build = read_build_file(store)
    if build.schema_version != SCHEMA_VERSION:
        yield (
            f"{BUILD_FILE}: schema version {build.schema_version}, this facecap knows "
            f"{SCHEMA_VERSION}; verify it with the facecap that built it"
        )
        return
    try:
        records = read_records(store, build)
    except UsageError as error:
        yield str(error)
        return
    if not isinstance(build.input.get("rows", ""), int | None):
        yield f"{BUILD_FILE}: input.rows is no number; restore the file"
        return
    if build.fingerprint != build.content_hash:
        yield f"{BUILD_FILE}: its fingerprint does not agree with its settings"
    for number in range(build.shards):
        if number not in records:
            yield f"shard {number:06d}: not committed; give the build's command again"
    for number, record in records.items():
        for fault in _verify_shard(store, build, record):
            yield f"shard {number:06d}: {fault}"
    yield from _stray_files(store, build, records)
    try:
        recaption = read_recaptions(store)
    except UsageError as error:
        yield str(error)
        return
    number = recaption.number if recaption else 0
    if recaption is not None and recaption.content_hash(build) != recaption.fingerprint:
        yield f"{recaption_file(number)}: its fingerprint does not agree with its settings"
    older = [shard for shard, record in records.items() if record.recaption != number]
    if older:
        yield (
            f"{len(older)} of {len(records)} shards, the first {older[0]:06d}, have other captions "
            f"than recaption {number}'s; give its command again, or another with --abandon"
        )
        return
    yield from _verify_manifest(store, build, records, recaption)


def _verify_shard(store: Store, build: BuildFile, record: CommitRecord) -> Iterator[str]:
    if record.fingerprint != build.fingerprint:
        yield "was committed by a build with another fingerprint"
    if set(record.files) != set(SHARD_FILES):
        yield f"its record names {sorted(record.files)}, expected {sorted(SHARD_FILES)}"
        return
    sound = True
    for kind in record.files:
        fault = _file_fault(store, kind, record)
        if fault:
            yield fault
            sound = False
    if sound:
        try:
            yield from _verify_contents(store, build, record)
        except (OSError, pa.ArrowException, tarfile.TarError, ValueError) as error:
            yield f"unreadable: {' '.join(str(error).split())[:200]}"


def _file_fault(store: Store, kind: str, record: CommitRecord) -> str | None:
    entry = record.files[kind]
    if entry.path != shard_file(kind, record.shard):
        return f"its record names {entry.path} for its {kind}"
    try:
        found = store.entry(entry.path, entry.path)
    except FileNotFoundError:
        return (
            f"{entry.path} is missing; give the build's command again; if that fails, delete "
            f"{record_names(record)} first"
        )
    except OSError as error:
        return f"{entry.path} is not readable ({error.strerror})"
    if found == entry:
        return None
    return (
        f"{entry.path} is not what was committed: {found.bytes} bytes, "
        f"sha256 {found.sha256[:12]}, expected {entry.bytes} bytes, {entry.sha256[:12]}"
    )


def _verify_contents(store: Store, build: BuildFile, record: CommitRecord) -> Iterator[str]:
    first_row = record.shard * build.rows_per_shard
    rows = record.counts.rows  # with tars as input nobody knew them before
    if build.input["rows"] is not None:
        rows = min(build.rows_per_shard, build.input["rows"] - first_row)
    table = pq.read_table(store.open(record.files["ledger"].path))
    if not table.schema.equals(LEDGER):
        yield "the ledger has other columns than a ledger's"
        return
    ledger = table.to_pylist()
    metadata = pq.read_table(store.open(record.files["metadata"].path))
    if [r["row"] for r in ledger] != list(range(first_row, first_row + rows)):
        yield f"the ledger does not hold the rows {first_row} to {first_row + rows - 1} once each"
        return
    if any(row["faces"] is None or None in row["faces"] for row in ledger):
        yield "the ledger lacks faces that it counts"
        return
    for row in ledger:
        kept = any(face["outcome"] == Outcome.KEPT for face in row["faces"])
        if (row["outcome"] == Outcome.KEPT) != kept:
            yield f"the ledger's row {row['row']} is {row['outcome']}, unlike its faces"
    counts = count_ledger(ledger)
    if not counts.balanced or counts != record.counts:
        yield f"the ledger counts {counts}, the commit record {record.counts}"
    if not set(METADATA.names) <= set(metadata.schema.names):
        yield f"the metadata lacks {sorted(set(METADATA.names) - set(metadata.schema.names))}"
        return
    expected = {
        face_key(record.shard, first_row, row["row"], rank): {name: row[name] for name in SHARED}
        for row in ledger
        for rank, face in enumerate(row["faces"])
        if face["outcome"] == Outcome.KEPT
    }
    keys = metadata["key"].to_pylist()
    if keys != list(expected):
        yield f"the metadata holds {len(keys)} faces, the ledger keeps {len(expected)} (or others)"
        return
    for key, found in zip(keys, metadata.select(SHARED).to_pylist(), strict=True):
        different = [name for name in SHARED if found[name] != expected[key][name]]
        if different:
            yield f"{key}: the metadata and the ledger differ in {', '.join(different)}"
    counted = count_captions(metadata["captions"].to_pylist())
    if counted != record.captions:
        yield f"the metadata counts the captions {counted}, the commit record {record.captions}"
    captions = dict(zip(keys, metadata["caption"].to_pylist(), strict=True))
    yield from _verify_tar(store, record, captions)


def _verify_tar(store: Store, record: CommitRecord, captions: dict[str, str]) -> Iterator[str]:
    expected = [f"{key}.{kind}" for key in captions for kind in TAR_MEMBERS]
    with tarfile.open(fileobj=store.open(record.files["tar"].path), mode="r:") as tar:
        names = tar.getnames()
        members = {member.name: member for member in tar.getmembers() if member.isreg()}
        if names != expected or list(members) != expected:
            yield f"the tar holds {len(names)} members, expected {len(expected)} (or others)"
            return
        for key, caption in captions.items():
            text = tar.extractfile(members[f"{key}.txt"])
            if text is None or text.read().decode() != caption:
                yield f"{key}.txt is not the caption in the metadata"


def _stray_files(store: Store, build: BuildFile, records: dict[int, CommitRecord]) -> Iterator[str]:
    shards = range(build.shards)
    expected = {shard_file(kind, number) for kind in SHARD_FILES for number in shards}
    generations = {number: record.generation for number, record in records.items()}
    expected |= {commit_file(n, g + 1) for n in shards for g in range(generations.get(n, 1))}
    for pattern in (*SHARD_FILES.values(), commit_file(0)):
        folder = pattern.partition("/")[0]
        try:
            found = [f"{folder}/{name}" for name in store.list(folder) if name[0] != "."]
        except OSError as error:
            yield f"{folder}: not readable ({error.strerror})"
            continue
        for name in found:
            if name not in expected:
                yield f"{name}: belongs to no shard of this build"


def _verify_manifest(
    store: Store,
    build: BuildFile,
    records: dict[int, CommitRecord],
    recaption: RecaptionFile | None,
) -> Iterator[str]:
    if len(records) < build.shards:
        return
    try:
        manifest = json.loads(store.read(MANIFEST_FILE))
    except FileNotFoundError:
        yield f"{MANIFEST_FILE}: missing; give the build's command again"
        return
    except OSError as error:
        yield f"{MANIFEST_FILE}: not readable ({error.strerror})"
        return
    except ValueError:
        yield f"{MANIFEST_FILE}: not JSON"
        return
    if not isinstance(manifest, dict):
        yield f"{MANIFEST_FILE}: not a manifest"
        return
    expected = json.loads(json.dumps(make_manifest(build, records, recaption)))
    for name in sorted({*expected, *manifest} - {"facecap", "versions"}):
        if manifest.get(name) != expected.get(name):
            yield f"{MANIFEST_FILE}: {name} does not agree with the commit records"
