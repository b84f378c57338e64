"""Every ``serve`` of this host that follows a store, asked at its socket: see ``host_socket``. Blocks, for a while."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import orjson

from extproc.control.unmet import HostLacks
from extproc.net.credentials import peer_of
from extproc.serve.supervisor.host_socket import (
    MAX_BYTES,
    ROOT,
    SUFFIX,
    HostQuestion,
    KillHere,
    KillsHere,
    RestoreHere,
    UnmetHere,
    UnmetThere,
    reachable,
)
from extproc.snapshot.held import Answers, HeldKill

ANSWER_SECONDS: Final = 3.5
MAX_SERVES: Final = 64
"""Sockets that are tried: more than anybody runs of them."""


class HostSockets:
    """All those with a socket in ``folder``; a folder or a socket that somebody else put there is not asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def present(self) -> bool:
        """Whether there may be any."""
        return bool(self._names())

    def alive(self) -> bool:
        """Whether one is there, answers or not."""
        answers = self.kills("-")
        return bool(answers.reached or answers.silent)

    def kill(self, kill: HeldKill) -> Answers:
        """Leave only stable of a rollout, everywhere on this host; the kills that hold there."""
        return self._ask(KillHere(kill.rollout, kill.id, kill.actor, kill.at, kill.stored))

    def kills(self, key: str) -> Answers:
        """The kills of ``key`` that are in force on this host."""
        return self._ask(KillsHere(key))

    def restore(self, key: str, kills: tuple[str, ...], actor: str, at: float, *, stored: bool) -> Answers:
        """End ``kills``, by their ids, on this host; ``stored``: the store has it already that they are over."""
        return self._ask(RestoreHere(key, list(kills), actor, at, stored))

    def unmet(self) -> Mapping[str, HostLacks | None]:
        """What each lacks, by its socket; None for one that gives no answer, or does not know yet.

        One of an earlier version, which does not know the question, lacks nothing that it could say.
        """
        return {name: _lacks(answer) for name, answer in self._answers(UnmetHere()).items()}

    def _names(self) -> list[str]:
        try:
            found = self._folder.stat()
            if found.st_mode & 0o022 or found.st_uid not in (os.geteuid(), ROOT, self._folder.parent.stat().st_uid):
                return []
            return sorted(path.name for path in self._folder.iterdir() if path.suffix == SUFFIX)[:MAX_SERVES]
        except OSError:
            return []

    def _ask(self, question: HostQuestion) -> Answers:
        answers = self._answers(question).values()
        given = [answer for answer in answers if answer is not None and "error" not in answer]
        rows = (kill for answer in given for kill in answer.get("kills", ()))
        kills = {kill[0]: HeldKill(*kill[: len(HeldKill._fields)]) for kill in rows}  # a newer serve tells more of each
        ended = dict.fromkeys(kill for answer in given for kill in answer.get("ended", ()))
        return Answers(
            len(given),
            len(answers) - len(given),
            sum(answer["kept"] for answer in given),
            tuple(kills.values()),
            tuple(ended),
        )

    def _answers(self, question: HostQuestion) -> Mapping[str, dict[str, Any] | None]:
        """What each that is there says, by its socket; None for one that says nothing."""
        names, line = self._names(), msgspec.json.encode(question) + b"\n"
        if not names:
            return {}
        with reachable(self._folder) as folder, ThreadPoolExecutor(len(names)) as threads:
            answers = list(threads.map(lambda name: _answer(f"{folder}/{name}", line), names))
        return {name: answer or None for name, answer in zip(names, answers, strict=True) if answer is not None}


def _lacks(answer: dict[str, Any] | None) -> HostLacks | None:
    if answer is None:
        return None
    if "error" in answer:
        return HostLacks("", ())
    try:
        there = msgspec.convert(answer, UnmetThere)
    except msgspec.ValidationError:
        return None
    return HostLacks(there.host, there.unmet) if there.unmet is not None else None


def _answer(path: str, line: bytes) -> dict[str, Any] | Literal[False] | None:
    """What is answered; None when nobody is there, False when somebody is who gives none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER_SECONDS)
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError:
            return False
        try:
            owner = os.stat(path).st_uid  # noqa: PTH116 - by the descriptor of its folder
            if peer_of(client).uid not in (owner, ROOT):
                return False
            client.sendall(line)
            with client.makefile("rb") as answers:
                answer = orjson.loads(answers.readline(MAX_BYTES))
        except (OSError, ValueError):
            return False
    return answer if isinstance(answer, dict) and answer else False
