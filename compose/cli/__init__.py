"""The command `compose`: one file per verb. Imports what computes only when a verb needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from compose import __version__
from compose.cli import adapter, bench, convert, explain, methods, predict, recipe, report, run
from compose.errors import ComposeError

USER_MISTAKE = 2
FAILED = 1
INTERRUPTED = 130

app = typer.Typer(
    name="compose",
    help="Combine adapters over one frozen transformer.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("run")(run.command)
app.command("report")(report.command)
app.command("predict")(predict.command)
app.command("explain")(explain.command)
app.command("methods")(methods.command)
app.command("convert")(convert.command)
app.command("bench")(bench.command)
app.add_typer(recipe.app, name="recipe")
app.add_typer(adapter.app, name="adapter")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"compose {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Combine adapters over one frozen transformer."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits: 0, 2 for a user's mistake, 1 for a failing disk, 130 when interrupted.

    Args:
        arguments: those of the command line by default.
    """
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        app(args=None if arguments is None else list(arguments), prog_name="compose")
    except SystemExit as stop:  # what typer ends with, usage errors (2) included
        if _interrupted(stop):
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ComposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except BrokenPipeError:
        # Whoever read the output has gone; nothing is left to say to them, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return FAILED
    return 0


def _interrupted(stop: BaseException) -> bool:
    """Whether an exit goes back to Ctrl-C; typer's versions make different exit codes of it."""
    error: BaseException | None = stop
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
