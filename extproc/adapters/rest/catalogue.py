"""What of a view the store does not have, as far as the template's ``views`` say."""

from __future__ import annotations

from collections.abc import Mapping

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
    faults = []
    for name in view.features:
        if name not in known.features:
            advice = did_you_mean(name, known.features)
            faults.append(
                Fault("feature_unknown", f"view {view.name!r} has no feature {name!r}{advice}", where, field=name)
            )
    for name in view.join_keys:
        if name not in known.join_keys:
            advice = did_you_mean(name, known.join_keys) or f"; it has {listed(list(known.join_keys))}"
            faults.append(
                Fault("join_key_unknown", f"view {view.name!r} has no join key {name!r}{advice}", where, field=name)
            )
    for name in known.join_keys:
        if name not in view.join_keys:
            message = f"view {view.name!r} has the join key {name!r} too, and nothing is read for it"
            faults.append(Fault("join_key_unknown", message, where, field=name))
    return faults
