"""The tests of policies, in a process of their own: one that never ends is an error, and the others run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from extproc.adapters.regorus.policy import CHECK_CPU_SECONDS, CheckedTest, FoundTest, RegorusTests
from extproc.adapters.regorus.process import LimitedProcess, answer_questions
from extproc.errors import Fault, InvalidInput
from extproc.lifeline import arm_dead_man_switch
from extproc.resources.policies import PolicySources

TEST_SECONDS: Final = 5.0
"""Of a processor, that a test may take: as long as ``opa test`` gives it."""

WAIT_SECONDS: Final = 120.0
"""What a test, or loading them, may take on a machine that has much else to do: nobody waits but who can end it."""


def run_tests(sources: PolicySources, limit: float = TEST_SECONDS) -> list[CheckedTest]:
    """Run the tests in ``sources`` (read with the test files), in the order of files and lines.

    Raises:
        InvalidInput: the engine cannot load them; ``policy_too_slow`` when that took over ``CHECK_CPU_SECONDS``,
            ``policy_too_complex`` when the engine did not survive.
        OSError: there is no process to be had.
    """
    with closing(LimitedProcess("extproc.adapters.regorus.rego_tests", sources, limit, WAIT_SECONDS)) as process:
        return [_run(process, test, limit) for test in _found(process)]


def _found(process: LimitedProcess) -> list[FoundTest]:
    try:
        answer = process.ask(None)
    except TimeoutError:
        message = f"loading these tests took more than {CHECK_CPU_SECONDS} s of a processor"
        raise InvalidInput.of("policy_too_slow", message) from None
    except EOFError:
        message = "the policy engine does not survive loading these tests"
        raise InvalidInput.of("policy_too_complex", message) from None
    if answer["faults"]:
        raise InvalidInput([Fault(**fault) for fault in answer["faults"]])
    return [FoundTest(*test) for test in answer["found"]]


def _run(process: LimitedProcess, test: FoundTest, limit: float) -> CheckedTest:
    try:
        *how, prints = process.ask(list(test))
    except TimeoutError:
        return CheckedTest(*test, "error", f"it took more than {limit:g} s of a processor", ())
    except EOFError:
        return CheckedTest(*test, "error", "the policy engine does not survive it", ())
    return CheckedTest._make([*how, tuple(prints)])


def _tests(sources: PolicySources) -> Callable[[Any], Any]:
    """What answers: to null, which tests there are or what is wrong with them; to one of them, how it goes."""
    arm_dead_man_switch(CHECK_CPU_SECONDS)
    try:
        tests = RegorusTests(sources)
    except InvalidInput as error:
        faults = [fault.as_dict() for fault in error.faults]
        return lambda _: {"found": [], "faults": faults}
    finally:
        arm_dead_man_switch(0)
    return lambda test: {"found": tests.found, "faults": []} if test is None else tests.run(FoundTest(*test))


if __name__ == "__main__":
    answer_questions(_tests)
