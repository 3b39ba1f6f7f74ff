"""Faces of equal labels that share a rewrite: who asks, and who takes what another was given.

Within a block of consecutive shards, captions that state the same labels of the same kind of person
are counted in the order of their keys; each `rewrite.reuse` of them share one rewrite, asked for
the first. So no text is used more often than that, and which face gets which follows from the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from facecap.schemas.captions import Person, Rewrite
from facecap.transforms.rewrite.rewriter import Task

Group = tuple[Person, frozenset[str], int]
"""Captions that may share: of what person, of which labels, the how-many-th caption of its face
(two captions of a face never share)."""

Slot = tuple[Group, int]
"""The captions of a group that share one rewrite."""

Caption = tuple[str, int]
"""A face's key, and the number of its caption."""


@dataclass
class Sharing:
    """The counting over a block; give it the block's shards in their order."""

    reuse: int
    _seen: Counter[Group] = field(default_factory=Counter)
    _found: dict[Slot, Rewrite] = field(default_factory=dict)

    def copy(self) -> Sharing:
        """The same, to be counted on from here; what is added to it is not added to this one."""
        return Sharing(self.reuse, Counter(self._seen), dict(self._found))

    def slots(self, tasks: Iterable[tuple[Caption, Task]]) -> dict[Caption, Slot]:
        """The slot of every caption, in the order of `tasks`: that of the keys."""
        slots = {}
        for (key, number), task in tasks:
            group = (task.person, frozenset(task.labels), number)
            slots[key, number] = (group, self._seen[group] // self.reuse)
            self._seen[group] += 1
        return slots

    def to_ask(self, slots: dict[Caption, Slot]) -> list[Caption]:
        """Those of `slots` that nobody has asked for yet: the first of each slot."""
        first: dict[Slot, Caption] = {}
        for caption, slot in slots.items():
            if slot not in self._found:
                first.setdefault(slot, caption)
        return list(first.values())

    def add(self, slot: Slot, rewrite: Rewrite) -> None:
        """What came back for the caption that was asked for."""
        self._found[slot] = rewrite

    def get(self, slot: Slot) -> Rewrite:
        return self._found[slot]
