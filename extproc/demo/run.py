"""One run of the demo from beginning to end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.demo.acts import ACTS
from extproc.demo.documents import write_rollout
from extproc.demo.environment import Environment, find_envoy
from extproc.demo.loops import LOOP_ACTS, Loops
from extproc.demo.processes import START_SECONDS, check_port
from extproc.demo.report import measure, print_rollouts, print_table, weights_asked_for
from extproc.demo.scenario import Scenario, bucket
from extproc.demo.screen import Screen
from extproc.demo.traffic import Traffic
from extproc.demo.versions import DESCRIPTIONS, MODEL
from extproc.errors import Fault, Refused

RUN_FOLDER: Final = "demo-run"
FONTS_FOLDER: Final = "matplotlib"


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How much: users, their requests per second together, and how often each asks at every weight."""

    users: int = 400
    per_second: float = 400.0
    rounds: int = 2


def run_demo(build: Path, plan: DemoPlan, envoy_port: int | None, transport: str, screen: Screen) -> dict[str, Any]:
    """Play all acts; write ``demo.json`` and ``demo.png`` into ``build``; the facts.

    Raises:
        Refused: ``claim_failed`` for each claim that did not hold.
        Unreachable: when something could not be started.
        KeyboardInterrupt: after everything was ended, when a signal asked for it.
    """
    find_envoy()
    if envoy_port is not None:
        check_port(envoy_port)
    folder = build.absolute() / RUN_FOLDER
    _make_empty(folder)
    began = time.monotonic()
    facts = asyncio.run(_until_interrupted(_play(folder, plan, envoy_port, transport, screen)))
    facts = {"seconds": round(time.monotonic() - began, 1), **facts}
    (build / "demo.json").write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2) + b"\n")
    _draw(build, folder)
    print_table(screen, facts)
    print_rollouts(screen, facts)
    if failures := [Fault("claim_failed", failure) for act in facts["acts"] for failure in act["failures"]]:
        raise Refused(failures)
    return facts


async def _play(folder: Path, plan: DemoPlan, envoy_port: int | None, transport: str, screen: Screen) -> dict[str, Any]:
    # By bucket: whenever one looks, users from the whole range of buckets are asking, and shares are steady.
    users = sorted((f"user-{number:04}" for number in range(plan.users)), key=bucket)
    environment = Environment(folder, envoy_port, transport)
    try:
        screen.say(f"Four versions of a breast-cancer classifier behind Envoy, and {plan.users} users.", style="bold")
        for version, description in DESCRIPTIONS.items():
            screen.say(f"   version {version}: {description}", style="dim")
        await environment.start(write_rollout(folder, "rollout"))
        traffic = Traffic(environment.envoy_port, users, await environment.patients(), per_second=plan.per_second)
        scenario = Scenario(environment, traffic, screen, plan.rounds)
        await traffic.until_decided(START_SECONDS)
        traffic.start()
        told = await _acts(scenario)
        await traffic.stop()
    finally:
        await environment.stop()
    facts = measure(traffic.answers, environment.reasons())
    for version, count in scenario.copies.items():
        facts["versions"][version]["copies"] = count
    unexpected = facts["errors"] - told["rollouts"]["4"]["failed_requests"]
    scenario.acts[-1].require(unexpected == 0, f"{unexpected} requests failed elsewhere: {facts['error_kinds']}.")
    return {
        "users": plan.users,
        "traffic_seconds": round(scenario.acts[-1].ended, 1),
        "holds": not any(act.failures for act in scenario.acts),
        **facts,
        **told,
        "acts": [act.facts() for act in scenario.acts],
    }


async def _acts(scenario: Scenario) -> dict[str, Any]:
    """Play all acts: first by hand, then nobody touches anything; what they have to tell beside the answers."""
    for title, total, scene in ACTS:
        await scenario.play(title, total(scenario), scene)
    history = orjson.loads(await scenario.environment.dropout("rollout", "history", MODEL, "-o", "json"))["history"]
    weights = weights_asked_for(history, scenario.traffic.began_at)
    loops = Loops(scenario)
    try:
        for title, changes, loop in LOOP_ACTS:
            await scenario.play(title, changes, partial(loop, loops))
        return {"weights": weights, "rollouts": await loops.facts(), "labels": loops.labeller.facts()}
    finally:
        await loops.close()


async def _until_interrupted(play: Any) -> dict[str, Any]:
    """Run to the end, or until SIGINT, SIGTERM or SIGHUP: then everything is ended in order, too."""
    task = asyncio.ensure_future(play)
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if not task.cancelling():  # a second Ctrl-C must not interrupt the cleaning up
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        facts: dict[str, Any] = await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    return facts


def _make_empty(folder: Path) -> None:
    """The folder without what the last run left; the fonts that matplotlib found may stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != FONTS_FOLDER:
            shutil.rmtree(entry)
        elif not entry.is_dir():
            entry.unlink()


def _draw(build: Path, folder: Path) -> None:
    """Draw the picture in a process of its own, whose font cache stays below the build folder."""
    command = [sys.executable, "-P", "-m", "extproc.demo.picture", str(build / "demo.json"), str(build / "demo.png")]
    environment = {**os.environ, "MPLCONFIGDIR": str(folder / FONTS_FOLDER), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Refused.of("demo_picture", f"The picture could not be drawn: {done.stderr.strip()}")
