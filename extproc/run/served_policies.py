"""What the policies of ``dropout serve`` and of its controller are put together from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import extproc
from extproc.adapters.regorus.bundle_signatures import TrustedKeys, read_key
from extproc.errors import InvalidInput, Unreachable
from extproc.key_files import make_private_folder
from extproc.resources.bundles import unpack_bytes
from extproc.resources.policies import PolicySources
from extproc.resources.policy_places import PolicyPlaces
from extproc.run.serve_options import POLICIES, STATUS, VERIFICATION_KEY, PolicyOptions
from extproc.serve.supervisor.bundle_keeper import BundlePlan
from extproc.serve.supervisor.policy_trial import Sources
from extproc.state import StateFolder
from extproc.urls import last_part

_ADAPTER: Final = "extproc.adapters.opa.bundles"


class ServedPolicies(NamedTuple):
    """Where they come from, and the bundles that are fetched for that."""

    places: SourcesIn | None
    bundles: BundlePlan | None


class SourcesIn(NamedTuple):
    """Some places, whose policies are read as workers take them."""

    places: PolicyPlaces

    def __str__(self) -> str:
        return str(self.places)

    @property
    def listing(self) -> Callable[[], Any]:
        """Their files."""
        return self.places.listing

    def read(self, *, empty: bool) -> Sources:
        """What they hold. Raises as ``PolicyPlaces.read``."""
        return as_sources(self.places.read(empty=empty))

    def read_with(self, place: Path, content: bytes) -> Sources:
        """What they would hold. Raises as ``PolicyPlaces.read_with``."""
        return as_sources(self.places.read_with(place, content))


def as_sources(read: PolicySources) -> Sources:
    """Policies as workers take them."""
    return Sources(read.revision, read.to_json(), empty=not read.files)


def in_folder(folder: Path) -> SourcesIn:
    """What is in one folder, or a bundle."""
    return SourcesIn(PolicyPlaces([folder]))


def places_of(options: PolicyOptions, state: StateFolder) -> PolicyPlaces:
    """The folders and files that are read: a bundle from a server has its file in the state folder.

    Raises:
        InvalidInput: ``file_unreadable`` for a key, ``bundle_name_taken`` for addresses whose last parts are alike.
        Unreachable: ``extras_missing``.
    """
    files = [state.bundles / last_part(place) for place in options.urls]
    if len(set(files)) < len(files):
        message = "two addresses end alike, and each bundle is kept by that name; have one end otherwise"
        raise InvalidInput.of("bundle_name_taken", message, field=POLICIES)
    local = [Path(place) for place in options.places if place not in options.urls]
    keys = TrustedKeys([read_key(path, VERIFICATION_KEY) for path in options.keys], options.scope)
    return PolicyPlaces([*local, *files], frozenset(files), keys)


def serve_policies(options: PolicyOptions, state: StateFolder) -> ServedPolicies:
    """What is served, and what is fetched for it.

    Raises:
        InvalidInput: as ``places_of`` and the adapter; ``state_unusable``, ``state_untrusted``.
        Unreachable: ``extras_missing``.
    """
    if not options.places:
        return ServedPolicies(None, None)
    read = SourcesIn(places_of(options, state))
    if not options.urls:
        return ServedPolicies(read, None)
    make_private_folder(state.bundles, "bundles", POLICIES, "state_unusable", "state_untrusted")
    opa = _opa()
    servers = {state.bundles / last_part(url): opa.BundleServer(url, POLICIES) for url in options.urls}
    report = opa.StatusService(options.status, STATUS).report if options.status is not None else None
    labels: Mapping[str, str] = {"app": "dropout", "id": socket.gethostname(), "version": extproc.__version__}
    return ServedPolicies(read, BundlePlan(servers, read.read_with, _revision_of, report, labels))


def _opa() -> Any:
    try:
        return import_module(_ADAPTER)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("extproc"):
            raise
        message = f"{POLICIES} with an address needs more to be installed: pip install 'dropout-router[opa]'"
        raise Unreachable.of("extras_missing", message, field=POLICIES) from None


def _revision_of(content: bytes) -> str:
    return unpack_bytes(content, POLICIES).manifest.revision
