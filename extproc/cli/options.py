"""Options and arguments that several commands share."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from extproc.adapters.stores import open_store
from extproc.errors import InvalidInput
from extproc.resources.file_names import is_unicode
from extproc.snapshot.store import RolloutStore

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


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str]:
    namespace, slash, name = value.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace) or not is_unicode(value):
        raise InvalidInput.of("name_invalid", f"{value!r} is not a name; write [namespace/]name", field="NAME")
    return namespace or "default", name


name_argument: Callable[[Any], Any] = click.argument("name", metavar="[NAMESPACE/]NAME", callback=_split)
"""Gives the parameter ``name`` as (namespace, name)."""


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[RolloutStore]:
    """The store at ``url``, for as long as a command runs. Raises as ``open_store``."""
    store = open_store(url, create=create)
    try:
        yield store
    finally:
        store.close()


def user() -> str:
    """Who runs this command, as the system knows them: the actor in history."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
