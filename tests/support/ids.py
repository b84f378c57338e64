"""Decision ids that a test can open, and make as it likes."""

from __future__ import annotations

from types import SimpleNamespace

from extproc.clock import Clock
from extproc.decision_id import DecisionIds, IdKeys, Opened, hashed_number, open_id
from tests.support.clock import FakeClock

ID_KEYS = IdKeys([bytes(range(32))])


def make_ids(clock: Clock | None = None, worker: int = 0, keys: IdKeys = ID_KEYS) -> DecisionIds:
    """What makes ids with ``ID_KEYS``."""
    return DecisionIds(SimpleNamespace(current=keys), worker, clock or FakeClock())


def opened(text: str, keys: IdKeys = ID_KEYS) -> Opened:
    """What an id says, which must open."""
    found = open_id(keys, text)
    assert isinstance(found, Opened), found
    return found


def make_id(
    ids: DecisionIds, arm: int = 2, *, rollout: str = "payments/fraud-detector", epoch: int = 1, group: int = 0
) -> str:
    """The id of a decision for ``arm``, the canary's by default, of an epoch of a rollout."""
    return ids.seal(ids.nonce(), hashed_number(rollout, epoch), arm, group)
