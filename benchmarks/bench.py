"""All comparisons in one run on one machine: `make bench`, or

    python -m benchmarks.bench --only fetch,line,kernel,memory --rows 1200

Prints the tables and, when all parts ran on all rows, writes docs/benchmarks.md. Exits 1 when a
floor of floors.yaml is missed, 2 when something is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import kernels, memory, parts, report, rounds, tools, watch
from benchmarks.data import test_data
from benchmarks.server import SetupError, photographs, serve, write_list

PARTS = ("fetch", "line", "kernel", "memory")
ROWS = 12_000
PROFILE_ROWS = 3_000
DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> int:
    args = _arguments()
    try:
        results = _run(args)
    except SetupError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except watch.ToolFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    text = report.document(results)
    print(text)
    if args.rows == ROWS and set(args.only) == set(PARTS):
        DOCUMENT.write_text(text)
        print(f"written to {DOCUMENT}")
    return 0 if all(floor.passed for floor in report.floors(results)) else 1


def _run(args: argparse.Namespace) -> report.Results:
    data, model = test_data()
    rounds.need_peers()
    if "memory" in args.only:
        memory.check_base_install()
    photos = photographs(data)
    settings = kernels.settings_for(model)
    results = report.Results(rows=args.rows, photographs=len(photos))
    results.warning = rounds.machine_is_busy()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="facecap-bench-", dir=args.folder))
        if not args.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bodies = [(data / photo).read_bytes() for photo in photos]
        if "kernel" in args.only:  # before the server and the tools warm the machine, and after
            results.kernels = kernels.measure(bodies, settings)
            _say(f"bare calls: {kernels.bare_seconds(results.kernels) * 1e3:.1f} ms per image")
        server = stack.enter_context(serve(data))
        urls = write_list(folder / "urls.parquet", photos, server, args.rows)
        bench = rounds.Bench(urls, args.rows, model, server, folder, _say, args.keep)
        if "fetch" in args.only:
            results.fetch = rounds.fetch(bench, args.rounds)
        if "line" in args.only:
            score = settings.crop.min_score
            assert score is not None  # resolved with the models
            results.line = rounds.line(bench, args.rounds, settings.crop.min_side, score)
            if results.kernels is not None:
                results.bare_after = kernels.bare_seconds(kernels.measure(bodies, settings))
                _say(f"bare calls after the builds: {results.bare_after * 1e3:.1f} ms per image")
        if "kernel" in args.only:
            few = min(args.rows, PROFILE_ROWS)
            short = write_list(folder / "profile.parquet", photos, server, few)
            samples = folder / "samples.txt"
            build = tools.facecap(short, folder / "profile", server, model)
            watch.run(parts.record(build, samples), folder / "profile.log")
            results.parts = parts.shares(samples.read_text())
        if "memory" in args.only:
            few = args.rows // 12
            short = write_list(folder / "few.parquet", photos, server, few)
            results.few = memory.peak(bench, short, few)
            results.many = memory.peak(bench, urls, args.rows)
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--rows", type=int, default=ROWS, help="URLs, 12000 by default")
    parser.add_argument(
        "--rounds", type=int, default=3, help="alternated rounds, the median counts"
    )
    parser.add_argument("--folder", help="where the tools write; the system's temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep what the tools wrote")
    args = parser.parse_args()
    args.only = args.only.split(",")
    unknown = [part for part in args.only if part not in PARTS]
    if unknown or args.rows < 120 or args.rounds < 1:
        parser.error(f"--only takes {','.join(PARTS)}; --rows at least 120; --rounds at least 1")
    return args


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
