"""What is known about the versions without training them: importing scikit-learn takes seconds."""

from __future__ import annotations

from typing import Final, NamedTuple

MODEL: Final = "diagnosis"
VERSIONS: Final = ("1", "2", "3", "4")
DESCRIPTIONS: Final = {
    "1": "logistic regression on 2 measurements",
    "2": "gradient boosting on all 30",
    "3": "gradient boosting on 3, one of them in the wrong unit",
    "4": "like version 2, until it breaks",
}


class Patient(NamedTuple):
    """One row of the data: 30 measurements, and what the biopsy said."""

    measurements: list[float]
    malignant: bool


def upstream_of(version: str) -> str:
    """The Envoy cluster of a version, as rollouts name it."""
    return f"{MODEL}-v{version}"
