"""Feedback: what became of decisions, told by who knows, counted for the arm that each decision was made for.

A record names a decision by its id and says what was predicted and what turned out to be true, or any number. A label
that comes after its prediction comes with it, in one record: the first record of an id counts and there is no second.
"""

from extproc.control.feedback.attribution import Attributed, Attribution
from extproc.control.feedback.ports import FeedbackStore
from extproc.control.feedback.recorder import Feedback
from extproc.control.feedback.records import (
    MAX_OUTCOME_NAMES,
    MAX_OUTCOMES,
    MAX_RECORDS,
    MESSAGES,
    Code,
    FeedbackRecord,
    LabelEntry,
    LabelTally,
    Recorded,
    RecordResult,
    UnreadableRecord,
    check_count,
)

__all__ = [
    "MAX_OUTCOMES",
    "MAX_OUTCOME_NAMES",
    "MAX_RECORDS",
    "MESSAGES",
    "Attributed",
    "Attribution",
    "Code",
    "Feedback",
    "FeedbackRecord",
    "FeedbackStore",
    "LabelEntry",
    "LabelTally",
    "RecordResult",
    "Recorded",
    "UnreadableRecord",
    "check_count",
]
