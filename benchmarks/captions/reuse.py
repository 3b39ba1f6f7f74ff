"""The tables about reuse: how often a key comes again, and what a limit of reuse costs."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.captions.composed import Corpus, compose
from benchmarks.captions.cost import (
    TOKENS_PER_MESSAGE,
    TOKENS_PER_WORD,
    Rate,
    completion_tokens,
    load_rates,
    prompt_tokens,
)
from benchmarks.captions.faces import Labelled, annotated
from benchmarks.captions.report import percent, table
from benchmarks.captions.reuse_stats import (
    METHODS,
    Calls,
    Spectrum,
    bounded_calls,
    counted_calls,
    faces_in,
    rarefied,
    seen_before,
    spectrum_of,
)
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import load_prompts

SIZES = (250, 500, 1000, 2000, 4000, 8000, 10_000)
LIMITS = (1, 5, 10, 20, 100)
TARGET = 15_000_000
TRIALS = 20
ROWS_PER_SHARD, FACES_PER_ROW = 10_000, 0.3
"""The default's most, and what the paper's 15 million faces of 50 million rows come to."""
PROMPTED = 500
PAPER_TOKENS = 60
"""Of an answer, where the cost of the paper's way is reckoned."""


def reuse_report(faces: Labelled, data: Path, tokens_per_second: float | None, seed: int) -> str:
    """All tables about reuse, as Markdown."""
    corpora = {
        f"{name}, {min_labels}+": compose(source, min_labels, seed=seed, real=real)
        for name, source, real in (
            ("classifier", faces, True),
            ("attribute file", annotated(data), False),
        )
        for min_labels in (6, 2)
    }
    spectra = {n: spectrum_of(c.key for c in corpus.captions) for n, corpus in corpora.items()}
    ours = spectra["classifier, 6+"]
    options = RewriteOptions()
    block = round(options.block_shards * ROWS_PER_SHARD * FACES_PER_ROW)
    parts = [
        "A key is the person and the labels stated, by the default settings. "
        f"Classifier: the embedded one on {faces.source}. Attribute file: CelebA's own labels, "
        "which people gave.",
        *(f"- {name}: {corpus.description}" for name, corpus in corpora.items()),
        "",
        "**Faces whose key an earlier face has**, mean over all samples of a size (rarefaction)",
        "",
        _seen_table(spectra),
        "",
        "**Different keys**, extrapolated",
        "",
        _extrapolation_table(spectra, block),
        "",
        f"The same methods asked for four times their sample ({TRIALS} samples each, seed {seed}): "
        "mean error, and its standard deviation",
        "",
        _test_table({n: [c.key for c in corpus.captions] for n, corpus in corpora.items()}, seed),
        "",
        *_cost_parts(corpora["classifier, 6+"], ours, block, options, tokens_per_second),
    ]
    return "\n".join(parts)


def _seen_table(spectra: Mapping[str, Spectrum]) -> str:
    rows: list[list[object]] = []
    for size in SIZES:
        shares = [
            percent(seen_before(s, size)) if size <= faces_in(s) else "-" for s in spectra.values()
        ]
        if any(share != "-" for share in shares):
            rows.append([f"{size:,} faces", *shares])
    whole = [f"{percent(seen_before(s, faces_in(s)))} of {faces_in(s)}" for s in spectra.values()]
    rows.append(["all faces", *whole])
    return table(["", *spectra], rows)


def _extrapolation_table(spectra: Mapping[str, Spectrum], block: int) -> str:
    rows: list[list[object]] = [
        ["seen", *(sum(s.values()) for s in spectra.values())],
        ["seen once, twice", *(f"{s.get(1, 0):,}, {s.get(2, 0):,}" for s in spectra.values())],
    ]
    for size in (block, TARGET):
        for name, method in METHODS.items():
            keys = [round(method(s, size)) for s in spectra.values()]
            rows.append([f"{size:,} faces, {name}", *keys])
    return table(["", *spectra], rows)


def _test_table(keys: Mapping[str, Sequence[object]], seed: int) -> str:
    rows = []
    for name, of_faces in keys.items():
        size = min(2000, len(of_faces) // 4)
        errors = errors_at_four_times(of_faces, size, seed)
        row = [f"{name}: {size:,} to {4 * size:,}"]
        row += [
            f"{100 * statistics.fmean(e):+.1f} % ({100 * statistics.stdev(e):.1f})"
            for e in errors.values()
        ]
        rows.append(row)
    return table(["", *METHODS], rows)


def errors_at_four_times(
    keys: Sequence[object], size: int, seed: int, trials: int = TRIALS
) -> dict[str, list[float]]:
    """By method, the relative errors of extrapolating from `size` of `keys` to four times as many,
    against what all `keys` say of that size."""
    rng = random.Random(seed)
    truth = rarefied(spectrum_of(keys), 4 * size)
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(trials):
        sample = spectrum_of(rng.sample(list(keys), size))
        for name, method in METHODS.items():
            errors[name].append(method(sample, 4 * size) / truth - 1)
    return errors


def _cost_parts(
    corpus: Corpus, spectrum: Spectrum, block: int, options: RewriteOptions, rate: float | None
) -> list[str]:
    captions = random.Random(0).sample(corpus.captions, min(PROMPTED, len(corpus.captions)))
    asked = prompt_tokens(load_prompts(), captions)
    answered = completion_tokens(captions)
    rates = load_rates()
    if rate is not None:
        rates.append(Rate("yours", "GPU", rate, "completion_tokens", "--tokens-per-second"))
    return [
        f"**Calls and cost for {TARGET:,} captions** (classifier, 6+)",
        "",
        f"- prompt: {asked:.0f} tokens, answer: {answered:.0f} (mean of {len(captions)} captions, "
        f"all styles of the packaged prompts; {TOKENS_PER_WORD} tokens per word and "
        f"{TOKENS_PER_MESSAGE} per message assumed, an answer as long as its caption; retries are "
        "not counted)",
        f"- texts are shared within blocks of {options.block_shards} shards, as "
        f"rewrite.block_shards says: {block:,} faces, at {ROWS_PER_SHARD:,} rows per shard and "
        f"{FACES_PER_ROW} faces per row",
        *(_describe(r) for r in rates),
        "- calls: between the bounds that the lowest and the highest number of keys give",
        "",
        _calls_table(spectrum, block, asked, answered, rates),
    ]


def _describe(rate: Rate) -> str:
    days = rate.days(TARGET, PAPER_TOKENS)
    unit, answers = rate.unit.replace("_", " "), ""
    if rate.unit == "completion_tokens":
        answers = f" and with answers of {PAPER_TOKENS} tokens"
    return (
        f"- {rate.name} on {rate.device}: {rate.rate:g} {unit}/s ({rate.source}); without reuse"
        f"{answers} that is {days:.0f} days"
    )


def _calls_table(
    spectrum: Spectrum, block: int, asked: float, answered: float, rates: Sequence[Rate]
) -> str:
    head = [
        *("shared over", "at most, faces per text", "LLM calls, million"),
        *("faces per text, mean", "prompt tokens, 10^9", "answer tokens, 10^9"),
        *(f"{r.device}-days, {r.name}" for r in rates),
    ]
    rows: list[list[object]] = []
    sample = faces_in(spectrum)
    for name, size in (("the sample (counted)", sample), ("a block", block), ("all", TARGET)):
        for limit in LIMITS:
            calls = _calls(spectrum, size, limit)
            low, high = (TARGET / size * n for n in (calls.low, calls.high))
            rows.append(
                [
                    f"{name}, {size:,}",
                    limit,
                    _range(low / 1e6, high / 1e6, 2),
                    _range(TARGET / high, TARGET / low, 1),
                    _range(low * asked / 1e9, high * asked / 1e9, 2),
                    _range(low * answered / 1e9, high * answered / 1e9, 3),
                    *(_range(r.days(low, answered), r.days(high, answered), 1) for r in rates),
                ]
            )
    return table(head, rows)


def _calls(spectrum: Spectrum, size: int, limit: int) -> Calls:
    if size == faces_in(spectrum):
        return counted_calls(spectrum, limit)
    keys = [method(spectrum, size) for method in METHODS.values()]
    return bounded_calls(size, min(keys), max(keys), limit)


def _range(low: float, high: float, digits: int) -> str:
    texts = f"{low:,.{digits}f}", f"{high:,.{digits}f}"
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"
