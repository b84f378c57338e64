"""``dropout demo``: real models behind a real Envoy, moved by hand and then by themselves, in two minutes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from extproc.cli.output import output_option, print_json
from extproc.errors import Unreachable
from extproc.serve.worker_config import GRPC, TRANSPORTS

EXTRAS: Final = {"sklearn": "scikit-learn", "uvicorn": "uvicorn", "rich": "rich", "matplotlib": "matplotlib"}
"""What the demo imports beyond what ``serve`` needs -> the package that brings it."""


@click.command(short_help="Real models behind a real Envoy, decided by Dropout.")
@click.option(
    "--build-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where the picture, the facts and all logs go.",
)
@click.option("--envoy-port", type=click.IntRange(1, 65535), help="The port of Envoy. Default: a free one.")
@click.option("--users", type=click.IntRange(40, 5000), default=400, show_default=True, help="How many users ask.")
@click.option("--rounds", type=click.IntRange(2, 60), default=2, show_default=True, help="Seconds at every weight.")
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    default=GRPC,
    show_default=True,
    help="How Envoy asks.",
)
@output_option
def demo(build_dir: Path, envoy_port: int | None, users: int, rounds: int, transport: str, output: str) -> None:
    """Show weights moved live, a policy, features, a shadow copy, spoofing, a killed worker and the kill switch.

    Then nobody touches anything: one version is promoted step by step, one is rolled back because labels say that it is
    wrong, and one that fails is taken away by the breaker with no controller there.

    Every claim is checked against what the users got; exit code 1 names those that do not hold.
    """
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        message = f"the demo needs {', '.join(missing)}: pip install 'dropout-router[demo]'"
        raise Unreachable.of("extras_missing", message)
    from extproc.demo.run import DemoPlan, run_demo
    from extproc.demo.screen import Screen

    screen = Screen(quiet=output == "json")
    try:
        facts = run_demo(
            build_dir, DemoPlan(users=users, per_second=users, rounds=rounds), envoy_port, transport, screen
        )
    except KeyboardInterrupt:
        click.echo("Stopped; everything that the demo started has ended.", err=True)
        raise click.exceptions.Exit(130) from None
    if output == "json":
        print_json(facts)
        return
    screen.say(f"\nPicture: {build_dir / 'demo.png'}   Facts: {build_dir / 'demo.json'}   ({facts['seconds']} s)")
