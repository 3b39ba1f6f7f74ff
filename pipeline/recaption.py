"""`facecap recaption`: new captions for a finished dataset, in place, from its metadata alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam

from facecap.pipeline import terminal
from facecap.pipeline.engines import Target, make_engine
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    UsageError,
)
from facecap.pipeline.execution import Interrupted, execute
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
from facecap.pipeline.words import Words, load_words, try_rewriting
from facecap.schemas.commit import Counts
from facecap.schemas.tables import SCHEMA_VERSION
from facecap.transforms import worker
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


def recaption(request: RecaptionRequest, screen: terminal.Screen) -> int:
    """Make the captions of a dataset anew and return the exit code. A command that was stopped goes
    on with the shards that it has not done; several machines may share one dataset.

    Raises UsageError before anything is changed, BuildFailed when the graph could not finish.
    """
    store = open_dataset(request.output)
    build = read_build_file(store)
    settings = recaption_settings(build, request)
    count = len(request.shards) or build.shards
    engine = make_engine(request.target, settings, str(store), count, request.beam_options)
    words = load_words(
        settings.attributes, settings.caption, settings.rewrite, build.models["attributes.model"]
    )
    blocks = make_blocks(settings, build.shards, request.shards)
    if engine.workers_here:
        try_rewriting(settings.rewrite)
    with shared_lock_and_cleaning(store):
        recaptions = claim_recaption(store, build, settings, words)
        config = RecaptionConfig(
            output=str(store),
            number=recaptions.number,
            footer=json.dumps({"fingerprint": build.fingerprint, "settings": recaptions.settings}),
            composer=words.composer,
            stored=words.stored,
            rewrite=words.rewrite,
            min_answered=settings.rewrite.min_answered,
        )

        def add(pipeline: beam.Pipeline, run: worker.Run) -> None:
            add_graph(pipeline, blocks, config, run)

        records = read_records(store, build)
        done = Counts.total(r.counts for r in records.values() if r.recaption == recaptions.number)
        screen.start(Counts.total(r.counts for r in records.values()).rows, done)
        interrupted = False
        try:
            expected = Expected(tuple(versions().items()))
            show = screen.update
            execute(engine, add, store, frozenset(), expected, 0.0, lambda p: show(p, done))
        except Interrupted:
            interrupted = True
        finally:
            screen.stop()
        return _result(store, build, recaptions.number, request.shards, interrupted, screen)


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


def recaption_settings(build: BuildFile, request: RecaptionRequest) -> Settings:
    """The settings that `build` was made with, and over them those of the request. Raises
    UsageError where these would change anything but captions."""
    if build.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{request.output}: was built with schema version {build.schema_version}, this facecap "
            f"writes {SCHEMA_VERSION}; recaption it with the facecap that built it"
        )
    settings = load_settings(request.config, request.overrides, base=build.settings)
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
    size = settings.rewrite.block_shards if settings.rewrite.reuse > 1 else 1
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


def claim_recaption(
    store: Store, build: BuildFile, settings: Settings, words: Words
) -> RecaptionFile:
    """The recaption to work at: one under way with the same settings, or a new one.

    Raises UsageError where shards are not committed yet, or a recaption with other settings has not
    come to its end.
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
        number=0,
        fingerprint=content_hash(SCHEMA_VERSION, kept, models, {"build": build.fingerprint}),
        settings=kept,
        models=models,
    )
    newest = read_recaptions(store)
    if newest is not None:
        if newest.fingerprint == wanted.fingerprint:
            return newest
        left = sum(record.recaption < newest.number for record in records.values())
        if left:
            raise UsageError(
                f"{store}: a recaption with other settings has {left} of {build.shards} shards to "
                f"do: {'; '.join(newest.differences(wanted))}; give its command again first"
            )
    number = newest.number + 1 if newest else 1
    wanted = wanted.model_copy(update={"number": number})
    text = json.dumps(wanted.model_dump(), indent=1, ensure_ascii=False) + "\n"
    if not store.create(recaption_file(number), text.encode()):
        return claim_recaption(store, build, settings, words)  # somebody else was first
    return wanted


def _result(
    store: Store,
    build: BuildFile,
    number: int,
    wanted: frozenset[int],
    interrupted: bool,
    screen: terminal.Screen,
) -> int:
    records = read_records(store, build)
    done = {n: r for n, r in records.items() if r.recaption == number}
    screen.captions(r.captions for r in done.values())
    screen.say(f"{len(done)} of {build.shards} shards have the new captions under {store}")
    if interrupted:
        screen.say("Stopped. What is committed stays; give the same command to continue.")
        return EXIT_INTERRUPTED
    left = (wanted or set(records)) - set(done)
    if not left:
        return EXIT_DONE
    for shard, error in read_failures(store).items():
        screen.say(f"shard {shard} keeps its captions: {error}")
    screen.say(f"{len(left)} shards failed; give the same command again.")
    return EXIT_FAILED


def parse_shards(text: str | None) -> frozenset[int]:
    """`3,7-9` as numbers; empty for None. Raises UsageError."""
    numbers: set[int] = set()
    for part in (text or "").split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--shards {text!r}: write numbers and ranges, such as 3,7-9")
        start, end = int(first), int(last or first)
        if end < start or end - start > 10_000_000:
            raise UsageError(f"--shards {text!r}: {part.strip()} is no range")
        numbers |= set(range(start, end + 1))
    return frozenset(numbers)
