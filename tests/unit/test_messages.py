"""What people are told, read from the source: how a message is written, and which lines of the log are ordinary life.

A message begins with a small letter, unless it begins with a name, and has no full stop at its end: it may stand after
a place or a subject, before a code, and in another one. Inside it, sentences are joined by "; " or ": ".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from extproc.errors import Fault
from tests.support.paths import ROOT

PACKAGE = ROOT / "extproc"
NOT_TOLD = ("_gen", "demo", "demo.py")
"""Where calls are no messages of the product: generated code, and the demo's show on the screen."""

ORDINARY = {
    "%s read again from %s",
    "admin {}",
    "ended",
    "envoy: made the folder {}: {}",
    "envoy: waits for Envoy at {}, which has not said yet that it has the routes",
    "feedback {}/v1/feedback",
    "gave up the lead as {}",
    "leads as {}",
    "policies: {} has no .rego file yet: no rule is asked",
    "policies: revision {}",
    "policy shadow: {}",
    "ready: control API on {}",
    "ready: {}",
    "reloading",
    "rollout {}: {}",
    "{} again: ends now, and waits for no stream",
    "{} has no rollouts yet: no request is decided",
    "{}: draining; streams in flight have {} s",
    "{}: ends; calls under way have {} s",
}
"""What the log says at ``info``, where nothing is wrong. A fault, and the end of one, is a warning or more."""

MESSAGES = (
    *("Fault", "Lack", "Refusal", "Silence", "Unmet"),
    *("abort", "fail", "fault", "invalid", "of", "refuse"),
    *("BadParameter", "ClickException", "UsageError", "ValueError"),
    *("critical", "error", "exception", "info", "note", "say", "_say", "warn", "_warn", "warning"),
)
"""What makes messages of its arguments: faults, errors of the command line and of HTTP, log lines."""

VARIABLES = ("deed", "fault", "hindrance", "message", "text", "told", "why")
"""What messages and parts of them are kept in."""

EXPLAINED = ("datapath/words.py",)
"""An explanation is a text of whole sentences, which ``dropout explain`` prints; its lines are no messages."""

BEGINS = re.compile(r"(?:Dropout|Envoy|Prometheus|Redis|Rego)\b|(?![A-Z][a-z]|[A-Z] [a-z])\S")
"""How a message may begin: with no word of ordinary English that has a capital."""


class Call(NamedTuple):
    """A call in the package: where, of what, and the texts among its arguments, ``{}`` for what is put in."""

    where: str
    of: str
    texts: list[str]


def text_of(node: ast.expr) -> str | None:
    """The text that ``node`` makes, with ``{}`` for what is not known here; None if it makes no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def calls(*of: str) -> Iterator[Call]:
    """Every call of a function or method of one of these names."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if not set(NOT_TOLD) & set(file.relative_to(PACKAGE).parts):
            yield from calls_in(file, of)


def calls_in(file: Path, of: tuple[str, ...]) -> Iterator[Call]:
    """As ``calls``, of one file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in of:
                texts = [text for argument in node.args if (text := text_of(argument)) is not None]
                yield Call(f"{file.relative_to(ROOT)}:{node.lineno}", name, texts)


def test_what_the_log_says_at_info_is_ordinary_life_and_nothing_that_is_wrong() -> None:
    said = {text for call in calls("say", "_say", "info", "debug") for text in call.texts}
    assert said == ORDINARY | {"%s"}, (
        "a fault and its end are warnings (extproc/trouble.py); ordinary life is listed here"
    )


def messages() -> Iterator[tuple[str, str]]:
    """Every text of several words that people are told, and where it is."""
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE)
        if set(NOT_TOLD) & set(inside.parts) or inside.as_posix() in EXPLAINED:
            continue
        for call in calls_in(file, MESSAGES):
            yield from ((call.where, text) for text in call.texts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assign | ast.AugAssign) and _name(node) in VARIABLES:
                text = text_of(node.value)
                yield f"{file.relative_to(ROOT)}:{node.lineno}", text or "x"


def _name(node: ast.Assign | ast.AugAssign) -> str:
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def wrong_with(text: str) -> str:
    """What rule a message breaks; empty if none."""
    if not text.strip():
        return "says nothing"
    if BEGINS.match(text.lstrip()) is None:
        return "begins with a capital that is no name's"
    if re.search(r"(?<!\.\.)[.!]$", text):
        return "ends with a full stop"
    return "joins sentences with a full stop" if re.search(r"[a-z})]\. [A-Z][a-z]", text) else ""


def test_a_message_begins_small_ends_without_a_stop_and_joins_its_sentences() -> None:
    found = list(messages())
    assert len(found) > 500
    assert [f"{where}: {text!r} {wrong}" for where, text in found if (wrong := wrong_with(text))] == []


@pytest.mark.parametrize(
    "text", ["", "The store is away", "A worker ended", "the store is away.", "gone!", "is it. Then"]
)
def test_what_breaks_the_rule_is_seen(text: str) -> None:
    assert wrong_with(text)


@pytest.mark.parametrize("text", ["Envoy is silent", "TLS is for ports", "{} is away", "--store is away", "a, b ..."])
def test_names_options_and_what_is_put_in_may_begin_a_message(text: str) -> None:
    assert not wrong_with(text)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("DIR", "DIR backup1: it is not empty (code)"),
        ("--state", "--state backup1: it is not empty (code)"),
        ("spec.steps[2]", "backup1 spec.steps[2]: it is not empty (code)"),
        (None, "backup1: it is not empty (code)"),
    ],
)
def test_a_path_follows_the_argument_that_it_was_given_for_and_goes_before_the_field_in_it(
    field: str | None, said: str
) -> None:
    assert str(Fault("code", "it is not empty", file="backup1", field=field)) == said


def test_a_sentence_that_begins_with_its_flag_has_it_once() -> None:
    assert str(Fault("code", "--store needs a path", field="--store")) == "--store needs a path (code)"
