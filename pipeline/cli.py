"""The command line: arguments in, one line on standard error and an exit code out."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

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

OutputFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder a build has written.")]


@app.command(
    "build",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
    epilog="Example: facecap build --input laion.parquet --output faces "
    "--set crop.min_side=96 --set download.contact=you@example.org",
)
def build_command(
    context: typer.Context,
    input: Annotated[
        str | None,
        typer.Option(
            metavar="URLS",
            help="List of image URLs: Parquet, CSV, TSV, JSON, JSON Lines, TXT (each text also "
            ".gz), or img2dataset's tars; a file, a folder or a glob.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Folder for the dataset. The same command continues it."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="C.yaml", help="Settings; see --show-config.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Override one setting; may be repeated."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Use only the first N rows.")
    ] = None,
    runner: Annotated[str, typer.Option(help="Where it runs: local.")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Worker processes (default: one per core)."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Neither progress bar nor funnel.")
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

    if runner != "local":
        raise UsageError(f"--runner {runner}: only 'local' is there yet")
    overrides = list(set_ or [])
    if workers is not None:
        overrides.append(f"build.workers={workers}")
    settings = load_settings(config, overrides)
    if show_config:
        typer.echo(to_yaml(settings), nl=False)
        return
    if input is None or output is None:
        missing = "--input" if input is None else "--output"
        raise UsageError(f"{missing}: not given; see facecap build --help")

    from facecap.pipeline.build import BuildRequest, build
    from facecap.pipeline.terminal import Screen
    from facecap.transforms.store import DiskFailed, disk_errors

    request = BuildRequest(input, output, settings, limit, context.args)
    try:
        with disk_errors(output):
            raise typer.Exit(build(request, Screen(quiet=quiet)))
    except DiskFailed as failed:
        raise BuildFailed(str(failed)) from None


@app.command("verify")
def verify_command(output: OutputFolder) -> None:
    """Check every hash, count and balance of a dataset; exit code 1 when something is wrong."""
    from facecap.pipeline.output import lock, read_build_file
    from facecap.pipeline.verify import verify
    from facecap.transforms.store import Store

    if not output.is_dir():
        raise UsageError(f"{output}: no such folder")
    store = Store(output)
    with lock(store, exclusive=True):
        faults = 0
        for fault in verify(store):
            faults += 1
            typer.echo(fault)
        if faults:
            typer.echo(f"{faults} faults", err=True)
            raise typer.Exit(EXIT_FAILED)
        typer.echo(f"sound: {read_build_file(store).shards} shards")


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
