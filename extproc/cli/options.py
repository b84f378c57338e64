"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from extproc.adapters.stores import open_store
from extproc.cli.state_option import state_option
from extproc.clock import SystemClock
from extproc.control.access import Control, DirectControl, this_user
from extproc.control.actions import Kill, Restore
from extproc.control.emergency import IMPATIENT_SECONDS, Emergency
from extproc.control.observer_reports import Hearing
from extproc.control.policy import ControlPolicy, InGroups
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Unreachable
from extproc.net.callers import of_user
from extproc.resources.file_names import is_unicode
from extproc.serve.hosts import HostSockets
from extproc.settings import settings
from extproc.state import StateFolder
from extproc.store.ports import WAIT_SECONDS, ActionStore, RolloutStore

DEFAULT_STORE = "sqlite:dropout.db"

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
    metavar="ADDRESS",
    help="Ask the controller at unix:PATH or https://HOST:PORT; an explicit --store acts on the store itself.",
)
_CREDENTIALS: Final = {
    "token": "A file with a token that says who you are, for --control.",
    "ca": "The authority of the certificate of --control, instead of the system's (PEM).",
    "cert": "Your certificate, for --control (PEM).",
    "key": "Its key (PEM).",
}


def control_options(command: Any) -> Any:
    """``--store`` and ``--control`` with what goes with either: the two ways to the rollouts, for ``reached``."""
    for name, meaning in reversed(_CREDENTIALS.items()):
        command = click.option(
            f"--control-{name}",
            envvar=f"DROPOUT_CONTROL_{name.upper()}",
            show_envvar=True,
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help=meaning,
        )(command)
    command = state_option(expose_value=False, callback=_remember)(command)
    return store_option(_control(command))


def _store_alone(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Refuse a controller where there is no store: what a command does to another one than was meant is not seen."""
    given = context.get_parameter_source("control") is ParameterSource.COMMANDLINE
    if value and (given or _store_source() is ParameterSource.DEFAULT):
        message = "a controller takes no documents: name the store on a host of it, or use the folder of its --rollouts"
        raise InvalidInput.of("store_needed", message, field="--store")


def documents_options(command: Any) -> Any:
    """``--store`` of what is done to documents, which goes to the store alone."""
    refused = click.option(
        "--control",
        envvar="DROPOUT_CONTROL",
        hidden=True,
        expose_value=False,
        callback=_store_alone,
        help="Refused: a controller takes no documents.",
    )
    return store_option(refused(command))


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Keep it for ``reached``: no command has any other use for it."""
    context.meta[f"{__name__}.{parameter.name}"] = Path(value) if value else None


def _remembered(name: str) -> Path | None:
    found: Path | None = click.get_current_context().meta.get(f"{__name__}.{name}")
    return found


def _state(store: str) -> StateFolder:
    return StateFolder.of(store, _remembered("state"))


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
    try:
        store = open_store(url, create=create, wait=wait)
    except Unreachable as error:
        if error.code != "store_unreachable" or _store_source() is not ParameterSource.DEFAULT:
            raise
        (fault,) = error.faults
        raise Unreachable.of(error.code, f"{fault.message}; name the store by --store or DROPOUT_STORE") from None
    try:
        yield store
    finally:
        store.close()


@contextmanager
def reached(store: str, control: str | None) -> Iterator[Control]:
    """The rollouts of the controller at ``control``, or of the store: an explicit ``--store`` wins.

    Raises:
        InvalidInput: as ``RemoteControl``; ``store_url``, or what is wrong with DROPOUT_CONTROL_POLICIES.
        Unreachable: as ``open_store``.
    """
    if control and not _names_a_store():
        from extproc.control.api.client import Credentials, RemoteControl

        remote = RemoteControl(control, Credentials(*(_remembered(f"control_{name}") for name in _CREDENTIALS)))
        try:
            yield remote
        finally:
            remote.close()
        return
    with opened(store) as opened_store, _direct(store, opened_store) as rollouts:
        yield rollouts


@contextmanager
def _direct(url: str, store: ActionStore) -> Iterator[DirectControl]:
    """The rollouts of the store itself, in the name of who runs the command, who hears what observers report."""
    clock, path = SystemClock(), _state(url).observed
    if not path.exists():
        yield DirectControl(store, this_user(), clock, direct_policy())
        return
    from extproc.adapters.sqlite.observations import ObservationsReader

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
    hosts = HostSockets(_state(store).serving)
    wait = IMPATIENT_SECONDS if hosts.present() else WAIT_SECONDS

    def act(action: Kill | Restore) -> ActionResult:
        with opened(store, wait=wait) as opened_store, _direct(store, opened_store) as rollouts:
            return rollouts.act(action)

    yield Emergency(act, hosts, this_user(), SystemClock())


def _names_a_store() -> bool:
    return _store_source() is ParameterSource.COMMANDLINE


def _store_source() -> ParameterSource | None:
    return click.get_current_context().get_parameter_source("store")


def direct_policy() -> ControlPolicy | None:
    """The policy on control actions that act on the store directly, if the environment names a folder."""
    folder = settings().control_policies
    if not folder:
        return None
    from extproc.adapters.regorus.control import load_control_policy

    return InGroups(load_control_policy(folder), of_user(os.getuid()).groups)
