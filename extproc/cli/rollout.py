"""``dropout rollout``, ``kill`` and ``restore``: where rollouts stand, and what an operator does to them."""

from __future__ import annotations

import click

from extproc.assignment import parse_percent
from extproc.cli.options import control_options, name_argument, reached, reached_to_stop
from extproc.cli.output import aligned, output_option, print_faults, print_json
from extproc.cli.reached_text import print_reached
from extproc.cli.rollout_text import details, print_result, result_json, table
from extproc.cli.watching import show, wait_for
from extproc.control.actions import (
    Abort,
    Adopt,
    Change,
    Pause,
    Promote,
    Resume,
    Retry,
    SetWeight,
    Undo,
)
from extproc.control.described import entry_json, row_json, status_json, timestamp, unreadable_json
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
    for line in details(row):
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
@click.option("--for", "phase", type=click.Choice(PHASES), default="healthy", show_default=True, help="The phase.")
@click.option("--timeout", default="30m", show_default=True, metavar="DURATION", help="How long at most.")
@control_options
@output_option
def wait(name: tuple[str, str], phase: str, timeout: str, store: str, control: str | None, output: str) -> None:
    """Wait until a rollout is in a phase: exit code 0 then, 1 if the time is up or it cannot come to that any more.

    Healthy and Degraded are final: somebody has to do something before a rollout leaves them.
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
    """Show what happened to a rollout: when, by whom, what, why. A deleted rollout's history stays for a while."""
    with reached(store, control) as rollouts:
        entries = rollouts.history(*name, limit)
    if output == "json":
        print_json({"history": [entry_json(entry) for entry in entries]})
        return
    for line in aligned([(timestamp(e.at), e.actor, e.action, e.message) for e in entries]):
        click.echo(line)


@rollout.command()
@name_argument
@control_options
@output_option
def adopt(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Take as stable the version that spec.stable names now."""
    _act(Adopt(*name), store, control, output)


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


@rollout.command(short_help="Make stable again, at once, what the last promotion replaced.")
@name_argument
@control_options
@output_option
def undo(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Make stable again, at once, what the last promotion replaced.

    The version that was promoted is kept away until a retry.
    """
    _act(Undo(*name), store, control, output)


@rollout.command()
@name_argument
@control_options
@output_option
def pause(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Stay at the step in force, until resumed."""
    _act(Pause(*name), store, control, output)


@rollout.command()
@name_argument
@control_options
@output_option
def resume(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Undo a pause, or the one that set-weight made."""
    _act(Resume(*name), store, control, output)


@rollout.command(short_help="Take the canary away now, and keep it away until a retry.")
@name_argument
@control_options
@output_option
def abort(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Take the canary away now, and keep its version away until a retry."""
    _act(Abort(*name), store, control, output)


@rollout.command()
@name_argument
@control_options
@output_option
def retry(name: tuple[str, str], store: str, control: str | None, output: str) -> None:
    """Let the aborted canary start over, from weight 0."""
    _act(Retry(*name), store, control, output)


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


def _act(action: Change, store: str, control: str | None, output: str) -> None:
    with reached(store, control) as rollouts:
        result = rollouts.act(action)
    if output == "json":
        print_json({**result_json(result), "message": result.message, "status": status_json(result.row.status)})
    else:
        print_result(result)
