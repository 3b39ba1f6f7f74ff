"""The output folder as a build finds and leaves it: who may work in it, what it was made with,
and the leftovers of runs that were killed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from facecap.pipeline.errors import UsageError
from facecap.schemas.tables import SCHEMA_VERSION
from facecap.transforms import worker
from facecap.transforms.commit import ATTEMPTS, clear
from facecap.transforms.object_store import StoreError, open_store
from facecap.transforms.store import Store

BUILD_FILE = "build.json"
MANIFEST_FILE = "dataset.json"
RECAPTIONS = "recaptions"
LOGS = "logs"
STAGED = "_input"
PROGRESS = "_progress"
CRASHES_FILE = f"{PROGRESS}/crashes.json"
CRASHES_TO_DROP = 2
_LOCK_PATIENCE_S = 5.0
"""Longer than the workers of a killed build outlive it, and than another's clearing takes."""

_END_PATIENCE_S = 3.0


def content_hash(
    schema_version: int,
    settings: Mapping[str, Any],
    models: Mapping[str, str],
    source: Mapping[str, Any],
) -> str:
    """sha256 over what decides the dataset's bytes, as lower-case hex: the content settings by
    dotted name, model hashes (name -> sha256), the input's description and the version of the
    stored schema. All values are JSON data."""
    everything = {
        "schema": schema_version,
        "settings": dict(settings),
        "models": dict(models),
        "input": dict(source),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


class BuildFile(BaseModel):
    """build.json: what the directory is made with, written before the graph starts.

    `settings` are the content settings by dotted name, `models` maps a model to its sha256,
    `input` describes the files, rows and limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    rows_per_shard: int
    shards: int
    settings: dict[str, Any]
    models: dict[str, str]
    input: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """What the fingerprint has to be."""
        return content_hash(self.schema_version, self.settings, self.models, self.input)

    def differences(self, other: BuildFile) -> list[str]:
        """What differs, in words: one entry per setting, model or fact of the input."""
        found = []
        if self.schema_version != other.schema_version:
            found.append(f"schema version (was {self.schema_version}, is {other.schema_version})")
        for what in ("settings", "models", "input"):
            found += _different(what, getattr(self, what), getattr(other, what))
        return found


class RecaptionFile(BaseModel):
    """recaptions/NNN.json: what the captions of the dataset are made with since its `number`-th
    recaption; `fingerprint` is over the settings, the hashes and the build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    fingerprint: str
    settings: dict[str, Any]
    models: dict[str, str]

    def content_hash(self, build: BuildFile) -> str:
        """What the fingerprint has to be."""
        source = {"build": build.fingerprint}
        return content_hash(build.schema_version, self.settings, self.models, source)

    def differences(self, other: RecaptionFile) -> list[str]:
        """What differs, in words: one entry per setting or model."""
        return [
            *_different("settings", self.settings, other.settings),
            *_different("models", self.models, other.models),
        ]


def _different(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name if what == 'settings' else f'{what} {name}'} "
        f"(was {_short(was.get(name))}, is {_short(now.get(name))})"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def open_dataset(output: str) -> Store:
    """The dataset at a path or URL, which must be there. Raises UsageError."""
    try:
        store = open_store(output)
    except StoreError as error:
        raise UsageError(str(error)) from None
    if not store.is_remote and not store.root.is_dir():
        raise UsageError(f"{output}: no such folder")
    return store


def read_build_file(store: Store) -> BuildFile:
    """Raises UsageError when `store` is not the output of a build."""
    try:
        return BuildFile.model_validate_json(store.read(BUILD_FILE))
    except FileNotFoundError:
        raise UsageError(f"{store}: holds no {BUILD_FILE}; is it a build's OUT?") from None
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{store}/{BUILD_FILE}: not readable ({reason})") from None


def recaption_file(number: int) -> str:
    """Path of the settings of a recaption under the output folder."""
    return f"{RECAPTIONS}/{number:03d}.json"


def read_recaptions(store: Store, before: int | None = None) -> RecaptionFile | None:
    """The newest recaption of the dataset, or the newest of those numbered below `before`; None
    where there is none. Raises UsageError."""
    names = [n for n in store.list(RECAPTIONS) if re.fullmatch(r"[0-9]{3,}\.json", n)]
    numbers = [int(name.removesuffix(".json")) for name in names]
    numbers = [number for number in numbers if before is None or number < before]
    if not numbers:
        return None
    name = recaption_file(max(numbers))
    try:
        return RecaptionFile.model_validate_json(store.read(name))
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{store}/{name}: not readable ({reason})") from None


def _refuse_foreign(store: Store) -> None:
    """Raises UsageError when the folder holds files but no build's."""
    names = store.list(".")  # one look: a racing build may write build.json at any moment
    if BUILD_FILE in names:
        return
    # What an earlier start of the same build may have left before it wrote build.json.
    foreign = [n for n in names if not n.startswith(("_", ".")) and n != LOGS]
    if foreign:
        raise UsageError(
            f"--output {store}: not empty and not a build's ({foreign[0]} is there); "
            "name a new folder"
        )


def claim(store: Store, wanted: BuildFile) -> None:
    """Make the directory this build's: create build.json, or agree with the one that is there.

    Raises UsageError that names what differs.
    """
    _refuse_foreign(store)
    text = json.dumps(wanted.model_dump(), indent=1, ensure_ascii=False) + "\n"
    if not store.exists(BUILD_FILE) and store.create(BUILD_FILE, text.encode()):
        return
    different = read_build_file(store).differences(wanted)
    if different:
        raise UsageError(
            f"--output {store}: was made with other settings: {'; '.join(different)}; "
            "use those, or name a new folder"
        )


@contextlib.contextmanager
def lock(store: Store, *, exclusive: bool) -> Iterator[None]:
    """Hold the directory: builds share it, every other command has it alone.

    Raises UsageError when it stays taken. The lock goes with the process.
    """
    descriptor = os.open(store.root, os.O_RDONLY)
    try:
        _lock(descriptor, store, exclusive)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def shared_lock_and_cleaning(store: Store) -> Iterator[frozenset[int]]:
    """Hold the directory for a build; yields the rows that crashed a process twice.

    When no other build is at work, leftovers of killed runs are cleared first and last.
    Raises UsageError on a folder that is not a build's, before anything in it is touched.
    """
    _refuse_foreign(store)
    descriptor = os.open(store.root, os.O_RDONLY)
    try:
        if _try_lock(descriptor, fcntl.LOCK_EX):
            _clear_leftovers(store)
        _lock(descriptor, store, exclusive=False)
        yield _crashed_rows(store)
        # Workers end a moment after the graph; a racing build may take an hour: its business.
        # A worker in this process still works after the build was stopped: the next run clears.
        if not worker.is_working() and _lock_within(descriptor, fcntl.LOCK_EX, _END_PATIENCE_S):
            _clear_leftovers(store)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, store: Store, exclusive: bool) -> None:
    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    if not _lock_within(descriptor, operation, _LOCK_PATIENCE_S):
        raise UsageError(f"{store}: another facecap command is at work here; let it end first")


def _lock_within(descriptor: int, operation: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not _try_lock(descriptor, operation):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # No locks there, as on some network file systems: then nobody may clear anything.
        return operation == fcntl.LOCK_SH
    return True


def _clear_leftovers(store: Store) -> None:
    """Under the exclusive lock: note native crashes of dead runs, then remove what they left.

    The attempt of a committed shard is kept until its files have moved. On an object store an
    attempt goes only when another has won its shard, for then it can never be committed.
    """
    crashes = read_crashes(store)
    for name in store.here.list(PROGRESS):
        run = store.path(f"{PROGRESS}/{name}")
        if run.is_dir():
            for row in worker.rows_in_flight(run):
                crashes[row] = crashes.get(row, 0) + 1
            for trace in worker.crash_traces(run):
                _keep_trace(trace, store.path(f"{LOGS}/{name}-{trace.name}"))
            store.here.remove_tree(f"{PROGRESS}/{name}")
    if crashes:
        store.replace(CRASHES_FILE, json.dumps(crashes, sort_keys=True).encode())
    else:
        store.here.remove_tree(PROGRESS)
    for attempt in store.list(ATTEMPTS):
        clear(store, attempt)
    if store.is_remote:
        store.here.remove_tree(ATTEMPTS)  # files that were to be sent
    folders = ("commits", RECAPTIONS, STAGED)
    for pattern in (f".{BUILD_FILE}.*", f".{MANIFEST_FILE}.*", *(f"{f}/.*" for f in folders)):
        for half_written in store.root.glob(pattern):
            half_written.unlink()
    for folder in (ATTEMPTS, PROGRESS):
        with contextlib.suppress(OSError):  # not there, or an unfinished commit is in it
            store.path(folder).rmdir()


def _keep_trace(trace: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trace, kept)


def read_crashes(store: Store) -> dict[int, int]:
    """How often each row was in native code when a worker crashed there, over all runs."""
    try:
        crashes = json.loads(store.read(CRASHES_FILE))
    except (FileNotFoundError, ValueError):
        return {}
    return {int(row): int(times) for row, times in crashes.items()}


def _crashed_rows(store: Store) -> frozenset[int]:
    crashes = read_crashes(store)
    return frozenset(row for row, times in crashes.items() if times >= CRASHES_TO_DROP)
