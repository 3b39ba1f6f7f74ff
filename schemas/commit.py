"""The commit record of a shard and the counts in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facecap.schemas.outcomes import Outcome, Stage
from facecap.schemas.sample import Sample


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Record):
    """What became of rows and faces; adds up over shards.

    `rows_dropped` and `faces_dropped` are keyed `stage/reason`. Faces of a row that was
    dropped as a whole after detection (an internal error) count under that drop.
    """

    rows: int = 0
    rows_kept: int = 0
    faces: int = 0
    faces_kept: int = 0
    rows_dropped: dict[str, int] = {}
    faces_dropped: dict[str, int] = {}

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Counts:
        rows = rows_kept = faces = faces_kept = 0
        rows_dropped: Counter[str] = Counter()
        faces_dropped: Counter[str] = Counter()
        for sample in samples:
            rows += 1
            rows_kept += sample.outcome is Outcome.KEPT
            if (drop := sample.final_drop) is not None:
                rows_dropped[f"{drop.stage}/{drop.reason}"] += 1
            for face in sample.faces:
                faces += 1
                face_drop = face.drop or sample.drop
                faces_kept += face_drop is None
                if face_drop is not None:
                    faces_dropped[f"{face_drop.stage}/{face_drop.reason}"] += 1
        return cls(
            rows=rows,
            rows_kept=rows_kept,
            faces=faces,
            faces_kept=faces_kept,
            rows_dropped=dict(sorted(rows_dropped.items())),
            faces_dropped=dict(sorted(faces_dropped.items())),
        )

    @classmethod
    def total(cls, counts: Iterable[Counts]) -> Counts:
        result = cls()
        for c in counts:
            result = Counts(
                rows=result.rows + c.rows,
                rows_kept=result.rows_kept + c.rows_kept,
                faces=result.faces + c.faces,
                faces_kept=result.faces_kept + c.faces_kept,
                rows_dropped=_add(result.rows_dropped, c.rows_dropped),
                faces_dropped=_add(result.faces_dropped, c.faces_dropped),
            )
        return result

    @property
    def balanced(self) -> bool:
        """Conservation: every row and every face is in exactly one outcome."""
        return (
            self.rows == self.rows_kept + sum(self.rows_dropped.values())
            and self.faces == self.faces_kept + sum(self.faces_dropped.values())
            and self.rows_kept <= self.faces_kept
        )

    def rows_after(self, stage: Stage) -> int:
        """Rows that passed `stage`."""
        return self.rows - _lost_until(self.rows_dropped, stage)

    def faces_after(self, stage: Stage) -> int:
        """Detected faces that passed `stage`."""
        return self.faces - _lost_until(self.faces_dropped, stage)

    @property
    def internal_errors(self) -> int:
        """Rows whose outcome is `internal_error`, at any stage."""
        return sum(n for k, n in self.rows_dropped.items() if k.endswith("/internal_error"))


def _add(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(a) + Counter(b)).items()))


def _lost_until(dropped: dict[str, int], stage: Stage) -> int:
    return sum(n for k, n in dropped.items() if Stage(k.split("/")[0]).order <= stage.order)


class FileEntry(_Record):
    """A committed file: its path under the output folder, its size in bytes, its sha256."""

    path: str
    bytes: int
    sha256: str


class CommitRecord(_Record):
    """That a shard is done, and which bytes it is: the one file whose creation commits it.

    `attempt` names the folder under `_attempts/` from which the files move to their final
    names after the commit. `generation` counts how often the shard was written anew, and
    `recaption` is the number of the recaption that wrote its captions (0: the build did).
    `captions` counts the captions by whose words they are, with the fault of the rewrite where
    there is one: `grammar/missing`.
    """

    shard: int
    generation: int = Field(default=1, ge=1)
    recaption: int = Field(default=0, ge=0)
    attempt: str = Field(pattern=r"^[0-9]{6}-[0-9a-z]+$")  # is moved from, and removed
    fingerprint: str
    files: dict[str, FileEntry]
    counts: Counts
    captions: dict[str, int] = {}

    def to_json(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> CommitRecord:
        """Raises ValueError that names the file when it is not a commit record."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            raise ValueError(f"{name}: not a commit record ({where}: {detail['msg']})") from None
