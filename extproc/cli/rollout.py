"""``dropout rollout``, ``kill`` and ``restore``: where rollouts stand, and what an operator does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import cleandoc
from typing import get_args

import click

from extproc.assignment import parse_percent
from extproc.cli.options import control_options, name_argument, reached, reached_to_stop
from extproc.cli.output import aligned, output_option, print_faults, print_json
from extproc.cli.reached_text import print_reached
from extproc.cli.rollout_text import details, entry_cells, print_result, result_json, table
from extproc.cli.watching import show, wait_for
from extproc.clock import SystemClock
from extproc.control.actions import ACTIONS, Command, Promote, SetWeight
from extproc.control.as_json import entry_json, row_json, status_json, unreadable_json
from extproc.errors import InvalidInput
from extproc.resources.fields import parse_duration

PHASES = ("progressing", "paused", "degraded", "healthy")


@click.group()
def rollout() -> None:
    """See where rollouts stand, and move them."""


@rollout.command(name="list")
@control_options
@output_option
def list_command(store: str, control: str | None, output: str) -> None:
    """List all rollouts, those too that are damaged in the store."""
    with reached(store, control) as rollouts:
        found = rollouts.rollouts()
    if output == "json":
        rows = [row_json(row) for row in found.rollouts]
        print_json({"rollouts": rows, "unreadable": [unreadable_json(row) for row in found.unreadable]})
        return
    for line in table(found):
        click.echo(line)
    print_faults((row.fault for row in found.unreadable), as_json=False)


@rollout.command(name="get")
@name_argument
@control_options
@output_option
def get_command(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Show where one rollout stands, step by step."""
    with reached(store, control) as rollouts:
        row = rollouts.get(*name)
    if output == "json":
        print_json(row_json(row))
        return
    for line in details(row, SystemClock().now()):
        click.echo(line)


@rollout.command(short_help="Show a rollout, and every change of it, until stopped.")
@name_argument
@control_options
@output_option
def watch(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Show a rollout, and every change of it, until stopped or until it is deleted.

    A terminal shows where it stands; elsewhere each change is a line, with -o json one document a line.
    """
    with reached(store, control) as rollouts:
        show(rollouts.watch(*name), output)


@rollout.command(short_help="Wait until a rollout is in a phase; exit with 1 if it will not be.")
@name_argument
@click.option(
    "--for",
    "phase",
    type=click.Choice(PHASES, case_sensitive=False),
    default="healthy",
    show_default=True,
    help="The phase.",
)
@click.option("--timeout", default="30m", show_default=True, metavar="DURATION", help="How long at most.")
@control_options
@output_option
def wait(name: tuple[str, str], phase: str, timeout: str, store: str, control: str | None, output: str) -> None:
    """Wait until a rollout is in a phase: exit code 0 then, 1 if the time is up or it cannot come to that any more.

    Healthy and Degraded are final: somebody has to do something before a rollout leaves them. An experiment with an
    analysis is Healthy until that fails; --for degraded waits for it.
    """
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise InvalidInput.of("duration_invalid", str(error), field="--timeout") from None
    with reached(store, control) as rollouts:
        row = wait_for(rollouts, name, phase.title(), seconds)
    if output == "json":
        print_json(row_json(row))
    else:
        click.echo(f"rollout {row.key} is {row.status.phase}: {row.status.message or row.status.reason}")


@rollout.command(short_help="Show what happened to a rollout: when, by whom, what.")
@name_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many, newest last.")
@control_options
@output_option
def history(name: tuple[str, str], limit: int, store: str, control: str | None, output: str) -> None:
    """Show what happened to a rollout: when, by whom, what, why. A deleted rollout's history stays for a while.

    What was repeated without moving the rollout, such as a pause, is one line with its count.
    """
    with reached(store, control) as rollouts:
        entries = rollouts.history(*name, limit)
    if output == "json":
        print_json({"history": [entry_json(entry) for entry in entries]})
        return
    for line in aligned([entry_cells(entry) for entry in entries]):
        click.echo(line)


@rollout.command(name="set-weight", short_help="Give the canary a percentage of the units.")
@name_argument
@click.argument("percent")
@control_options
@output_option
def set_weight(name: tuple[str, str], percent: str, store: str, control: str | None, output: str) -> None:
    """Give the canary PERCENT of the units: a fall at once, a rise in all workers together a moment later.

    A rollout with steps is paused by that, until it is resumed.
    """
    try:
        weight = parse_percent(percent)
    except ValueError as error:
        raise InvalidInput.of("weight_invalid", str(error), field="PERCENT") from None
    _act(SetWeight(*name, weight), store, control, output)


@rollout.command(short_help="End the pause that a rollout is in; --full: promote now.")
@name_argument
@click.option("--full", is_flag=True, help="Make the canary stable now, whatever steps are left.")
@click.option(
    "--without",
    multiple=True,
    metavar="HOST",
    help="Wait for no word from this host's observer, in this attempt. May be repeated.",
)
@control_options
@output_option
def promote(
    name: tuple[str, str], full: bool, without: tuple[str, ...], store: str, control: str | None, output: str
) -> None:
    """End the pause that a rollout is in, whatever it waits for.

    With --without alone it goes on without that host, whether it is paused or not.
    """
    _act(Promote(*name, full, without), store, control, output)


def _told_a_name_alone(action: Callable[[str, str], Command], verb: str, meaning: str) -> click.Command:
    """The command for an action that is told no more than which rollout."""

    @name_argument
    @control_options
    @output_option
    def command(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
        _act(action(*name), store, control, output)

    return click.command(name=verb, help=meaning, short_help=meaning.partition("\n")[0])(command)


for _kind in get_args(Command):
    _row = ACTIONS[_kind]
    if _row.command == f"rollout {_row.verb}" and {field.name for field in fields(_kind)} == {"namespace", "name"}:
        rollout.add_command(_told_a_name_alone(_kind, _row.verb, cleandoc(_kind.__doc__)))


@click.command(short_help="Serve only stable, at once, until restored.")
@name_argument
@control_options
@output_option
def kill(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Serve only stable, at once, until restored.

    It goes into the store and to every serve of this host that follows it, and is done when either has it. What the
    store cannot take now it is told when it is back.
    """
    with reached_to_stop(store, control) as rollouts:
        print_reached(rollouts.kill(*name), "killed", output)


@click.command()
@name_argument
@control_options
@output_option
def restore(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Undo every kill, in the store and on this host."""
    with reached_to_stop(store, control) as rollouts:
        print_reached(rollouts.restore(*name), "restored", output)


def _act(action: Command, store: str, control: str | None, output: str) -> None:
    with reached(store, control) as rollouts:
        result = rollouts.act(action)
    if output == "json":
        print_json({**result_json(result), "message": result.message, "status": status_json(result.row.status)})
    else:
        print_result(result)
