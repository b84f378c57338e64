"""Every ``serve`` of this host that follows a store, asked at its socket: see ``host_socket``. Blocks, for a while."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.serve.credentials import peer_of
from extproc.serve.host_socket import MAX_BYTES, ROOT, SUFFIX, reachable
from extproc.snapshot.held import HeldKill

ANSWER_SECONDS: Final = 3.5
MAX_SERVES: Final = 64
"""Sockets that are tried: more than anybody runs of them."""


class Answers(NamedTuple):
    """What those said that were reached. ``silent`` are there and gave no answer.

    ``kills`` are the kills that they hold, or the ids that they ended; ``kept`` is how many have them in their file.
    """

    reached: int = 0
    silent: int = 0
    kept: int = 0
    kills: tuple[HeldKill, ...] = ()
    ended: tuple[str, ...] = ()


class Hosts:
    """All those with a socket in ``folder``; a folder or a socket that somebody else put there is not asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def present(self) -> bool:
        """Whether there may be any."""
        return bool(self._names())

    def kill(self, kill: HeldKill) -> Answers:
        """Leave only stable of a rollout, everywhere on this host; the kills that hold there."""
        body = {"id": kill.id, "actor": kill.actor, "at": kill.at, "stored": kill.stored}
        return self._ask({"do": "kill", "rollout": kill.rollout, **body})

    def kills(self, rollout: str) -> Answers:
        """The kills of ``rollout`` that are in force on this host."""
        return self._ask({"do": "kills", "rollout": rollout})

    def restore(self, rollout: str, kills: tuple[str, ...], actor: str, at: float, *, stored: bool) -> Answers:
        """End ``kills``, by their ids, on this host; ``stored``: the store has it already that they are over."""
        body = {"kills": list(kills), "actor": actor, "at": at, "stored": stored}
        return self._ask({"do": "restore", "rollout": rollout, **body})

    def _names(self) -> list[str]:
        try:
            found = self._folder.stat()
            if found.st_mode & 0o022 or found.st_uid not in (os.geteuid(), ROOT, self._folder.parent.stat().st_uid):
                return []
            return sorted(path.name for path in self._folder.iterdir() if path.suffix == SUFFIX)[:MAX_SERVES]
        except OSError:
            return []

    def _ask(self, question: Mapping[str, Any]) -> Answers:
        names, line = self._names(), orjson.dumps(question) + b"\n"
        if not names:
            return Answers()
        with reachable(self._folder) as folder, ThreadPoolExecutor(len(names)) as threads:
            answers = list(threads.map(lambda name: _answer(f"{folder}/{name}", line), names))
        given = [answer for answer in answers if isinstance(answer, dict)]
        rows = (kill for answer in given for kill in answer.get("kills", ()))
        kills = {kill[0]: HeldKill(*kill[: len(HeldKill._fields)]) for kill in rows}  # a newer serve tells more of each
        ended = dict.fromkeys(kill for answer in given for kill in answer.get("ended", ()))
        return Answers(
            len(given),
            sum(answer is False for answer in answers),
            sum(answer["kept"] for answer in given),
            tuple(kills.values()),
            tuple(ended),
        )


def _answer(path: str, line: bytes) -> dict[str, Any] | bool | None:
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
    return answer if isinstance(answer, dict) and "error" not in answer else False
