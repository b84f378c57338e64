"""What keeps a worker from its first service, as the reason why ``serve`` does not start."""

from __future__ import annotations

import time
from collections.abc import Iterable

from extproc.errors import InvalidInput, Unreachable
from extproc.serve.supervisor.policy_trial import crashed, too_slow
from extproc.serve.supervisor.workers import WorkerSlot
from extproc.settings import Settings


def see_failures(slots: Iterable[WorkerSlot], tuning: Settings, until: float) -> None:
    """See that each of ``slots`` is on its way, and that it is not ``until`` (monotonic seconds) yet.

    Raises:
        InvalidInput: what a worker says is wrong; ``policy_too_complex`` or ``policy_too_slow`` of a rule on trial.
        Unreachable: what a worker cannot reach; ``worker_failed`` when one ended, or took too long.
    """
    for slot in slots:
        if slot.reasons:
            kind = InvalidInput if slot.exit_code == InvalidInput.exit_code else Unreachable
            raise kind(slot.reasons)
        if slot.state == "dead" and slot.blamed is not None:
            raise InvalidInput([crashed(slot.blamed.path)])
        if slot.state == "dead":
            status = slot.child.process.returncode
            raise Unreachable.of("worker_failed", f"worker {slot.config.index} ended with status {status}")
        beat = slot.child.page.read()
        if beat.evaluating_since and time.monotonic_ns() - beat.evaluating_since > tuning.trial_limit * 1e9:
            raise InvalidInput([too_slow(beat.path, tuning.trial_limit)])
    if time.monotonic() > until:
        raise Unreachable.of("worker_failed", f"no service after {tuning.start_timeout:g} s")
