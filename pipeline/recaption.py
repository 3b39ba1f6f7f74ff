"""`facecap recaption`: new captions for a finished dataset, in place, from its metadata alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam

from facecap.pipeline import terminal
from facecap.pipeline.engines import Target, make_engine
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    BuildFailed,
    UsageError,
)
from facecap.pipeline.execution import Engine, Interrupted, execute
from facecap.pipeline.manifest import finish_dataset, read_failures, read_records
from facecap.pipeline.output import (
    BuildFile,
    RecaptionFile,
    content_hash,
    open_dataset,
    read_build_file,
    read_recaptions,
    recaption_file,
    shared_lock_and_cleaning,
)
from facecap.pipeline.settings import Settings, content_settings, load_settings
from facecap.pipeline.words import Words, load_words, minors_note, try_rewriting
from facecap.schemas.commit import CommitRecord, Counts
from facecap.schemas.tables import SCHEMA_VERSION
from facecap.transforms import worker
from facecap.transforms.commit import finish_left
from facecap.transforms.recaption import Recaption, RecaptionConfig
from facecap.transforms.same import Expected, versions
from facecap.transforms.store import Store


@dataclass(frozen=True)
class RecaptionRequest:
    """What the command line asks for; `shards` are numbers, empty for all."""

    output: str
    config: Path | None = None
    overrides: Sequence[str] = ()
    shards: frozenset[int] = frozenset()
    beam_options: Sequence[str] = ()
    target: Target = field(default_factory=Target)
    abandon: bool = False


def recaption(request: RecaptionRequest, screen: terminal.Screen) -> int:
    """Make the captions of a dataset anew and return the exit code. A command that was stopped goes
    on with the shards that it has not done; several machines may share one dataset.

    Raises UsageError before anything is changed, BuildFailed when the graph could not finish.
    """
    store = open_dataset(request.output)
    build = read_build_file(store)
    settings = recaption_settings(store, build, request)
    count = len(request.shards) or build.shards
    engine = make_engine(request.target, settings, str(store), count, request.beam_options)
    words = load_words(
        settings.attributes, settings.caption, settings.rewrite, build.models["attributes.model"]
    )
    with shared_lock_and_cleaning(store):
        claim = look_at_recaption(store, build, settings, words, abandon=request.abandon)
        blocks = make_blocks(settings, build.shards, request.shards)
        blocks = [block for block in blocks if claim.left & set(block)]
        try:
            finish_left(store, read_records(store, build).values())
        except FileNotFoundError as missing:
            raise UsageError(f"{store}: {missing}") from None
        if not blocks:
            screen.say("All of these shards have the captions of these settings already.")
            finish_dataset([], str(store))
            return EXIT_DONE
        for name in claim.other_files:
            screen.say(f"{name}: another file than the captions were made with: they are made anew")
        if engine.workers_here and not claim.same_words:
            try_rewriting(settings.rewrite)
        if note := minors_note(settings.attributes.minors, words.hashes):
            screen.say(note)
        if not claim.begun and not _begin(store, claim.file):
            raise UsageError(
                f"{store}: another recaption was begun this moment; look at that first"
            )
        config = RecaptionConfig(
            output=str(store),
            number=claim.file.number,
            footer=json.dumps({"fingerprint": build.fingerprint, "settings": claim.file.settings}),
            composer=words.composer,
            stored=words.stored,
            rewrite=words.rewrite,
            min_answered=settings.rewrite.min_answered,
        )
        return _run(engine, store, build, blocks, config, screen)


def _run(
    engine: Engine,
    store: Store,
    build: BuildFile,
    blocks: Sequence[tuple[int, ...]],
    config: RecaptionConfig,
    screen: terminal.Screen,
) -> int:
    """Run the graph over `blocks`, say what became of them, and return the exit code."""

    def add(pipeline: beam.Pipeline, run: worker.Run) -> None:
        add_graph(pipeline, blocks, config, run)

    number = config.number
    records = read_records(store, build)
    before = Counts.total(r.counts for r in records.values())
    done = Counts.total(r.counts for r in records.values() if r.recaption == number)
    screen.start(before.rows, done)
    stopped: Interrupted | BuildFailed | None = None
    try:
        expected = Expected(tuple(versions().items()))
        show = screen.update
        execute(engine, add, store, frozenset(), expected, 0.0, lambda p: show(p, done))
    except (Interrupted, BuildFailed) as stop:
        stopped = stop
    finally:
        screen.stop()
    records = read_records(store, build)
    _tell(store, records, number, before, screen)
    if isinstance(stopped, BuildFailed):
        raise stopped
    if stopped is not None:
        screen.say("Stopped. What is committed stays; give the same command to continue.")
        return EXIT_INTERRUPTED
    left = {n for block in blocks for n in block if records[n].recaption < number}
    if not left:
        return EXIT_DONE
    for shard, error in read_failures(store).items():
        screen.say(f"shard {shard} keeps its captions: {error}")
    screen.say(f"{len(left)} shards failed; give the same command again.")
    return EXIT_FAILED


def _begin(store: Store, file: RecaptionFile) -> bool:
    """Whether this call created the file: several machines may begin the same recaption at once."""
    text = json.dumps(file.model_dump(), indent=1, ensure_ascii=False) + "\n"
    if store.create(recaption_file(file.number), text.encode()):
        return True
    return read_recaptions(store) == file


def _tell(
    store: Store,
    records: Mapping[int, CommitRecord],
    number: int,
    before: Counts,
    screen: terminal.Screen,
) -> None:
    done = [record for record in records.values() if record.recaption == number]
    screen.captions(record.captions for record in done)
    lost = before.faces_kept - Counts.total(r.counts for r in records.values()).faces_kept
    if lost:
        screen.say(f"{lost} faces were dropped: nothing may be said of them with these settings")
    screen.say(f"{len(done)} of {len(records)} shards have the new captions under {store}")


def add_graph(
    pipeline: beam.Pipeline,
    blocks: Sequence[tuple[int, ...]],
    config: RecaptionConfig,
    run: worker.Run,
) -> beam.PCollection:
    """One fused stage between the Reshuffle and the statistics, as in a build."""
    return (
        pipeline
        | "Blocks" >> beam.Create(blocks)
        | "Spread" >> beam.Reshuffle()
        | "Recaption" >> Recaption(config, run)
        | "Statistics" >> beam.combiners.ToList()
        | "FinishDataset" >> beam.Map(finish_dataset, config.output)
    )


def recaption_settings(store: Store, build: BuildFile, request: RecaptionRequest) -> Settings:
    """The settings that `build` was made with, and over them those of the request. Raises
    UsageError where these would change anything but captions."""
    if build.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{request.output}: was built with schema version {build.schema_version}, this facecap "
            f"knows {SCHEMA_VERSION}; build it anew to recaption it"
        )
    newest = read_recaptions(store)
    base = newest.settings if newest else build.settings
    settings = load_settings(request.config, request.overrides, base=base)
    now = content_settings(settings)
    for name in sorted({*now, *build.settings}):
        if not _is_of_captions(name) and now.get(name) != build.settings.get(name):
            raise UsageError(
                f"{name}: a recaption changes captions only (caption.*, rewrite.* and "
                "attributes.minors); for this, build anew"
            )
    return settings


def _is_of_captions(name: str) -> bool:
    return name.startswith(("caption.", "rewrite.")) or name == "attributes.minors"


def make_blocks(settings: Settings, shards: int, wanted: frozenset[int]) -> list[tuple[int, ...]]:
    """The shards, by blocks whose faces may share rewrites: of one shard each where none do.

    Raises UsageError where `wanted` (empty: all) are not there, or leave a block in pieces.
    """
    rewrite = settings.rewrite
    shared = rewrite.backend != "none" and rewrite.reuse > 1
    size = rewrite.block_shards if shared else 1
    blocks = [tuple(range(k, min(k + size, shards))) for k in range(0, shards, size)]
    if not wanted:
        return blocks
    if missing := sorted(wanted - set(range(shards))):
        raise UsageError(f"--shards: there is no shard {missing[0]}, the last is {shards - 1}")
    chosen = [block for block in blocks if wanted & set(block)]
    for block in chosen:
        if not set(block) <= wanted:
            raise UsageError(
                f"--shards: with rewrite.reuse the shards {block[0]}-{block[-1]} go together; name "
                "all of them, or change rewrite.block_shards"
            )
    return chosen


@dataclass(frozen=True)
class Claim:
    """A recaption to work at. It is `begun` when its file is there; `left` are the shards that it
    has not done. With `same_words` the captions there differ in `caption.text` at most, so that
    nobody needs to be asked; `other_files` are settings whose files are others than theirs."""

    file: RecaptionFile
    begun: bool
    left: frozenset[int]
    same_words: bool
    other_files: tuple[str, ...]


def look_at_recaption(
    store: Store, build: BuildFile, settings: Settings, words: Words, *, abandon: bool
) -> Claim:
    """The recaption under way where it has the same settings, or a new one; changes nothing.

    Raises UsageError where shards are not committed yet, or where one with other settings is not
    at its end and not to be given up (`abandon`).
    """
    records = read_records(store, build)
    if len(records) < build.shards:
        raise UsageError(
            f"{store}: {build.shards - len(records)} of {build.shards} shards are not committed; "
            "give the build's command first"
        )
    kept = content_settings(settings)
    models = {name: h for name, h in build.models.items() if not _is_of_captions(name)}
    models |= words.hashes
    wanted = RecaptionFile(
        number=1,
        fingerprint=content_hash(SCHEMA_VERSION, kept, models, {"build": build.fingerprint}),
        settings=kept,
        models=models,
    )
    newest = read_recaptions(store)
    begun = newest is not None and newest.fingerprint == wanted.fingerprint
    if newest is None:
        number, left = 1, frozenset(records)
    else:
        number = newest.number if begun else newest.number + 1
        undone = frozenset(n for n, r in records.items() if r.recaption < newest.number)
        if not begun and undone and len(undone) < build.shards and not abandon:
            raise UsageError(
                f"{store}: a recaption with other settings has {len(undone)} of {build.shards} "
                f"shards to do: {'; '.join(newest.differences(wanted))}; give its command again, "
                "or this one with --abandon"
            )
        left = undone if begun else frozenset(records)
    before = read_recaptions(store, before=number) or build
    other = tuple(
        name
        for name in ("caption.grammar", "rewrite.prompts")
        if name in before.models and name in models and before.models[name] != models[name]
    )
    file = wanted.model_copy(update={"number": number})
    return Claim(file, begun, left, _same_words(before.settings, before.models, wanted), other)


def _same_words(
    settings: Mapping[str, Any], models: Mapping[str, str], wanted: RecaptionFile
) -> bool:
    """Whether captions made with these differ from the wanted ones in `caption.text` at most."""
    before = {name: value for name, value in settings.items() if name != "caption.text"}
    after = {name: value for name, value in wanted.settings.items() if name != "caption.text"}
    return before == after and dict(models) == wanted.models


def parse_shards(text: str | None) -> frozenset[int]:
    """`3,7-9` as numbers; empty for None. Raises UsageError."""
    numbers: set[int] = set()
    for part in () if text is None else text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--shards {text!r}: write numbers and ranges, such as 3,7-9")
        start, end = int(first), int(last or first)
        if end < start or end - start > 10_000_000:
            raise UsageError(f"--shards {text!r}: {part.strip()} is no range")
        numbers |= set(range(start, end + 1))
    return frozenset(numbers)
