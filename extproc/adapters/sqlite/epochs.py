"""The epochs of rollouts in a store's file: what decision ids and labels that come weeks later are told apart by."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import orjson

from extproc.store.epoch_records import FORGET_EPOCHS_SECONDS, EpochArm, EpochRecord

_EPOCHS: Final = """
SELECT number, namespace, name, epoch, began, arms, coalesce(
    (SELECT min(later.began) FROM epochs AS later WHERE (later.namespace, later.name) = (epochs.namespace, epochs.name)
     AND later.epoch > epochs.epoch AND typeof(later.began) = 'real'),
    (SELECT deleted_at FROM rollouts AS gone WHERE (gone.namespace, gone.name) = (epochs.namespace, epochs.name)))
FROM epochs
"""
"""An epoch ends with the beginning of any later one: what was still to come when something was taken away never was."""


def read_epochs(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> Sequence[EpochRecord]:
    """Those for which ``where``, a condition of ours, holds, the oldest first."""
    rows = connection.execute(
        # An epoch that nobody knows the time of is none that a label could be attributed to.
        f"{_EPOCHS} WHERE {where} AND typeof(began) = 'real' ORDER BY began, epoch",
        values,
    ).fetchall()
    return [_parsed(*row) for row in rows]


def write_epochs(connection: sqlite3.Connection, begun: Sequence[EpochRecord], now: float) -> None:
    """Remember the epochs that have ``begun`` of a rollout, and forget those that ended too long before ``now``."""
    connection.executemany(
        "INSERT OR REPLACE INTO epochs (namespace, name, epoch, number, began, arms) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (one.namespace, one.name, one.epoch, one.number, one.began, orjson.dumps([[*arm] for arm in one.arms]))
            for one in begun
        ],
    )
    if begun:
        key = (begun[0].namespace, begun[0].name)
        connection.execute(
            "DELETE FROM epochs WHERE namespace = ? AND name = ? AND epoch <"
            " (SELECT max(epoch) FROM epochs WHERE namespace = ? AND name = ? AND began < ?)",
            (*key, *key, now - FORGET_EPOCHS_SECONDS),
        )


def knows_number(connection: sqlite3.Connection, number: int) -> bool:
    """Whether it is the number of an epoch in this store."""
    return connection.execute("SELECT 1 FROM epochs WHERE number = ?", (number,)).fetchone() is not None


def _parsed(
    number: int, namespace: str, name: str, epoch: int, began: float, arms: bytes, until: float | None
) -> EpochRecord:
    try:
        parsed = tuple(EpochArm(int(code), str(arm), str(version)) for code, arm, version in orjson.loads(arms))
    except (ValueError, TypeError):
        parsed = ()  # as if it had none: it must not keep the labels of others from being attributed
    return EpochRecord(number, namespace, name, epoch, began, parsed, until)
