"""Whether Envoy has its routes, as it is told: a first start is none of the troubles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from extproc.errors import Fault
from extproc.serve.supervisor import envoy_keeper
from extproc.serve.supervisor.envoy_keeper import EnvoyKeeper
from extproc.serve.supervisor.folder_faults import FolderFaults

ADDRESS = "127.0.0.1:9901"
SILENT = Fault("envoy_silent", f"Envoy at {ADDRESS} does not answer")


class Told:
    """A keeper of one Envoy; a step of ``course`` is what is wrong with it and whether it may be starting."""

    def __init__(self, *course: tuple[Fault | None, bool]) -> None:
        self.course = list(course)
        self.said, self.warned = list[str](), list[str]()
        refusals = FolderFaults("envoy", refused=lambda: None, warn=self.warned.append)
        self.keeper = EnvoyKeeper(self, refusals, self, self.said.append, self.warned.append)

    def exist(self) -> bool:
        return True

    def write(self) -> None:
        """There is nothing to write."""

    def start(self) -> None:
        """It is asked from here on."""

    def faults(self) -> Mapping[str, Fault | None]:
        return {ADDRESS: self.course[0][0]}

    def awaited(self) -> list[str]:
        return [ADDRESS] if self.course[0][1] else []

    async def sleep(self, _seconds: float) -> None:
        self.course.pop(0)
        if not self.course:
            raise asyncio.CancelledError


async def follow(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_keeper.asyncio, "sleep", told.sleep)
    with pytest.raises(asyncio.CancelledError):
        await told.keeper.run()


async def test_an_envoy_that_starts_after_serve_is_awaited_and_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told((SILENT, True), (SILENT, True), (None, False), (SILENT, True), (None, False))
    await follow(told, monkeypatch)
    assert told.said == [f"envoy: waits for Envoy at {ADDRESS}, which has not said yet that it has the routes"]
    assert told.warned == []


async def test_one_that_does_not_come_is_told_of_and_so_is_that_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told((SILENT, True), (SILENT, False), (SILENT, False), (None, False))
    await follow(told, monkeypatch)
    begin, end = told.warned
    assert begin == f"Envoy at {ADDRESS} does not answer (envoy_silent)"
    assert end.startswith(f"Envoy at {ADDRESS}: well again after ")
