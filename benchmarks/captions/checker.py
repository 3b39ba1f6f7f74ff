"""How often the faithfulness checker is right, over files of cases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from facecap.schemas.captions import Fault, Person
from facecap.transforms.rewrite.faithfulness import Checker


@dataclass(frozen=True, slots=True)
class Case:
    """A caption, what it was to state, and whether it does: `good`, or the fault's value."""

    text: str
    labels: tuple[str, ...]
    person: Person
    verdict: str
    note: str = ""


@dataclass(slots=True)
class Measure:
    """Counts over cases; bad captions are the positives."""

    caught: int = 0
    missed: list[Case] = field(default_factory=list)
    passed: int = 0
    blamed: list[tuple[Case, Fault]] = field(default_factory=list)
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Counts of what was found (`good` or a fault), by the verdict that is right."""

    @property
    def precision(self) -> float:
        return self.caught / max(1, self.caught + len(self.blamed))

    @property
    def recall(self) -> float:
        return self.caught / max(1, self.caught + len(self.missed))

    @property
    def right_kind(self) -> float:
        """Share of the caught for which the kind of fault is right as well."""
        right = sum(n.get(kind, 0) for kind, n in self.kinds.items() if kind != "good")
        return right / max(1, self.caught)


def load_cases(path: str | Path) -> list[Case]:
    """The cases of a JSON Lines file."""
    cases = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            record = json.loads(line)
            record["labels"] = tuple(record["labels"])
            cases.append(Case(**record))
    return cases


def measure(cases: Iterable[Case], checker: Checker | None = None) -> Measure:
    """What the checker finds in `cases`, against their verdicts."""
    checker = checker or Checker()
    total = Measure()
    for case in cases:
        fault = checker.check(case.text, case.labels, case.person)
        found = "good" if fault is None else fault.kind.value
        counts = total.kinds.setdefault(case.verdict, {})
        counts[found] = counts.get(found, 0) + 1
        if case.verdict == "good" and fault is None:
            total.passed += 1
        elif case.verdict == "good" and fault is not None:
            total.blamed.append((case, fault))
        elif fault is None:
            total.missed.append(case)
        else:
            total.caught += 1
    return total
