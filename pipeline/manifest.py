"""dataset.json: the manifest, made from the commit records by the last step of the graph."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from facecap import __version__
from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import (
    LOGS,
    MANIFEST_FILE,
    BuildFile,
    RecaptionFile,
    read_build_file,
    read_recaptions,
)
from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.shard import commit_generation
from facecap.transforms.commit import read_generation
from facecap.transforms.object_store import open_store
from facecap.transforms.same import versions
from facecap.transforms.store import Store
from facecap.transforms.write_shard import ShardResult

_READERS = 16
FAILED_FILE = f"{LOGS}/failed.json"


def read_records(store: Store, build: BuildFile) -> dict[int, CommitRecord]:
    """The commit records that exist, by shard number. Raises UsageError on a damaged one."""
    newest: dict[int, int] = {}
    for name in store.list("commits"):
        number, generation = commit_generation(name) or (-1, 0)
        if 0 <= number < build.shards:
            newest[number] = max(generation, newest.get(number, 0))
    numbers = sorted(newest)
    generations = [newest[number] for number in numbers]
    try:
        if store.is_remote:  # each is a request
            with ThreadPoolExecutor(_READERS) as pool:
                records = list(pool.map(partial(read_generation, store), numbers, generations))
        else:
            records = list(map(partial(read_generation, store), numbers, generations))
    except ValueError as error:
        raise UsageError(
            f"{error}; restore it, or delete all records of that shard (commits/NUMBER*.json) and "
            "give the build's command again"
        ) from None
    return {n: record for n, record in zip(numbers, records, strict=True) if record is not None}


def make_manifest(
    build: BuildFile, records: dict[int, CommitRecord], recaption: RecaptionFile | None
) -> dict[str, Any]:
    """The manifest of a complete build: nothing in it varies between runs. `recaption` is the
    newest one, which says what the captions were made with."""
    total = Counts.total(r.counts for r in records.values())
    captions = sum((Counter(r.captions) for r in records.values()), Counter[str]())
    return {
        "facecap": __version__,
        "versions": {n: v for n, v in versions().items() if n != "facecap"},
        **build.model_dump(),
        "recaption": recaption.model_dump() if recaption else None,
        "funnel": total.model_dump(),
        "captions": dict(sorted(captions.items())),
        "tars": [r.files["tar"].path for r in records.values() if r.counts.faces_kept],
        "per_shard": [
            {
                "shard": number,
                "generation": record.generation,
                "files": {kind: e.model_dump() for kind, e in record.files.items()},
                "recaption": record.recaption,
                "counts": record.counts.model_dump(),
                "captions": record.captions,
            }
            for number, record in sorted(records.items())
        ],
    }


def to_json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def finish_dataset(results: Sequence[ShardResult], output: str) -> int:
    """Write dataset.json when every shard is committed; note the failed shards otherwise.

    Returns the number of committed shards.
    """
    store = open_store(output)
    build = read_build_file(store)
    records = read_records(store, build)
    recaption = read_recaptions(store)
    newest = recaption.number if recaption else 0
    # What failed here may have been done by another command meanwhile.
    done = {n for n, record in records.items() if record.recaption >= newest}
    failed = {f"{r.shard:06d}": r.error for r in results if r.error and r.shard not in done}
    store.replace(FAILED_FILE, to_json(dict(sorted(failed.items()))))
    if len(records) == build.shards:
        store.replace(MANIFEST_FILE, to_json(make_manifest(build, records, recaption)))
    return len(records)


def read_failures(store: Store) -> dict[str, str]:
    """Why shards stayed uncommitted in the last run: shard name -> reason."""
    try:
        failures = json.loads(store.read(FAILED_FILE))
    except FileNotFoundError:
        return {}
    return {str(shard): str(error) for shard, error in failures.items()}
