"""Whatever is in a file, the answer is documents or faults; what is written is what was read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import Fault, InvalidInput
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_paths, parse_rollout, parse_template
from extproc.resources.rollout import Rollout
from extproc.resources.schema import schema_of
from tests.support.rollouts import CANARY, EXPERIMENT, document
from tests.support.templates import ERRORS, FALSE_POSITIVES, template

# Not beyond the basic plane: JSON escapes what is there in two halves, which YAML does not know.
TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=10)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(["3", "/v1", "x-user-id", "{model}", "{", "10m", "a:b", "control"]),
)
FIELDS = st.sampled_from(
    sorted(
        {
            field
            for kind in KINDS.values()
            for definition in schema_of(kind.model)["$defs"].values()
            for field in definition["properties"]
        }
    )
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | TEXT, inner, max_size=6),
    max_leaves=30,
)
YAMLISH = st.lists(
    st.sampled_from([*"abc:-[]{}&*!|>'\"#%@`?,~ \n\t\\", "---\n", "<<: ", "&a ", "*a", "a: ", "- ", "\x00", "é", "🙂"]),
    max_size=60,
).map("".join)


def load_text(data: bytes) -> list[Fault]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "r.yaml")
        file.write_bytes(data)
        return load_paths([file]).faults


def parsed(body: Any) -> Rollout | list[Fault]:
    try:
        return parse_rollout(body)
    except InvalidInput as error:
        return list(error.faults)


@given(VALUES)
def test_any_value_at_all_is_a_rollout_or_refused(value: Any) -> None:
    outcome = parsed(value)
    assert isinstance(outcome, list)
    assert all(fault.code and fault.message for fault in outcome)


@given(st.sampled_from([CANARY, EXPERIMENT]), st.dictionaries(FIELDS, VALUES, max_size=3))
def test_any_value_in_a_field_is_taken_or_refused_with_its_field(base: dict[str, Any], changes: dict[str, Any]) -> None:
    outcome = parsed(document({**base, **changes}))
    if isinstance(outcome, Rollout):
        assert outcome.spec.versions()
    else:
        assert all(fault.field is not None and fault.field.startswith("spec") for fault in outcome)


@given(st.sampled_from([ERRORS, FALSE_POSITIVES]), st.dictionaries(FIELDS, VALUES, max_size=3))
def test_any_value_in_a_metric_is_taken_or_refused_with_its_field(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    faults: tuple[Fault, ...] = ()
    try:
        parse_template(template({**base, **changes}, args=[{"name": "most"}]))
    except InvalidInput as error:
        faults = error.faults
    assert all(fault.field is not None and fault.field.startswith("spec.metrics[0]") for fault in faults)


@given(YAMLISH)
def test_any_text_at_all_is_read_or_refused_with_a_line(text: str) -> None:
    for fault in load_text(text.encode()):
        assert fault.line is not None or fault.code == "no_documents"


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_read_or_refused(data: bytes) -> None:
    assert load_text(data)


@given(st.dictionaries(FIELDS, VALUES, max_size=6))
def test_a_file_is_refused_where_the_same_body_from_a_store_is_and_tells_all_that_is_unknown_in_it(
    spec: dict[str, Any],
) -> None:
    body = document(spec)
    outcome = parsed(body)
    expected = outcome if isinstance(outcome, list) else []
    found = load_text(json.dumps(body, indent=1).encode())
    assert bool(found) == bool(expected)
    unknown = {(f.code, f.field) for f in expected if f.code == "unknown_field"}
    assert unknown <= {(f.code, f.field) for f in found}
