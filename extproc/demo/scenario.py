"""Where the acts play, and what an act is."""

from __future__ import annotations

import csv
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from extproc.assignment import bucket_of, parse_percent
from extproc.demo.documents import CANARY, SEED, STABLE, VIEW
from extproc.demo.environment import Environment
from extproc.demo.screen import Bar, Screen
from extproc.demo.traffic import Traffic

LOW_RISK, HIGH_RISK = 0.1, 0.95
SETTLE_SECONDS: Final = 15.0
"""An act that waits for an effect gives up after this time."""

Sides = Mapping[str, str]


@dataclass(slots=True)
class Act:
    """One act: what was run, what it measured, and what did not hold."""

    title: str
    began: float = 0.0
    ended: float = 0.0
    requests: int = 0
    shown: str = ""
    commands: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def require(self, holds: bool, failure: str) -> None:
        """Note ``failure`` unless it holds."""
        if not holds:
            self.failures.append(failure)

    def facts(self) -> dict[str, Any]:
        """The act as ``build/demo.json`` has it."""
        return {
            "title": self.title,
            "began": round(self.began, 3),
            "ended": round(self.ended, 3),
            "requests": self.requests,
            "commands": self.commands,
            "holds": not self.failures,
            "shown": self.shown,
            "failures": self.failures,
            **self.numbers,
        }


class Scenario:
    """Where the acts play: the environment, its users, and who should be on which version."""

    def __init__(self, environment: Environment, traffic: Traffic, screen: Screen, rounds: int) -> None:
        self.environment = environment
        self.traffic = traffic
        self.screen = screen
        self.rounds = rounds
        self.users = traffic.users
        self.acts: list[Act] = []
        self.high_risk = frozenset(self.users[::10])
        self.copies: dict[str, int] = {}

    async def play(self, title: str, total: int, scene: Scene) -> Act:
        """Run one act, whose bar is full at ``total``, and print what it has shown."""
        act = Act(title, began=self.traffic.now)
        self.acts.append(act)
        answered = len(self.traffic.answers)
        with self.screen.act(len(self.acts), title, total) as bar:
            await scene(self, act, bar)
            act.ended, act.requests = self.traffic.now, len(self.traffic.answers) - answered
            bar.summary = f"{act.requests:,} requests in {act.ended - act.began:.1f} s"
        self.screen.verdict(act.shown, act.failures)
        return act

    async def run(self, act: Act, *arguments: str) -> None:
        """Run a command of ``dropout`` and show it."""
        self.show(act, "dropout", *arguments)
        await self.environment.dropout(*arguments)

    def show(self, act: Act, *command: str) -> None:
        """Show a command; files are shown as the reader finds them."""
        shown = " ".join(_relative(argument) for argument in command)
        act.commands.append(shown)
        self.screen.command(shown)

    def sides(self, weight: int) -> Sides:
        """The version of every user at ``weight`` percent, by the user's bucket and by nothing else."""
        below = parse_percent(weight)
        return {user: CANARY if bucket(user) < below else STABLE for user in self.users}

    def guarded(self) -> Sides:
        """The version of every user at 100 percent when high-risk users are kept on stable."""
        return {user: STABLE if user in self.high_risk else CANARY for user in self.users}

    def write_risks(self, name: str, users: Iterable[str]) -> str:
        """A file of risk scores, as they are now."""
        file = self.environment.folder / f"{name}.csv"
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["entity", "view", "name", "value"])
            for user in users:
                writer.writerow([user, VIEW, "risk_score", HIGH_RISK if user in self.high_risk else LOW_RISK])
        return str(file)


Scene = Callable[[Scenario, Act, Bar], Awaitable[None]]


def bucket(user: str) -> int:
    """The bucket that decides at which weight the user gets version 2 while weights are moved by hand."""
    return bucket_of(SEED.encode(), user.encode())


def _relative(argument: str) -> str:
    scheme, colon, rest = argument.rpartition(":")
    path, here = Path(rest), Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return f"{scheme}{colon}{path.relative_to(here)}" if inside else argument
