"""What is said about a decision, what becomes of that, and what of it is counted where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from extproc.errors import InvalidInput

MAX_RECORDS: Final = 1000
"""Records in a batch. They are counted before any of them is looked at."""

MAX_OUTCOMES: Final = 16
"""Numeric outcomes in a record."""

MAX_OUTCOME_NAMES: Final = 32
"""Different names of outcomes in an epoch: each is a row in its report."""


class Code(StrEnum):
    """What became of a record: a closed list, because it is a metric label."""

    RECORDED = "recorded"
    MALFORMED = "feedback_malformed"
    UNKNOWN_KEY = "feedback_unknown_key"
    FORGED = "feedback_forged"
    EXPIRED = "feedback_expired"
    UNKNOWN_EPOCH = "feedback_unknown_epoch"
    AMBIGUOUS = "feedback_ambiguous"
    WRONG_VERSION = "feedback_wrong_version"
    INVALID = "feedback_invalid"
    DUPLICATE = "feedback_duplicate"
    SERVED_BY_FALLBACK = "feedback_served_by_fallback"
    FALLBACKS_UNCLEAR = "feedback_fallbacks_unclear"


MESSAGES: Final[Mapping[Code, str]] = {
    Code.RECORDED: "",
    Code.MALFORMED: "this is no decision id",
    Code.UNKNOWN_KEY: "the id was made with a key that is not known here",
    Code.FORGED: "the id was not made here",
    Code.EXPIRED: "the decision is older than labels are waited for",
    Code.UNKNOWN_EPOCH: "nothing is known of the rollout that decided this",
    Code.AMBIGUOUS: "more than one rollout may have decided this",
    Code.WRONG_VERSION: "the decision's arm has another version",
    Code.INVALID: "the record says nothing that can be counted",
    Code.DUPLICATE: "there was a record of this decision before",
    Code.SERVED_BY_FALLBACK: "another version than the arm's served this request",
    Code.FALLBACKS_UNCLEAR: "of that time it is not known any more which requests the arm's version served",
}


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """What somebody says about the decision ``decision_id``.

    ``prediction`` is what the model said and ``label`` what was true; they come together or not at all. ``outcomes``
    are numbers by name. ``version`` is the version that the sender believes it was, if it has an opinion.
    """

    decision_id: str
    prediction: bool | None = None
    label: bool | None = None
    outcomes: Mapping[str, float] = field(default_factory=dict)
    version: str | None = None


def check_count(records: int) -> None:
    """Whether a batch may have so many.

    Raises:
        InvalidInput: ``feedback_too_many``.
    """
    if records > MAX_RECORDS:
        raise InvalidInput.of("feedback_too_many", f"there are at most {MAX_RECORDS} records in a batch")


class UnreadableRecord(NamedTuple):
    """What was sent as a record and is none; ``message`` says why."""

    decision_id: str | None
    message: str


class RecordResult(NamedTuple):
    """What became of a record; ``message`` says it in words, empty when it was recorded."""

    decision_id: str | None
    code: Code
    message: str


class LabelTally(NamedTuple):
    """Where a record counts: the rollout ``namespace/name``, its epoch's id (see ``epoch_id``), the arm, the group
    of units."""

    rollout: str
    epoch: int
    arm: str
    group: int


class Recorded(NamedTuple):
    """What counts of the decision ``key``, and where; the rest as in ``LabelEntry``."""

    key: bytes
    tally: LabelTally
    confusion: int | None
    outcomes: Mapping[str, float]


class LabelEntry(NamedTuple):
    """What is to be counted once for the decision ``key``, whose epoch has the ``number`` (both as in ``Opened``).

    ``confusion`` is the index in ``LabelTotals.confusion``, None without a label.
    """

    key: bytes
    number: int
    tally: LabelTally
    confusion: int | None
    outcomes: Mapping[str, float]
