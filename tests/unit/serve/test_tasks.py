"""Nothing in the background ends a process, and nothing that fails does so in silence."""

from __future__ import annotations

import ast
import asyncio
import logging

import pytest

from extproc.serve import tasks
from extproc.serve.supervisor import children
from extproc.serve.tasks import Tasks
from tests.support.paths import ROOT


class Surprising:
    """Work that fails so many times, each time by the same surprise, before it goes on for ever."""

    def __init__(self, failures: int, surprise: Exception) -> None:
        self.begun = 0
        self.failures = failures
        self.surprise = surprise
        self.goes_on = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        if self.begun <= self.failures:
            raise self.surprise
        self.goes_on.set()
        await asyncio.Event().wait()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children.Backoff, "after", lambda _backoff, _lived: 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("surprise", [RecursionError("deep"), TypeError("a list"), OSError(5, "what"), MemoryError()])
async def test_work_that_fails_begins_again_and_is_counted_and_said_once(
    surprise: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[str] = []
    background, work, other = Tasks(failed.append), Surprising(3, surprise), Surprising(0, surprise)
    with caplog.at_level(logging.ERROR, tasks.__name__):
        background.keep("envoy", work)
        background.keep("rollouts", other)
        await asyncio.wait_for(work.goes_on.wait(), 60)
    assert failed == ["envoy"] * 3
    assert (work.begun, other.begun) == (4, 1)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await background.end()


async def test_what_is_done_once_is_not_done_again() -> None:
    failed: asyncio.Queue[str] = asyncio.Queue()
    background, work = Tasks(failed.put_nowait), Surprising(9, KeyError("x"))
    background.once("describe", work())
    assert await asyncio.wait_for(failed.get(), 60) == "describe"
    await background.end()
    assert (failed.empty(), work.begun) == (True, 1)


async def test_all_of_it_ends_when_the_process_does() -> None:
    background, work = Tasks(lambda _name: None), Surprising(0, KeyError())
    background.keep("store", work)
    await work.goes_on.wait()
    await asyncio.wait_for(background.end(), 60)


OTHERS = {
    "serve/tasks.py",
    "serve/supervisor/start.py",  # what is waited for
    "serve/supervisor/bundle_keeper.py",  # one bundle's, within a group that is work of its own
    "serve/supervisor/end.py",  # the ends of others, which are waited for
    "net/asgi.py",  # uvicorn's own
    "net/http_protocol.py",  # one request's
    "net/listener.py",  # one connection's, until it is encrypted
    "net/relay.py",  # one connection's to gRPC
    "adapters/rest/connection.py",  # one request's, which outlives who waited for it
    "adapters/rest/features.py",  # the parts of one read, which waits for them
    "adapters/opa/policy.py",  # the end of connections that others took the place of
    "datapath/remote_policies.py",  # one question's: its failure is a verdict
    "datapath/circuit.py",  # one that probes: its failure ends the probing
    "datapath/feature_reads.py",  # one read's: its failure is the answer to its keys
}


def test_long_work_in_the_background_is_begun_in_one_way() -> None:
    """Whoever makes a task of its own, says why: one that fails would be gone, and maybe all with it."""
    package, found = ROOT / "extproc", set()
    for file in package.rglob("*.py"):
        place = file.relative_to(package).as_posix()
        calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        if names & {"create_task", "ensure_future"} and not place.startswith("demo/"):
            found.add(place)
    assert found == OTHERS
