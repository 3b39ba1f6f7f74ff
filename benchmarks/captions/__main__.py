"""What the captions are like, measured.

    python -m benchmarks.captions text | reuse | checker | throughput | all [--write]
    python -m benchmarks.captions sample --count 200 --output FILE.csv
    python -m benchmarks.captions grammar FILE

Real faces come from FACECAP_TEST_DATA. --write puts the tables into docs/captions-figures.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.captions import faces, grammar_errors, report, sample, text
from benchmarks.captions.composed import compose

CASES = Path(__file__).parents[2] / "tests" / "transforms" / "rewrite" / "cases"
CONCURRENCIES = (1, 8, 64)
PER_WORKER = 40
"""Captions that the throughput is measured with, for each request at a time."""


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.job == "grammar":
        _grammar(arguments)
    elif arguments.job == "sample":
        _sample(arguments)
    else:
        for name in SECTIONS if arguments.job == "all" else (arguments.job,):
            body = SECTIONS[name](arguments)
            print(f"## {name}\n\n{body}\n", flush=True)
            if arguments.write:
                words = shlex.join(["python", "-m", "benchmarks.captions", *sys.argv[1:]])
                report.write_section(name, body, words)


def _classified(arguments: argparse.Namespace) -> faces.Labelled:
    return faces.classified(_data(arguments), arguments.cache)


def _data(arguments: argparse.Namespace) -> Path:
    if arguments.data is None:
        sys.exit("no faces: set FACECAP_TEST_DATA, or give --data FOLDER")
    return Path(arguments.data)


def _text(arguments: argparse.Namespace) -> str:
    return text.text_report(
        _classified(arguments), _data(arguments), arguments.count or 10_000, arguments.seed
    )


def _reuse(arguments: argparse.Namespace) -> str:
    from benchmarks.captions.reuse import reuse_report

    rate = arguments.tokens_per_second
    return reuse_report(_classified(arguments), _data(arguments), rate, arguments.seed)


def _checker(arguments: argparse.Namespace) -> str:
    from benchmarks.captions.checker import load_cases, measure

    rows = []
    for file in sorted(CASES.glob("*.jsonl")):
        found = measure(load_cases(file))
        bad, good = found.caught + len(found.missed), found.passed + len(found.blamed)
        figures = (f"{x:.3f}" for x in (found.precision, found.recall, found.right_kind))
        rows.append((file.name, good, bad, *figures))
    head = ("cases", "good", "bad", "precision", "recall", "right kind of fault")
    return report.table(head, rows) if rows else f"no cases in {CASES.name}/"


def _throughput(arguments: argparse.Namespace) -> str:
    from benchmarks.captions import throughput
    from facecap.schemas.captions import Caption

    made = compose(_classified(arguments), 6, max(CONCURRENCIES) * PER_WORKER, arguments.seed)
    captions = [Caption(c.text, c.stated, c.person) for c in made.captions]
    rounds = [
        throughput.measure(captions[: n * PER_WORKER], n, arguments.latency_ms)
        for n in CONCURRENCIES
    ]
    return throughput.table(rounds, arguments.latency_ms)


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "text": _text,
    "reuse": _reuse,
    "checker": _checker,
    "throughput": _throughput,
}


def _grammar(arguments: argparse.Namespace) -> None:
    texts = arguments.file.read_text("utf-8").splitlines()
    found = grammar_errors.find(texts, arguments.language)
    print(grammar_errors.rules(arguments.file.name, arguments.language, found))


def _sample(arguments: argparse.Namespace) -> None:
    corpus = compose(_classified(arguments), arguments.min_labels, seed=arguments.seed)
    sources = sample.items_of(corpus.captions, arguments.rewrites, not arguments.ours_only)
    items = sample.mixed(sources, arguments.count or 200, arguments.seed)
    key = sample.write_sample(items, arguments.output, arguments.seed)
    print(f"{arguments.output}: {len(items)} texts of {', '.join(sources)}; the key: {key}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data", default=os.environ.get("FACECAP_TEST_DATA"), help="folder of celeba/, utkface/"
    )
    common.add_argument("--cache", type=Path, default=faces.default_cache())
    common.add_argument("--count", type=int, help="captions (text: 10000, sample: 200)")
    common.add_argument("--seed", type=int, default=0)
    tables = argparse.ArgumentParser(add_help=False, parents=[common])
    tables.add_argument("--write", action="store_true", help="into docs/captions-figures.md")
    tables.add_argument("--tokens-per-second", type=float, help="what your GPU generates")
    tables.add_argument("--latency-ms", type=float, default=200.0, help="throughput: per answer")
    for name in (*SECTIONS, "all"):
        jobs.add_parser(name, parents=[tables])
    rated = jobs.add_parser("sample", parents=[common])
    rated.add_argument("--output", type=Path, required=True)
    rated.add_argument("--min-labels", type=int, default=6)
    rated.add_argument("--rewrites", type=Path, help="JSON lines of text, labels, person")
    rated.add_argument("--ours-only", action="store_true", help="without the baseline")
    grammar = jobs.add_parser("grammar")
    grammar.add_argument("file", type=Path, help="texts, one a line")
    grammar.add_argument("--language", default="en-US")
    return parser


if __name__ == "__main__":
    main()
