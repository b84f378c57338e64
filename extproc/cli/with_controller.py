"""``dropout serve --with-controller``: the flags that are for the controller, and the command that they come to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli.controller_options import DEFAULT_LISTEN, FEEDBACK_FLAG, control_endpoint, feedback_endpoint
from extproc.errors import InvalidInput
from extproc.serve.auxiliary import AuxiliaryCommand
from extproc.serve.endpoints import parse_host_port

_CONTROLLER: Final = (sys.executable, "-P", "-m", "extproc.cli", "controller")


@dataclass(frozen=True, slots=True)
class ControllerFlags:
    """What a controller beside the workers is given."""

    listen: str
    envoy_admin: Sequence[str]
    feedback_listen: str | None
    insecure: bool

    def command(self, store: str, policies: Path | None) -> AuxiliaryCommand:
        """The command that runs it on the supervisor's store."""
        flags = ["--store", store, "--listen", self.listen]
        for address in self.envoy_admin:
            flags += ["--envoy-admin", address]
        if self.feedback_listen:
            flags += ["--feedback-listen", self.feedback_listen]
        if self.insecure:
            flags.append("--insecure")
        if policies is not None:
            flags += ["--policies", str(policies)]
        return AuxiliaryCommand("controller", (*_CONTROLLER, *flags, "--pipe"))


_OPTIONS: Final = (
    click.option("--with-controller", is_flag=True, help="Run a controller beside the workers."),
    click.option("--control-listen", metavar="unix:PATH", help=f"The socket of its API.  [default: {DEFAULT_LISTEN}]"),
    click.option(
        "--envoy-admin",
        multiple=True,
        metavar="HOST:PORT",
        help="An Envoy that it asks whether a version can be served; may be given several times.",
    ),
    click.option("--feedback-listen", metavar="HOST:PORT", help="Where it takes labels over HTTP."),
)


def controller_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of ``serve`` that are for its controller, as the parameter ``controller``; None without one."""

    @wraps(command)
    def with_flags(
        with_controller: bool,
        control_listen: str | None,
        envoy_admin: Sequence[str],
        feedback_listen: str | None,
        insecure: bool,
        **others: Any,
    ) -> None:
        flags = _checked(with_controller, control_listen, envoy_admin, feedback_listen, allow_insecure=insecure)
        command(controller=flags, insecure=insecure, **others)

    decorated: Callable[..., None] = with_flags
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _checked(
    wanted: bool,
    listen: str | None,
    envoy_admin: Sequence[str],
    feedback_listen: str | None,
    *,
    allow_insecure: bool,
) -> ControllerFlags | None:
    """The flags, if they can be right: a mistake is told before anything is served.

    Raises:
        InvalidInput: ``controller_missing`` for flags without a controller, or what is wrong with an address.
    """
    given = [("--control-listen", listen), (FEEDBACK_FLAG, feedback_listen)]
    given += [("--envoy-admin", address) for address in envoy_admin]
    for flag, address in given:
        if address is None:
            continue
        if not wanted:
            raise InvalidInput.of("controller_missing", "It is for a controller; add --with-controller.", field=flag)
        if flag == "--control-listen":
            control_endpoint(address, flag)
        elif flag == FEEDBACK_FLAG:
            feedback_endpoint(address, allow_insecure=allow_insecure)
        else:
            parse_host_port(address, flag)
    return ControllerFlags(listen or DEFAULT_LISTEN, envoy_admin, feedback_listen, allow_insecure) if wanted else None
