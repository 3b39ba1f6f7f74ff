"""Grammar errors of captions, as LanguageTool sees them.

LanguageTool (https://languagetool.org) is brought into build/languagetool by Maven, once, and run
there by Java 17 or newer. All its rules for a variety of English that are on by default run. Those
about taste (`TASTE`) do not count as errors; what they found is told apart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "languagetool"
JARS = HERE.parents[2] / "build" / "languagetool"
MAVEN_SECONDS, CHECK_SECONDS = 900, 7200

TASTE = {
    "style": "how well it reads, as three sentences that begin with the same word",
    "whitespace": "spaces and empty lines",
    "typographical": "the shape of quotation marks and dashes",
    "locale-violation": "British spelling, as grey for gray",
    "register": "colloquial words",
}
"""Issue types (of W3C's ITS 2.0, as LanguageTool names them) of the rules that do not count."""

COUNTED_RULES = frozenset({"UPPERCASE_SENTENCE_START"})
"""Count although LanguageTool calls them typographical."""


class NotAvailable(RuntimeError):
    """LanguageTool cannot be had or run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Match:
    """One match of a rule: characters `start` to `end` of text number `line`."""

    line: int
    rule: str
    category: str
    type: str
    start: int
    end: int
    message: str

    @property
    def counts(self) -> bool:
        """Whether it is an error of grammar or spelling, not one of taste."""
        return self.type not in TASTE or self.rule in COUNTED_RULES


def fetch(jars: Path = JARS) -> None:
    """Brings LanguageTool and what it needs into `jars`, where it is not there yet.

    Raises `NotAvailable`.
    """
    if any(jars.glob("language-en-*.jar")):
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise NotAvailable("there is no Maven (mvn) to fetch LanguageTool with")
    command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), "package"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotAvailable(f"Maven took over {MAVEN_SECONDS} s") from None
    if done.returncode:
        line = next((x for x in done.stdout.splitlines() if "ERROR" in x), "no message")
        raise NotAvailable(f"Maven cannot fetch LanguageTool: {line[:300]}")


def check(texts: Sequence[str], language: str = "en-US", jars: Path = JARS) -> list[Match]:
    """All matches in `texts`, in their order, by the rules of `language` (en-US, en-GB); texts that
    are equal are checked once.

    Raises `NotAvailable` where LanguageTool cannot be had, or Java cannot run it.
    """
    java = shutil.which("java")
    if java is None:
        raise NotAvailable("there is no Java to run LanguageTool with")
    fetch(jars)
    unique = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    # The second compiler costs more than it gains in a run of a minute.
    command = [
        java,
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{jars}/*",
        str(HERE / "Check.java"),
        language,
    ]
    done = subprocess.run(
        command,
        input="".join(f"{text}\n" for text in unique),
        capture_output=True,
        encoding="utf-8",
        timeout=CHECK_SECONDS,
    )
    if done.returncode:
        raise NotAvailable(f"LanguageTool stopped with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, list[Match]] = {}
    for line in done.stdout.splitlines():
        match = Match(**json.loads(line))
        found.setdefault(unique[match.line], []).append(match)
    return [
        Match(i, m.rule, m.category, m.type, m.start, m.end, m.message)
        for i, text in enumerate(texts)
        for m in found.get(" ".join(text.split()), ())
    ]


@dataclass(frozen=True)
class Errors:
    """What was found in `texts` texts: `wrong` of them have a match that counts. Of each rule: its
    name, the number of matches, and the words around the first, which stands in brackets."""

    texts: int
    wrong: int
    rules: tuple[tuple[str, int, str], ...]
    taste: tuple[tuple[str, int, str], ...]

    @property
    def per_100(self) -> float:
        """Texts with at least one error, in 100 texts."""
        return 100 * self.wrong / self.texts if self.texts else 0.0


def summarise(texts: Sequence[str], matches: Sequence[Match], most: int = 10) -> Errors:
    """The number of wrong texts, and the `most` frequent rules in `matches`."""

    def table(chosen: Sequence[Match]) -> tuple[tuple[str, int, str], ...]:
        first: dict[str, Match] = {}
        for match in chosen:
            first.setdefault(match.rule, match)
        counts = Counter(match.rule for match in chosen).most_common(most)
        return tuple(
            (rule, n, _excerpt(texts[first[rule].line], first[rule])) for rule, n in counts
        )

    counted = [match for match in matches if match.counts]
    return Errors(
        texts=len(texts),
        wrong=len({match.line for match in counted}),
        rules=table(counted),
        taste=table([match for match in matches if not match.counts]),
    )


def _excerpt(text: str, match: Match, around: int = 30) -> str:
    text = " ".join(text.split())
    before, after = text[max(0, match.start - around) : match.start], text[match.end :][:around]
    return f"{before}[{text[match.start : match.end]}]{after}"
