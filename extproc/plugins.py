"""From the URL of a port to the adapter that serves it, which is imported only then.

An adapter of ours is a line in ``_OURS``. One of somebody else's is an entry point in the group ``dropout.<port>``, by
the name of its URL's scheme; those are looked up for schemes that are not in the table, because that is slow. Either
names a ``Plugin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from extproc.errors import InvalidInput, Unreachable
from extproc.suggestions import did_you_mean

if TYPE_CHECKING:  # a worker measures nothing, and a controller decides nothing
    from extproc.control.analysis.ports import MetricProvider
    from extproc.datapath.ports import EventSink, FeatureStore, PolicyEngine
    from extproc.store.ports import StorePlace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Port(Generic[T]):
    """Something outside that may be exchanged: its name, what an adapter is called, and the version of its protocol.

    A version is a new one when an adapter that was written for the last would not work. ``code`` is of the error for
    what is no address of such an adapter, and ``example`` an address.
    """

    name: str
    called: str
    version: int
    code: str
    example: str


STORE: Final[Port[StorePlace]] = Port("store", "store of rollouts", 1, "store_url", "sqlite:PATH")

FEATURES: Final[Port[FeatureStore]] = Port("features", "feature store", 1, "features_url", "sqlite:PATH")

POLICY_ENGINE: Final[Port[PolicyEngine]] = Port(
    "policy_engine", "policy engine", 1, "policy_engine_url", "opa+http://HOST:8181"
)

SINK: Final[Port[EventSink]] = Port("sink", "sink", 1, "sink_url", "file:PATH")

METRICS: Final[Port[MetricProvider]] = Port(
    "metrics", "metric server", 1, "metrics_url", "NAME=prometheus+http://HOST:9090"
)


class Plugin(NamedTuple):
    """What an adapter offers: the version of the port that it was written for, and how to open a URL.

    ``open`` is given the URL and the flag that it came with, for messages; it raises ``InvalidInput`` for one that it
    does not understand, and reaches for nothing yet.
    """

    version: int
    open: Callable[[str, str], Any]


class _Ours(NamedTuple):
    """Where the plug-in is, as ``module:name``, and the extra that brings what it imports."""

    place: str
    extra: str = ""


_OURS: Final = {
    (STORE.name, "sqlite"): _Ours("extproc.adapters.sqlite.store:PLUGIN"),
    (FEATURES.name, "sqlite"): _Ours("extproc.adapters.sqlite.features:PLUGIN"),
    (FEATURES.name, "redis"): _Ours("extproc.adapters.redis.features:PLUGIN", "redis"),
    (FEATURES.name, "rediss"): _Ours("extproc.adapters.redis.features:PLUGIN", "redis"),
    (FEATURES.name, "https"): _Ours("extproc.adapters.rest.features:PLUGIN", "rest"),
    (FEATURES.name, "http"): _Ours("extproc.adapters.rest.features:PLUGIN", "rest"),
    (METRICS.name, "prometheus+http"): _Ours("extproc.adapters.prometheus.metrics:PLUGIN", "prometheus"),
    (METRICS.name, "prometheus+https"): _Ours("extproc.adapters.prometheus.metrics:PLUGIN", "prometheus"),
    (SINK.name, "file"): _Ours("extproc.adapters.file.sink:PLUGIN"),
    (SINK.name, "opa+http"): _Ours("extproc.adapters.opa.sink:PLUGIN", "opa"),
    (SINK.name, "opa+https"): _Ours("extproc.adapters.opa.sink:PLUGIN", "opa"),
    (POLICY_ENGINE.name, "opa+http"): _Ours("extproc.adapters.opa.policy:PLUGIN", "opa"),
    (POLICY_ENGINE.name, "opa+https"): _Ours("extproc.adapters.opa.policy:PLUGIN", "opa"),
    (POLICY_ENGINE.name, "opa+unix"): _Ours("extproc.adapters.opa.policy:PLUGIN", "opa"),
}


def open_adapter(port: Port[T], url: str, flag: str) -> T:
    """The adapter of ``port`` that ``url`` names; ``flag`` is where the operator named it.

    Raises:
        Unreachable: ``extras_missing`` when a library is not installed.
        InvalidInput: ``port.code`` when nobody knows the scheme, ``plugin_broken`` when somebody else's plug-in cannot
            be imported, ``plugin_version`` when it was written for another version of the port, or what the adapter
            says of the URL.
    """
    adapter: T = _plugin(port, url, flag).open(url, flag)
    return adapter


def scheme_of(url: str) -> str:
    """The scheme of an adapter's URL, which says what kind it is."""
    return url.partition(":")[0]


def _plugin(port: Port[Any], url: str, flag: str) -> Plugin:
    scheme = scheme_of(url)
    ours = _OURS.get((port.name, scheme))
    if ours is not None:
        return _imported(ours, scheme, flag)
    return _foreign(port, _others(port, url, flag)[scheme], flag)


def known_scheme(port: Port[Any], url: str, flag: str) -> None:
    """See that there is an adapter for the scheme of ``url``, and import nothing. Raises ``InvalidInput``."""
    if (port.name, scheme_of(url)) not in _OURS:
        _others(port, url, flag)


def _others(port: Port[Any], url: str, flag: str) -> Mapping[str, EntryPoint]:
    """The adapters of other packages by their schemes, that of ``url`` among them."""
    scheme = scheme_of(url)
    others = {entry.name: entry for entry in entry_points(group=f"dropout.{port.name}")}
    if scheme not in others:
        known = sorted({name for of, name in _OURS if of == port.name} | set(others))
        message = f"{scheme!r} is no {port.called}: use {port.example}, or one of the schemes {', '.join(known)}"
        message += did_you_mean(scheme, known) or _as_path(port, url)
        raise InvalidInput.of(port.code, message, field=flag)
    return others


def _as_path(port: Port[Any], url: str) -> str:
    """The address that a path alone is short for, as ``did_you_mean`` has it."""
    scheme, _, rest = port.example.partition(":")
    return f"; did you mean '{scheme}:{url}'?" if url and ":" not in url and rest == "PATH" else ""


def _imported(ours: _Ours, scheme: str, flag: str) -> Plugin:
    module, _, name = ours.place.partition(":")
    try:
        plugin: Plugin = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if not ours.extra or (error.name or "").startswith("extproc"):
            raise
        message = f"{flag} with {scheme}: needs more to be installed: pip install 'dropout-router[{ours.extra}]'"
        raise Unreachable.of("extras_missing", message, field=flag) from None
    return plugin


def _foreign(port: Port[Any], entry: EntryPoint, flag: str) -> Plugin:
    whose = f"the plug-in {entry.value!r} for {entry.name}:"
    try:
        plugin = entry.load()
    except Exception as error:  # somebody else's code: whatever it raises, the operator is told whose it is
        message = f"{whose} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidInput.of("plugin_broken", message, field=flag) from error
    if not isinstance(plugin, Plugin):
        raise InvalidInput.of("plugin_broken", f"{whose} is no extproc.plugins.Plugin", field=flag)
    if plugin.version != port.version:
        message = (
            f"{whose} was written for version {plugin.version} of a {port.called}'s port, and this Dropout has"
            f" version {port.version}: install the plug-in's release for it"
        )
        raise InvalidInput.of("plugin_version", message, field=flag)
    return plugin
