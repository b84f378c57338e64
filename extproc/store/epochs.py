"""What is to be remembered of epochs, for labels that come when the rollout has long moved on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from extproc.decision_id import arm_codes, hashed_number
from extproc.names import ARM_CANARY, ARM_CONTROL, ARM_EXCLUDED, ARM_TAKEN_AWAY
from extproc.store.epoch_records import EpochArm, EpochRecord
from extproc.store.records import StoredRollout
from extproc.store.status import Status, kept_away


def number_of(key: str, status: Status, epoch: int) -> int:
    """What decision ids carry for an ``epoch`` in ``status`` of ``key`` (``namespace/name``)."""
    number = status.numbers.get(str(epoch))
    return hashed_number(key, epoch) if number is None else number


def with_numbers(before: Status | None, row: StoredRollout, new_number: Callable[[], int]) -> StoredRollout:
    """``row`` with a number for each epoch that ``before`` had not.

    ``new_number`` gives one that the store does not know. What the writer says of them does not count: the row that
    there is decides.
    """
    last, known = (before.epoch, before.numbers) if before is not None else (0, {})
    numbers = {}
    for epoch in sorted({row.status.previous_epoch, row.status.epoch}):
        if epoch > last:
            numbers[str(epoch)] = new_number()
        elif str(epoch) in known:
            numbers[str(epoch)] = known[str(epoch)]
    return replace(row, status=replace(row.status, numbers=numbers))


def epochs_begun(before: Status | None, row: StoredRollout, at: float) -> Iterator[EpochRecord]:
    """The epochs that ``row`` has and ``before`` had not, when it was written at ``at`` (Unix seconds).

    There may be two: one until a pending rise, and one from then on.
    """
    last = before.epoch if before is not None else 0
    status = row.status
    began = {status.previous_epoch: at, status.epoch: status.effective_at if status.is_pending(at) else at}
    for epoch, begins in began.items():
        if epoch > last:
            number = number_of(row.key, status, epoch)
            yield EpochRecord(number, row.namespace, row.name, epoch, begins, tuple(_arms(row)))


def _arms(row: StoredRollout) -> Iterator[EpochArm]:
    """The arms of a rollout as it stands, without a version those that are not compared.

    The excluded get many versions. One that is kept away is nobody's but a probe's; stable serves in its place.
    """
    variants = row.document.get("spec", {}).get("variants", ())
    codes = arm_codes([variant["name"] for variant in variants])
    versions = {variant["name"]: variant["version"] for variant in variants}
    if not variants:
        versions = {ARM_CONTROL: row.status.stable}
        if row.status.canary is not None:
            versions[ARM_CANARY] = row.status.canary
    away, stable = kept_away(row.status), row.status.stable
    for arm, version in versions.items():
        if version != stable and (away is None or version in away):
            versions[arm] = ""
    versions |= {ARM_EXCLUDED: "", ARM_TAKEN_AWAY: stable}
    for arm, code in codes.items():
        if arm in versions:
            yield EpochArm(code, arm, versions[arm])


def free_numbers(
    row: StoredRollout, new_number: Callable[[], int], is_known: Callable[[int], bool]
) -> Callable[[], int]:
    """``new_number`` until it is no other epoch's in this store, nor one that would be taken for a hashed one."""
    taken = {hashed_number(row.key, epoch) for epoch in (row.status.previous_epoch, row.status.epoch)}

    def free_number() -> int:
        while (number := new_number()) in taken or is_known(number):
            pass
        taken.add(number)
        return number

    return free_number


def status_of_unreadable(epochs: Sequence[EpochRecord]) -> Status:
    """What can be known of a rollout whose row is damaged: killed, and the control of the last of its ``epochs``."""
    stable = next((arm.version for arm in epochs[-1].arms if arm.arm == ARM_CONTROL), "") if epochs else ""
    return Status(stable, stable, attempt=0, killed=True, spec_stable=stable)
