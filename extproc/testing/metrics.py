"""The contract of a metric provider, and one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from extproc.control.analysis.ports import MetricProvider, MetricQuery, Reading, Subject
from extproc.resources.fields import Value
from extproc.resources.providers.kind import ProviderKind, ServerSpec

_SECONDS: Final = 20.0
SUBJECT: Final = Subject("payments/fraud-detector", 3, 1_800_000_000.0, "canary", "control", ("4", "3"))
"""Of what the contract asks."""


class MemorySpec(ServerSpec):
    """A number, or several, by their name."""

    name: Value
    """The name."""


PROVIDER: Final = ProviderKind(MemorySpec, {"number": 0.5, "numbers": [0.5]})


class MemoryMetrics:
    """A metric provider that knows the numbers that it is given."""

    provider = "memory"

    def __init__(self, values: Mapping[str, float | list[float]]) -> None:
        self._values = values

    async def measure(self, question: MetricQuery, within: float) -> Reading:
        """What was given of the name."""
        if within <= 0:
            return Reading(error="there is no time to look")
        if (value := self._values.get(question.spec.name)) is None:
            return Reading(error=f"{question.spec.name} is unknown")
        return Reading(value)

    async def close(self) -> None:
        """Nothing to let go of."""


class MetricProviderContract:
    """What every provider of metrics does. The methods that a test defines are called on a running event loop."""

    kind: ProviderKind
    """What documents say to it."""

    def make(self) -> MetricProvider:
        """A provider of a server that is there."""
        raise NotImplementedError

    def make_unreachable(self) -> MetricProvider | None:
        """A provider whose server is not there; None where that cannot be."""
        raise NotImplementedError

    def answers(self) -> list[tuple[MetricQuery, Any]]:
        """Questions of ``SUBJECT``, each with the result that the server has for it; two at least, that differ."""
        raise NotImplementedError

    def refused(self) -> list[MetricQuery]:
        """Questions that the server cannot answer, each in another way."""
        raise NotImplementedError

    def test_questions_are_answered_with_results_that_look_like_the_examples(self) -> None:
        """Those that conditions were checked against."""

        async def ask(asked: MetricProvider) -> None:
            shapes = [_shape(example) for example in self.kind.results.values()]
            for question, result in self.answers():
                assert isinstance(question.spec, self.kind.spec)
                reading = await asked.measure(question, _SECONDS)
                assert reading == Reading(result)
                assert _shape(reading.result) in shapes

        self._run(ask)

    def test_what_cannot_be_answered_is_an_error_in_words_and_no_result(self) -> None:
        """Not an exception, and no number that was made up."""

        async def ask(asked: MetricProvider) -> None:
            for question in self.refused():
                reading = await asked.measure(question, _SECONDS)
                assert reading.result is None
                assert reading.error
            await self._still_answers(asked)

        self._run(ask)

    def test_many_questions_at_once_each_get_their_own_answer(self) -> None:
        """However they are carried."""

        async def ask(asked: MetricProvider) -> None:
            questions = self.answers() * 5
            readings = await asyncio.gather(*(asked.measure(question, _SECONDS) for question, _ in questions))
            assert [reading.result for reading in readings] == [result for _, result in questions]

        self._run(ask)

    def test_a_question_without_time_is_an_error(self) -> None:
        """At once."""

        async def ask(asked: MetricProvider) -> None:
            for question, _ in self.answers():
                assert (await asked.measure(question, 0.0)).error
            await self._still_answers(asked)

        self._run(ask)

    def test_who_gives_up_leaves_a_provider_that_goes_on(self) -> None:
        """A question that is cancelled where it first waits."""

        async def ask(asked: MetricProvider) -> None:
            for _ in range(20):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await asked.measure(self.answers()[0][0], _SECONDS)
            await self._still_answers(asked)

        self._run(ask)

    def test_one_that_is_not_there_is_an_error_in_words(self) -> None:
        """And raises nothing."""

        async def ask() -> None:
            asked = self.make_unreachable()
            if asked is None:
                return
            reading = await asyncio.wait_for(asked.measure(self.answers()[0][0], _SECONDS), _SECONDS)
            assert reading.result is None
            assert reading.error
            await asked.close()

        asyncio.run(ask())

    def test_one_that_was_never_asked_closes(self) -> None:
        """Twice, too."""

        async def ask(asked: MetricProvider) -> None:
            await asked.close()

        self._run(ask)

    async def _still_answers(self, asked: MetricProvider) -> None:
        question, result = self.answers()[0]
        assert await asked.measure(question, _SECONDS) == Reading(result)

    def _run(self, ask: Callable[[MetricProvider], Awaitable[None]]) -> None:
        async def with_provider() -> None:
            asked = self.make()
            try:
                await asyncio.wait_for(ask(asked), _SECONDS)
            finally:
                await asked.close()

        asyncio.run(with_provider())


def _shape(result: Any) -> Any:
    """The result with types in place of numbers; a list by the first of its elements."""
    if isinstance(result, Mapping):
        return {name: _shape(value) for name, value in result.items()}
    return [type(element) for element in result[:1]] if isinstance(result, list) else type(result)
