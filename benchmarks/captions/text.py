"""The tables about the text: statistics, and the comparison at equal number and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.captions import grammar_errors
from benchmarks.captions.baseline import descriptions, one_template
from benchmarks.captions.composed import Composed, Corpus, compose
from benchmarks.captions.faces import Labelled
from benchmarks.captions.grammar_errors import Found
from benchmarks.captions.report import percent, table
from benchmarks.captions.text_stats import (
    ORDERS,
    TextStatistics,
    duplicates,
    equal_length,
    heads,
    sampled,
    self_bleu,
    shared_by_others,
    statistics_of,
    words_of,
)

BLEU_SAMPLE = 1000
MIN_LABELS = (6, 2)
PEOPLE = Path("text") / "human_face_captions_700.txt"
"""Descriptions that people wrote to a template, British in spelling."""


@dataclass(frozen=True)
class Texts:
    """A column of the tables; `sources` are the captions' labels where there are any."""

    name: str
    texts: list[str]
    sources: Sequence[Composed] = ()
    language: str = "en-US"


def text_report(faces: Labelled, data: Path, count: int, seed: int) -> str:
    """All tables about the text, as Markdown: ours and one template per attribute, for both
    settings of min_labels, and what people wrote, where that file is there."""
    corpora = [compose(faces, min_labels, count, seed) for min_labels in MIN_LABELS]
    pairs = [_pair(corpus) for corpus in corpora]
    compared = [texts for pair in pairs for texts in pair]
    groups = [(pair, count // 2) for pair in pairs]
    if (data / PEOPLE).exists():
        people = Texts("people", descriptions(data / PEOPLE), language="en-GB")
        compared.append(people)
        groups.append(([*pairs[0], people], len(people.texts)))
    errors = [grammar_errors.find(texts.texts, texts.language) for texts in compared]
    parts = [
        f"Label sets: the embedded classifier's outputs on {faces.source}; {faces.left_out} chips "
        "of UTKFace left out (no face found in their middle).",
        "",
        *(f"- {corpus.description}" for corpus in corpora),
        "",
        "**All texts**",
        "",
        _whole(compared, errors, seed),
        *(f"\n{_equal(group, number, seed)}" for group, number in groups),
        "",
        grammar_errors.heading(),
        *(
            f"\n{grammar_errors.rules(texts.name, texts.language, found)}"
            for texts, found in zip(compared, errors, strict=True)
        ),
        "",
        grammar_errors.breakage_report(compared[0].texts),
    ]
    return "\n".join(parts)


def _pair(corpus: Corpus) -> list[Texts]:
    fixed = [one_template(c.stated, c.person) for c in corpus.captions]
    return [
        Texts(f"ours, {corpus.min_labels}+", corpus.texts, corpus.captions),
        Texts(f"one template, {corpus.min_labels}+", fixed, corpus.captions),
    ]


def _whole(compared: Sequence[Texts], errors: Sequence[Found], seed: int) -> str:
    found = [statistics_of(t.texts) for t in compared]
    samples = [sampled(t.texts, BLEU_SAMPLE, seed) for t in compared]
    bleu = [self_bleu([words_of(text) for text in sample]) for sample in samples]
    rows: list[list[object]] = [
        ["captions", *(s.texts for s in found)],
        ["words per caption, mean", *(f"{s.words[0]:.1f}" for s in found)],
        ["standard deviation", *(f"{s.words[1]:.1f}" for s in found)],
        ["median", *(f"{s.words[2]:g}" for s in found)],
        ["sentences per caption", *(f"{s.sentences:.2f}" for s in found)],
        *_variety(found),
        [f"self-BLEU (of a sample of {BLEU_SAMPLE}, or all)", *(f"{b:.3f}" for b in bleu)],
        ["exact duplicates", *(percent(s.duplicates) for s in found)],
        ["identical, other label set", *(_shared(t, stated=False) for t in compared)],
        ["identical, other stated set", *(_shared(t, stated=True) for t in compared)],
        ["wrong per 100, LanguageTool", *(e.language_tool_per_100 for e in errors)],
        ["wrong per 100, our patterns too", *(e.both_per_100 for e in errors)],
    ]
    return table(["", *(t.name for t in compared)], rows)


def _variety(found: Sequence[TextStatistics]) -> list[list[object]]:
    rows: list[list[object]] = [
        ["vocabulary, words", *(s.vocabulary for s in found)],
        ["unique 4-grams", *(s.unique[3] for s in found)],
    ]
    rows += [[f"distinct-{n}", *(f"{s.distinct[n - 1]:.4f}" for s in found)] for n in ORDERS]
    return rows


def _shared(texts: Texts, stated: bool) -> str:
    if not texts.sources:
        return "-"
    sets = [c.key if stated else c.labels for c in texts.sources]
    return percent(shared_by_others(texts.texts, sets), 2)


def _equal(compared: Sequence[Texts], count: int, seed: int) -> str:
    """The comparison of `compared` at equal number and length."""
    split = [[words_of(text) for text in t.texts] for t in compared]
    length = equal_length(split, count)
    cut = [heads(corpus, count, length, seed) for corpus in split]
    found = [statistics_of([" ".join(words) for words in corpus]) for corpus in cut]
    bleu = [self_bleu(corpus[:BLEU_SAMPLE]) for corpus in cut]
    rows: list[list[object]] = [
        *_variety(found),
        [f"self-BLEU (of {min(count, BLEU_SAMPLE)})", *(f"{b:.3f}" for b in bleu)],
        ["exact duplicates", *(percent(duplicates(corpus)) for corpus in cut)],
    ]
    title = (
        f"**Equal number and length: {count:,} texts each, drawn by chance (seed {seed}), of each "
        f"the first {length} words, {count * length:,} words in all**"
    )
    return f"{title}\n\n{table(['', *(t.name for t in compared)], rows)}"
