"""What documents ask of a feature store and it does not have: as its catalogue says, or as one entity shows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from extproc.datapath.ports import FeatureCatalogue, FeatureKey, FeatureRow, FeatureStore
from extproc.datapath.unit import as_integer
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.plugins import scheme_of
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import of_kind
from extproc.resources.marked_yaml import FieldPath, dotted
from extproc.resources.rollout import FeaturesSpec, Rollout
from extproc.run.feature_store import CATALOGUE_SECONDS, ask_catalogue, asked_features, read_one
from extproc.snapshot.compile import feature_view
from extproc.snapshot.model import FeatureView

_FEATURES: Final[FieldPath] = ("spec", "features")
_SAMPLE: Final = "--sample-entity"


class _Asked(NamedTuple):
    """A view that a document names at ``path``."""

    document: LoadedDocument[Rollout]
    features: FeaturesSpec
    path: FieldPath
    view: FeatureView

    def placed_fault(self, code: str, message: str, name: str | None = None) -> Fault:
        """A fault of the view, or of its feature or join key ``name``, where it is written."""
        path = self._place(name)
        return Fault(code, message, self.document.file, self.document.line_at(path), dotted(path))

    def _place(self, name: str | None) -> FieldPath:
        if name is None:
            return self.path
        if name in self.view.features:
            return (*_FEATURES, "names", self.view.features.index(name))
        for index, key in enumerate(self.features.entity.keys or ()):
            if key.name == name:
                return (*_FEATURES, "entity", "keys", index)
        return (*_FEATURES, "entity")


def check_features(documents: Sequence[LoadedDocument[Any]], url: str, sample: Sequence[str]) -> list[Fault]:
    """Ask the feature store at ``url`` for what rollouts among ``documents`` ask, and read ``sample`` if it is given.

    ``sample`` is an entity that should have all of it: a value for each join key, in their order.
    Gives notes on what that does not show, ``sample_only`` and ``sample_unread``.

    Raises:
        InvalidInput: what is lacking (``feature_view_unknown``, ``feature_unknown``, ``join_key_unknown``,
            ``join_key_type``, ``feature_absent``), ``catalogue_missing`` when the store cannot say and there is no
            sample, ``join_key_type`` and ``sample_unread`` for a sample that is no such entity.
        Unreachable: when the store cannot be asked.
    """
    asked = [each for document in of_kind(documents, Rollout) for each in _views(document)]
    return asyncio.run(_check(asked, url, sample)) if asked else []


def _views(document: LoadedDocument[Rollout]) -> Iterator[_Asked]:
    features = document.resource.spec.features
    if features is None:
        return
    yield _Asked(document, features, (*_FEATURES, "view"), feature_view(features, features.view))
    for version, name in features.views.items():
        yield _Asked(document, features, (*_FEATURES, "views", version), feature_view(features, name))


async def _check(asked: Sequence[_Asked], url: str, sample: Sequence[str]) -> list[Fault]:
    views = list(dict.fromkeys(each.view for each in asked))
    async with asked_features(url, within=CATALOGUE_SECONDS) as store:
        said = await ask_catalogue(store, views) if isinstance(store, FeatureCatalogue) else {}
        if not sample:
            _can_say(url, views, said)
        faults = [
            each.placed_fault(fault.code, fault.message, fault.field)
            for each in asked
            for fault in _known(said, each.view)
        ]
        notes: list[Fault] = []
        if sample:
            more, notes = await _sampled(store, asked, sample)
            faults += more
    if faults:
        raise InvalidInput(faults)
    return notes


def _can_say(url: str, views: Sequence[FeatureView], said: Mapping[FeatureView, Sequence[Fault] | Unreachable]) -> None:
    for view in views:
        answer = said.get(view)
        if isinstance(answer, Unreachable):
            raise answer
        if answer is None:
            message = f"{scheme_of(url)}: does not say what it has; {_SAMPLE} VALUE reads an entity that should have it"
            raise InvalidInput.of("catalogue_missing", message, field="--features")


def _known(said: Mapping[FeatureView, Sequence[Fault] | Unreachable], view: FeatureView) -> Sequence[Fault]:
    answer = said.get(view, ())
    return () if isinstance(answer, Unreachable) else answer


async def _sampled(
    store: FeatureStore, asked: Sequence[_Asked], sample: Sequence[str]
) -> tuple[list[Fault], list[Fault]]:
    """What the sample lacks, and notes on what it cannot show."""
    read = [each for each in asked if len(each.view.join_keys) == len(sample)]
    if not read:
        counts = " or ".join(sorted({str(len(each.view.join_keys)) for each in asked}))
        message = f"no rollout reads an entity of {len(sample)} values: give {_SAMPLE} {counts} times, once a join key"
        raise InvalidInput.of("sample_unread", message, field=_SAMPLE)
    rows = {view: await read_one(store, _key(view, sample)) for view in dict.fromkeys(each.view for each in read)}
    entity = FeatureKey(read[0].view, tuple(sample)).text
    faults = list(chain.from_iterable(_absent(each, rows[each.view], entity) for each in read))
    notes = [
        each.placed_fault(
            "sample_unread", f"view {each.view.name!r} was not read: it has {len(each.view.join_keys)} join keys"
        )
        for each in asked
        if each not in read
    ]
    what = "one entity shows neither whether others have these features, nor that theirs are of the same types"
    notes.append(Fault("sample_only", f"only {entity!r} was read: {what}", field=_SAMPLE))
    return faults, notes


def _key(view: FeatureView, sample: Sequence[str]) -> FeatureKey:
    values: list[str | int] = []
    for name, text in zip(view.join_keys, sample, strict=True):
        value = as_integer(text) if name in view.integer_keys else text
        if value is None:
            message = f"{text!r} is no whole number of 64 bits, and the join key {name!r} of {view.name!r} is"
            raise InvalidInput.of("join_key_type", message, field=_SAMPLE)
        values.append(value)
    return FeatureKey(view, tuple(values))


def _absent(asked: _Asked, rows: Mapping[str, FeatureRow], entity: str) -> Iterator[Fault]:
    view = asked.view
    if not rows:
        yield asked.placed_fault("feature_absent", f"{entity!r} has nothing of view {view.name!r}")
        return
    for name in view.features:
        if name not in rows:
            yield asked.placed_fault("feature_absent", f"{entity!r} has no {name!r} in view {view.name!r}", name)
        elif rows[name].event_time is None and asked.features.max_age is not None:
            message = f"{name!r} of {entity!r} in view {view.name!r} has no event time, and maxAge asks for one"
            yield asked.placed_fault("feature_absent", message, name)
