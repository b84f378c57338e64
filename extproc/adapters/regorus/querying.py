"""A query on policies, their data and an input, as ``opa eval`` takes it; in a process of its own, which may not end.

A query is checked as the body of a rule would be, so that what is refused in a policy is refused in it, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import orjson

from extproc.adapters.regorus.conditions import read_statements
from extproc.adapters.regorus.engines import Engines, add_policies, engine_with
from extproc.adapters.regorus.guards import second_form
from extproc.adapters.regorus.policy import check_here, load, said_of, syntax_tree
from extproc.adapters.regorus.process import LimitedProcess, answer_questions
from extproc.adapters.regorus.rego_ast import read_modules
from extproc.errors import Fault, InvalidInput
from extproc.resources.policies import PolicySources

QUERY_SECONDS: Final = 5.0

_FILE: Final = "dropout_query.rego"
_HEAD: Final = "package dropout_query\n\nquery if {\n"
_TAIL: Final = "\n}\n"
_OF_QUERY: Final = re.compile(rf"^(?:<query\.rego>|{re.escape(_FILE)}):\d+: ")
_LINES_BEFORE: Final = _HEAD.count("\n")


def evaluate_query(
    sources: PolicySources, query: str, document: Any = None, *, has_input: bool, limit: float = QUERY_SECONDS
) -> list[dict[str, Any]]:
    """The results of ``query``, as ``opa eval`` has them; none where it is undefined.

    ``sources`` can be served. ``document`` is the input if ``has_input``. ``limit`` is in seconds of a processor.

    Raises:
        InvalidInput: what is refused in a policy is in the query; ``policy_error``, it threw; ``policy_too_slow``,
            ``policy_too_complex``, it does not end in time, or the engine does not survive it.
    """
    with closing(LimitedProcess("extproc.adapters.regorus.querying", sources, limit)) as process:
        try:
            answer = process.ask({"query": query, **({"input": document} if has_input else {})})
        except TimeoutError:
            message = f"the query takes more than {limit:g} s of a processor"
            raise InvalidInput.of("policy_too_slow", message, field="QUERY") from None
        except (OSError, EOFError, TypeError):
            message = "the policy engine does not survive the query"
            raise InvalidInput.of("policy_too_complex", message, field="QUERY") from None
    if "faults" in answer:
        raise InvalidInput(Fault(**fault) for fault in answer["faults"])
    found: list[dict[str, Any]] = answer["result"]
    return found


class PolicyQuery:
    """A query that the engine takes. Raises ``InvalidInput``."""

    def __init__(self, sources: PolicySources, query: str) -> None:
        if not query.strip():
            raise InvalidInput.of("query_empty", "there is no query, such as data.routing.decision", field="QUERY")
        self._sources = sources
        files = {**sources.files, _FILE: f"{_HEAD}{query}{_TAIL}"}
        faults = check_here(PolicySources(files, sources.data, ""))
        if faults:
            raise InvalidInput(map(_placed, faults))
        (entry,) = (each for each in syntax_tree({_FILE: files[_FILE]}))
        (module,) = read_modules([entry])
        self._statements = read_statements(entry, module)
        self._names = sorted({name for statement in self._statements for name in statement.gives} - {"_"})
        self._query = query

    def results(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What it gives for the input in ``question``, if there is one. Raises ``RuntimeError``."""
        if len(self._statements) == 1 and not self._names:
            return self._value(question)
        return self._rows(question)

    def _value(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The value of an expression, in each of the ways in which it has one, as the engine says them."""
        files = {**self._sources.files, _FILE: f"{_HEAD}{self._query}{_TAIL}"}
        tree = syntax_tree(files)
        older = {entry["source"]["file"]: entry["source"]["contents"] for entry in tree}
        texts, builtins, sites = second_form(older, tree, read_modules(tree))
        text = texts.pop(_FILE)[len(_HEAD) : -len(_TAIL)]
        engine, _ = engine_with(self._sources.data)
        add_policies(engine, texts, builtins)
        found: list[dict[str, Any]] = Engines(engine, sites=sites).ask(
            _input(question), lambda one: self._said(one, text)
        )
        for row in found:
            row["expressions"][0]["text"] = self._statements[0].text
        return found

    def _said(self, engine: Any, text: str) -> list[dict[str, Any]]:
        # The engine takes a negation that fails for one that holds where it is a query and no rule's condition.
        if (
            self._query.lstrip().startswith("not ")
            and engine.eval_query(f"count([1 | {text}\n]) == 0")["result"][0]["expressions"][0]["value"]
        ):
            return []
        found: list[dict[str, Any]] = orjson.loads(engine.eval_query_as_json(text)).get("result", [])
        return found

    def _rows(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The values of the names in each of the ways in which all conditions hold: of these the engine loses some."""
        names = "".join(f"{json.dumps(name)}: {name}, " for name in self._names).rstrip(", ")
        text = f"package dropout_query\n\nquery := [{{{names}}} |\n{self._query}\n]\n"
        engines, _, faults = load(PolicySources({**self._sources.files, _FILE: text}, self._sources.data, ""))
        if faults:
            raise InvalidInput(map(_placed, faults))
        rule = "data.dropout_query.query"
        found = orjson.loads(engines.ask(_input(question), lambda engine: engine.eval_rule_as_json(rule)))
        texts = [statement.text for statement in self._statements if statement.can_fail]
        return [{"expressions": [{"value": True, "text": text} for text in texts], "bindings": row} for row in found]


def _input(question: Mapping[str, Any]) -> str | None:
    return orjson.dumps(question["input"]).decode() if "input" in question else None


def _placed(fault: Fault) -> Fault:
    """A fault of the query, which has no file and lines of its own."""
    if fault.file != _FILE:
        return fault
    return replace(fault, file=None, line=None if fault.line is None else fault.line - _LINES_BEFORE, field="QUERY")


def _queries(sources: PolicySources) -> Callable[[Any], Any]:
    def answer(question: Any) -> Any:
        try:
            query = PolicyQuery(sources, question["query"])
        except InvalidInput as error:
            return _refused(error.faults)
        try:
            return {"result": query.results(question)}
        except RuntimeError as error:
            return _refused([Fault("policy_error", _OF_QUERY.sub("", said_of(error)), field="QUERY")])

    return answer


def _refused(faults: Sequence[Fault]) -> dict[str, Any]:
    return {"faults": [fault.as_dict() for fault in faults]}


if __name__ == "__main__":
    answer_questions(_queries)
