"""The providers that there are, by the name that documents know them by.

One of ours is a line in ``_OURS``. One of somebody else's is an entry point in the group ``dropout.metric_documents``;
those are looked up for names that are not in the table, because that is slow. Either names a ``ProviderKind``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from extproc.errors import InvalidInput
from extproc.resources.providers.kind import ProviderKind, ServerSpec

_OURS: Final = {
    "observed": "extproc.resources.providers.observed:PROVIDER",
    "feedback": "extproc.resources.providers.feedback:PROVIDER",
    "prometheus": "extproc.adapters.prometheus.document:PROVIDER",
}

OURS: Final = tuple(_OURS)
"""The names of those that come with Dropout."""


def all_names() -> list[str]:
    """The names of all that are installed."""
    return [*OURS, *_others()]


def provider(name: str) -> ProviderKind | None:
    """The provider that documents call ``name``; None where there is none.

    Raises:
        InvalidInput: ``plugin_broken``, when it is somebody else's and cannot be imported.
    """
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        kind: ProviderKind = getattr(import_module(module), attribute)
        return kind
    entry = _others().get(name)
    return None if entry is None else _foreign(entry)


@cache
def _others() -> Mapping[str, EntryPoint]:
    found = entry_points(group="dropout.metric_documents")
    return {entry.name: entry for entry in found if entry.name.isidentifier() and entry.name not in _OURS}


def _foreign(entry: EntryPoint) -> ProviderKind:
    whose = f"the plug-in {entry.value!r} for the provider {entry.name}:"
    try:
        kind = entry.load()
    except Exception as error:  # somebody else's code: whatever it raises, whoever wrote the document is told whose
        message = f"{whose} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidInput.of("plugin_broken", message) from error
    if not isinstance(kind, ProviderKind) or not issubclass(kind.spec, ServerSpec):
        raise InvalidInput.of("plugin_broken", f"{whose} is no ProviderKind, or one that asks no server")
    return kind
