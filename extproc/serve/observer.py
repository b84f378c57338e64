"""The observer's process: one event loop, one endpoint for Envoy's access log; started and replaced by the supervisor.

No request waits for it. Without a supervisor there is nobody to tell of a trip, so it ends with the pipe.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final, Protocol, assert_never

import uvloop

from extproc.errors import DropoutError
from extproc.net.grpc_service import GrpcService
from extproc.protect.access_log import AccessLogService, server_options
from extproc.serve.channel import Channel, faults_of
from extproc.serve.messages import (
    TO_OBSERVER,
    AdoptTrips,
    Alive,
    Counted,
    DecisionCounts,
    Failed,
    FromObserver,
    ObserverReady,
    StartObserver,
    ToObserver,
    TripsInForce,
    WantMetrics,
)
from extproc.serve.tasks import Tasks
from extproc.serve.worker_config import ObserverConfig
from extproc.snapshot.trips import LocalTrip

TICK_SECONDS: Final = 0.05
_TICKS_A_BEAT: Final = 5
_GRACE_SECONDS: Final = 0.2


class ObserverApplication(Protocol):
    """What an observer runs, put together by the composition root. Everything happens on the event loop's thread."""

    @property
    def service(self) -> AccessLogService:
        """What takes the access log."""
        ...

    @property
    def surpluses(self) -> Sequence[tuple[str, str, int]]:
        """The versions, after their rollouts, of which the log told more ends than there were decisions; how many."""
        ...

    def decided(self, decided: DecisionCounts) -> None:
        """A worker tells what it decided, see ``datapath.sinks.tally``."""
        ...

    def adopt(self, trips: Sequence[LocalTrip]) -> None:
        """Keep away too what another ``serve`` of this host took away."""
        ...

    def tick(self) -> None:
        """Do what is due by the clock."""
        ...

    async def follow(self) -> None:
        """Follow the store, until cancelled."""
        ...

    async def report(self) -> None:
        """Write down what is observed, until cancelled."""
        ...

    def count_failure(self, task: str) -> None:
        """Work in the background failed by a bug."""
        ...

    def dump(self) -> dict[str, Any]:
        """The metrics."""
        ...

    async def close(self) -> None:
        """Write what is still to be written and let go of everything."""
        ...


TellTrips = Callable[[Sequence[LocalTrip], Sequence[LocalTrip]], None]
"""Takes the trips in force and those that probes lifted, see ``protect.observer.Events``."""

AssembleObserver = Callable[[ObserverConfig, Sequence[LocalTrip], TellTrips], ObserverApplication]


def run_observer(pipe: int, assemble: AssembleObserver) -> int:
    """Observe until told to stop; the exit status. ``pipe`` is an inherited descriptor."""

    async def live() -> int:
        return await ObserverProcess(socket.socket(fileno=pipe), assemble).run()

    return uvloop.run(live())


class ObserverProcess:
    """The life of one observer."""

    def __init__(self, pipe: socket.socket, assemble: AssembleObserver) -> None:
        self._pipe = pipe
        self._assemble = assemble
        self._channel = Channel[FromObserver, ToObserver](TO_OBSERVER, self._received, self._closed)
        self._started: asyncio.Future[StartObserver] = asyncio.Future()
        self._stop = asyncio.Event()
        self._app: ObserverApplication | None = None

    async def run(self) -> int:
        """From the first message to the end of the pipe; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        await loop.create_unix_connection(lambda: self._channel, sock=self._pipe)
        try:
            start = await self._started
            server, app = await self._start(start)
        except ConnectionError:
            return 0
        except DropoutError as error:
            self._channel.send(Failed(faults_of(error), error.exit_code))
            self._channel.close()
            await asyncio.sleep(0)
            return error.exit_code
        tasks = Tasks(app.count_failure)
        tasks.keep("store", app.follow)
        tasks.keep("report", app.report)
        tasks.keep("ticks", partial(self._turn, app))
        await self._stop.wait()
        await server.stop(_GRACE_SECONDS)
        await tasks.end()
        await app.close()
        return 0

    async def _start(self, start: StartObserver) -> tuple[GrpcService, ObserverApplication]:
        """Listen; the socket takes its place when there is somebody behind it."""
        app = self._assemble(start.config, start.trips, self._tell_trips)
        server = GrpcService(start.config.listening, (app.service.handler(),), server_options())
        await server.start(first=False)  # the supervisor has seen that nobody else listens there
        self._app = app
        self._channel.send(ObserverReady())
        return server, app

    async def _turn(self, app: ObserverApplication) -> None:
        for turn in count():
            app.tick()
            if turn % _TICKS_A_BEAT == 0:
                self._channel.send(Alive(list(app.surpluses)))
            await asyncio.sleep(TICK_SECONDS)

    def _tell_trips(self, trips: Sequence[LocalTrip], lifted: Sequence[LocalTrip]) -> None:
        self._channel.send(TripsInForce(list(trips), list(lifted)))

    def _received(self, message: ToObserver) -> None:
        app = self._app
        match message:
            case StartObserver():
                if not self._started.done():
                    self._started.set_result(message)
            case _ if app is None:
                pass  # it hears of all again when it is ready
            case DecisionCounts():
                app.decided(message)
            case AdoptTrips():
                app.adopt(message.trips)
            case WantMetrics():
                self._channel.send(Counted(app.dump(), id=message.id))
            case _:
                assert_never(message)

    def _closed(self) -> None:
        self._stop.set()
        if not self._started.done():
            with suppress(asyncio.InvalidStateError):
                self._started.set_exception(ConnectionError())
