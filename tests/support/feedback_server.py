"""Feedback as a controller serves it, on a real store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any, Self

import grpc.aio

from extproc.adapters.sqlite.store import SqliteStore
from extproc.clock import SystemClock
from extproc.decision_id import DecisionIds, KeyFile
from extproc.net.endpoints import TcpEndpoint
from extproc.net.listening import Listening
from extproc.run.feedback import feedback_service
from extproc.state import StateFolder
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.rollouts import CANARY, document


class ServedFeedback:
    """The feedback of a real store with one canary at weight 50, over HTTP and gRPC, on a thread of its own.

    ``counted`` is what became of records, ``epoch`` the rollout's only one.
    """

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:{folder / 'dropout.db'}"
        store = SqliteStore(folder / "dropout.db", create=True)
        status = Status(stable="3", canary="4", weight=5000)
        store.write([Write("payments", "fraud-detector", None, document(CANARY), status)])
        (self.epoch,) = store.epochs_of("payments", "fraud-detector")
        store.close()
        self.counted: Counter[str] = Counter()
        self._ids = DecisionIds(KeyFile(folder / "dropout.db.ids", SystemClock()), 0, SystemClock())
        self.token_file = folder / "dropout.db.token"
        self.socket = f"unix:{folder / 'c.sock'}"
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._stack = ExitStack()
        self.service = self._stack.enter_context(
            feedback_service(self.url, StateFolder.of(self.url, None), SystemClock(), self._count)
        )
        self.call(self._start())
        self.token = self.token_file.read_text().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop())
        self._stack.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def make_id(self, arm: int = 2) -> str:
        """The id of a decision for ``arm``, the canary's by default."""
        return self._ids.seal(self._ids.nonce(), self.epoch.number, arm, 0)

    def connect(self) -> HTTPConnection:
        """A connection."""
        host, _, port = self.address.rpartition(":")
        return HTTPConnection(host, int(port), timeout=60)

    def post(self, body: Any, token: str | None = None, **headers: str) -> tuple[int, Any]:
        """Post ``body``, as JSON unless it is bytes, with the right token unless another is given."""
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            bearer = f"Bearer {self.token if token is None else token}"
            connection.request("POST", "/v1/feedback", data, {"authorization": bearer, **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _count(self, code: str, records: int) -> None:
        self.counted[code] += records

    async def _start(self) -> None:
        await self.listen(0)
        self._grpc = grpc.aio.server()
        self._grpc.add_generic_rpc_handlers((self.service.handler(),))
        self._grpc.add_insecure_port(self.socket)
        await self._grpc.start()

    async def listen(self, port: int) -> None:
        """Take feedback over HTTP at ``port``."""
        listening = Listening(TcpEndpoint("127.0.0.1", port), "--feedback-listen", tokens=self.token_file)
        self.address = (await self.service.start(listening)).listener.endpoint.target

    async def _stop(self) -> None:
        await self._grpc.stop(0)
        await self.service.stop(1.0)
