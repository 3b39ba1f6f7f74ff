"""Recaption: the captions of finished shards made anew, from their metadata alone. Each shard is
written as its next generation and committed by the rules of a build (transforms/commit.py)."""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.utils.shared import Shared

from facecap.schemas.captions import Caption, Fault, Rewrite, RewriteFault
from facecap.schemas.commit import CommitRecord
from facecap.schemas.outcomes import Outcome, Reason, Stage
from facecap.schemas.shard import SHARD_FILES
from facecap.schemas.tables import LEDGER, METADATA
from facecap.transforms import worker
from facecap.transforms.attempt import Attempt
from facecap.transforms.caption_columns import (
    Asked,
    CaptionConfig,
    caption_columns,
    count_captions,
    too_few_answers,
)
from facecap.transforms.commit import commit, finish, read_record
from facecap.transforms.compose_caption import Composer
from facecap.transforms.object_store import open_store
from facecap.transforms.rewrite.engine import Desk, RewriteConfig, Rewriter
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.rewriter import SEEDS, Done, Task, make_task
from facecap.transforms.rewrite_caption import count
from facecap.transforms.rows import count_ledger, to_json
from facecap.transforms.share import Sharing
from facecap.transforms.store import Store
from facecap.transforms.write_shard import ShardFailed, ShardResult

log = logging.getLogger("facecap")

MAX_RACES = 10
"""How often a shard is begun again because another command wrote it meanwhile."""

Captions = dict[str, tuple[Caption, ...]]
"""The captions of a shard's faces by key, in the order of the keys; none where nothing may be
said."""


@dataclass(frozen=True)
class RecaptionConfig:
    """What it takes to make the captions of a shard: plain data, part of the graph.

    `number` is the recaption's; `footer` the JSON text for the Parquet footers.
    """

    output: str
    number: int
    footer: str
    composer: Composer
    stored: CaptionConfig
    rewrite: RewriteConfig | None
    min_answered: float


class Shard:
    """A committed shard as it is read: its record and its tables."""

    def __init__(self, store: Store, record: CommitRecord) -> None:
        """Raises ShardFailed where a file is not what was committed: it must not get a new hash."""
        self.record = record
        self._store = store
        for kind in SHARD_FILES:
            entry = record.files[kind]
            if store.entry(entry.path, entry.path) != entry:
                raise ShardFailed(f"{entry.path} is not what was committed; see facecap verify")
        self.metadata = pq.read_table(store.open(record.files["metadata"].path))
        self.ledger = pq.read_table(store.open(record.files["ledger"].path))

    def samples(self) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        """Key, JPEG and JSON of every sample of the tar, in its order."""
        path = self.record.files["tar"].path
        with self._store.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members: dict[str, bytes] = {}
            for member in tar:
                data = tar.extractfile(member)
                key, _, kind = member.name.partition(".")
                members[kind] = data.read() if data is not None else b""
                if kind == "txt":  # the last of a sample's
                    yield key, members["jpg"], json.loads(members["json"])
                    members = {}

    def rejects(self) -> bytes:
        return self._store.read(self.record.files["rejects"].path)


def compose(shard: Shard, composer: Composer) -> Captions:
    """The grammar's captions of every face of `shard`, in the order of the keys."""
    rows = shard.metadata.select(["key", "labels", "probabilities"]).to_pylist()
    return {
        row["key"]: composer.compose(
            tuple(row["labels"]), np.array(row["probabilities"], np.float32), row["key"]
        )
        for row in rows
    }


def write(
    store: Store, shard: Shard, captions: Captions, config: RecaptionConfig
) -> tuple[CommitRecord, bool]:
    """Write and commit the shard's next generation with `captions`; returns the record of whoever
    was first, and whether that was this call.

    A face of which nothing may be said is dropped as `nothing_to_state`, as in a build. Raises
    ShardFailed where too few captions were answered.
    """
    record = shard.record
    spoken = [bool(captions[key]) for key in shard.metadata["key"].to_pylist()]
    kept = shard.metadata.filter(pa.array(spoken, pa.bool_()))
    columns = {
        row["key"]: caption_columns(captions[row["key"]], row["source_caption"], config.stored)
        | {"looks_under_18": _looks_under_18(row, config.composer)}
        for row in kept.select(["key", "source_caption", "probabilities"]).to_pylist()
    }
    counts = count_captions(row["captions"] for row in columns.values())
    if unanswered := too_few_answers(counts, config.min_answered):
        raise ShardFailed(unanswered)
    silent = {key for key, said in captions.items() if not said}
    ledger = _without(shard.ledger, silent)
    attempt = Attempt(store, record.shard, record.generation + 1)
    attempt.write_tar("tar", _members(shard, columns))
    attempt.write_table("metadata", _with_columns(kept, columns), config.footer)
    attempt.write_table("ledger", ledger, config.footer)
    with attempt.new_file("rejects") as file:
        file.write(shard.rejects())
    written = CommitRecord(
        shard=record.shard,
        generation=record.generation + 1,
        recaption=config.number,
        attempt=attempt.name,
        fingerprint=record.fingerprint,
        files=attempt.files,
        counts=count_ledger(ledger.to_pylist()) if silent else record.counts,
        captions=counts,
    )
    winner = commit(store, written)
    return winner, winner.attempt == written.attempt


def _looks_under_18(row: dict[str, Any], composer: Composer) -> bool | None:
    return composer.looks_under_18(np.array(row["probabilities"], np.float32))


def _members(shard: Shard, columns: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for key, jpeg, row in shard.samples():
        if key in columns:
            row |= columns[key]
            yield {
                "__key__": key,
                "jpg": jpeg,
                "json": to_json(row),
                "txt": row["caption"].encode(),
            }


def _with_columns(table: pa.Table, columns: Mapping[str, dict[str, Any]]) -> pa.Table:
    rows = [columns[key] for key in table["key"].to_pylist()]
    for name in rows[0] if rows else ():
        field = METADATA.field(name)
        values = pa.array([row[name] for row in rows], field.type)
        table = table.set_column(table.schema.get_field_index(name), field, values)
    return table


def _without(ledger: pa.Table, silent: set[str]) -> pa.Table:
    """The ledger with the faces of these keys dropped as `nothing_to_state`. It is made of plain
    values again, as a build makes it: Arrow's buffers as they were read give other bytes."""
    rows = ledger.to_pylist()
    first_row = rows[0]["row"] if rows else 0
    places = {(first_row + int(key[6:12]), int(key[13:])) for key in silent}
    drop = {"outcome": Outcome.DROPPED, "stage": Stage.CAPTION, "reason": Reason.NOTHING_TO_STATE}
    for row in rows:
        hit = False
        for rank, face in enumerate(row["faces"]):
            if (row["row"], rank) in places:
                face |= drop
                hit = True
        # No face got further than one that has come to its caption.
        if hit and all(face["outcome"] == Outcome.DROPPED for face in row["faces"]):
            row |= drop
    return pa.Table.from_pylist(rows, schema=LEDGER)


def ask_all(
    desk: Desk[Any], tasks: Mapping[Any, Task], in_flight: int
) -> Iterator[tuple[Any, Done]]:
    """What becomes of `tasks`, as it comes; at most `in_flight` are handed in at a time."""
    for key, task in tasks.items():
        while desk.in_flight >= in_flight:
            yield desk.take()
        desk.submit(key, task)
    while desk.in_flight:
        yield desk.take()


class RecaptionFn(beam.DoFn):
    """Takes a block of shards, which share rewrites, one shard after the other."""

    def __init__(self, config: RecaptionConfig, run: worker.Run) -> None:
        self._config, self._run = config, run
        self._shared = Shared()
        self._rewriter: Rewriter | None = None
        self._desk: Desk[Any] | None = None

    def setup(self) -> None:
        self._store = open_store(self._config.output)
        self._checker = Checker()
        worker.start(self._run)

    def start_bundle(self) -> None:
        if self._desk is not None:
            self._desk.cancel()  # what a failed bundle left behind

    def process(self, block: Sequence[int]) -> Iterator[ShardResult]:
        rewrite = self._config.rewrite
        sharing = Sharing(rewrite.options.reuse if rewrite else 1)
        failed: int | None = None
        for number in block:
            if failed is not None:
                # Who shares with whom is counted over all the shards before.
                error = f"shares rewrites with shard {failed:06d}, which failed"
                yield ShardResult(number, error=error)
                continue
            try:
                record, sharing = self._made(number, sharing, alone=len(block) == 1)
            except (ShardFailed, FileNotFoundError) as error:
                failed = number
                log.error("shard %06d keeps its captions: %s", number, error)
                yield ShardResult(number, error=str(error))
                continue
            counts = record.counts
            worker.count(rows=counts.rows, faces=counts.faces, kept=counts.faces_kept)
            yield ShardResult(number, counts)

    def teardown(self) -> None:
        if self._rewriter is not None and self._desk is not None:
            self._rewriter.close_desk(self._desk)
            self._rewriter = self._desk = None

    def _made(self, number: int, sharing: Sharing, *, alone: bool) -> tuple[CommitRecord, Sharing]:
        """The record of the shard with this recaption's captions, whoever made them, and what the
        shards behind it share."""
        for _ in range(MAX_RACES):
            record = read_record(self._store, number)
            if record is None:
                raise ShardFailed("is not committed; give the build's command first")
            if record.recaption > self._config.number:
                raise ShardFailed(f"has the captions of recaption {record.recaption} already")
            finish(self._store, record)
            done = record.recaption == self._config.number
            if done and alone:
                return record, sharing
            shard = self._read(record)
            if shard is None:
                continue
            counted = sharing.copy()
            captions = self._captions(shard, counted, done=done)
            if done:
                return record, counted
            record, won = write(self._store, shard, captions, self._config)
            if won:
                return record, counted
            # Another command was faster: its rewrites are the ones to share.
        raise ShardFailed("is written by another command again and again")

    def _read(self, record: CommitRecord) -> Shard | None:
        """The shard, or None where another command has written it anew meanwhile."""
        try:
            return Shard(self._store, record)
        except (ShardFailed, FileNotFoundError):
            newest = read_record(self._store, record.shard)
            if newest is not None and newest.generation > record.generation:
                return None
            raise

    def _captions(self, shard: Shard, sharing: Sharing, *, done: bool) -> Captions:
        """The captions of the shard with their rewrites: those it has already where they are what
        would be asked for, another face's where they are shared, else asked for."""
        captions = compose(shard, self._config.composer)
        config = self._config.rewrite
        if config is None:
            return captions
        tasks = {
            (key, n): make_task(caption, key, n, config.styles, config.options)
            for key, said in captions.items()
            for n, caption in enumerate(said)
        }
        slots = sharing.slots(tasks.items())
        stored = stored_rewrites(shard, self._config.stored.asked)
        wanted = {}
        for place in sharing.to_ask(slots):
            task, there = tasks[place], stored.get(place)
            if there is not None and (done or self._is_its(there, task)):
                sharing.add(slots[place], there.rewrite)
            else:
                wanted[place] = task
        if wanted:
            for place, answer in ask_all(self._opened_desk(config), wanted, config.in_flight):
                sharing.add(slots[place], answer.rewrite)
                count(answer)
        return {
            key: tuple(replace(c, rewrite=sharing.get(slots[key, n])) for n, c in enumerate(said))
            for key, said in captions.items()
        }

    def _is_its(self, there: Stored, task: Task) -> bool:
        """Whether what is stored is what came of this very task, and is true by today's check."""
        rewrite = there.rewrite
        asked = (rewrite.key, rewrite.style, there.raw)
        if asked != (task.key, task.style, task.raw):
            return False
        if rewrite.seed not in (task.seed, (task.seed + 1) % SEEDS):
            return False
        text = rewrite.text
        return text is None or self._checker.check(text, task.labels, task.person) is None

    def _opened_desk(self, config: RewriteConfig) -> Desk[Any]:
        """Opened when the first caption has to be asked for: there may be none."""
        if self._rewriter is None or self._desk is None:
            self._rewriter = self._shared.acquire(lambda: Rewriter(config))
            self._desk = self._rewriter.open_desk()
        return self._desk


@dataclass(frozen=True)
class Stored:
    """A rewrite as a shard has it, and the grammar's words that it was asked for."""

    raw: str
    rewrite: Rewrite


def stored_rewrites(shard: Shard, asked: Asked | None) -> dict[tuple[str, int], Stored]:
    """The rewrites in the shard's metadata that were asked for with the same model, prompts and
    sampling settings as `asked`, by the face's key and the number of the caption."""
    found = {}
    for row in shard.metadata.select(["key", "captions"]).to_pylist():
        for n, caption in enumerate(row["captions"]):
            told, kind = caption["rewrite"], caption["rewrite_fault"]
            if told is None or asked is None:
                continue
            if asked != Asked(**{name: told[name] for name in Asked.__dataclass_fields__}):
                continue
            rewrite = Rewrite(
                text=caption["rewritten_caption"],
                fault=Fault(RewriteFault(kind), told["error"]) if kind else None,
                style=told["style"],
                seed=told["seed"],
                tries=told["tries"],
                key=told["key"],
            )
            found[row["key"], n] = Stored(caption["raw_caption"], rewrite)
    return found


class Recaption(beam.PTransform):
    """PCollection of blocks of shard numbers -> PCollection[ShardResult]."""

    def __init__(self, config: RecaptionConfig, run: worker.Run) -> None:
        super().__init__()
        self._do_fn = RecaptionFn(config, run)

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        return blocks | "Recaption" >> beam.ParDo(self._do_fn).with_output_types(ShardResult)
