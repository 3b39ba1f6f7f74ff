import itertools
import random
import statistics

import pytest
from benchmarks.captions import reuse_stats
from benchmarks.captions.reuse import errors_at_four_times
from benchmarks.captions.reuse_stats import METHODS, Calls

KEYS = ["a", "a", "a", "b", "b", "c"]
SPECTRUM = {1: 1, 2: 1, 3: 1}


def zipf(faces: int, seed: int) -> list[int]:
    """Keys of a long-tailed distribution."""
    weights = [1 / rank**1.2 for rank in range(1, 5001)]
    return random.Random(seed).choices(range(5000), weights, k=faces)


def test_spectrum_counts_how_often_keys_are_seen() -> None:
    assert reuse_stats.spectrum_of(KEYS) == SPECTRUM
    assert reuse_stats.faces_in(SPECTRUM) == 6


@pytest.mark.parametrize("size", range(1, 7))
def test_rarefied_is_the_mean_over_all_samples(size: int) -> None:
    samples = itertools.combinations(KEYS, size)
    expected = statistics.fmean(len(set(sample)) for sample in samples)
    assert reuse_stats.rarefied(SPECTRUM, size) == pytest.approx(expected)
    assert reuse_stats.seen_before(SPECTRUM, size) == pytest.approx(1 - expected / size)


@pytest.mark.parametrize("size", [0, 7])
def test_no_sample_is_larger_than_its_faces(size: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        reuse_stats.rarefied(SPECTRUM, size)


def test_chao1_by_hand() -> None:
    # 4 keys seen once, 2 twice, 8 faces: 7/8 * 16/4 = 3.5 unseen; one face more finds one of them
    # with probability 4 / (8 * 3.5 + 4) = 1/8.
    spectrum = {1: 4, 2: 2}
    assert reuse_stats.chao1(spectrum, 8) == pytest.approx(6)
    assert reuse_stats.chao1(spectrum, 9) == pytest.approx(6 + 3.5 / 8)
    assert reuse_stats.chao1(spectrum, 10**9) == pytest.approx(9.5)


def test_chao1_finds_nothing_new_where_no_key_was_seen_once() -> None:
    assert reuse_stats.chao1({2: 3}, 1000) == 3


def test_power_law_goes_on_as_over_the_last_doubling() -> None:
    spectrum = {1: 2, 2: 1}  # 4 faces, 3 keys; 2 of them have 2 - 1/6 keys
    growth = 3 / (2 - 1 / 6)
    assert reuse_stats.power_law(spectrum, 8) == pytest.approx(3 * growth)
    assert reuse_stats.power_law(spectrum, 16) == pytest.approx(3 * growth**2)


def test_pitman_yor_predicts_what_its_own_process_makes() -> None:
    rng = random.Random(0)
    discount, strength = 0.5, 20.0
    counts: list[int] = []
    keys: list[int] = []
    grown = {}
    for face in range(8000):
        if rng.random() < (strength + discount * len(counts)) / (strength + face):
            keys.append(len(counts))
            counts.append(1)
        else:
            key = rng.choices(range(len(counts)), [n - discount for n in counts])[0]
            keys.append(key)
            counts[key] += 1
        grown[face + 1] = len(counts)
    spectrum = reuse_stats.spectrum_of(keys[:2000])
    assert reuse_stats.pitman_yor_fit(spectrum)[0] == pytest.approx(discount, abs=0.1)
    assert reuse_stats.pitman_yor(spectrum, 2000) == pytest.approx(grown[2000])
    assert reuse_stats.pitman_yor(spectrum, 8000) == pytest.approx(grown[8000], rel=0.1)


def test_pitman_yor_without_discount_is_ewens_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse_stats, "pitman_yor_fit", lambda _: (0.0, 2.0))
    # Faces 7 and 8 are new with probability 2 / (2 + 6) and 2 / (2 + 7).
    assert reuse_stats.pitman_yor(SPECTRUM, 8) == pytest.approx(3 + 2 / 8 + 2 / 9)


def test_the_methods_enclose_a_long_tail() -> None:
    errors = errors_at_four_times(zipf(8000, seed=1), 2000, seed=0, trials=4)
    low, middle, high = (statistics.fmean(errors[name]) for name in METHODS)
    assert -0.3 < low < 0 < high < 0.3
    assert abs(middle) < 0.1


def test_counted_calls_of_a_limit() -> None:
    # Keys of 3, 2 and 1 faces: 2 + 1 + 1 texts where each serves two.
    assert reuse_stats.counted_calls(SPECTRUM, 2) == Calls(6, 4, 4)
    assert reuse_stats.counted_calls(SPECTRUM, 1) == Calls(6, 6, 6)


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 100])
def test_bounds_enclose_the_counted_calls(limit: int) -> None:
    spectrum = reuse_stats.spectrum_of(zipf(5000, seed=4))
    keys = sum(spectrum.values())
    bounds = reuse_stats.bounded_calls(5000, keys, keys, limit)
    assert bounds.low <= reuse_stats.counted_calls(spectrum, limit).low <= bounds.high


def test_more_keys_than_faces_cost_no_more_than_one_call_each() -> None:
    assert reuse_stats.bounded_calls(100, 10, 1000, 10) == Calls(100, 10, 100)
