"""The contract of a feature store, and one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

from extproc.datapath.ports import FeatureAnswer, FeatureCatalogue, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import DropoutError, Fault
from extproc.snapshot.model import FeatureView

Values = Mapping[FeatureKey, Mapping[str, FeatureRow]]
"""What a store holds: for each entity of a view its features, which all have the same event time."""

_SECONDS: Final = 20.0
_AT: Final = 1_700_000_000.5
_VIEW: Final = FeatureView("user risk: ü", ("score", "country", "nothing"))
_PAIRS: Final = FeatureView("pairs", ("score",), ("user", "merchant"))


class MemoryFeatures:
    """A feature store of what it is given."""

    max_batch = 64

    def __init__(self, values: Values) -> None:
        self._values = values

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """What was given of each key."""
        for key in keys:
            rows = self._values.get(key, {})
            yield FeatureAnswer(key, {name: rows[name] for name in key.view.features if name in rows})

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryCatalogue(MemoryFeatures):
    """One that knows what it was given."""

    async def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """What nobody has a value of."""
        there = [rows for key, rows in self._values.items() if key.view.name == view.name]
        if not there:
            return [Fault("feature_view_unknown", f"there is no view {view.name!r}")]
        return [
            Fault("feature_unknown", f"view {view.name!r} has no {name!r}", field=name)
            for name in view.features
            if not any(name in rows for rows in there)
        ]


class FeatureStoreContract:
    """What every feature store does. ``make`` and ``make_unreachable`` are called on a running event loop."""

    knows_event_times = True
    """Whether the store keeps event times; else they are None."""

    def make(self, values: Values) -> FeatureStore:
        """A store that holds ``values`` and nothing else."""
        raise NotImplementedError

    def make_unreachable(self) -> FeatureStore | None:
        """A store whose server or file is not there; None where that cannot be."""
        raise NotImplementedError

    def test_every_key_is_answered_once_with_the_features_that_exist(self) -> None:
        """What has no value is left out, and who has none is answered too."""
        known, unknown = FeatureKey(_VIEW, ("u-1",)), FeatureKey(_VIEW, ("u-2",))
        rows = {"score": FeatureRow(0.25, _AT), "country": FeatureRow("DE", _AT)}

        async def ask(store: FeatureStore) -> None:
            answers = await _answers(store, [known, unknown])
            assert sorted(answer.key.text for answer in answers) == ["u-1", "u-2"]
            assert _rows(answers)[known] == {name: self._kept(row) for name, row in rows.items()}
            assert _rows(answers)[unknown] == {}

        self._run({known: rows}, ask)

    def test_values_of_every_kind_come_back_as_they_are(self) -> None:
        """Numbers to the last bit, text that looks like something else, truth, null, lists and objects."""
        for value in (
            0.1,
            -3,
            1 << 53,
            "12",
            "007",
            "true",
            "",
            "ü\u2028\n",
            True,
            None,
            [0.5, [1]],
            {"a": {"b": "c"}},
        ):
            key = FeatureKey(_VIEW, ("u-1",))

            async def ask(store: FeatureStore, key: FeatureKey = key, value: Any = value) -> None:
                (answer,) = await _answers(store, [key])
                assert answer.rows is not None, answer.fault
                found = answer.rows["score"].value
                assert (type(found), found) == (type(value), value)

            self._run({key: {"score": FeatureRow(value, _AT)}}, ask)

    def test_no_two_entities_or_views_are_taken_for_one_another(self) -> None:
        """Whatever stands in join keys and names of views."""
        keys = [
            *(
                FeatureKey(_PAIRS, pair)
                for pair in (("a|b", "c"), ("a", "b|c"), ("a\\|b", "c"), ("a", "|c"), ("", "c"))
            ),
            *(FeatureKey(FeatureView(view, ("score",)), (entity,)) for view, entity in (("a", "b:c"), ("a:b", "c"))),
            *(FeatureKey(FeatureView(view, ("score",)), ("x",)) for view in ("a b", "a%20b", "A B", "a/b", "a{b}")),
            FeatureKey(FeatureView("a", ("score",)), ("y" * 512,)),
        ]
        values = {key: {"score": FeatureRow(number, _AT)} for number, key in enumerate(keys)}

        async def ask(store: FeatureStore) -> None:
            for start in range(0, len(keys), store.max_batch):
                found = _rows(await _answers(store, keys[start : start + store.max_batch]))
                assert found == {key: {"score": self._kept(values[key]["score"])} for key in found}

        self._run(values, ask)

    def test_a_key_of_whole_numbers_is_found(self) -> None:
        """Of 64 bits, with a sign."""
        keys = [FeatureKey(_VIEW, (number,)) for number in (0, -1, (1 << 63) - 1)]
        values = {key: {"score": FeatureRow(number, _AT)} for number, key in enumerate(keys)}

        async def ask(store: FeatureStore) -> None:
            found = _rows(await _answers(store, keys))
            assert [found[key]["score"].value for key in keys] == [0, 1, 2]

        self._run(values, ask)

    def test_a_whole_batch_and_several_at_once_are_answered(self) -> None:
        """As many keys as it says that it takes, by several readers."""

        async def ask(store: FeatureStore) -> None:
            assert store.max_batch >= 1
            keys = [FeatureKey(_VIEW, (f"u-{number}",)) for number in range(store.max_batch)]
            for answers in await asyncio.gather(*(_answers(store, keys) for _ in range(4))):
                assert _rows(answers) == {key: {} for key in keys}

        self._run({FeatureKey(_VIEW, ("somebody",)): {"score": FeatureRow(1, _AT)}}, ask)

    def test_who_stops_reading_leaves_a_store_that_goes_on(self) -> None:
        """A reader that is cancelled, or that has enough after one answer."""
        keys = [FeatureKey(_VIEW, ("u-1",))]

        async def ask(store: FeatureStore) -> None:
            for _ in range(20):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):  # cancelled where it first waits
                        await _answers(store, keys)
            async with aclosing(store.read(keys)) as answers:
                async for _ in answers:
                    break
            assert _rows(await _answers(store, keys))[keys[0]].keys() == {"score"}

        self._run({keys[0]: {"score": FeatureRow(1, _AT)}}, ask)

    def test_a_store_that_is_not_there_says_so_and_raises_nothing_else(self) -> None:
        """As the answer to each key, or by raising: a ``DropoutError`` with a code that a person can look up."""

        async def ask() -> None:
            store = self.make_unreachable()
            if store is None:
                return
            try:
                answers = await asyncio.wait_for(_answers(store, [FeatureKey(_VIEW, ("u-1",))]), _SECONDS)
                faults = [answer.fault for answer in answers if answer.rows is None]
            except Exception as error:  # which is what the contract is about
                faults = [error]
            assert [getattr(fault, "code", "") for fault in faults] != []
            assert all(getattr(fault, "code", "") for fault in faults), faults
            await store.close()

        asyncio.run(ask())

    def test_one_that_was_never_asked_closes(self) -> None:
        """Twice, too."""

        async def ask(store: FeatureStore) -> None:
            await store.close()

        self._run({}, ask)

    def _run(self, values: Values, ask: Callable[[FeatureStore], Awaitable[None]]) -> None:
        async def with_store() -> None:
            store = self.make(values)
            try:
                await asyncio.wait_for(ask(store), _SECONDS)
            finally:
                await store.close()

        asyncio.run(with_store())

    def _kept(self, row: FeatureRow) -> FeatureRow:
        return row if self.knows_event_times else FeatureRow(row.value, None)


class FeatureCatalogueContract:
    """What every feature store does that says what it has. ``make`` and ``make_unreachable`` as with those."""

    def make(self, values: Values) -> FeatureStore:
        """A store that has what is in ``values``, and nothing else."""
        raise NotImplementedError

    def make_unreachable(self) -> FeatureStore | None:
        """A store whose catalogue is not there; None where that cannot be."""
        raise NotImplementedError

    def test_what_is_there_is_not_lacking_and_what_is_not_is_named(self) -> None:
        """A view by itself, features each by its name."""
        view = FeatureView("user_risk", ("score", "country"))
        values = {FeatureKey(view, ("u-1",)): {"score": FeatureRow(0.5, _AT), "country": FeatureRow("DE", _AT)}}
        for asked, told in (
            (view, []),
            (view._replace(features=("country",)), []),
            (
                view._replace(features=("nope", "score", "neither")),
                [("feature_unknown", "nope"), ("feature_unknown", "neither")],
            ),
            (view._replace(name="user_riks"), [("feature_view_unknown", None)]),
        ):

            async def ask(store: FeatureStore, asked: FeatureView = asked, told: object = told) -> None:
                assert isinstance(store, FeatureCatalogue)
                found = await store.lacking(asked)
                assert [(fault.code, fault.field) for fault in found] == told
                for fault in found:
                    assert asked.name in fault.message
                    assert (fault.field or "") in fault.message

            asyncio.run(_with(lambda: self.make(values), ask))

    def test_one_that_cannot_say_raises(self) -> None:
        """A ``DropoutError`` with a code."""

        async def ask(store: FeatureStore) -> None:
            assert isinstance(store, FeatureCatalogue)
            with suppress(DropoutError):
                found = await store.lacking(FeatureView("user_risk", ("score",)))
                raise AssertionError(f"it cannot know of {found}")

        asyncio.run(_with(self.make_unreachable, ask))


async def _with(make: Callable[[], FeatureStore | None], ask: Callable[[FeatureStore], Awaitable[None]]) -> None:
    store = make()
    if store is not None:
        try:
            await asyncio.wait_for(ask(store), _SECONDS)
        finally:
            await store.close()


async def _answers(store: FeatureStore, keys: Sequence[FeatureKey]) -> list[FeatureAnswer]:
    async with aclosing(store.read(keys)) as answers:
        return [answer async for answer in answers]


def _rows(answers: Sequence[FeatureAnswer]) -> dict[FeatureKey, Mapping[str, FeatureRow]]:
    found: dict[FeatureKey, Mapping[str, FeatureRow]] = {}
    for key, rows, fault in answers:
        assert rows is not None, fault
        found[key] = rows
    return found
