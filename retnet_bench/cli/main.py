"""Entry point: the verbs, and the exit codes they end with."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer

from retnet_bench import interrupts
from retnet_bench.base import UserError, quoted
from retnet_bench.cli import (
    bundles,
    checkpoints,
    jobs,
    lists,
    report,
    results,
    short,
    studies,
)
from retnet_bench.cli.app import app
from retnet_bench.streams import BROKEN, Output, complain

UsageError: Any = typer.BadParameter.__mro__[1]
"""click's, which some versions of typer have as a module of their own."""
__all__ = ["bundles", "checkpoints", "jobs", "lists", "report", "results", "short", "studies"]
"""Importing them adds their verbs."""
ORDER = (
    *("run", "compare", "init", "plan", "watch", "status", "show", "plot", "report"),
    *("reproduce", "selftest", "check", "history"),
    *("bundle", "verify", "list", "eval", "env"),
)
"""Of the verbs in the help."""


def _place(verb: typer.models.CommandInfo) -> int:
    assert verb.callback is not None
    return ORDER.index(verb.name or str(verb.callback.__name__))


app.registered_commands.sort(key=_place)


def _refuse_bytes(arguments: list[str]) -> None:
    """UserError for an argument that is no text: libraries can't open such a path."""
    for word in arguments:
        if not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
            raise UserError(f"{quoted(word)} is not UTF-8: names and paths must be text")


def main() -> None:
    """Entry point. A user's mistake is one line and exit code 2, a signal that ends the command one
    line and 128 + its number (Ctrl-C: 130), whatever is broken 70, and an output that nobody reads
    any more 141; the other codes are the verbs' own."""
    output = Output()
    sys.exit(output.exit_code(_exit_code()))


def _usage(error: Any) -> str:
    """What is wrong with a command line, and where its options are said."""
    words = " ".join(error.format_message().removesuffix(".").split())
    return f"{words}; see {error.ctx.command_path} --help" if error.ctx else words


def _exit_code() -> int:
    debug = "--debug" in sys.argv
    interrupts.handle()
    try:
        with interrupts.reporting(sys.argv[1:]):
            _refuse_bytes(sys.argv[1:])
            code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            error.show()
        else:
            complain(_usage(error))
        return error.exit_code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception as error:
        mistake = isinstance(error, UserError)
        if debug:
            traceback.print_exc()
        elif mistake:
            complain(error)
        else:
            complain(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        return 2 if mistake else BROKEN
