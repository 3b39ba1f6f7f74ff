"""`facecap verify OUT`: every hash, every count, every balance of a build."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facecap.pipeline.errors import UsageError
from facecap.pipeline.manifest import make_manifest, read_records
from facecap.pipeline.output import BUILD_FILE, MANIFEST_FILE, BuildFile, read_build_file
from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.outcomes import Outcome
from facecap.schemas.shard import SHARD_FILES, commit_file, face_key, shard_file
from facecap.schemas.tables import LEDGER, METADATA
from facecap.transforms.store import Store

TAR_MEMBERS = ("jpg", "json", "txt")


def verify(store: Store) -> Iterator[str]:
    """Every fault of the dataset, one line each; nothing when it is sound.

    Raises UsageError when the folder is not the output of a build.
    """
    build = read_build_file(store)
    try:
        records = read_records(store, build)
    except UsageError as error:
        yield str(error)
        return
    if not isinstance(build.input.get("rows"), int):
        yield f"{BUILD_FILE}: input.rows is no number; restore the file"
        return
    for number in range(build.shards):
        if number not in records:
            yield f"shard {number:06d}: not committed; give the build's command again"
    for number, record in records.items():
        for fault in _verify_shard(store, build, record):
            yield f"shard {number:06d}: {fault}"
    yield from _stray_files(store, build)
    yield from _verify_manifest(store, build, records)


def _verify_shard(store: Store, build: BuildFile, record: CommitRecord) -> Iterator[str]:
    if record.fingerprint != build.fingerprint:
        yield "was committed by a build with another fingerprint"
    if set(record.files) != set(SHARD_FILES):
        yield f"its record names {sorted(record.files)}, expected {sorted(SHARD_FILES)}"
        return
    sound = True
    for kind, entry in record.files.items():
        if entry.path != shard_file(kind, record.shard):
            yield f"its record names {entry.path} for its {kind}"
            sound = False
        elif not store.exists(entry.path):
            yield (
                f"{entry.path} is missing; give the build's command again; if that fails, delete "
                f"{commit_file(record.shard)} first"
            )
            sound = False
        elif (found := store.entry(entry.path, entry.path)) != entry:
            yield (
                f"{entry.path} is not what was committed: {found.bytes} bytes, "
                f"sha256 {found.sha256[:12]}, expected {entry.bytes} bytes, {entry.sha256[:12]}"
            )
            sound = False
    if sound:
        try:
            yield from _verify_contents(store, build, record)
        except (OSError, pa.ArrowException, tarfile.TarError, ValueError) as error:
            yield f"unreadable: {' '.join(str(error).split())[:200]}"


def _verify_contents(store: Store, build: BuildFile, record: CommitRecord) -> Iterator[str]:
    first_row = record.shard * build.rows_per_shard
    rows = min(build.rows_per_shard, build.input["rows"] - first_row)
    table = pq.read_table(store.path(record.files["ledger"].path))
    if not table.schema.equals(LEDGER):
        yield "the ledger has other columns than a ledger's"
        return
    ledger = table.to_pylist()
    metadata = pq.read_table(store.path(record.files["metadata"].path))
    if [r["row"] for r in ledger] != list(range(first_row, first_row + rows)):
        yield f"the ledger does not hold the rows {first_row} to {first_row + rows - 1} once each"
        return
    counts = _counts(ledger)
    if not counts.balanced or counts != record.counts:
        yield f"the ledger counts {counts}, the commit record {record.counts}"
    if not set(METADATA.names) <= set(metadata.schema.names):
        yield f"the metadata lacks {sorted(set(METADATA.names) - set(metadata.schema.names))}"
        return
    expected = [
        face_key(record.shard, first_row, row["row"], rank)
        for row in ledger
        for rank, face in enumerate(row["faces"])
        if face["outcome"] == Outcome.KEPT
    ]
    keys = metadata["key"].to_pylist()
    if keys != expected:
        yield f"the metadata holds {len(keys)} faces, the ledger keeps {len(expected)} (or others)"
    captions = dict(zip(keys, metadata["caption"].to_pylist(), strict=True))
    yield from _verify_tar(store, record, captions)


def _counts(ledger: list[dict[str, Any]]) -> Counts:
    """The counts of ledger rows (see schemas.tables.LEDGER)."""
    faces = [face for row in ledger for face in row["faces"]]

    def drops(entries: list[dict[str, Any]]) -> dict[str, int]:
        dropped = (e for e in entries if e["outcome"] == Outcome.DROPPED)
        return dict(sorted(Counter(f"{e['stage']}/{e['reason']}" for e in dropped).items()))

    return Counts(
        rows=len(ledger),
        rows_kept=sum(row["outcome"] == Outcome.KEPT for row in ledger),
        faces=len(faces),
        faces_kept=sum(face["outcome"] == Outcome.KEPT for face in faces),
        rows_dropped=drops(ledger),
        faces_dropped=drops(faces),
    )


def _verify_tar(store: Store, record: CommitRecord, captions: dict[str, str]) -> Iterator[str]:
    expected = [f"{key}.{kind}" for key in captions for kind in TAR_MEMBERS]
    with tarfile.open(store.path(record.files["tar"].path)) as tar:
        names = tar.getnames()
        if names != expected:
            yield f"the tar holds {len(names)} members, expected {len(expected)} (or others)"
            return
        for key, caption in captions.items():
            member = tar.extractfile(f"{key}.txt")
            if member is None or member.read().decode() != caption:
                yield f"{key}.txt is not the caption in the metadata"


def _stray_files(store: Store, build: BuildFile) -> Iterator[str]:
    for kind, pattern in SHARD_FILES.items():
        folder = pattern.partition("/")[0]
        expected = {shard_file(kind, n).partition("/")[2] for n in range(build.shards)}
        for name in sorted(set(store.list(folder)) - expected):
            yield f"{folder}/{name}: belongs to no shard of this build"


def _verify_manifest(
    store: Store, build: BuildFile, records: dict[int, CommitRecord]
) -> Iterator[str]:
    if len(records) < build.shards:
        return
    try:
        manifest = json.loads(store.read(MANIFEST_FILE))
    except FileNotFoundError:
        yield f"{MANIFEST_FILE}: missing; give the build's command again"
        return
    except ValueError:
        yield f"{MANIFEST_FILE}: not JSON"
        return
    if not isinstance(manifest, dict):
        yield f"{MANIFEST_FILE}: not a manifest"
        return
    expected = json.loads(json.dumps(make_manifest(build, records)))
    for name in sorted({*expected, *manifest} - {"facecap", "versions"}):
        if manifest.get(name) != expected.get(name):
            yield f"{MANIFEST_FILE}: {name} does not agree with the commit records"
