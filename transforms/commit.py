"""Committing a shard: one exclusive create of its record, then moves that anybody can finish.

Two attempts at one shard (a racing build, a retried bundle, a zombie) can never mix: each
writes into its own folder, only one creates the record, and the record names the folder whose
files become the shard's.
"""

from __future__ import annotations

from facecap.schemas.commit import CommitRecord
from facecap.schemas.shard import SHARD_FILES, commit_file, shard_file
from facecap.transforms.store import Store

ATTEMPTS = "_attempts"


def read_record(store: Store, number: int) -> CommitRecord | None:
    """The commit record of shard `number`, None when it is not committed.

    Raises ValueError that names the file when it is damaged or cannot be read.
    """
    name = commit_file(number)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{name}: not readable ({error.strerror})") from None
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
    for kind in SHARD_FILES:  # not the record's own paths: it may have been edited
        source, target = attempt_file(record.attempt, kind), shard_file(kind, record.shard)
        if not store.move(source, target) and not store.exists(target):
            raise FileNotFoundError(
                f"{target} is committed but missing: put it back, or delete "
                f"{commit_file(record.shard)} to have the shard built again"
            )
    store.remove_tree(f"{ATTEMPTS}/{record.attempt}")


def attempt_file(attempt: str, kind: str) -> str:
    """Where an attempt writes its file of this kind, before the commit."""
    return f"{ATTEMPTS}/{attempt}/{kind}"
