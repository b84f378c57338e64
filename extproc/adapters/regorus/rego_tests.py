"""The tests of policies, in a process of their own: one that never ends is an error, and the others run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.regorus.coverage import Coverage, countable_lines
from extproc.adapters.regorus.policy import CHECK_CPU_SECONDS, engine_path, faults_of_tests, load, said_of, syntax_tree
from extproc.adapters.regorus.process import LimitedProcess, answer_questions
from extproc.adapters.regorus.rego_ast import Module, Path
from extproc.adapters.regorus.why import FailedCondition, Reasons
from extproc.errors import Fault, InvalidInput
from extproc.lifeline import arm_dead_man_switch
from extproc.resources.policies import TEST_SUFFIX, PolicySources

TEST_SECONDS: Final = 5.0
"""Of a processor, that a test may take: as long as ``opa test`` gives it."""

_TEST: Final = re.compile(r"(?:todo_)?test_")


class FoundTest(NamedTuple):
    """Where a rule ``test_...`` is. A second one of the same name is called ``test_...#01``, as by OPA."""

    name: str
    file: str
    line: int


class CheckedTest(NamedTuple):
    """How one rule ``test_...`` went: ``pass``, ``fail`` (not true), ``error`` (it threw) or ``skip`` (``todo_``).

    ``failed`` is the condition of a test that failed, as far as it can be told.
    """

    name: str
    file: str
    line: int
    outcome: str
    message: str | None
    prints: tuple[str, ...]
    failed: FailedCondition | None = None


class RegorusTests:
    """The tests in ``sources``, which are read with the files of tests. Build and use it on one thread.

    ``found`` has them in the order of files and lines.

    Raises:
        InvalidInput: the engine cannot load them.
    """

    def __init__(self, sources: PolicySources) -> None:
        self._sources = sources
        self._engines, modules, faults = load(sources)
        faults = faults or faults_of_tests(modules)
        if faults:
            raise InvalidInput(faults)
        tests = list(_tests_in(modules))
        self.found = [test for test, _, _ in tests]
        self._paths = {test.name: path for test, path, _ in tests}
        self._single = {test.name: single for test, _, single in tests}
        self._of_cases = {path for module in modules for path, _ in module.rules} - {
            path for module in modules for path in (*module.complete, *module.defaults)
        }

    @cached_property
    def lines(self) -> dict[str, list[int]]:
        """The lines that count, of the files that are no tests."""
        tree = syntax_tree(self._sources.files)
        return {file: lines for file, lines in countable_lines(tree).items() if not file.endswith(TEST_SUFFIX)}

    def run(self, test: FoundTest) -> CheckedTest:
        """How ``test`` goes."""
        path = self._paths[test.name]
        if path[-1].startswith("todo_"):
            return CheckedTest(*test, "skip", None, ())
        if path in self._of_cases:
            message = "it has a value for each case, which opa test alone counts: write a rule for each"
            return CheckedTest(*test, "error", message, ())
        try:
            passed = self._engines.ask("{}", lambda engine: engine.eval_rule(engine_path(path))) is True
            failed = None if passed and self._single[test.name] else self._failed(test)
        except RuntimeError as error:
            # A test's values are its author's own: the whole message helps.
            return CheckedTest(*test, "error", said_of(error), tuple(self._engines.take_prints()))
        prints = tuple(self._engines.take_prints())
        passed = passed if self._single[test.name] else failed is None
        return CheckedTest(*test, "pass" if passed else "fail", None, prints, None if passed else failed)

    def covered(self) -> dict[str, list[int]]:
        """The lines that were evaluated since this was last asked."""
        found: dict[str, set[int]] = {}
        for engine in self._engines.each():
            for file in orjson.loads(engine.get_coverage_report_as_json())["files"]:
                if file["path"] in self.lines:
                    found.setdefault(file["path"], set()).update(file["covered"])
            engine.clear_coverage_data()
        return {file: sorted(lines) for file, lines in found.items()}

    def count_lines(self) -> None:
        """Have the engine count which lines it evaluates."""
        for engine in self._engines.each():
            engine.set_enable_coverage(True)

    def _failed(self, test: FoundTest) -> FailedCondition | None:
        reasons = self._reasons
        if reasons is None:
            return None
        for index, definition in enumerate(reasons.definitions):
            if (definition.file, definition.line) == (test.file, test.line):
                return reasons.failed(index)
        return None

    @cached_property
    def _reasons(self) -> Reasons | None:
        try:
            reasons = Reasons(self._sources, lambda _: set(self._paths.values()))
        except InvalidInput:
            return None  # the test fails all the same
        reasons.say_input({})
        return reasons


class CheckedTests(NamedTuple):
    """How tests went, and which lines they evaluated where that was asked for."""

    tests: list[CheckedTest]
    coverage: Coverage | None


def run_tests(
    sources: PolicySources, limit: float = TEST_SECONDS, *, wanted: str = "", coverage: bool = False
) -> CheckedTests:
    """Run the tests in ``sources`` (read with the test files), in the order of files and lines.

    ``wanted`` is a regular expression that is looked for in their names.

    Raises:
        InvalidInput: the engine cannot load them; ``policy_too_slow`` when that took over ``CHECK_CPU_SECONDS``,
            ``policy_too_complex`` when the engine did not survive; ``test_filter`` for what is no regular expression.
        OSError: there is no process to be had.
    """
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise InvalidInput.of("test_filter", f"it is no regular expression: {error}", field="--run") from None
    with closing(LimitedProcess("extproc.adapters.regorus.rego_tests", sources, limit)) as process:
        found, lines = _found(process, coverage)
        counted = Coverage(lines) if coverage else None
        return CheckedTests(
            [_run(process, test, limit, counted) for test in found if pattern.search(test.name)], counted
        )


def _tests_in(modules: Sequence[Module]) -> Iterator[tuple[FoundTest, Path, bool]]:
    """Each test with its path, and whether it is the only one of its name."""
    places: dict[Path, list[tuple[str, int]]] = {}
    for module in modules:
        for path, line in module.rules:
            if _TEST.match(path[-1]):
                places.setdefault(path, []).append((module.file, line))
    with_default = {path for module in modules for path in module.defaults}
    found = []
    for path, of_path in places.items():
        separate = sorted(of_path) if path not in with_default else [min(of_path)]
        for number, (file, line) in enumerate(separate):
            name = engine_path(path) + (f"#{number:02}" if number else "")
            found.append((FoundTest(name, file, line), path, len(separate) == 1))
    return iter(sorted(found, key=lambda each: (each[0].file, each[0].line)))


def _found(process: LimitedProcess, coverage: bool) -> tuple[list[FoundTest], Mapping[str, list[int]]]:
    try:
        answer = process.ask([None, coverage])
    except TimeoutError:
        message = f"loading these tests took more than {CHECK_CPU_SECONDS} s of a processor"
        raise InvalidInput.of("policy_too_slow", message) from None
    except EOFError:
        message = "the policy engine does not survive loading these tests"
        raise InvalidInput.of("policy_too_complex", message) from None
    if answer["faults"]:
        raise InvalidInput([Fault(**fault) for fault in answer["faults"]])
    return [FoundTest(*test) for test in answer["found"]], answer["lines"]


def _run(process: LimitedProcess, test: FoundTest, limit: float, counted: Coverage | None) -> CheckedTest:
    try:
        (*how, prints, failed), covered = process.ask([list(test), counted is not None])
    except TimeoutError:
        return CheckedTest(*test, "error", f"it took more than {limit:g} s of a processor", ())
    except EOFError:
        return CheckedTest(*test, "error", "the policy engine does not survive it", ())
    if counted is not None:
        counted.add(covered)
    return CheckedTest._make([*how, tuple(prints), None if failed is None else FailedCondition._make(failed)])


def _tests(sources: PolicySources) -> Callable[[Any], Any]:
    """What answers: to null, which tests there are or what is wrong with them; to one of them, how it goes."""
    arm_dead_man_switch(CHECK_CPU_SECONDS)
    try:
        tests = RegorusTests(sources)
    except InvalidInput as error:
        faults = [fault.as_dict() for fault in error.faults]
        return lambda _: {"found": [], "faults": faults, "lines": {}}
    finally:
        arm_dead_man_switch(0)

    def answer(question: Any) -> Any:
        test, coverage = question
        if test is None:
            return {"found": tests.found, "faults": [], "lines": tests.lines if coverage else {}}
        if coverage:
            tests.count_lines()
        return tests.run(FoundTest(*test)), tests.covered() if coverage else {}

    return answer


if __name__ == "__main__":
    answer_questions(_tests)
