"""Trying changed policies before any worker has them.

The try is a process of its own with a time limit: what does not load, or does not end on a trial input, is refused
there, and the last good policies keep deciding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, assert_never

import msgspec

from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.lifeline import Lifeline
from extproc.serve.channel import UNREADABLE, Message, faults_of
from extproc.serve.heartbeat import ANY_PATH

_START_SECONDS: Final = 30.0
_MAX_LINE: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """Policies as they were read: their fingerprint, and themselves as JSON text."""

    revision: str
    body: str
    empty: bool = False


class TrialRequest(Message, frozen=True, tag="try"):
    """Can policies be loaded, and evaluated on these ``inputs``, by the path of a rule?"""

    sources: str
    inputs: dict[str, Any]


class Evaluating(Message, frozen=True, tag="evaluating"):
    """The rule at this path, which begins at this file and line, is evaluated from now on."""

    evaluating: str
    file: str | None = None
    line: int | None = None


class Tried(Message, frozen=True, tag="tried"):
    """The last word: what is wrong with the policies."""

    faults: list[Fault]


_encode: Final = msgspec.json.Encoder().encode
_read_question: Final = msgspec.json.Decoder(TrialRequest).decode
_read_answer: Final[Callable[[bytes], Evaluating | Tried]] = msgspec.json.Decoder(Evaluating | Tried).decode


class TriedEngine(Protocol):
    """What policies are tried by."""

    def evaluate(self, path: str, document: Mapping[str, Any]) -> object:
        """Evaluate the rule at ``path`` on the input ``document``."""

    def place(self, path: str) -> tuple[str | None, int | None]:
        """The file and the line at which the rule at ``path`` begins, where that is known."""


def too_slow(path: str | None, limit: float, file: str | None = None, line: int | None = None) -> Fault:
    """The refusal of policies that do not end; ``file`` and ``line`` are where the rule at ``path`` begins."""
    what = "loading the policies" if path in (None, ANY_PATH) else f"an evaluation of the rule {path}"
    return Fault("policy_too_slow", f"{what} took longer than {limit:g} s", file, line, field=path)


def crashed(path: str | None, file: str | None = None, line: int | None = None) -> Fault:
    """The refusal of policies that bring the engine down; the places are as for ``too_slow``."""
    what = "loading these policies" if path in (None, ANY_PATH) else f"an evaluation of the rule {path}"
    return Fault("policy_too_complex", f"the policy engine does not survive {what}", file, line, field=path)


class Trial:
    """Tries policies in a short-lived process: ``command`` reads the sources and inputs and says how it went.

    It gets the number of its end of the ``Lifeline`` as its last argument.
    """

    def __init__(self, command: Sequence[str], limit: float) -> None:
        self._command = command
        self._limit = limit

    async def run(self, sources: Sources, inputs: Mapping[str, Any]) -> list[Fault]:
        """What is wrong with the policies; ``inputs`` maps the path of a rule to the input it is tried on.

        Raises:
            Unreachable: ``policy_trial_failed``, when the system has no process to try them in.
        """
        question = _encode(TrialRequest(sources.body, dict(inputs)))
        try:
            async with self._process(question) as answers:
                return await self._hear(answers)
        except OSError as error:
            message = f"the policies cannot be tried: {error.strerror}"
            raise Unreachable.of("policy_trial_failed", message) from error

    async def _hear(self, answers: asyncio.StreamReader) -> list[Fault]:
        rule: str | None = None
        place: tuple[str | None, int | None] = (None, None)
        limit = _START_SECONDS
        while True:
            try:
                answer = _read_answer(await asyncio.wait_for(answers.readline(), limit))
            except TimeoutError:
                return [too_slow(rule, limit, *place)]
            except UNREADABLE:  # a line that does not end; the end
                return [crashed(rule, *place)]
            match answer:
                case Evaluating():
                    rule, place, limit = answer.evaluating, (answer.file, answer.line), self._limit
                case Tried():
                    return answer.faults
                case _:
                    assert_never(answer)

    @asynccontextmanager
    async def _process(self, question: bytes) -> AsyncIterator[asyncio.StreamReader]:
        with Lifeline() as lifeline:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(lifeline.fd),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
                pass_fds=(lifeline.fd,),
                start_new_session=True,  # Ctrl-C in a terminal is the supervisor's alone
            )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(question)
                process.stdin.close()
                yield process.stdout
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()


def answer_trial(
    question: bytes,
    load: Callable[[str], TriedEngine],
    say: Callable[[bytes], object],
) -> None:
    """The trial process' side: load by ``load``, and evaluate every input."""
    asked = _read_question(question)
    try:
        engine = load(asked.sources)
        for path, document in asked.inputs.items():
            say(_encode(Evaluating(path, *engine.place(path))) + b"\n")
            engine.evaluate(path, document)
    except InvalidInput as error:
        say(_encode(Tried(faults_of(error))) + b"\n")
        return
    say(_encode(Tried([])) + b"\n")
