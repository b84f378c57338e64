"""``dropout serve --with-controller``: the flags that are for the controller, and the command that they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from extproc.cli.listeners import SECURITY, TOKENS_HELP, Security, as_flags, check_text, security, tokens_file
from extproc.cli.metric_servers import FLAG as METRICS_FLAG
from extproc.cli.metric_servers import metric_servers, metrics_option
from extproc.cli.policy_options import policy_flags
from extproc.errors import InvalidInput
from extproc.net.endpoints import parse_host_port
from extproc.net.listening import BESIDE_SERVE, FEEDBACK
from extproc.net.tls import TlsFiles
from extproc.run.controller_options import DEFAULT_LISTEN
from extproc.run.processes import CONTROLLER
from extproc.run.serve_options import PolicyOptions
from extproc.serve.supervisor.children import AuxiliaryCommand
from extproc.state import StateFolder


@dataclass(frozen=True, slots=True)
class ControllerFlags:
    """What a controller beside the workers is given; ``tls`` are the certificates that its listeners use, if any do."""

    state: Path | None
    listen: str
    control_tokens: Path | None
    envoy_admin: Sequence[str]
    feedback_listen: str | None
    metrics: Sequence[str]
    tls: TlsFiles | None
    secured: Security

    def command(self, store: str, policies: PolicyOptions, envoy_dir: Path | None) -> AuxiliaryCommand:
        """The command that runs it on the supervisor's store."""
        flags = as_flags(
            {
                "--store": store,
                "--state": self.state,
                "--listen": self.listen,
                "--control-tokens": self.control_tokens,
                "--envoy-admin": tuple(self.envoy_admin),
                "--envoy-dir": envoy_dir if self.envoy_admin else None,
                "--feedback-listen": self.feedback_listen,
                "--metrics": tuple(self.metrics),
                "--tls-cert": self.tls and self.tls.certificate,
                "--tls-key": self.tls and self.tls.key,
                "--tls-client-ca": self.tls and self.tls.client_ca,
                "--allowed-host": self.secured.names,
                "--insecure": self.secured.insecure,
                **policy_flags(policies),
            }
        )
        return AuxiliaryCommand("controller", (*CONTROLLER, *flags, "--pipe"))


_OPTIONS: Final = (
    click.option("--with-controller", is_flag=True, help="Run a controller beside the workers."),
    click.option(
        "--control-listen",
        metavar="ADDRESS",
        help=f"Where its API is: unix:PATH or HOST:PORT.  [default: {DEFAULT_LISTEN}]",
    ),
    click.option("--control-tokens", metavar="FILE", help=f"For --control-listen. {TOKENS_HELP}"),
    click.option(
        "--envoy-admin",
        multiple=True,
        metavar="HOST:PORT",
        help="An Envoy that is asked whether it has what is in --envoy-dir, and by the controller whether a version can"
        " be served; may be given several times.",
    ),
    click.option(
        "--feedback-listen",
        metavar="ADDRESS",
        help="Where it takes labels over HTTP: [https://]HOST:PORT or unix:PATH.",
    ),
    metrics_option,
)


def controller_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of ``serve`` that are for its controller, as the parameter ``controller``; None without one.

    Those of ``security_options`` are for both, and become ``secured``.
    """

    @wraps(command)
    def with_flags(
        with_controller: bool,
        control_listen: str | None,
        control_tokens: str | None,
        envoy_admin: Sequence[str],
        feedback_listen: str | None,
        metrics: Sequence[str],
        **others: Any,
    ) -> None:
        of_security = {name: others.pop(name) for name in SECURITY}
        check_text(of_security)
        secured = security(**of_security)
        given = _Given(with_controller, control_listen, control_tokens, feedback_listen, metrics)
        envoys = [parse_host_port(address, "--envoy-admin") for address in envoy_admin]
        if envoys and not (with_controller or others["envoy_dir"]):
            message = "it is asked about --envoy-dir, or by a controller; add one of them, or --with-controller"
            raise InvalidInput.of("envoy_admin_unused", message, field="--envoy-admin")
        flags = _checked(given, envoy_admin, others["store"], others["state"], secured)
        command(controller=flags, envoy_admin=envoys, secured=secured, **others)

    decorated: Callable[..., None] = with_flags
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


class _Given(NamedTuple):
    """The flags as they are given."""

    wanted: bool
    listen: str | None
    tokens: str | None
    feedback: str | None
    metrics: Sequence[str]


def _checked(
    given: _Given, envoys: Sequence[str], store: str, state: Path | None, secured: Security
) -> ControllerFlags | None:
    """The flags, if they can be right: a mistake is told before anything is served.

    Raises:
        InvalidInput: ``controller_flag_unused`` for flags without a controller, or what is wrong with an address.
    """
    if not given.wanted:
        of_controller = (BESIDE_SERVE.flag, "--control-tokens", FEEDBACK.flag, METRICS_FLAG)
        for flag, value in zip(of_controller, given[1:], strict=True):
            if value:
                message = "it is for a controller; add --with-controller"
                raise InvalidInput.of("controller_flag_unused", message, field=flag)
        return None
    metric_servers(given.metrics)
    listen, tokens = given.listen or DEFAULT_LISTEN, tokens_file(given.tokens)
    listeners = [secured.listening(BESIDE_SERVE, listen, tokens)]
    if given.feedback:
        listeners.append(secured.listening(FEEDBACK, given.feedback, StateFolder.made(store, state).token))
    tls = secured.tls if any(each.tls for each in listeners) else None
    return ControllerFlags(state, listen, tokens, envoys, given.feedback, given.metrics, tls, secured)
