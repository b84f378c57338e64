"""``dropout feedback``: what labels said about the arms of a rollout."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.cli.feedback_text import (
    arm_json,
    arm_lines,
    compared_json,
    compared_lines,
    epoch_json,
    epoch_lines,
    labelled,
    versions_json,
)
from extproc.cli.options import name_argument, opened, store_option
from extproc.cli.output import output_option, print_json
from extproc.cli.state_option import state_option
from extproc.clock import SystemClock
from extproc.control.as_json import timestamp
from extproc.control.documents import load
from extproc.control.feedback.comparing import ALPHA, compared, in_order
from extproc.control.feedback.exporting import COLUMNS, exported, flat
from extproc.decision_id import KeyFile
from extproc.errors import InvalidInput
from extproc.measure import LabelTotals
from extproc.names import ARM_TAKEN_AWAY
from extproc.state import StateFolder
from extproc.store.epoch_records import EpochArm, EpochRecord
from extproc.store.ports import RolloutStore


@click.group()
def feedback() -> None:
    """See what labels said about a rollout."""


@feedback.command(short_help="Show error rates and outcomes by arm.")
@name_argument
@click.option("--epoch", type=click.IntRange(1), help="An earlier epoch; default: the last one that compares.")
@click.option("--epochs", "all_epochs", is_flag=True, help="List the epochs: their times, versions, numbers of labels.")
@store_option
@state_option()
@output_option
def report(
    name: tuple[str, str], epoch: int | None, all_epochs: bool, store: str, state: Path | None, output: str
) -> None:
    """Show what labels said about each arm of a rollout, in one epoch: exact counts, error rates, means of outcomes.

    Each arm is compared with the control: the difference, bounds that hold at every look, and whether it is worse or
    better, or about how many labels more that takes.

    A rate is a dash where there is nothing to divide by. A deleted rollout's last epoch can still be seen. While
    everything but stable is taken away, it is the last one in which it was not.
    """
    labels = StateFolder.of(store, state).feedback
    if all_epochs:
        _list_epochs(name, store, labels, output)
        return
    with opened(store) as opened_store:
        record = _epoch(opened_store, name, epoch)
    totals = _labels(labels, record)
    arms = [(arm, totals.get(arm.arm, LabelTotals())) for arm in _shown(record, totals)]
    found = list(compared(record, totals))
    if output == "json":
        head = {"namespace": record.namespace, "name": record.name, **epoch_json(record)}
        compared_ = {"alpha": ALPHA, "comparisons": [compared_json(each) for each in found]}
        print_json({**head, "arms": [arm_json(*each) for each in arms], **compared_})
        return
    until = f" until {timestamp(record.until)}" if record.until else ""
    click.echo(f"{record.namespace}/{record.name}, epoch {record.epoch}, since {timestamp(record.began)}{until}")
    for line in (*arm_lines(arms), *compared_lines(found)):
        click.echo(line)
    if epoch is None and record.epoch > 1 and not totals:
        click.echo("\nThere are no labels of this epoch yet; --epochs lists those before it, and --epoch N shows one.")


@feedback.command(short_help="Write the labels by decision, as CSV or JSON lines.")
@name_argument
@click.option("--epoch", type=click.IntRange(1), help="Of this epoch alone; default: of all.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="A table with a head, or one JSON document on each line.",
)
@store_option
@state_option()
def export(name: tuple[str, str], epoch: int | None, format_: str, store: str, state: Path | None) -> None:
    """Write what was said of each decision of a rollout, in the order of the decisions, to standard output.

    There is a row for each id that counts and is remembered: those that are older than labels are waited for, and those
    that another version answered, have none. Users are not in it: an id says nothing about who asked.
    """
    kept = StateFolder.of(store, state)
    with opened(store) as opened_store:
        records = opened_store.epochs_of(*name)
        of_epoch = _epoch(opened_store, name, epoch).id if epoch is not None or not records else None
    known = KeyFile(kept.ids, SystemClock()).current if kept.ids.exists() else None
    counts = SqliteFeedback(kept.feedback) if kept.feedback.exists() else None
    key = "/".join(name)
    names = counts.outcome_names(key, of_epoch) if counts is not None else ()
    rows = exported(counts.recorded(key, of_epoch) if counts is not None else (), records, known)
    if format_ == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow([*COLUMNS, *(f"outcomes.{outcome}" for outcome in names)])
        table.writerows(flat(row, names) for row in rows)
    else:
        for row in rows:
            print_json(row)
    if counts is not None:
        counts.close()


def _list_epochs(name: tuple[str, str], store: str, labels: Path, output: str) -> None:
    with opened(store) as opened_store:
        records = opened_store.epochs_of(*name)
        if not records:
            load(opened_store, *name)  # says that there is no such rollout
    epochs = [(each, labelled(_labels(labels, each))) for each in sorted(records, key=lambda each: each.epoch)]
    if output == "json":
        rows = [{**epoch_json(each), "arms": versions_json(each), "labels": labels} for each, labels in epochs]
        print_json({"namespace": name[0], "name": name[1], "epochs": rows})
        return
    for line in epoch_lines(epochs):
        click.echo(line)


def _epoch(store: RolloutStore, name: tuple[str, str], asked: int | None) -> EpochRecord:
    """The epoch that was asked for, or the one in force."""
    known = {record.epoch: record for record in store.epochs_of(*name)}
    row = store.get(*name)
    if row is None and not known:
        load(store, *name)  # says that there is no such rollout
    last = row.status.epoch_at(SystemClock().now()) if row is not None else max(known)
    epoch = asked or max((epoch for epoch in known if epoch <= last and _compares(known[epoch])), default=last)
    if epoch not in known:
        message = f"nothing is known of epoch {epoch} of {'/'.join(name)}"
        raise InvalidInput.of("epoch_unknown", message, field=None if asked is None else "--epoch")
    return known[epoch]


def _compares(epoch: EpochRecord) -> bool:
    """Whether there was a time in which more than one arm was served by a version of its own."""
    served = [arm for arm in epoch.arms if arm.version and arm.arm != ARM_TAKEN_AWAY]
    return len(served) > 1 and (epoch.until is None or epoch.until > epoch.began)


def _shown(epoch: EpochRecord, totals: Mapping[str, LabelTotals]) -> list[EpochArm]:
    """The arms in the order of the report: those that were drawn, then what counts for none of them, if anything."""
    return [arm for arm in in_order(epoch) if arm.arm != ARM_TAKEN_AWAY or arm.arm in totals]


def _labels(path: Path, epoch: EpochRecord) -> Mapping[str, LabelTotals]:
    """What was counted; nothing, if there never was any feedback."""
    if not path.exists():
        return {}
    counts = SqliteFeedback(path)
    try:
        return counts.labels(f"{epoch.namespace}/{epoch.name}", epoch.id)
    finally:
        counts.close()
