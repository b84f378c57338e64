"""What a metric of a Prometheus says in an AnalysisTemplate: the server's name, and an instant query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from extproc.adapters.prometheus.promql import ARGUMENT, OF_THE_ROLLOUT, faults_in
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.kind import Arguments, ProviderKind, ServerSpec, Written

_QUERY: Final = 'sum(rate(errors_total{version="{{canary.version}}"}[5m]))'


class PrometheusSpec(ServerSpec):
    """What an instant query of a Prometheus gives: a number, or a list of those of its series."""

    query: Annotated[str, Field(min_length=1, max_length=8192, examples=[_QUERY])]
    """PromQL. In quotes {{args.NAME}}, {{rollout.namespace}}, {{rollout.name}}, {{canary.version}} and
    {{control.version}} are texts; outside of them, numbers or durations."""


def _problems(written: Written, arguments: Arguments, path: FieldPath) -> Iterator[Problem]:
    query = written.get("query")
    if isinstance(query, str):
        known = dict.fromkeys((*(f"{ARGUMENT}{name}" for name in arguments), *OF_THE_ROLLOUT))
        for fault in faults_in(query, known):
            yield Problem("query_invalid", fault, (*path, "query"))


PROVIDER: Final = ProviderKind(PrometheusSpec, {"vector": [0.5], "scalar": 0.5}, problems=_problems)
