"""A process that answers: what is said of one that takes too much of a processor, and of one that cannot run."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import pytest

from extproc.adapters.regorus.process import LimitedProcess
from extproc.resources.policies import PolicySources

MODULE = "extproc.adapters.regorus.querying"
ENDLESS = {"query": "count([1 | numbers.range(1, 3000)[_]; numbers.range(1, 3000)[_]; numbers.range(1, 3000)[_]])"}


def test_an_answer_that_takes_too_much_of_a_processor_is_a_timeout() -> None:
    with closing(LimitedProcess(MODULE, PolicySources({}, {}, ""), 0.3)) as process, pytest.raises(TimeoutError):
        process.ask(ENDLESS)


def test_no_answer_in_time_says_nothing_of_the_processor_and_ends_the_process() -> None:
    with closing(LimitedProcess(MODULE, PolicySources({}, {}, ""), 5.0, wait=60.0)) as process:
        assert process.ask({"query": "1 == 1"})["result"]
        assert process._process is not None
        stopped = process._process
        process._wait = 0.05
        os.kill(stopped.pid, signal.SIGSTOP)
        with pytest.raises(EOFError):
            process.ask({"query": "1 == 1"})
        assert stopped.returncode == -signal.SIGKILL
        process._wait = 60.0
        assert process.ask({"query": "1 == 1"})["result"]
