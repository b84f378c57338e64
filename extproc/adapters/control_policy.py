"""Policy on control actions by regorus, in a process of its own: an evaluation that never ends is one that failed."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

import extproc
from extproc.adapters.regorus_policy import RegorusEngine, check_sources
from extproc.control.policy import RULE, ControlPolicy, Verdict
from extproc.datapath.model import PolicyVerdict
from extproc.errors import DropoutError, InvalidInput
from extproc.lifeline import Lifeline, hang_on
from extproc.resources.policies import PolicySources, read_sources

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 2.0
"""What an evaluation may take."""

START_SECONDS: Final = 20.0
"""What the process may take to load policies, on a machine that has much else to do."""

REST_SECONDS: Final = 5.0
"""For how long policies whose evaluation did not end are not asked again: the controller has others to look after."""

LOOK_SECONDS: Final = 1.0
"""How often the folder is read again, at most."""

_CHUNK: Final = 65536


class ControlPolicies:
    """A ``ControlPolicy`` from ``folder``, read again when it is asked; the last good ones stay in force.

    Where there is no rule ``control/decision``, everything is allowed. Usable from several threads.

    Raises:
        InvalidInput: when the policies cannot be served, as ``read_sources`` and ``check_sources``.
    """

    def __init__(self, folder: str | Path, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._folder = Path(folder)
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._refused = ""
        self._engine = self._loaded(read_sources(self._folder))
        self._looked = time.monotonic()

    @property
    def asked(self) -> bool:
        """Whether there is a rule that is asked."""
        return self._engine.has_rule

    def decide(self, question: Mapping[str, Any]) -> Verdict:
        """See ``ControlPolicy``."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            return self._engine.decide(question) if self._engine.has_rule else Verdict(True)

    def close(self) -> None:
        """End the process."""
        self._engine.close()

    def _look(self) -> None:
        try:
            sources = read_sources(self._folder)
            if sources.revision not in (self._engine.revision, self._refused):
                self._refused = sources.revision
                engine = self._loaded(sources)
                self._engine.close()
                self._engine = engine
        except DropoutError as error:
            logger.warning("the policies on control actions stay as they were: %s", error)
        self._looked = time.monotonic()

    def _loaded(self, sources: PolicySources) -> _Engine:
        faults = check_sources(sources)
        if faults:
            raise InvalidInput(faults)
        return _Engine(sources, self._answer_seconds)


def load_control_policy(folder: str | Path) -> ControlPolicy:
    """The policy in ``folder``. Raises ``InvalidInput``."""
    return ControlPolicies(folder)


class _Engine:
    """One set of policies in a process, which is started when it is first asked, and again after it had to be ended."""

    def __init__(self, sources: PolicySources, answer_seconds: float) -> None:
        self._sources = sources
        self._answer_seconds = answer_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: Lifeline | None = None
        self._failed = ("", float("-inf"))
        self.revision = sources.revision
        self.has_rule = RULE in RegorusEngine(sources).paths

    def decide(self, question: Mapping[str, Any]) -> Verdict:
        """The verdict, within the time that there is."""
        why, at = self._failed
        if time.monotonic() - at < REST_SECONDS:
            return Verdict(False, why, failed=True)
        try:
            if self._process is None:
                self._start()
            answer = self._ask(orjson.dumps(question), self._answer_seconds)
        except (OSError, TimeoutError, EOFError, orjson.JSONEncodeError) as error:
            self.close()
            why = "it takes too long" if isinstance(error, TimeoutError) else "its process ended"
            self._failed = (why, time.monotonic())
            return Verdict(False, why, failed=True)
        return Verdict(**orjson.loads(answer))

    def close(self) -> None:
        """End the process, wherever it hangs."""
        process, self._process = self._process, None
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.close()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> None:
        root = str(Path(extproc.__file__).resolve().parent.parent)
        search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        self._lifeline = Lifeline()
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "extproc.adapters.control_policy", str(self._lifeline.fd)],
            pass_fds=(self._lifeline.fd,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        self._ask(self._sources.to_json().encode(), START_SECONDS)

    def _ask(self, line: bytes, seconds: float) -> bytes:
        """The line that answers ``line``."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        until, answer = time.monotonic() + seconds, b""
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            more = os.read(self._process.stdout.fileno(), _CHUNK)
            if not more:
                raise EOFError
            answer += more
        return answer


def _as_control(verdict: PolicyVerdict) -> Verdict:
    """A routing verdict as one on control: it has ``allow`` and ``reason``, and nothing else."""
    if verdict.fault is not None:
        return Verdict(False, verdict.message or verdict.fault, failed=True)
    if verdict != PolicyVerdict(allow=verdict.allow, reason=verdict.reason):
        return Verdict(False, "the decision has a field other than allow and reason", failed=True)
    return Verdict(verdict.allow, verdict.reason or "")


def main() -> None:
    """Load the sources on the first line of stdin, say so, then answer each further line with a verdict.

    The argument is the descriptor of the ``lifeline``.
    """
    hang_on(int(sys.argv[1]))
    engine = RegorusEngine(PolicySources.from_json(sys.stdin.buffer.readline()))
    _say({})
    for line in sys.stdin.buffer:
        _say(_as_control(engine.evaluate(RULE, orjson.loads(line)))._asdict())


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
