"""Where policies are served from: the flags that ``serve`` and the controller share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from extproc.errors import InvalidInput
from extproc.run.serve_options import POLICIES, STATUS, VERIFICATION_KEY, PolicyOptions

_OPTIONS: Final = (
    click.option(
        POLICIES,
        multiple=True,
        metavar="DIR|FILE|URL",
        help="A folder of Rego policies, a bundle, or its http(s) address; watched; may be given several times.",
    ),
    click.option(
        VERIFICATION_KEY,
        multiple=True,
        metavar="FILE",
        help="Only bundles that this key signed, or another one of these: PEM, or a secret.",
    ),
    click.option("--verification-scope", default="", metavar="TEXT", help="What they were signed for."),
    click.option(STATUS, metavar="URL", help="Who is told the status of bundles, http(s)://HOST:PORT, as an OPA does."),
)


def policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags, as the parameter ``policies``."""

    @wraps(command)
    def with_policies(
        policies: tuple[str, ...],
        verification_key: tuple[str, ...],
        verification_scope: str,
        status: str | None,
        **others: Any,
    ) -> None:
        options = PolicyOptions(policies, tuple(map(Path, verification_key)), verification_scope, status)
        _check(options)
        command(policies=options, **others)

    decorated: Callable[..., None] = with_policies
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def policy_flags(options: PolicyOptions) -> dict[str, Any]:
    """The flags again, for the command line of a controller, which fetches and reports nothing."""
    return {
        POLICIES: options.places,
        VERIFICATION_KEY: tuple(map(str, options.keys)),
        "--verification-scope": options.scope,
    }


def _check(options: PolicyOptions) -> None:
    for place in options.places:
        if place not in options.urls and not os.path.exists(place):  # noqa: PTH110 - Path raises where it may not look
            message = f"there is no {place!r}; name a folder with .rego files, a bundle, or the address of one"
            raise InvalidInput.of("policies_missing", message, file=place, field=POLICIES)
    if options.keys and not options.places:
        raise InvalidInput.of("flags_conflict", f"it is about bundles: add {POLICIES}", field=VERIFICATION_KEY)
    if options.scope and not options.keys:
        message = f"it is about signatures: add {VERIFICATION_KEY}"
        raise InvalidInput.of("flags_conflict", message, field="--verification-scope")
    if options.status is not None and not options.urls:
        raise InvalidInput.of("flags_conflict", f"it is about bundles from a server: add {POLICIES} URL", field=STATUS)
