"""``dropout``: one file per group of commands, loaded when asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence
from itertools import pairwise

import click

from extproc.cli.output import print_faults, print_notes
from extproc.cli.streams import CLOSED_PIPE_EXIT, ClosedPipe, drop_what_cannot_be_written, prepare
from extproc.errors import DropoutError, Fault, Unreachable
from extproc.suggestions import close_to, did_you_mean, listed

_NAMESPACE = ("-n", "--namespace")
"""What other command lines have for it."""

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
    "replay": ("extproc.cli.replay", "replay"),
    "log": ("extproc.cli.log", "log"),
    "policy": ("extproc.cli.policy", "policy"),
    "backup": ("extproc.cli.backup", "backup"),
    "restore-backup": ("extproc.cli.backup", "restore_backup"),
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
    """Run one command and exit: 0 done, 1 the answer is no, 2 bad input, 3 a dependency cannot be reached.

    Where nobody reads the answer to its end, as behind ``| head``, that is the end, with 141 and without a word.
    """
    prepare()
    try:
        sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))
    except ClosedPipe:
        drop_what_cannot_be_written()
        sys.exit(CLOSED_PIPE_EXIT)


def _run(given: list[str]) -> int:
    """Run one command; its exit code."""
    as_json = _asks_for_json(given)
    _note_variables()
    try:
        status = cli.main(given, prog_name="dropout", standalone_mode=False)
    except DropoutError as error:
        print_faults(error.faults, as_json=as_json)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.UsageError as error:
        print_faults([Fault("usage", _usage_sentence(error))], as_json=as_json)
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except UnicodeEncodeError:
        print_faults([Fault("usage", "an argument is not UTF-8 text")], as_json=as_json)
        return 2
    except OSError as error:
        # What a command expects to fail it catches; this is a full disk under the answer.
        _print_os_error(error, as_json=as_json)
        drop_what_cannot_be_written()
        return Unreachable.exit_code
    return status if isinstance(status, int) else 0


def _note_variables() -> None:
    """Say which variables are nearly settings; those are imported only where there are any."""
    ours = [name for name in os.environ if name.startswith("DROPOUT_")]
    if ours:
        from extproc.settings import misspelt

        print_notes(misspelt(ours))


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the caller wants JSON, known before click has parsed a command line that may be wrong."""
    for flag, value in pairwise([*arguments, ""]):
        if flag in ("-o", "--output") and value == "json":
            return True
        if flag in ("-ojson", "--output=json"):
            return True
    return False


def _print_os_error(error: OSError, *, as_json: bool) -> None:
    fault = Fault("io_error", str(error.strerror or error), file=error.filename and os.fsdecode(error.filename))
    try:
        print_faults([fault], as_json=as_json)
    except OSError:
        print_faults([fault], as_json=False)


def _usage_sentence(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "dropout"
    match error:
        case click.NoSuchCommand() if error.ctx:
            said = error.message.removesuffix(".") + _meant(error.command_name, error.ctx)
        case click.NoSuchOption():
            said = error.message.removesuffix(".") + _option_meant(error)
        case click.MissingParameter(param=click.Option() as option) if error.ctx:
            said = (
                f"{error.format_message().removesuffix('.')}; write {option.opts[0]} {option.make_metavar(error.ctx)}"
            )
        case click.MissingParameter(param=click.Argument(name="name")):
            said = error.format_message().removesuffix(".") + "; `dropout rollout list` shows what there is"
        case _:
            said = error.format_message().removesuffix(".")
    return f"{said[:1].lower()}{said[1:]}: see '{command} --help'"


def _meant(word: str, context: click.Context) -> str:
    """Which command may have been meant: one of the group's, or one by that very name at another place."""
    elsewhere = [path for path, names in _places().items() if word in names]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]} {word}'?"
    assert isinstance(context.command, click.Group)
    names = context.command.list_commands(context)
    return did_you_mean(word, names) or f"; there are {listed(names)}"


def _option_meant(error: click.NoSuchOption) -> str:
    """Which option may have been meant, by what stands behind the dashes; where a namespace is written."""
    if error.option_name in _NAMESPACE:
        return "; a namespace is a part of the name: NAMESPACE/NAME"
    options = {option.lstrip("-"): option for option in error.possibilities or ()}
    close = close_to(error.option_name.lstrip("-"), options)
    return f"; did you mean {options[close]!r}?" if close is not None else ""


def _places() -> dict[str, Collection[str]]:
    """Where there are commands that are easily looked for at the other place, and their names."""
    from extproc.cli.rollout import rollout

    return {"dropout": COMMANDS, "dropout rollout": rollout.commands}
