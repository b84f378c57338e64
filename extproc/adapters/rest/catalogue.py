"""What of a view the store does not have, as far as the template's ``views`` say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from extproc.adapters.rest.template import ViewSpec
from extproc.errors import Fault
from extproc.snapshot.model import FeatureView
from extproc.suggestions import did_you_mean, listed


def lacking(view: FeatureView, views: Mapping[str, ViewSpec], where: str) -> list[Fault]:
    """Each thing of ``view`` that is not among ``views``."""
    known = views.get(view.name)
    if known is None:
        advice = did_you_mean(view.name, views) or f"; there are {listed(list(views)) or 'none'}"
        return [Fault("feature_view_unknown", f"there is no view {view.name!r}{advice}", where)]
    return [*_features(view, known, where), *_join_keys(view, known, where)]


def _features(view: FeatureView, known: ViewSpec, where: str) -> Iterator[Fault]:
    for name in view.features:
        if name not in known.features:
            message = f"view {view.name!r} has no feature {name!r}{did_you_mean(name, known.features)}"
            yield Fault("feature_unknown", message, where, field=name)


def _join_keys(view: FeatureView, known: ViewSpec, where: str) -> Iterator[Fault]:
    for name in view.join_keys:
        if name not in known.join_keys:
            advice = did_you_mean(name, known.join_keys) or f"; it has {listed(list(known.join_keys))}"
            message = f"view {view.name!r} has no join key {name!r}{advice}"
            yield Fault("join_key_unknown", message, where, field=name)
            continue
        written = "integer" if name in view.integer_keys else "string"
        if known.join_keys[name] != written:
            message = f"the join key {name!r} of view {view.name!r} is of type {known.join_keys[name]}, not {written}"
            yield Fault("join_key_type", message, where, field=name)
    for name in known.join_keys:
        if name not in view.join_keys:
            message = f"view {view.name!r} has the join key {name!r} too, and nothing is read for it"
            yield Fault("join_key_unknown", message, where, field=name)
