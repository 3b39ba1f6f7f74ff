"""The command line: arguments in, one line on standard error and an exit code out."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facecap import __version__
from facecap.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    BuildFailed,
    UsageError,
)

if TYPE_CHECKING:
    from facecap.pipeline.build import BuildRequest

# Beam and the models take seconds to import: each command imports what it needs, when it runs.

app = typer.Typer(
    help="Make a captioned face dataset from a list of image URLs, and account for every URL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
models_app = typer.Typer(help="The models a build can use.", no_args_is_help=True)
app.add_typer(models_app, name="models")

OutputFolder = Annotated[
    str, typer.Argument(metavar="OUT", help="What a build has written: a folder, s3:// or gs://.")
]


class Runner(StrEnum):
    """The engines that a build can run on (pipeline/engines.py)."""

    LOCAL = "local"
    SPARK = "spark"
    FLINK = "flink"
    PRISM = "prism"
    DATAFLOW = "dataflow"


Input = Annotated[
    str | None,
    typer.Option(
        metavar="URLS",
        help="List of image URLs: Parquet, CSV, TSV, JSON, JSON Lines, TXT (each text also "
        ".gz), or img2dataset's tars; a file, a folder or a glob, also on s3:// or gs://.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="OUT",
        help="Folder for the dataset, or a place on s3:// or gs://. The same command continues it.",
    ),
]
Config = Annotated[
    Path | None, typer.Option(metavar="C.yaml", help="Settings; see build --show-config.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override one setting; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Use only the first N rows.")]
Where = Annotated[Runner, typer.Option(help="Where it runs.")]
SparkMaster = Annotated[
    str | None, typer.Option(metavar="URL", help="spark://HOST:PORT, local[N] or local[*].")
]
FlinkMaster = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Flink's REST address, or [local].")
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Worker processes (default: one per core); on Spark and Flink per executor.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Neither progress bar nor funnel.")]
BEAM_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": False}


@app.command(
    "build",
    context_settings=BEAM_OPTIONS,
    epilog="Example: facecap build --input laion.parquet --output faces "
    "--set crop.min_side=96 --set download.contact=you@example.org",
)
def build_command(
    context: typer.Context,
    input: Input = None,
    output: Output = None,
    config: Config = None,
    set_: Set = None,
    limit: Limit = None,
    runner: Where = Runner.LOCAL,
    spark_master: SparkMaster = None,
    flink_master: FlinkMaster = None,
    workers: Workers = None,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check options, input, models and graph; start and write nothing."
        ),
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print every setting as YAML, and end.")
    ] = False,
) -> None:
    """Download, find faces, filter, label, caption, and write WebDataset shards.

    Every URL of the list ends in the ledger with what became of it. A build that was stopped
    or killed continues with the same command and ends in the same bytes. Options for Apache
    Beam follow after [bold]--[/bold].
    """
    from facecap.pipeline.settings import load_settings, to_yaml

    if show_config:
        typer.echo(to_yaml(load_settings(config, _overrides(set_, workers))), nl=False)
        return
    target = (runner, spark_master, flink_master)
    request = _request(
        input, output, config, _overrides(set_, workers), limit, target, context.args
    )

    from facecap.pipeline.build import build
    from facecap.pipeline.dry_run import dry_run as look
    from facecap.pipeline.terminal import Screen

    screen = Screen(quiet=quiet)
    with _storage_errors(str(request.output)):
        if dry_run:
            screen.say(str(look(request)))
            raise typer.Exit(EXIT_DONE)
        raise typer.Exit(build(request, screen))


@app.command("launch", context_settings=BEAM_OPTIONS)
def launch_command(
    context: typer.Context,
    input: Input = None,
    output: Output = None,
    config: Config = None,
    set_: Set = None,
    limit: Limit = None,
    runner: Where = Runner.LOCAL,
    spark_master: SparkMaster = None,
    flink_master: FlinkMaster = None,
    workers: Workers = None,
    quiet: Quiet = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be started, and its cost in hours.")
    ] = False,
    images_per_second_per_core: Annotated[
        float | None,
        typer.Option(metavar="X", min=0.001, help="Your own measured rate, for the estimate."),
    ] = None,
) -> None:
    """Say what a build would start and take in worker-hours; without --plan, then build."""
    target = (runner, spark_master, flink_master)
    request = _request(
        input, output, config, _overrides(set_, workers), limit, target, context.args
    )

    from facecap.pipeline.dry_run import dry_run as look

    with _storage_errors(str(request.output)):
        typer.echo(look(request).plan(images_per_second_per_core), nl=False)
    if not plan:
        build_command(
            context, input, output, config, set_, limit, runner, spark_master, flink_master,
            workers, quiet,
        )  # fmt: skip


@contextlib.contextmanager
def _storage_errors(output: str) -> Iterator[None]:
    """A disk or a bucket that cannot be used ends a command in one line."""
    from facecap.transforms.store import DiskFailed, disk_errors

    try:
        with disk_errors(Path(output)):
            yield
    except DiskFailed as failed:
        raise BuildFailed(str(failed)) from None


def _overrides(sets: list[str] | None, workers: int | None) -> list[str]:
    return [*(sets or []), *([] if workers is None else [f"build.workers={workers}"])]


def _request(
    input: str | None,
    output: str | None,
    config: Path | None,
    overrides: Sequence[str],
    limit: int | None,
    target: tuple[Runner, str | None, str | None],
    beam_options: Sequence[str],
) -> BuildRequest:
    from facecap.pipeline.build import BuildRequest
    from facecap.pipeline.engines import Target
    from facecap.pipeline.settings import load_settings

    settings = load_settings(config, overrides)
    if input is None or output is None:
        missing = "--input" if input is None else "--output"
        raise UsageError(f"{missing}: not given; see facecap build --help")
    return BuildRequest(input, output, settings, limit, beam_options, Target(*target))


@app.command("verify")
def verify_command(output: OutputFolder) -> None:
    """Check every hash, count and balance of a dataset; exit code 1 when something is wrong."""
    from facecap.pipeline.output import lock, open_dataset, read_build_file
    from facecap.pipeline.verify import verify

    store = open_dataset(output)
    with _storage_errors(output), lock(store, exclusive=True):
        faults = 0
        for fault in verify(store):
            faults += 1
            typer.echo(fault)
        if faults:
            typer.echo(f"{faults} faults", err=True)
            raise typer.Exit(EXIT_FAILED)
        typer.echo(f"sound: {read_build_file(store).shards} shards")


@app.command("recaption", context_settings=BEAM_OPTIONS)
def recaption_command(
    context: typer.Context,
    output: OutputFolder,
    config: Config = None,
    set_: Set = None,
    shards: Annotated[
        str | None, typer.Option(metavar="3,7-9", help="Only these shards; the rest elsewhere.")
    ] = None,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up one with other settings that is under way.")
    ] = False,
    runner: Where = Runner.LOCAL,
    spark_master: SparkMaster = None,
    flink_master: FlinkMaster = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Make the captions of a finished dataset anew, from its metadata: other words, or an LLM's.

    Settings are those of the last recaption or else of the build, but for what caption.*, rewrite.*
    and attributes.minors say; where only caption.text changes, nobody is asked. The same command
    continues what was stopped; several machines may share one dataset.
    """
    from facecap.pipeline.engines import Target
    from facecap.pipeline.recaption import RecaptionRequest, parse_shards, recaption
    from facecap.pipeline.terminal import Screen

    target = Target(runner, spark_master, flink_master)
    overrides = _overrides(set_, workers)
    chosen = parse_shards(shards)
    request = RecaptionRequest(output, config, overrides, chosen, context.args, target, abandon)
    with _storage_errors(output):
        raise typer.Exit(recaption(request, Screen(quiet=quiet)))


@models_app.command("list")
def models_list() -> None:
    """List the models by name: what they do, their licence, whether they are here."""
    from facecap.pipeline.models import print_models

    print_models()


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Fetch a model into the cache and check its hash."""
    from facecap.transforms.models import ModelError, fetch

    try:
        typer.echo(f"{name}: {fetch(name)}")
    except ModelError as error:
        raise UsageError(str(error)) from None


@app.command("worker-pool")
def worker_pool_command(
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port.")] = 50_000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on: who reaches it runs code.")
    ] = "127.0.0.1",
) -> None:
    """Start Python workers when an executor of Spark or Flink on this host asks for them."""
    from facecap.pipeline.worker_pool import serve

    serve(host, port)


@app.command("demo")
def demo_command(
    output: Annotated[Path, typer.Option(metavar="OUT", help="A new or finished demo folder.")] = (
        Path("demo-out")
    ),
) -> None:
    """A small real build, offline: photographs from installed packages, served on loopback."""
    from facecap.pipeline.demo import demo

    raise typer.Exit(demo(output))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"facecap {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it, and end.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Beam warns at import about Google libraries that the local runner does not need.
    logging.getLogger().addFilter(lambda record: "apitools" not in record.getMessage())


# The base of the errors of whichever click this typer uses: it may bring its own.
_ArgumentError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and turn what ends it into an exit code."""
    try:
        code = app(arguments, prog_name="facecap", standalone_mode=False)
    except _ArgumentError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            command = error.ctx.command_path if error.ctx else "facecap"
            message = " ".join(error.format_message().split()).rstrip(".")
            print(f"facecap: {message}; see {command} --help", file=sys.stderr)
        return EXIT_USAGE
    except UsageError as error:
        print(f"facecap: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BuildFailed as error:
        print(f"facecap: {error}", file=sys.stderr)
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_DONE


def _stop(signum: int, frame: object) -> None:
    """Ctrl-C where no graph runs: nothing is half-written then, so the process may just end."""
    print("facecap: stopped; the same command starts or continues it", file=sys.stderr)
    os._exit(EXIT_INTERRUPTED)


def main() -> None:
    """The console command `facecap`."""
    signal.signal(signal.SIGINT, _stop)
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a build that was stopped has threads that would be waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
