"""Committing a shard: one exclusive create of its record, then moves that anybody can finish.

Two attempts at one shard (a racing build, a retried bundle, a zombie) can never mix: each
writes into its own folder, only one creates the record, and the record names the folder whose
files become the shard's. A shard is written anew (recaptioned) by the next generation's record,
created in the same way.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable

from facecap.schemas.commit import CommitRecord
from facecap.schemas.shard import SHARD_FILES, commit_file, shard_file, shard_name
from facecap.transforms.store import Store

ATTEMPTS = "_attempts"


def read_record(store: Store, number: int) -> CommitRecord | None:
    """The newest commit record of shard `number`, None when it is not committed.

    Raises ValueError that names the file when it is damaged or cannot be read.
    """
    newest = None
    for generation in itertools.count(1):
        record = read_generation(store, number, generation)
        if record is None:
            return newest
        newest = record
    raise AssertionError("count ends")


def read_generation(store: Store, number: int, generation: int) -> CommitRecord | None:
    """That commit record of shard `number`, None where there is none; raises as `read_record`."""
    name = commit_file(number, generation)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{name}: not readable ({error.strerror})") from None
    record = CommitRecord.from_json(data, name)
    if record.shard != number:
        raise ValueError(f"{name}: is the record of shard {record.shard}")
    if record.generation != generation:
        raise ValueError(f"{name}: is the record of generation {record.generation}")
    return record


def new_attempt(number: int, generation: int = 1) -> str:
    """The name of an attempt at this generation of a shard, unique."""
    middle = "" if generation == 1 else f"{generation}g"
    return f"{shard_name(number)}-{middle}{uuid.uuid4().hex}"


def _generation(attempt: str) -> int:
    match = re.match(r"[0-9]+-([0-9]+)g", attempt)
    return int(match[1]) if match else 1


def commit(store: Store, record: CommitRecord) -> CommitRecord:
    """Commit an attempt whose files are complete; returns the winner's record, which is
    another attempt's when that one came first. A generation behind the first is written by
    somebody who has read its predecessor, whose files are in their places (`finish`): of those
    who race from there one creates the record, so nobody's work is overwritten unseen.

    Raises FileNotFoundError when somebody has cleared the attempt away: then nothing is committed.
    """
    folder = f"{ATTEMPTS}/{record.attempt}"
    if not store.is_remote:
        gone = [k for k in SHARD_FILES if not store.exists(attempt_file(record.attempt, k))]
        if gone:
            raise FileNotFoundError(f"{folder}: was cleared away by another run")
    name = commit_file(record.shard, record.generation)
    if store.create(name, record.to_json(), beside=folder):
        finish(store, record)
        return record
    winner = read_record(store, record.shard)
    if winner is None:
        raise FileNotFoundError(f"{name} vanished while it was committed")
    # It may be ours: a file server repeats a request whose answer got lost, and refuses it then.
    if winner.attempt != record.attempt:
        store.remove_tree(folder)
    finish(store, winner)
    return winner


def clear(store: Store, name: str) -> None:
    """Remove the folder `name` of `_attempts` unless it is a committed shard's. On a disk it is
    first taken out of its writer's reach, so that one who is not dead after all cannot commit what
    is being removed; on an object store it stays until another attempt has won its shard, for
    nothing tells whether a machine still works at it.

    Raises ValueError when the shard's record cannot be read.
    """
    attempt = name.removeprefix(".")
    taken = attempt if store.is_remote else f".{attempt}"
    if name != taken and not store.move(f"{ATTEMPTS}/{name}", f"{ATTEMPTS}/{taken}"):
        return
    number = attempt.partition("-")[0]
    is_dead = False
    try:
        record = read_record(store, int(number)) if number.isdigit() else None
        if record is None:
            is_dead = not store.is_remote
        elif record.attempt != attempt:
            is_dead = not store.is_remote or record.generation >= _generation(attempt)
    finally:
        if taken != attempt and not is_dead:
            store.move(f"{ATTEMPTS}/{taken}", f"{ATTEMPTS}/{attempt}")
    if is_dead:
        store.remove_tree(f"{ATTEMPTS}/{taken}")


def finish(store: Store, record: CommitRecord) -> None:
    """Move a committed shard's files to their final names; what is moved already stays.

    Raises FileNotFoundError when a file is neither in the attempt nor in its place.
    """
    left = store.list(f"{ATTEMPTS}/{record.attempt}")
    for kind in SHARD_FILES:  # not the record's own paths: it may have been edited
        source, target = attempt_file(record.attempt, kind), shard_file(kind, record.shard)
        moved = kind in left and store.move(source, target)
        if not moved and not store.exists(target):
            raise FileNotFoundError(
                f"{target} is committed but missing: put it back, or delete {record_names(record)} "
                "to have the shard built again"
            )
    if left or not store.is_remote:
        store.remove_tree(f"{ATTEMPTS}/{record.attempt}")


def finish_left(store: Store, records: Iterable[CommitRecord]) -> None:
    """`finish` those of `records` whose files a killed command left in their attempts."""
    attempts = set(store.list(ATTEMPTS))
    for record in records:
        if record.attempt in attempts:
            finish(store, record)


def record_names(record: CommitRecord) -> str:
    """What there is to delete for a shard to be built again."""
    first, last = (commit_file(record.shard, g) for g in (1, record.generation))
    return first if record.generation == 1 else f"{first} to {last}"


def attempt_file(attempt: str, kind: str) -> str:
    """Where an attempt writes its file of this kind, before the commit."""
    return f"{ATTEMPTS}/{attempt}/{kind}"
