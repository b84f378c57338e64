"""What the file says of the embedded engine and OPA's own cases holds."""

from __future__ import annotations

import json

from tests.conformance.opa.cases import folder_of_cases, read_cases
from tests.conformance.opa.outcomes import RECORD, Outcome, as_text, outcomes, record


def test_the_embedded_engine_does_on_opas_cases_as_the_file_says() -> None:
    cases, others = read_cases(folder_of_cases())
    now = as_text(record(outcomes(cases), others))
    # Where it differs by intent: python -m tests.conformance.opa.outcomes, and make format
    assert now.splitlines() == RECORD.read_text().splitlines()


def test_no_answer_of_the_embedded_engine_differs_from_opas() -> None:
    recorded = json.loads(RECORD.read_text())
    assert recorded[Outcome.DIFFERS] == recorded[Outcome.ENDS] == []
