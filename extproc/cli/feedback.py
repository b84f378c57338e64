"""``dropout feedback``: what labels said about the arms of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from extproc.adapters.sqlite_feedback import SqliteFeedback
from extproc.adapters.stores import beside
from extproc.cli.options import name_argument, opened, store_option
from extproc.cli.output import aligned, output_option, print_json
from extproc.clock import SystemClock
from extproc.control.actions import load
from extproc.control.described import timestamp
from extproc.errors import InvalidInput
from extproc.measure import LabelTotals
from extproc.snapshot.store import EpochArm, EpochRecord, RolloutStore

_HEADS = (
    *("ARM", "VERSION", "LABELS", "TRUE+", "FALSE+", "TRUE-", "FALSE-"),
    *("FALSE+ RATE", "FALSE- RATE", "PRECISION", "RECALL"),
)


@click.group()
def feedback() -> None:
    """See what labels said about a rollout."""


@feedback.command(short_help="Show error rates and outcomes by arm.")
@name_argument
@click.option("--epoch", type=click.IntRange(1), help="An earlier epoch; default: the current one.")
@store_option
@output_option
def report(name: tuple[str, str], epoch: int | None, store: str, output: str) -> None:
    """Show what labels said about each arm of a rollout, in one epoch: exact counts, error rates, means of outcomes.

    A rate is a dash where there is nothing to divide by. A deleted rollout's last epoch can still be seen.
    """
    with opened(store) as opened_store:
        record = _epoch(opened_store, name, epoch)
    totals = _labels(store, record)
    arms = [(arm, totals.get(arm.arm, LabelTotals())) for arm in sorted(record.arms, key=lambda arm: -arm.code)]
    if output == "json":
        head = {"namespace": record.namespace, "name": record.name, "epoch": record.epoch}
        print_json({**head, "began": timestamp(record.began), "arms": [_arm_json(*each) for each in arms]})
        return
    click.echo(f"{record.namespace}/{record.name}, epoch {record.epoch}, since {timestamp(record.began)}")
    names = sorted({outcome for _, of_arm in arms for outcome in of_arm.outcomes})
    heads = (*_HEADS, *(f"MEAN {outcome} (count)" for outcome in names))
    for line in aligned([heads, *(_cells(*each, names) for each in arms)]):
        click.echo(line)


def _epoch(store: RolloutStore, name: tuple[str, str], asked: int | None) -> EpochRecord:
    """The epoch that was asked for, or the one in force."""
    known = {record.epoch: record for record in store.epochs_of(*name)}
    row = store.get(*name)
    if row is None and not known:
        load(store, *name)  # says that there is no such rollout
    epoch = asked or (row.status.epoch_at(SystemClock().now()) if row is not None else max(known))
    if epoch not in known:
        message = f"nothing is known of epoch {epoch} of {'/'.join(name)}"
        raise InvalidInput.of("epoch_unknown", message, field=None if asked is None else "--epoch")
    return known[epoch]


def _labels(store: str, epoch: EpochRecord) -> Mapping[str, LabelTotals]:
    """What was counted; nothing, if there never was any feedback."""
    path = beside(store, ".feedback")
    if not path.exists():
        return {}
    counts = SqliteFeedback(path)
    try:
        return counts.labels(f"{epoch.namespace}/{epoch.name}", epoch.epoch)
    finally:
        counts.close()


def _arm_json(arm: EpochArm, totals: LabelTotals) -> dict[str, Any]:
    total = totals.total()
    outcomes = {name: totals.outcome(name) for name in sorted(totals.outcomes)}
    return {
        "arm": arm.arm,
        "version": arm.version or None,
        "labels": total.labels,
        "truePositives": total.true_positives,
        "falsePositives": total.false_positives,
        "trueNegatives": total.true_negatives,
        "falseNegatives": total.false_negatives,
        "falsePositiveRate": total.false_positive_rate,
        "falseNegativeRate": total.false_negative_rate,
        "precision": total.precision,
        "recall": total.recall,
        "outcomes": {name: {"count": each.count, "mean": each.mean} for name, each in outcomes.items()},
    }


def _cells(arm: EpochArm, totals: LabelTotals, names: Sequence[str]) -> tuple[str, ...]:
    total = totals.total()
    rates = (total.false_positive_rate, total.false_negative_rate, total.precision, total.recall)
    outcomes = [totals.outcome(name) for name in names]
    return (
        *(arm.arm, arm.version or "-", str(total.labels)),
        *map(str, total),
        *("-" if rate is None else f"{rate:.2%}" for rate in rates),
        *("-" if each.mean is None else f"{each.mean:.6g} ({each.count})" for each in outcomes),
    )
