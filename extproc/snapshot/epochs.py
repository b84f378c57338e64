"""What is to be remembered of epochs, for labels that come when the rollout has long moved on."""

from __future__ import annotations

from collections.abc import Iterator

from extproc.decision_id import arm_codes, epoch_number
from extproc.names import ARM_CANARY, ARM_CONTROL, ARM_EXCLUDED
from extproc.snapshot.store import EpochArm, EpochRecord, Status, StoredRollout


def epochs_begun(before: Status | None, row: StoredRollout, at: float) -> Iterator[EpochRecord]:
    """The epochs that ``row`` has and ``before`` had not, when it was written at ``at`` (Unix seconds).

    There may be two: one until a pending rise, and one from then on.
    """
    last = before.epoch if before is not None else 0
    status = row.status
    began = {status.previous_epoch: at, status.epoch: status.effective_at if status.is_pending(at) else at}
    for epoch, begins in began.items():
        if epoch > last:
            number = epoch_number(row.key, epoch)
            yield EpochRecord(number, row.namespace, row.name, epoch, begins, tuple(_arms(row)))


def _arms(row: StoredRollout) -> Iterator[EpochArm]:
    """The arms of a rollout as it stands. The excluded get many versions, and no label of theirs is compared."""
    variants = row.document.get("spec", {}).get("variants", ())
    codes = arm_codes([variant["name"] for variant in variants])
    versions = {variant["name"]: variant["version"] for variant in variants}
    if not variants:
        versions = {ARM_CONTROL: row.status.stable}
        if row.status.canary is not None:
            versions[ARM_CANARY] = row.status.canary
    for arm, code in codes.items():
        if arm in versions or arm == ARM_EXCLUDED:
            yield EpochArm(code, arm, versions.get(arm, ""))
