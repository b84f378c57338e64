"""Which rules held for an input, and of those that did not the first condition that failed, with its values.

The engine says what a rule's value is and not why, and takes conditions in an order of its own. So for each definition
there are rules of ours that hold when its first condition does, its first two, and so on: the first of them that does
not hold names the condition. They are in packages of their own that import what the definition's file sees.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.regorus.conditions import Body, Definition, RuleCondition, read_definitions
from extproc.adapters.regorus.policy import engine_path, load, said_of, syntax_tree
from extproc.adapters.regorus.process import LimitedProcess, answer_questions
from extproc.adapters.regorus.rego_ast import Module, Path, read_modules
from extproc.adapters.regorus.unused import led_to
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.resources.policies import PolicySources

PROBES: Final = "dropout_probes"
MAX_RULES: Final = 200
MAX_CALLS: Final = 5
"""Calls of a function that are looked into."""

WHY_SECONDS: Final = 5.0
_OF_PROBES: Final = re.compile(rf"^{PROBES}\.m\d+\.rego:\d+: ")
_MAX_PROBES_CHARACTERS: Final = 8 * 1_048_576


class FailedCondition(NamedTuple):
    """The first condition that does not hold together with those before it, or that threw (``error``).

    ``values`` are those of its parts where the conditions before it hold, of the first way in which they do; a part
    without a value is not among them but in ``undefined``. ``is_value``: all conditions hold, and the rule's own value
    is undefined.
    """

    line: int
    condition: str
    is_value: bool
    values: dict[str, Any]
    undefined: list[str]
    error: str | None


class ExplainedDefinition(NamedTuple):
    """How one definition went; ``kind`` is ``default``, ``rule`` or ``else``."""

    file: str
    line: int
    kind: str
    holds: bool
    failed: FailedCondition | None


class ExplainedRule(NamedTuple):
    """A rule's value, or a function's for ``arguments``, or what it threw; and how each of its definitions went.

    There are none where what they are found to do would not give the value.
    """

    rule: str
    arguments: list[Any] | None
    defined: bool
    value: Any
    error: str | None
    definitions: list[ExplainedDefinition]


class Reasons:
    """Says why rules have the values that they have. Build and use it on one thread.

    ``wanted`` says which rules, by the path of each and the modules of all. ``say_input`` is to be called before.

    Raises:
        InvalidInput: the engine cannot load what is asked of it.
    """

    def __init__(self, sources: PolicySources, wanted: Callable[[Sequence[Module]], Container[Path]]) -> None:
        tree = syntax_tree(sources.files)
        modules = read_modules(tree)
        paths = wanted(modules)
        found = [(module, each) for module, each in read_definitions(tree, modules) if each.path in paths]
        probes = _Probes(modules, found)
        self.definitions = probes.definitions
        self._probes = probes
        self._engines, _, faults = load(PolicySources({**sources.files, **probes.files()}, sources.data, ""))
        if faults:
            raise InvalidInput(faults)

    def say_input(self, document: Any) -> None:
        """The input from now on."""
        self._input = orjson.dumps(document).decode()

    def rules(self, entry: Path) -> list[ExplainedRule]:
        """The rule at ``entry`` and what it came to ask, each once, in the order in which they were come to."""
        waiting: list[tuple[Path, tuple[str, ...] | None]] = [(entry, None)]
        seen: dict[tuple[Path, tuple[str, ...] | None], None] = {}
        found: list[ExplainedRule] = []
        for asked, arguments in waiting:
            for path in self._at(asked, function=arguments is not None):
                calls = sum(known[0] == path for known in seen)
                if (path, arguments) in seen or calls >= MAX_CALLS or len(found) >= MAX_RULES:
                    continue
                seen[path, arguments] = None
                explained, next_asked = self._rule(path, arguments)
                found.append(explained)
                waiting += next_asked
        return found

    def failed(self, index: int) -> FailedCondition | None:
        """The first condition of a definition, by its place in ``definitions``, that fails; None where it holds."""
        bodies = [self._body(index, number, None) for number, _ in enumerate(self.definitions[index].bodies)]
        return None if None in bodies else bodies[-1]

    def _at(self, asked: Path, *, function: bool) -> list[Path]:
        """The rules, or functions, at a path: their own, those below it, or the one that it leads into."""
        paths = dict.fromkeys(each.path for each in self.definitions if (each.parameters is not None) == function)
        if function:
            return [asked] if asked in paths else []
        return [path for path in paths if path[: len(asked)] == asked or asked[: len(path)] == path]

    def _rule(
        self, path: Path, arguments: tuple[str, ...] | None
    ) -> tuple[ExplainedRule, list[tuple[Path, tuple[str, ...] | None]]]:
        definitions: list[ExplainedDefinition] = []
        asked: list[tuple[Path, tuple[str, ...] | None]] = []
        for index, definition in enumerate(self.definitions):
            if definition.path != path:
                continue
            for number, body in enumerate(definition.bodies):
                failed = self._body(index, number, arguments)
                kind = "else" if body.is_else else "rule"
                line = body.line if body.is_else else definition.line
                definitions.append(ExplainedDefinition(definition.file, line, kind, failed is None, failed))
                asked += self._asked(index, number, failed, arguments)
                if failed is None:
                    break  # what an else would give is not asked for
        holds = any(each.holds for each in definitions)
        definitions += [
            ExplainedDefinition(each.file, each.line, "default", not holds, None)
            for each in self.definitions
            if each.path == path and not each.bodies
        ]
        given = None if arguments is None else [orjson.loads(argument) for argument in arguments]
        try:
            found, error = self._query(engine_path(path), arguments), None
        except RuntimeError as failure:
            found, error = [], said_of(failure)
        value = found[0] if found else None
        holds = any(each.holds for each in definitions)
        threw = error is not None or any(each.failed is not None and each.failed.error for each in definitions)
        if not threw and value not in ([], {}) and holds != bool(found):
            definitions = []  # such as where a function is replaced by what a variable has: better nothing than that
        return ExplainedRule(engine_path(path), given, bool(found), value, error, definitions), asked

    def _body(self, index: int, number: int, arguments: tuple[str, ...] | None) -> FailedCondition | None:
        """The first condition that fails, by the rules that hold as far as it does."""
        for step, condition in enumerate(steps := _steps(self.definitions[index].bodies[number])):
            if not condition.can_fail:
                continue
            error = None
            try:
                if self._ask(self._probes.holds(index, number, step + 1), arguments):
                    continue
            except RuntimeError as failure:
                error = _OF_PROBES.sub("", said_of(failure))
            values, undefined = self._values(index, number, step, arguments)
            body = self.definitions[index].bodies[number]
            is_value = condition is body.value and step == len(steps) - 1
            return FailedCondition(condition.line, condition.text, is_value, values, undefined, error)
        if not steps and arguments is not None and not self._ask(self._probes.holds(index, number, 0), arguments):
            definition = self.definitions[index]
            text = f"({', '.join(definition.parameters or ())})"
            return FailedCondition(definition.line, text, False, {}, [], None)
        return None

    def _values(
        self, index: int, number: int, step: int, arguments: tuple[str, ...] | None
    ) -> tuple[dict[str, Any], list[str]]:
        """The values of a condition's parts, and the parts that have none."""
        found = self._before(index, number, step, arguments)
        if not found:
            return {}, []
        texts = self._probes.shown(index, number, step)
        values = {text: value[0] for text, value in zip(texts, found[0][0], strict=True) if value}
        return values, [text for text in texts if text not in values]

    def _asked(
        self, index: int, number: int, failed: FailedCondition | None, arguments: tuple[str, ...] | None
    ) -> Iterator[tuple[Path, tuple[str, ...] | None]]:
        """The rules and calls that a body came to ask for."""
        for step, condition in enumerate(_steps(self.definitions[index].bodies[number])):
            yield from ((path, None) for path in sorted(condition.uses))
            paths = self._probes.called(index, number, step)
            for _, calls in self._before(index, number, step, arguments) if paths else ():
                for path, each in zip(paths, calls, strict=True):
                    yield from ((path, tuple(orjson.dumps(argument).decode() for argument in given)) for given in each)
            if failed is not None and (condition.line, condition.text) == (failed.line, failed.condition):
                return

    def _before(self, index: int, number: int, step: int, arguments: tuple[str, ...] | None) -> list[Any]:
        """What the parts of a condition are, in each of the ways in which those before it hold, as far as is shown."""
        try:
            found = self._ask(self._probes.values(index, number, step), arguments)
        except RuntimeError:
            return []  # a part that the engine's own order never came to
        return list(found[:MAX_CALLS]) if found else []

    def _ask(self, name: str, arguments: tuple[str, ...] | None) -> Any:
        found = self._query(name, arguments)
        return found[0] if found else None

    def _query(self, name: str, arguments: tuple[str, ...] | None) -> list[Any]:
        text = name if arguments is None else f"{name}({', '.join(arguments)})"
        said = self._engines.ask(self._input, lambda engine: engine.eval_query_as_json(text))
        return [each["expressions"][0]["value"] for each in orjson.loads(said).get("result", ())]


class _Probes:
    """The rules of ours: names and texts. ``definitions`` are those that can be asked about."""

    def __init__(self, modules: Sequence[Module], found: Sequence[tuple[Module, Definition]]) -> None:
        self.definitions = [definition for _, definition in found]
        self._modules = [module for module, _ in found]
        self._packages = {id(module): f"{PROBES}.m{number}" for number, module in enumerate(modules)}
        self._roots: dict[Path, set[str]] = defaultdict(set)
        for module in modules:
            depth = len(module.package)
            self._roots[module.package] |= {path[depth] for path, _ in (*module.rules, *module.functions)}

    def files(self) -> dict[str, str]:
        """The modules of ours. Raises ``InvalidInput`` where they would be too large."""
        texts: dict[str, list[str]] = {}
        for index, module in enumerate(self._modules):
            package = self._packages[id(module)]
            texts.setdefault(package, [f"package {package}", *self._imports(module)]).extend(self._rules(index))
        files = {f"{package}.rego": "\n\n".join(parts) + "\n" for package, parts in texts.items()}
        if sum(map(len, files.values())) > _MAX_PROBES_CHARACTERS:
            raise InvalidInput.of(
                "policy_too_complex", "the policies have too many conditions to say which of them fail"
            )
        return files

    def holds(self, index: int, number: int, count: int) -> str:
        """The rule that holds when the first ``count`` conditions do."""
        return self._name("h", index, number, count)

    def values(self, index: int, number: int, step: int) -> str:
        """The rule that has the values before a condition."""
        return self._name("v", index, number, step)

    def shown(self, index: int, number: int, step: int) -> list[str]:
        """The parts of a condition whose values that rule has."""
        condition = _steps(self.definitions[index].bodies[number])[step]
        known = self._known(index, number, step)
        return list(dict.fromkeys(text for text, names in condition.shown if names <= known))

    def called(self, index: int, number: int, step: int) -> list[Path]:
        """The functions of the policies whose arguments that rule has."""
        return [call.path for call in self._calls(index, number, step)]

    def _name(self, kind: str, *numbers: int) -> str:
        package = self._packages[id(self._modules[numbers[0]])]
        return f"data.{package}.{kind}{'_'.join(map(str, numbers))}"

    def _imports(self, module: Module) -> Iterator[str]:
        for name, path in module.imports.items():
            if path[0] in ("input", "data"):
                yield f"import {_import_path(path)} as {name}"
        for name in sorted(self._roots[module.package] - module.imports.keys()):
            yield f"import {engine_path((*module.package, name))} as {name}"

    def _rules(self, index: int) -> Iterator[str]:
        definition = self.definitions[index]
        parameters = "" if definition.parameters is None else f"({', '.join(definition.parameters)})"
        for number, body in enumerate(definition.bodies):
            steps = _steps(body)
            for count in range(len(steps) + 1):
                name = self._name("h", index, number, count).rpartition(".")[2]
                yield f"{name}{parameters} := true{_body(_texts(body, steps[:count]))}"
            for step, condition in enumerate(steps):
                name = self._name("v", index, number, step).rpartition(".")[2]
                values = [
                    f"[dropout_x | dropout_x := {text}{_after(condition)}]" for text in self.shown(index, number, step)
                ]
                calls = [_given(call.arguments) for call in self._calls(index, number, step)]
                found = f"dropout_found := [[{', '.join(values)}], [{', '.join(calls)}]]"
                conditions = "\n\t".join((*_texts(body, steps[:step]), found))
                yield f"{name}{parameters} := [dropout_found |\n\t{conditions}\n]"

    def _calls(self, index: int, number: int, step: int) -> list[Any]:
        known = self._known(index, number, step)
        functions = {each.path for each in self.definitions if each.parameters is not None}
        condition = _steps(self.definitions[index].bodies[number])[step]
        return [call for call, names in condition.calls if names <= known and call.path in functions]

    def _known(self, index: int, number: int, step: int) -> set[str]:
        """The names that have a value before a condition."""
        definition, module = self.definitions[index], self._modules[index]
        known = {"input", "data", *module.imports, *self._roots[module.package], *definition.bound}
        for condition in _steps(definition.bodies[number])[:step]:
            known |= condition.gives if condition.can_fail else set()
        return known


def _steps(body: Body) -> list[RuleCondition]:
    return [*body.conditions, *((body.value,) if body.value is not None else ())]


def _texts(body: Body, steps: Iterable[RuleCondition]) -> list[str]:
    return [f"dropout_value := {each.text}" if each is body.value else each.text for each in steps]


def _body(conditions: Sequence[str]) -> str:
    return " if {\n\t" + "\n\t".join(conditions) + "\n}" if conditions else ""


def _after(condition: RuleCondition) -> str:
    return f" {condition.changes}" if condition.changes else ""


def _given(arguments: Sequence[str]) -> str:
    names = [f"dropout_a{number}" for number, _ in enumerate(arguments)]
    bound = "; ".join(f"{name} := {text}" for name, text in zip(names, arguments, strict=True))
    return f"[[{', '.join(names)}] | {bound or 'true'}]"


def _import_path(path: Path) -> str:
    written = engine_path(path[1:])
    return written if path[0] == "data" else f"input{written.removeprefix('data')}"


def explain_rules(
    sources: PolicySources, path: str, document: Mapping[str, Any], limit: float = WHY_SECONDS
) -> list[ExplainedRule]:
    """Why the rule at ``path``, as in ``routing/decision``, has its value for ``document``; in a process of its own.

    ``limit`` is in seconds of a processor.

    Raises:
        InvalidInput: the engine cannot load what is asked of it.
        Unreachable: ``why_unknown``, it takes longer, or the engine does not survive it.
    """
    with closing(LimitedProcess("extproc.adapters.regorus.why", sources, limit)) as process:
        try:
            answer = process.ask([path, document])
        except (OSError, EOFError, TimeoutError):
            message = f"it cannot be said why: that takes more than {limit:g} s of a processor, or more memory"
            raise Unreachable.of("why_unknown", message, field=path) from None
    if "faults" in answer:
        raise InvalidInput(Fault(**fault) for fault in answer["faults"])
    return [_explained(each) for each in answer["rules"]]


def as_json(rule: ExplainedRule) -> dict[str, Any]:
    """A rule as JSON has it."""
    definitions = []
    for definition in rule.definitions:
        failed = None if definition.failed is None else definition.failed._asdict()
        definitions.append({**definition._asdict(), "failed": failed})
    return {**rule._asdict(), "definitions": definitions}


def _explained(answer: Sequence[Any]) -> ExplainedRule:
    *rule, definitions = answer
    made = [
        ExplainedDefinition._make([*definition, None if failed is None else FailedCondition._make(failed)])
        for *definition, failed in definitions
    ]
    return ExplainedRule._make([*rule, made])


def _reasons(sources: PolicySources) -> Callable[[Any], Any]:
    def answer(question: Any) -> Any:
        path, document = question
        entry = tuple(path.split("/"))
        try:
            reasons = Reasons(sources, lambda modules: led_to([entry], modules))
        except InvalidInput as error:
            return {"faults": [fault.as_dict() for fault in error.faults]}
        reasons.say_input(document)
        return {"rules": reasons.rules(entry)}

    return answer


if __name__ == "__main__":
    answer_questions(_reasons)
