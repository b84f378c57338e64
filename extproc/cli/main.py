"""``dropout``: one file per group of commands, loaded when asked for."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

import click

from extproc.cli.output import print_faults
from extproc.errors import DropoutError, Fault, Unreachable

COMMANDS = {
    "validate": ("extproc.cli.validate", "validate"),
    "schema": ("extproc.cli.validate", "schema"),
    "assign": ("extproc.cli.assign", "assign"),
    "apply": ("extproc.cli.documents", "apply"),
    "get": ("extproc.cli.documents", "get"),
    "delete": ("extproc.cli.documents", "delete"),
    "rollout": ("extproc.cli.rollout", "rollout"),
    "kill": ("extproc.cli.rollout", "kill"),
    "restore": ("extproc.cli.rollout", "restore"),
    "serve": ("extproc.cli.serve", "serve"),
    "controller": ("extproc.cli.controller", "controller"),
    "explain": ("extproc.cli.explain", "explain"),
    "replay": ("extproc.cli.explain", "replay"),
    "policy": ("extproc.cli.policy", "policy"),
    "feedback": ("extproc.cli.feedback", "feedback"),
    "features": ("extproc.cli.features", "features"),
    "envoy": ("extproc.cli.envoy", "envoy"),
    "demo": ("extproc.cli.demo", "demo"),
}
"""Command -> (module, attribute), imported on use: `serve` does not pay for what it does not need."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None so that click says which there are."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=LazyGroup, name="dropout")
@click.version_option(package_name="dropout-router", prog_name="dropout")
def cli() -> None:
    """Exposure control for machine-learning models behind Envoy.

    Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 a dependency cannot be reached. With -o json, errors are
    one JSON document on standard output.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and exit: 0 done, 1 the answer is no, 2 bad input, 3 a dependency cannot be reached."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = _asks_for_json(given)
    _escape_what_the_terminal_lacks()
    try:
        status = cli.main(given, prog_name="dropout", standalone_mode=False)
    except DropoutError as error:
        print_faults(error.faults, as_json=as_json)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        print_faults([Fault("usage", _usage_sentence(error))], as_json=as_json)
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except UnicodeEncodeError:
        print_faults([Fault("usage", "An argument is not UTF-8 text.")], as_json=as_json)
        sys.exit(2)
    except OSError as error:
        # What a command expects to fail it catches; this is a full disk under the answer, or a pipe that closed.
        _print_os_error(error, as_json=as_json)
        _drop_what_cannot_be_written()
        sys.exit(Unreachable.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the caller wants JSON, known before click has parsed a command line that may be wrong."""
    for flag, value in pairwise([*arguments, ""]):
        if flag in ("-o", "--output") and value == "json":
            return True
        if flag in ("-ojson", "--output=json"):
            return True
    return False


def _escape_what_the_terminal_lacks() -> None:
    """Have a character that is not in the terminal's encoding printed as an escape, not end the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _print_os_error(error: OSError, *, as_json: bool) -> None:
    fault = Fault("io_error", f"{error.strerror or error}.", file=error.filename and os.fsdecode(error.filename))
    try:
        print_faults([fault], as_json=as_json)
    except OSError:
        print_faults([fault], as_json=False)


def _drop_what_cannot_be_written() -> None:
    """Let the interpreter's own flush at exit succeed: its failure would be a second message and another code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_sentence(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "dropout"
    return f"{error.format_message()} See '{command} --help'."
