"""Rego in process, by regorus: tens of microseconds an evaluation, and no second process to operate.

An engine belongs to the thread that made it. It can be brought down by what it is given: text that is not Unicode,
functions that recurse, brackets nested deep. So the input goes in as JSON, and policies are checked in a process of
their own before any worker loads them.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path as FilePath
from typing import Any, Final

import orjson
import regorus

import extproc
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.differences import DIFFERING, builtin_differs, differing
from extproc.adapters.regorus.engines import (
    NOT_SURE,
    PLACE,
    TEMPLATE,
    Engines,
    add_policies,
    engine_with,
    fault_of,
    is_wide,
)
from extproc.adapters.regorus.guards import can_throw, first_form, second_form
from extproc.adapters.regorus.hosting import calls_of_ours, not_installed
from extproc.adapters.regorus.newer_syntax import in_older_syntax
from extproc.adapters.regorus.references import ARGUMENTS, missing_data, wrong_arguments
from extproc.adapters.regorus.rego_ast import (
    Module,
    Path,
    can_deny,
    conflicting_rules,
    decisions,
    has_value,
    is_builtin,
    parts,
    reachable,
    read_modules,
    recursive_rules,
    resolve_call,
    unknown_names,
)
from extproc.adapters.regorus.unused import led_to, unused
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import InputPaths
from extproc.datapath.verdict import check_verdict
from extproc.errors import Fault, InvalidInput
from extproc.lifeline import Lifeline, hang_on
from extproc.names import Reason
from extproc.resources.policies import PolicySources
from extproc.suggestions import did_you_mean

CHECK_CPU_SECONDS: Final = 10
MAX_TREE_BYTES: Final = 32 * 1_048_576
MAX_FAULTS: Final = 100
"""Faults that are listed of one set of policies; they travel to the supervisor on one line."""

_OF_A_FILE: Final = frozenset(
    {"policy_builtin_forbidden", "policy_builtin_differs", "policy_construct_differs", "policy_default"}
)
"""Codes of what is wrong in a file whatever other files define."""

FORBIDDEN_BUILTINS: Final = frozenset(
    {"http.send", "time.now_ns", "opa.runtime", "net.lookup_ip_addr", "trace", "uuid.rfc4122"}
)
FORBIDDEN_FAMILIES: Final = ("rand.",)


class RegorusEngine:
    """A ``EmbeddedEngine`` over one set of sources. Build and use it on one thread."""

    def __init__(self, sources: PolicySources) -> None:
        """Load the sources.

        Raises:
            InvalidInput: with all that ``check_sources`` finds.
        """
        self._engines, self._modules, faults = _examine(sources)
        if faults:
            raise InvalidInput(_listed(faults))
        self._revision = sources.revision
        self._data = sources.data
        self._rules = _rules(self._modules)
        self._known: dict[str, bool] = {}
        self._questions: dict[str, Callable[[Any], Any]] = {}
        self._can_deny: dict[str, bool] = {}
        self._reads: dict[str, InputPaths] = {}
        self._prints = any(call.name == ("print",) for module in self._modules for call in module.calls)

    @property
    def revision(self) -> str:
        """A fingerprint of the policies and their data."""
        return self._revision

    def decisions(self) -> list[str]:
        """The paths of all that is called ``decision``, sorted."""
        return sorted("/".join(path) for path in decisions(self._modules))

    def rules(self) -> list[str]:
        """The paths of all rules, sorted."""
        return sorted(self._rules)

    def has(self, path: str) -> bool:
        """Whether anything gives ``data.<path>`` a value, for ``path`` as in ``routing/decision``."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = has_value(self._modules, self._data, tuple(path.split("/")))
        return found

    def reads(self, path: str) -> InputPaths:
        """The parts of the input that the rule at ``path`` can read."""
        found = self._reads.get(path)
        if found is None:
            found = self._reads[path] = InputPaths(read for read, _, _ in self.places(path))
        return found

    def fields(self, path: str) -> Iterator[tuple[str, str, int]]:
        """The fields that the object at ``path`` has by rules or as it is written, each with a file and a line."""
        for module, name, line in parts(self._modules, tuple(path.split("/"))):
            yield name, module.file, line

    def notes(self) -> Iterator[Fault]:
        """What is right and easily overlooked, as ``unused`` and ``missing_data`` say."""
        return chain(unused(self._modules), missing_data(self._modules, self._data))

    def place(self, path: str) -> tuple[str | None, int | None]:
        """The file and the line at which the rule at ``path``, or the first below it, begins; None for neither."""
        entry = tuple(path.split("/"))
        found = ((each.file, line) for each in self._modules for at, line in each.rules if at[: len(entry)] == entry)
        return min(found, default=(None, None))

    def asked_by(self, path: str) -> list[str]:
        """The rules that the one at ``path`` leads to, itself among them: those before others that lead to fewer."""
        rules = {tuple(rule.split("/")): rule for rule in self._rules}
        led = {at: led_to([at], self._modules) & rules.keys() for at in led_to([tuple(path.split("/"))], self._modules)}
        return [rules[at] for at in sorted(led, key=lambda at: (len(led[at]), at)) if at in rules]

    def places(self, path: str) -> Iterator[tuple[Path, str, int]]:
        """The input paths that the rule at ``path`` can read, each with a file and a line."""
        for module in reachable(self._modules, tuple(path.split("/"))):
            for read, line in module.reads.items():
                yield read, module.file, line

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can answer anything but ``allow: true``."""
        found = self._can_deny.get(path)
        if found is None:
            found = self._can_deny[path] = can_deny(self._modules, tuple(path.split("/")))
        return found

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict that ``data.<path>`` is for the input ``document``, as OPA would have it. Never raises.

        What throws is ``POLICY_ERROR``, what has no value ``POLICYUNDEFINED``, a value of the wrong shape
        ``POLICY_INVALID``; the message says where and what, without any value of the input.
        """
        question = self._questions.get(path)
        if question is None:
            if not self.has(path):
                return PolicyVerdict(fault=Reason.POLICY_UNDEFINED, message=f"there is no rule {path}")
            question = self._questions[path] = self._question(path)
        try:
            value = self._value(question, document)
        except Exception as error:
            allow = not self.can_deny(path)
            return PolicyVerdict(allow=allow, fault=Reason.POLICY_ERROR, message=explain_error(error))
        if value is UNDEFINED:
            return PolicyVerdict(fault=Reason.POLICY_UNDEFINED, message=f"{path} has no value for this input")
        return check_verdict(value)

    def _question(self, path: str) -> Callable[[Any], Any]:
        """Asks an engine for ``data.<path>``. Most often that is one rule, which costs half as much as a query."""
        rule = self._rules.get(path)
        if rule is not None:
            return partial(_of_rule, rule)
        return partial(_of_query, engine_path(tuple(path.split("/"))))

    def _value(self, question: Callable[[Any], Any], document: Mapping[str, Any]) -> Any:
        """What the engines answer, or ``UNDEFINED``."""
        try:
            # As JSON: a lone surrogate in a Python string kills the process, orjson refuses it.
            return self._engines.ask(orjson.dumps(document).decode(), question)
        finally:
            if self._prints:
                self._engines.take_prints()

    def json_values(self, paths: Sequence[str], document: str) -> list[Any]:
        """What each of ``data.<path>`` is for an input that is JSON: as JSON, a set in its order; or ``UNDEFINED``.

        Raises:
            RuntimeError: one of them fails; ``explain_error`` says it without any value of the input.
        """
        rules = [(engine_path(tuple(path.split("/"))), path in self._rules) for path in paths]
        try:
            return self._engines.ask(document, partial(_as_json, rules))
        finally:
            if self._prints:
                self._engines.take_prints()


def check_sources(sources: PolicySources, cpu_seconds: int = CHECK_CPU_SECONDS) -> list[Fault]:
    """All that speaks against serving these sources, by file and line; found in a process of its own.

    Its limit is one of CPU time, because a machine that is busy with other things makes no policy too slow.

    Codes: ``policy_syntax``, ``policy_compile``, ``policy_builtin_missing``, ``policy_builtin_forbidden``,
    ``policy_builtin_differs``, ``policy_construct_differs``, ``policy_function_unknown``, ``policy_name_unknown``,
    ``policy_arguments``, ``policy_recursion``, ``policy_data_conflict``, ``policy_rule_conflict``,
    ``policy_default``; and ``policy_too_slow`` when that took over ``cpu_seconds``, ``policy_too_complex`` when the
    engine did not survive.
    """
    root = str(FilePath(extproc.__file__).resolve().parent.parent)
    search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    with Lifeline() as lifeline:
        done = subprocess.run(  # noqa: S603  # our own module, and numbers
            [sys.executable, "-P", "-m", "extproc.adapters.regorus.policy", str(lifeline.fd), str(cpu_seconds)],
            input=sources.to_json().encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "PYTHONPATH": search_path},
            pass_fds=(lifeline.fd,),
        )
    if done.returncode == -signal.SIGXCPU:
        return [Fault("policy_too_slow", f"checking these policies took more than {cpu_seconds} s of CPU time")]
    if done.returncode != 0:
        return [Fault("policy_too_complex", "the policy engine does not survive loading these policies")]
    return [Fault(**fault) for fault in orjson.loads(done.stdout)]


def faults_of_tests(modules: Sequence[Module]) -> list[Fault]:
    """What keeps all tests from being run, though it is in one of them: unknown names, functions without an end."""
    return [*_faults_of_names(modules), *_recursions(modules)]


def check_here(sources: PolicySources) -> list[Fault]:
    """``check_sources`` in this process, for sources that are known not to bring it down."""
    return _listed(_examine(sources)[2])


def _listed(faults: list[Fault]) -> list[Fault]:
    """The faults, as many as somebody reads."""
    if len(faults) <= MAX_FAULTS:
        return faults
    message = f"only the first {MAX_FAULTS} faults of these policies are listed"
    return [*faults[:MAX_FAULTS], Fault("too_many_faults", message)]


def _examine(sources: PolicySources) -> tuple[Engines, list[Module], list[Fault]]:
    """The engines, what their policies refer to, and all that is wrong with them."""
    engines, modules, faults = load(sources)
    if faults:
        return engines, [], _by_place([*faults, *_of_other_files(sources, faults)])
    faults = [
        *_faults_of_calls(modules),
        *wrong_arguments(modules),
        *_faults_of_names(modules),
        *_recursions(modules),
        *_conflicts(modules, sources.data),
        *_partly_defined(modules),
        *_open_defaults(modules),
    ]
    if not faults:
        try:
            # The first query compiles everything: it finds what is left to find, and no request has to wait for it.
            for engine in engines.each():
                engine.eval_query("true")
        except RuntimeError as error:
            faults.append(fault_of("policy_compile", error))
    return engines, modules, _by_place(faults)


def _by_place(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file or "", fault.line or 0, fault.message))


def _of_other_files(sources: PolicySources, faults: Sequence[Fault]) -> Iterator[Fault]:
    """What is wrong in the files without ``faults``, whatever the others may define: they are not known."""
    wrong = {fault.file for fault in faults}
    others = {name: text for name, text in sources.files.items() if name not in wrong}
    if others.keys() == sources.files.keys() or not others:
        return
    _, modules, found = load(PolicySources(others, sources.data, sources.revision))
    found += [*_faults_of_calls(modules), *_open_defaults(modules)]
    yield from (fault for fault in found if fault.code in _OF_A_FILE)


def load(sources: PolicySources) -> tuple[Engines, list[Module], list[Fault]]:
    """Engines with the sources, and what these refer to. They have those of our builtins that they call."""
    with_data, faults = engine_with(sources.data)
    engine = with_data.clone()
    files = {name: in_older_syntax(text) for name, text in sources.files.items()}
    faults += add_policies(engine, files)
    if faults:
        return Engines(engine), [], faults
    text = engine.get_ast_as_json()
    if len(text) > MAX_TREE_BYTES:
        return Engines(engine), [], [Fault("policy_too_complex", "the syntax tree of these policies is too large")]
    try:
        tree = orjson.loads(text)
        modules = read_modules(tree)
        faults = list(differing(tree))
    except (orjson.JSONDecodeError, RecursionError):
        return Engines(engine), [], [Fault("policy_too_complex", "the policies nest too deeply")]
    faults += not_installed(calls_of_ours(modules))
    if faults:
        return Engines(engine), modules, faults
    first, second = first_form(files, tree, modules), second_form(files, tree, modules)
    if first.builtins:
        engine = with_data.clone()
        faults += add_policies(engine, first.files, first.builtins)
    careful = None
    if can_throw(second):
        careful = with_data.clone()
        faults += add_policies(careful, second.files, second.builtins)
    wide = is_wide(json.dumps(sources.data, ensure_ascii=False)) or any(map(is_wide, sources.files.values()))
    return Engines(engine, careful, wide=wide, sites={**first.sites, **second.sites}), modules, faults


def syntax_tree(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The engine's syntax tree of policies that it takes. Raises ``InvalidInput`` where it takes them not."""
    engine, _ = engine_with({})
    faults = add_policies(engine, {name: in_older_syntax(text) for name, text in files.items()})
    if faults:
        raise InvalidInput(faults)
    found: list[dict[str, Any]] = orjson.loads(engine.get_ast_as_json())
    return found


def _of_rule(rule: str, engine: Any) -> Any:
    value = engine.eval_rule(rule)
    # Null is a value, and the engine says None to both.
    return value if value is not None or engine.eval_rule_as_json(rule) == "null" else UNDEFINED


def _of_query(query: str, engine: Any) -> Any:
    found = engine.eval_query(query)["result"]
    return found[0]["expressions"][0]["value"] if found else UNDEFINED


def _as_json(rules: Sequence[tuple[str, bool]], engine: Any) -> list[Any]:
    """As text, because Python's sets have no order, and hold no objects; a rule costs half as much as a query."""
    found = []
    for name, is_rule in rules:
        if is_rule:
            text = engine.eval_rule_as_json(name)
            found.append(UNDEFINED if text == _NO_VALUE else json.loads(text))
        else:
            result = json.loads(engine.eval_query_as_json(name)).get("result")
            found.append(result[0]["expressions"][0]["value"] if result else UNDEFINED)
    return found


def _rules(modules: Sequence[Module]) -> dict[str, str]:
    """``routing/decision`` -> the engine's name for the rule, where that is all there is at this path."""
    return {"/".join(path): engine_path(path) for module in modules for path, _ in module.rules}


def engine_path(path: Path) -> str:
    """How the engine has a path below data written."""
    return "data" + "".join(f".{part}" if _IDENTIFIER.fullmatch(part) else f"[{json.dumps(part)}]" for part in path)


def is_forbidden(name: str) -> bool:
    """Whether a builtin does I/O, or reads a clock, randomness or the process it runs in."""
    return name in FORBIDDEN_BUILTINS or name.startswith(FORBIDDEN_FAMILIES)


@lru_cache(maxsize=1024)
def engine_has(name: str) -> bool:
    """Whether the engine has the builtin ``name``: asked of the engine, so that no list here grows old."""
    if name == "print":
        return True
    try:
        regorus.Engine().eval_query(f"{name}()")
    except RuntimeError as error:
        return "could not find function" not in str(error)
    return True


def _faults_of_calls(modules: Sequence[Module]) -> Iterator[Fault]:
    functions = {path for module in modules for path, _ in module.functions}
    for module in modules:
        for call in module.calls:
            yield from _fault_of_call(module, ".".join(call.name), call.name, call.line, functions)
        for call in module.replaced:
            name = ".".join(call.name)
            if is_forbidden(name):
                yield _forbidden(module, name, call.line)
            elif name in DIFFERING and is_builtin(module, call.name, functions):
                yield builtin_differs(name, module.file, call.line)


def _faults_of_names(modules: Sequence[Module]) -> Iterator[Fault]:
    for module, name, line in unknown_names(modules):
        yield Fault("policy_name_unknown", f"nothing gives {_shortened(name)} a value here", module.file, line)


def _fault_of_call(module: Module, name: str, parts: Path, line: int, functions: set[Path]) -> Iterator[Fault]:
    if is_forbidden(name):
        yield _forbidden(module, name, line)
    elif resolve_call(module, parts) in functions:
        return
    elif not is_builtin(module, parts, functions):
        message = f"no policy defines the function {_shortened(name)}"
        meant = did_you_mean(name, _called_here(module, functions))
        yield Fault("policy_function_unknown", f"{message}{meant}", module.file, line)
    elif name in DIFFERING:
        yield builtin_differs(name, module.file, line)
    elif name not in BUILTINS and not engine_has(name):
        meant = did_you_mean(name, _called_here(module, functions))
        message = f"there is no function {_shortened(name)}: no policy defines it, and the engine has no such builtin"
        yield Fault("policy_builtin_missing", f"{message}{meant}", module.file, line)


def _called_here(module: Module, functions: Iterable[Path]) -> Iterator[str]:
    """What may be called in a file, as it is written there."""
    yield from ARGUMENTS
    prefixes = [("", module.package), ("data.", ())]
    prefixes += [(f"{name}.", path[1:]) for name, path in module.imports.items() if path[0] == "data"]
    for function in functions:
        for written, path in prefixes:
            if function[: len(path)] == path and len(function) > len(path):
                yield written + ".".join(function[len(path) :])


def _forbidden(module: Module, name: str, line: int) -> Fault:
    hint = "; use input.time" if name == "time.now_ns" else ""
    message = f"{_shortened(name)} is not allowed: a decision depends on its input and data alone{hint}"
    return Fault("policy_builtin_forbidden", message, module.file, line)


def _recursions(modules: Sequence[Module]) -> Iterator[Fault]:
    for module, path, line in recursive_rules(modules):
        kind = "function" if path in module.parameters else "rule"
        message = f"the {kind} {_shortened('.'.join(path))} depends on itself"
        yield Fault("policy_recursion", message, module.file, line)


def _conflicts(modules: Sequence[Module], data: Mapping[str, Any]) -> Iterator[Fault]:
    """Rules whose value a data file gives as well."""
    for module in modules:
        for path, line in (*module.rules, *module.functions):
            at: Any = data
            for depth, part in enumerate(path):
                if not isinstance(at, dict):
                    yield _conflict(module, path[:depth], line)
                    break
                if part not in at:
                    break
                at = at[part]
            else:
                yield _conflict(module, path, line)


def _partly_defined(modules: Sequence[Module]) -> Iterator[Fault]:
    for module, path, line in conflicting_rules(modules):
        message = (
            f"data.{_shortened('.'.join(path))} is a whole rule here, and another rule or a package gives parts of it"
        )
        yield Fault("policy_rule_conflict", message, module.file, line)


def _open_defaults(modules: Sequence[Module]) -> Iterator[Fault]:
    for module in modules:
        for line in module.open_defaults:
            message = "a default is a value that is written out: it can refer to nothing"
            yield Fault("policy_default", message, module.file, line)


def _conflict(module: Module, path: Path, line: int) -> Fault:
    message = f"data.{_shortened('.'.join(path))} is in a data file and defined by a rule"
    return Fault("policy_data_conflict", message, module.file, line)


def _shortened(name: str) -> str:
    """A name as a message may hold it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


_NO_VALUE: Final = '"<undefined>"'
UNDEFINED: Final = object()
"""What a rule without a value has."""
_LONGEST_NAME: Final = 200
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The engine quotes values, and values are the clients' business: only what is known to hold none is passed on.
_SAFE: Final = re.compile(
    r"divide by zero|rule conflicts with rule|rules must not produce multiple outputs|generated multiple times"
    r"|recursion detected|could not find function [A-Za-z_.0-9]+|mismatch in number of arguments"
    r"|`[a-z_.0-9]+` (?:requires|expects) [a-z/ ]+(?:argument|collection)|var [A-Za-z_0-9]+ is unsafe"
    r"|could not parse string as number|could not deserialize json|not a valid json schema|not an? [fi]64"
    rf"|(?:{TEMPLATE}|[a-z_.0-9]+) {NOT_SURE}"
    r"|decode fail(?:ed|ure)|Failed to parse datetime|invalid (?:duration|regex|semver|IP address)|the engine panicked"
)
_OF_BUILTIN: Final = re.compile(r"^error: (?P<name>[a-z_.0-9]+): ", re.MULTILINE)


def explain_error(error: Exception) -> str:
    """An evaluation's error as a sentence: the place and the kind, never a value of the input."""
    text = str(error).partition("Stack backtrace")[0]
    place = PLACE.search(text)
    kind, builtin = _SAFE.search(text), _OF_BUILTIN.search(text)
    what = (f"{builtin['name']}: " if builtin else "") + (kind[0] if kind else "the evaluation failed")
    if isinstance(error, orjson.JSONEncodeError):
        what = "the input cannot be written as JSON"
    return f"{place['file']}:{place['line']}: {what}" if place else what


def said_of(error: Exception) -> str:
    """The engine's word on a failure, and where it is; with values, which are for their author alone."""
    fault = fault_of("policy_error", error)
    return f"{fault.file}:{fault.line}: {fault.message}" if fault.file else fault.message


def main() -> None:
    """Check the sources on stdin; faults as JSON on stdout.

    The arguments are the descriptor of the ``lifeline`` and the CPU seconds that this may take.
    """
    hang_on(int(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError):  # whoever started us allows less
        resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), most))
    faults = check_here(PolicySources.from_json(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(orjson.dumps([fault.as_dict() for fault in faults]))


if __name__ == "__main__":
    main()
