"""Policies in a process of their own: an evaluation that never ends is ended by the kernel, and the process with it.

Its limit is one of CPU time, because a machine that is busy with other things makes no policy too slow.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

import extproc
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.embedded_policy import EngineWrapper
from extproc.datapath.model import PolicyVerdict
from extproc.lifeline import Lifeline, arm_dead_man_switch, hang_on
from extproc.names import Reason
from extproc.resources.policies import PolicySources

WAIT_SECONDS: Final = 120.0
"""What any answer may take where a process hardly gets to run, the load of the policies included."""

_CHUNK: Final = 65536


class LimitedProcess:
    """A process that answers questions about one set of policies, by ``answer_questions`` in ``module``.

    It is started when it is first asked, and again after it was ended. An answer may use ``limit`` seconds of a
    processor. One that does not come in ``wait`` seconds says nothing of the policies: the process is ended.
    """

    def __init__(self, module: str, sources: PolicySources, limit: float, wait: float = WAIT_SECONDS) -> None:
        self._module = module
        self._sources = sources
        self._limit = limit
        self._wait = wait
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: Lifeline | None = None

    def ask(self, question: Any) -> Any:
        """What the process answers to ``question``; both are JSON.

        Raises:
            TimeoutError: the answer took more of a processor than it may.
            EOFError, OSError: the process ended, did not answer, or cannot be had.
            TypeError: the question is no JSON.
        """
        line = orjson.dumps(question)
        self.start()
        return orjson.loads(self._heard(line))

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

    def start(self) -> None:
        """Have the process, with the policies loaded. Raises what ``ask`` does of a process."""
        if self._process is not None:
            return
        root = str(Path(extproc.__file__).resolve().parent.parent)
        search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        self._lifeline = Lifeline()
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", self._module, str(self._lifeline.fd), str(self._limit)],
            pass_fds=(self._lifeline.fd,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        self._heard(self._sources.to_json().encode())

    def _heard(self, line: bytes) -> bytes:
        """The line that answers ``line``; a process that has none is ended."""
        try:
            return self._ask(line)
        except BaseException:
            self.close()
            raise

    def _ask(self, line: bytes) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        until, answer = time.monotonic() + self._wait, b""
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise EOFError
            more = os.read(self._process.stdout.fileno(), _CHUNK)
            if not more:
                raise TimeoutError if self._process.wait() == -signal.SIGPROF else EOFError
            answer += more
        return answer


class PolicyProcess(LimitedProcess):
    """One set of policies that are evaluated in a process."""

    def __init__(self, sources: PolicySources, limit: float) -> None:
        super().__init__("extproc.adapters.regorus.process", sources, limit)

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path`` on the input ``document``. Raises as ``ask``."""
        return PolicyVerdict.from_json(self.ask([path, document]))


class LimitedEngine(EngineWrapper):
    """A ``EmbeddedEngine`` that stands where a worker's does: a rule that does not end is in quarantine from then on.

    Raises:
        InvalidInput: as ``RegorusEngine``.
    """

    def __init__(self, sources: PolicySources, limit: float) -> None:
        super().__init__(RegorusEngine(sources))
        self._process = PolicyProcess(sources, limit)
        with suppress(OSError, EOFError):  # the first evaluation meets it again
            self._process.start()  # now, so that nobody takes its start for the policy's own time
        self._limit = limit
        self._quarantined: dict[str, str] = {}

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path``; never raises."""
        if path not in self._quarantined:
            try:
                return self._process.evaluate(path, document)
            except TypeError:
                return self._engine.evaluate(path, document)  # whose word it is that this is no input
            except TimeoutError:
                self._quarantined[path] = f"it took more than {self._limit:g} s, see DROPOUT_EVALUATION_LIMIT"
            except (OSError, EOFError):
                self._quarantined[path] = "its process ended"
        allow = not self.can_deny(path)
        return PolicyVerdict(allow=allow, fault=Reason.POLICY_QUARANTINED, message=self._quarantined[path])

    def close(self) -> None:
        """End the process."""
        self._process.close()


def answer_questions(load: Callable[[PolicySources], Callable[[Any], Any]]) -> None:
    """The side of the process: load the sources on the first line of stdin, say so, then answer each further line.

    ``load`` gives what answers. The arguments are the descriptor of the ``lifeline`` and the seconds of a processor
    that an answer may use.
    """
    hang_on(int(sys.argv[1]))
    limit = float(sys.argv[2])
    answer = load(PolicySources.from_json(sys.stdin.buffer.readline()))
    _say({})
    for line in sys.stdin.buffer:
        question = orjson.loads(line)
        arm_dead_man_switch(limit)
        said = answer(question)
        arm_dead_man_switch(0)
        _say(said)


def _say(answer: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer, default=list) + b"\n")
    sys.stdout.buffer.flush()


def _verdicts(sources: PolicySources) -> Callable[[Any], Any]:
    engine = RegorusEngine(sources)
    return lambda question: engine.evaluate(*question)._asdict()


if __name__ == "__main__":
    answer_questions(_verdicts)
