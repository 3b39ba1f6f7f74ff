import math

import pytest
from benchmarks.captions import text_stats
from benchmarks.captions.text_stats import words_of


def test_words_are_lower_case_and_keep_apostrophes_and_hyphens() -> None:
    assert words_of("The man's 5 o'clock-shadow, (well-kept).") == (
        *("the", "man's", "5", "o'clock-shadow", "well-kept"),
    )


def test_sentences_end_with_a_stop_and_the_rest_is_one_too() -> None:
    assert text_stats.sentences_in("He smiles. Is he young? Yes") == 3
    assert text_stats.sentences_in("He is 1.5 m tall.") == 1
    assert text_stats.sentences_in("") == 0


def test_statistics_of_three_texts_counted_by_hand() -> None:
    found = text_stats.statistics_of(["a b c d e", "a b c d. x", "a b c d e"])
    assert found.words == (5.0, 0.0, 5.0)
    assert found.sentences == pytest.approx(4 / 3)
    # 1: a b c d e x; 2: ab bc cd de dx; 3: abc bcd cde cdx; 4: abcd bcde bcdx
    assert found.unique == (6, 5, 4, 3)
    assert found.distinct == pytest.approx((6 / 15, 5 / 12, 4 / 9, 3 / 6))
    assert found.vocabulary == 6
    assert found.duplicates == pytest.approx(2 / 3)


def test_one_text_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least two"):
        text_stats.statistics_of(["alone"])


def test_texts_shared_by_other_sets_but_not_those_repeated_within_one() -> None:
    texts = ["same", "same", "twice", "twice", "once"]
    assert text_stats.shared_by_others(texts, [1, 2, 3, 3, 4]) == pytest.approx(2 / 5)


def test_self_bleu_of_equal_texts_is_one() -> None:
    assert text_stats.self_bleu([words_of("a b c d e")] * 3) == pytest.approx(1)


def test_self_bleu_by_hand() -> None:
    one, other = words_of("a b c d e"), words_of("a b c d x")
    # Of either: 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; no brevity penalty.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert text_stats.self_bleu([one, other]) == pytest.approx(expected)


def test_self_bleu_clips_counts_and_punishes_brevity() -> None:
    short, long = words_of("a a a a"), words_of("a b c d e f")
    # short: 1 of 4 words; no match in 3 pairs, 2 triples, 1 quadruple (0.1 each); e^(1 - 6/4).
    shorts = (1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4) * math.exp(1 - 6 / 4)
    # long: 1 of 6 words; nothing of 5, 4, 3; longer than its reference.
    longs = (1 / 6 * 0.1 / 5 * 0.1 / 4 * 0.1 / 3) ** (1 / 4)
    assert text_stats.self_bleu([short, long]) == pytest.approx((shorts + longs) / 2)


def test_self_bleu_takes_the_highest_count_of_any_other_text() -> None:
    texts = [words_of(t) for t in ("a a b c", "a a b c", "a x y z")]
    # The first two are each other's reference; the third shares a alone.
    third = (1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4)
    assert text_stats.self_bleu(texts) == pytest.approx((1 + 1 + third) / 3)


def test_short_texts_are_references_only() -> None:
    texts = [words_of(t) for t in ("a b c d", "a b c d", "e")]
    assert text_stats.self_bleu(texts) == pytest.approx(1)
    with pytest.raises(ValueError, match="two texts of four words"):
        text_stats.self_bleu([words_of("a b c d"), words_of("e")])


def test_equal_length_is_reached_by_enough_texts_and_over_no_median() -> None:
    long = [("w",) * n for n in (9, 9, 9, 9, 9)]
    mixed = [("w",) * n for n in (2, 4, 6, 8, 10)]
    assert text_stats.equal_length([long, mixed], 2) == 6  # mixed's median, though two have 8
    assert text_stats.equal_length([long, mixed], 4) == 4
    with pytest.raises(ValueError, match="5 texts, under 6"):
        text_stats.equal_length([long, mixed], 6)


def test_heads_are_cut_from_texts_that_are_long_enough() -> None:
    corpus = [("a", "b", "c"), ("a",), ("d", "e", "f")]
    assert sorted(text_stats.heads(corpus, 2, 2)) == [("a", "b"), ("d", "e")]
