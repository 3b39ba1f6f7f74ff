"""How many different keys a larger sample of faces would have, and what reuse of texts saves.

A key is what a rewrite depends on: the person and the labels it states. `spectrum` maps how often a
key was seen to how many keys were seen so often; the faces are then sum(times * keys).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Spectrum = Mapping[int, int]

DISCOUNTS = np.linspace(0.0, 0.98, 50)
STRENGTHS = np.geomspace(1, 10_000, 60)
"""Where the two parameters of Pitman and Yor's process are looked for."""


def spectrum_of(keys: Iterable[Hashable]) -> Counter[int]:
    """The spectrum of `keys`, one for each face."""
    return Counter(Counter(keys).values())


def faces_in(spectrum: Spectrum) -> int:
    return sum(times * keys for times, keys in spectrum.items())


def rarefied(spectrum: Spectrum, size: int) -> float:
    """The mean number of different keys among `size` of the faces, over all ways to draw them
    (Hurlbert, Ecology 52(4), 1971). Raises `ValueError` where there are fewer faces."""
    faces = faces_in(spectrum)
    if not 0 < size <= faces:
        raise ValueError(f"cannot draw {size} of {faces} faces")

    def missed(times: int) -> float:
        """The chance that none of `times` faces is drawn."""
        if faces - times < size:
            return 0.0
        drawn, without = _log_choose(faces, size), _log_choose(faces - times, size)
        return math.exp(without - drawn)

    return sum(keys * (1 - missed(times)) for times, keys in spectrum.items())


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def seen_before(spectrum: Spectrum, size: int) -> float:
    """The mean share of `size` faces whose key an earlier one of them has."""
    return 1 - rarefied(spectrum, size) / size


def chao1(spectrum: Spectrum, size: int) -> float:
    """Keys among `size` faces, extrapolated towards the Chao1 estimate of all there are (Colwell
    et al., Journal of Plant Ecology 5(1), 2012, eq. 9). A lower bound: it takes the unseen keys to
    be no rarer than those seen once."""
    faces, seen = faces_in(spectrum), sum(spectrum.values())
    once, twice = spectrum.get(1, 0), spectrum.get(2, 0)
    if not once:
        return float(seen)
    pairs = once**2 / (2 * twice) if twice else once * (once - 1) / 2
    unseen = (faces - 1) / faces * pairs
    if not unseen:
        return float(seen)
    return seen + unseen * (1 - (1 - once / (faces * unseen + once)) ** (size - faces))


def power_law(spectrum: Spectrum, size: int) -> float:
    """Keys among `size` faces, were they to go on growing as over the last doubling of the sample:
    S(n) = c n^z (Arrhenius, Journal of Ecology 9(1), 1921; in texts, Heaps' law). The growth slows
    down with n, so that this is too much."""
    faces, seen = faces_in(spectrum), sum(spectrum.values())
    exponent = math.log(seen / rarefied(spectrum, faces // 2)) / math.log(faces / (faces // 2))
    return seen * (size / faces) ** exponent


def pitman_yor(spectrum: Spectrum, size: int) -> float:
    """Keys among `size` faces by Pitman and Yor's process with the likeliest parameters (Pitman,
    Probability Theory and Related Fields 102, 1995), and its expected number of new ones (Favaro
    et al., Journal of the Royal Statistical Society B 71(5), 2009, proposition 1)."""
    discount, strength = pitman_yor_fit(spectrum)
    faces, seen = faces_in(spectrum), sum(spectrum.values())
    if not discount:
        steps = np.arange(faces, size, dtype=np.float64)
        return seen + float((strength / (strength + steps)).sum())
    more, at = size - faces, strength + faces
    growth = (
        math.lgamma(at + discount + more)
        - math.lgamma(at + discount)
        - math.lgamma(at + more)
        + math.lgamma(at)
    )
    return seen + (seen + strength / discount) * math.expm1(growth)


def pitman_yor_fit(spectrum: Spectrum) -> tuple[float, float]:
    """Discount (0 to 1) and strength of the process, of those on a grid that make `spectrum` the
    likeliest."""
    faces, seen = faces_in(spectrum), sum(spectrum.values())
    earlier = np.arange(1, seen)

    def likelihood(discount: float, strength: float) -> float:
        tables = float(np.log(strength + discount * earlier).sum())
        total = math.lgamma(strength + faces) - math.lgamma(strength + 1)
        seats = sum(
            keys * (math.lgamma(times - discount) - math.lgamma(1 - discount))
            for times, keys in spectrum.items()
        )
        return tables - total + seats

    grid = itertools.product(map(float, DISCOUNTS), map(float, STRENGTHS))
    return max(grid, key=lambda pair: likelihood(*pair))


METHODS: dict[str, Callable[[Spectrum, int], float]] = {
    "Chao1": chao1,
    "Pitman-Yor": pitman_yor,
    "power law": power_law,
}
"""From the lowest to the highest."""


@dataclass(frozen=True, slots=True)
class Calls:
    """LLM calls for `faces` faces: a lower and an upper bound, equal where it was counted."""

    faces: int
    low: float
    high: float


def counted_calls(spectrum: Spectrum, limit: int) -> Calls:
    """The calls for these very faces, where a text serves at most `limit` of the same key."""
    calls = sum(keys * -(-times // limit) for times, keys in spectrum.items())
    return Calls(faces_in(spectrum), calls, calls)


def bounded_calls(faces: int, fewest: float, most: float, limit: int) -> Calls:
    """Bounds for `faces` faces with between `fewest` and `most` keys: every key costs at least
    one call, every face 1 / limit, and a key's last text at most 1 - 1 / limit more."""
    if limit == 1:
        return Calls(faces, faces, faces)
    low = max(fewest, faces / limit)
    return Calls(faces, low, min(faces, faces / limit + most * (1 - 1 / limit)))
