"""Statistics of a set of texts: length, vocabulary, variety, repetition.

Words are runs of letters and digits in lower case, with the apostrophes and hyphens inside them;
punctuation is no word. N-grams do not reach from one text into the next.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Words = tuple[str, ...]

ORDERS = (1, 2, 3, 4)
EPSILON = 0.1
"""Stands for no match at all in `self_bleu`."""

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


def words_of(text: str) -> Words:
    """The words of `text`, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def sentences_in(text: str) -> int:
    """How many sentences `text` has: ends of them, and what follows the last."""
    ends = list(_SENTENCE_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(rest.strip())


def ngrams(words: Words, order: int) -> list[Words]:
    """The runs of `order` words, in their order, repeated as they are."""
    return [words[i : i + order] for i in range(len(words) - order + 1)]


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """`words` are per text: mean, standard deviation (of the sample), median. `unique` and
    `distinct` are by order of n-gram, 1 to 4: their number, and that as a share of all n-grams of
    that order (distinct-n; Li et al., NAACL 2016)."""

    texts: int
    words: tuple[float, float, float]
    sentences: float
    unique: tuple[int, ...]
    distinct: tuple[float, ...]
    duplicates: float

    @property
    def vocabulary(self) -> int:
        return self.unique[0]


def statistics_of(texts: Sequence[str]) -> TextStatistics:
    """What `texts` are like; raises `ValueError` where there are fewer than two."""
    if len(texts) < 2:
        raise ValueError("statistics need at least two texts")
    split = [words_of(text) for text in texts]
    lengths = [len(words) for words in split]
    counts = [Counter(gram for words in split for gram in ngrams(words, n)) for n in ORDERS]
    return TextStatistics(
        texts=len(texts),
        words=(
            statistics.fmean(lengths),
            statistics.stdev(lengths),
            statistics.median(lengths),
        ),
        sentences=statistics.fmean(map(sentences_in, texts)),
        unique=tuple(len(count) for count in counts),
        distinct=tuple(len(count) / max(1, count.total()) for count in counts),
        duplicates=duplicates(texts),
    )


def duplicates(texts: Sequence[Hashable]) -> float:
    """The share of `texts` that another one of them equals."""
    counts = Counter(texts)
    return sum(n for n in counts.values() if n > 1) / len(texts)


def shared_by_others(texts: Sequence[str], sets: Sequence[Hashable]) -> float:
    """The share of `texts` that occur with another one of `sets` too: text i is of set i."""
    owners: dict[str, set[Hashable]] = defaultdict(set)
    for text, owner in zip(texts, sets, strict=True):
        owners[text].add(owner)
    return sum(len(owners[text]) > 1 for text in texts) / len(texts)


def self_bleu(texts: Sequence[Words]) -> float:
    """The mean BLEU-4 (0 to 1) of each of `texts` with all others as its references (Zhu et al.,
    SIGIR 2018, "Texygen"): high where they resemble each other.

    BLEU is that of Papineni et al. (ACL 2002) for a single sentence, with equal weights and the
    closest length of a reference; where an order of n-gram has no match, EPSILON matches are taken
    instead (method 1 of Chen and Cherry, WMT 2014). Texts under four words are references only.

    Raises `ValueError` where fewer than two texts have four words.
    """
    counts = [[Counter(ngrams(words, n)) for words in texts] for n in ORDERS]
    most = [_two_highest(of_order) for of_order in counts]
    lengths = Counter(len(words) for words in texts)
    scores = []
    for i, words in enumerate(texts):
        if len(words) < max(ORDERS):
            continue
        logs = []
        for of_order, highest in zip(counts, most, strict=True):
            own = of_order[i]
            matched = sum(min(n, _elsewhere(highest[gram], i)) for gram, n in own.items())
            logs.append(math.log((matched or EPSILON) / own.total()))
        reference = _closest(lengths, len(words))
        brevity = min(0.0, 1 - reference / len(words))
        scores.append(math.exp(statistics.fmean(logs) + brevity))
    if len(scores) < 2:
        raise ValueError("self-BLEU needs at least two texts of four words")
    return statistics.fmean(scores)


def _two_highest(counts: Sequence[Counter[Words]]) -> dict[Words, tuple[int, int, int]]:
    """For each n-gram: its highest count in a text, the number of that text, and the highest count
    in any other text."""
    highest: dict[Words, tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for gram, n in counter.items():
            best, owner, second = highest.get(gram, (0, -1, 0))
            if n > best:
                highest[gram] = (n, i, best)
            elif n > second:
                highest[gram] = (best, owner, n)
    return highest


def _elsewhere(highest: tuple[int, int, int], text: int) -> int:
    best, owner, second = highest
    return second if owner == text else best


def _closest(lengths: Counter[int], length: int) -> int:
    """The length nearest to `length` of another text, the shorter of two equally near."""
    others = [n for n, count in lengths.items() if count > (n == length)]
    return min(others, key=lambda n: (abs(n - length), n))


def sampled(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` of `texts` (all where there are fewer), by chance."""
    return random.Random(seed).sample(list(texts), min(count, len(texts)))


def equal_length(corpora: Sequence[Sequence[Words]], count: int) -> int:
    """The length in words at which corpora are compared: at least `count` texts of each reach it,
    and it is not over any corpus's median, so that no corpus is represented by its longest texts.

    Raises `ValueError` where a corpus has fewer than `count` texts.
    """
    limits = []
    for corpus in corpora:
        lengths = sorted((len(words) for words in corpus), reverse=True)
        if len(lengths) < count:
            raise ValueError(f"a corpus has {len(lengths)} texts, under {count}")
        limits += [lengths[count - 1], math.floor(statistics.median(lengths))]
    return min(limits)


def heads(corpus: Sequence[Words], count: int, length: int, seed: int = 0) -> list[Words]:
    """The first `length` words of `count` texts, by chance of those that have as many."""
    long_enough = [words[:length] for words in corpus if len(words) >= length]
    return random.Random(seed).sample(long_enough, count)
