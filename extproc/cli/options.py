"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from click.core import ParameterSource

from extproc.adapters.sqlite_store import WAIT_SECONDS
from extproc.adapters.stores import beside, open_store
from extproc.clock import SystemClock
from extproc.control.access import Control, DirectControl, this_user
from extproc.control.actions import Kill, Restore, Result
from extproc.control.emergency import Emergency
from extproc.control.hearing import Hearing
from extproc.control.policy import ControlPolicy
from extproc.errors import InvalidInput
from extproc.resources.file_names import is_unicode
from extproc.serve.hosts import Hosts
from extproc.settings import settings
from extproc.snapshot.store import RolloutStore

DEFAULT_STORE = "sqlite:dropout.db"

IMPATIENT_SECONDS: Final = 0.5
"""How long a kill waits for the store's lock before it goes to the hosts: longer than whoever writes in order."""

store_option: Callable[[Any], Any] = click.option(
    "--store",
    envvar="DROPOUT_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="Where rollouts are kept.",
)
_control: Callable[[Any], Any] = click.option(
    "--control",
    envvar="DROPOUT_CONTROL",
    show_envvar=True,
    metavar="unix:PATH",
    help="Ask the controller at this socket; an explicit --store acts on the store itself.",
)


def control_options(command: Any) -> Any:
    """``--store`` and ``--control``: the two ways to the rollouts, for ``reached``."""
    return store_option(_control(command))


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str]:
    namespace, slash, name = value.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace) or not is_unicode(value):
        raise InvalidInput.of("name_invalid", f"{value!r} is not a name; write [namespace/]name", field="NAME")
    return namespace or "default", name


name_argument: Callable[[Any], Any] = click.argument("name", metavar="[NAMESPACE/]NAME", callback=_split)
"""Gives the parameter ``name`` as (namespace, name)."""


@contextmanager
def opened(url: str, *, create: bool = False, wait: float = WAIT_SECONDS) -> Iterator[RolloutStore]:
    """The store at ``url``, for as long as a command runs. Arguments and errors are those of ``open_store``."""
    store = open_store(url, create=create, wait=wait)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def reached(store: str, control: str | None) -> Iterator[Control]:
    """The rollouts of the controller at ``control``, or of the store: an explicit ``--store`` wins.

    Raises:
        InvalidInput: ``control_invalid``, ``store_url``, or what is wrong with DROPOUT_CONTROL_POLICIES.
        Unreachable: as ``open_store``.
    """
    if control and not _names_a_store():
        from extproc.control.api.client import RemoteControl

        remote = RemoteControl(control)
        try:
            yield remote
        finally:
            remote.close()
        return
    with opened(store) as opened_store, _direct(store, opened_store) as rollouts:
        yield rollouts


@contextmanager
def _direct(url: str, store: RolloutStore) -> Iterator[DirectControl]:
    """The rollouts of the store itself, in the name of who runs the command, who hears what observers report."""
    clock, path = SystemClock(), beside(url, ".observed")
    if not path.exists():
        yield DirectControl(store, this_user(), clock, direct_policy())
        return
    from extproc.adapters.sqlite_observations import ObservationsReader

    reader = ObservationsReader(path, clock)
    try:
        hearing = Hearing(reader, clock.monotonic)
        yield DirectControl(store, this_user(), clock, direct_policy(), hearing=hearing)
    finally:
        reader.close()


@contextmanager
def reached_to_stop(store: str, control: str | None) -> Iterator[Emergency | Control]:
    """As ``reached``, for kill and restore: neither a store that cannot be opened nor one that is locked stops them."""
    if control and not _names_a_store():
        with reached(store, control) as rollouts:
            yield rollouts
        return
    hosts = Hosts(beside(store, ".serving"))
    wait = IMPATIENT_SECONDS if hosts.present() else WAIT_SECONDS

    def act(action: Kill | Restore) -> Result:
        with opened(store, wait=wait) as opened_store, _direct(store, opened_store) as rollouts:
            return rollouts.act(action)

    yield Emergency(act, hosts, this_user(), SystemClock())


def _names_a_store() -> bool:
    return click.get_current_context().get_parameter_source("store") is ParameterSource.COMMANDLINE


def direct_policy() -> ControlPolicy | None:
    """The policy on control actions that act on the store directly, if the environment names a folder."""
    folder = settings().control_policies
    if not folder:
        return None
    from extproc.adapters.control_policy import load_control_policy

    return load_control_policy(folder)
