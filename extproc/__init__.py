"""Dropout: which version of a model serves a request, decided in Python for Envoy.

What others build on is named here and stays; any other module may change with any version. A name is imported from
its module when it is first asked for, so that a process of Dropout pays for none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extproc.control.analysis.ports import MetricProvider
    from extproc.datapath.decide import decide
    from extproc.datapath.model import Decision, Facts, PolicyVerdict, Request, Unit
    from extproc.datapath.ports import EventSink, FeatureStore, PolicyEngine
    from extproc.datapath.unit import draw, read_source
    from extproc.errors import DropoutError, Fault, InvalidInput, Refused, Unreachable
    from extproc.names import Reason
    from extproc.plugins import Plugin
    from extproc.resources.analysis_template import AnalysisTemplate
    from extproc.resources.loading import load_valid, parse_rollout
    from extproc.resources.rollout import Rollout
    from extproc.snapshot.compile import compile_rollout
    from extproc.snapshot.model import CompiledRollout, Overlay
    from extproc.store.ports import RolloutStore
    from extproc.store.status import Status

    __version__: str

__all__ = [
    "AnalysisTemplate",
    "CompiledRollout",
    "Decision",
    "DropoutError",
    "EventSink",
    "Facts",
    "Fault",
    "FeatureStore",
    "InvalidInput",
    "MetricProvider",
    "Overlay",
    "Plugin",
    "PolicyEngine",
    "PolicyVerdict",
    "Reason",
    "Refused",
    "Request",
    "Rollout",
    "RolloutStore",
    "Status",
    "Unit",
    "Unreachable",
    "__version__",
    "compile_rollout",
    "decide",
    "draw",
    "load_valid",
    "parse_rollout",
    "read_source",
]

_MODULES = {
    "AnalysisTemplate": "resources.analysis_template",
    "CompiledRollout": "snapshot.model",
    "Decision": "datapath.model",
    "DropoutError": "errors",
    "EventSink": "datapath.ports",
    "Facts": "datapath.model",
    "Fault": "errors",
    "FeatureStore": "datapath.ports",
    "InvalidInput": "errors",
    "MetricProvider": "control.analysis.ports",
    "Overlay": "snapshot.model",
    "Plugin": "plugins",
    "PolicyEngine": "datapath.ports",
    "PolicyVerdict": "datapath.model",
    "Reason": "names",
    "Refused": "errors",
    "Request": "datapath.model",
    "Rollout": "resources.rollout",
    "RolloutStore": "store.ports",
    "Status": "store.status",
    "Unit": "datapath.model",
    "Unreachable": "errors",
    "compile_rollout": "snapshot.compile",
    "decide": "datapath.decide",
    "draw": "datapath.unit",
    "load_valid": "resources.loading",
    "parse_rollout": "resources.loading",
    "read_source": "datapath.unit",
}
"""Where each name is, within this package: what the imports above say to a type checker."""


if not TYPE_CHECKING:  # a type checker that saw it would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """The name, from its module; at the first time, after which it is an attribute as any other."""
        if name == "__version__":
            from importlib.metadata import version

            found = version("dropout-router")
        elif name in _MODULES:
            from importlib import import_module

            found = getattr(import_module(f"extproc.{_MODULES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return __all__
