"""Committing a shard: one exclusive create of its record, then moves that anybody can finish.

Two attempts at one shard (a racing build, a retried bundle, a zombie) can never mix: each
writes into its own folder, only one creates the record, and the record names the folder whose
files become the shard's.
"""

from __future__ import annotations

from facecap.schemas.commit import CommitRecord
from facecap.schemas.shard import commit_file
from facecap.transforms.store import Store

ATTEMPTS = "_attempts"


def read_record(store: Store, number: int) -> CommitRecord | None:
    """The commit record of shard `number`, None when it is not committed.

    Raises ValueError that names the file when it is damaged.
    """
    name = commit_file(number)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    record = CommitRecord.from_json(data, name)
    if record.shard != number:
        raise ValueError(f"{name}: is the record of shard {record.shard}")
    return record


def commit(store: Store, record: CommitRecord) -> CommitRecord:
    """Commit an attempt whose files are complete; returns the winner's record, which is
    another attempt's when that one came first."""
    if store.create(commit_file(record.shard), record.to_json()):
        finish(store, record)
        return record
    store.remove_tree(f"{ATTEMPTS}/{record.attempt}")
    winner = read_record(store, record.shard)
    if winner is None:
        raise FileNotFoundError(f"{commit_file(record.shard)} vanished while it was committed")
    finish(store, winner)
    return winner


def finish(store: Store, record: CommitRecord) -> None:
    """Move a committed shard's files to their final names; what is moved already stays.

    Raises FileNotFoundError when a file is neither in the attempt nor in its place.
    """
    for kind, entry in record.files.items():
        source = attempt_file(record.attempt, kind)
        if not store.move(source, entry.path) and not store.exists(entry.path):
            raise FileNotFoundError(
                f"{entry.path} is committed but missing: put it back, or delete "
                f"{commit_file(record.shard)} to have the shard built again"
            )
    store.remove_tree(f"{ATTEMPTS}/{record.attempt}")


def attempt_file(attempt: str, kind: str) -> str:
    """Where an attempt writes its file of this kind, before the commit."""
    return f"{ATTEMPTS}/{attempt}/{kind}"
