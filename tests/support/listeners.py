"""Each service that listens for others, on each kind of address, as one thing that tests can ask and attack."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, Self

import grpc

from extproc.adapters.sqlite.store import SqliteStore
from extproc.clock import SystemClock
from extproc.control.access import DirectControl
from extproc.control.actions import Lane
from extproc.control.api.client import Credentials, RemoteControl
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.api.server import ControlServer
from extproc.errors import Refused, Unreachable
from extproc.net.admin import AdminServer, Page
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint
from extproc.net.grpc_service import GrpcService
from extproc.net.listener import Listener
from extproc.net.listening import Listening
from extproc.net.relay import PREFACE
from extproc.net.tls import TlsFiles
from extproc.protect.access_log import METHOD, SERVICE, AccessLogService, server_options
from tests.support.certificates import Identity, identity

AUTHORITY = identity("authority")
SERVICES = ("admin", "feedback", "control", "observer")
ADDRESSES = ("unix", "tcp", "tls")
TOKEN = "t" * 40
PAGE = b"x" * 100_000

_HTTP = ("admin", "feedback")


class NoFeedback:
    """Takes everything and counts nothing."""

    def record(self, _records: Any) -> list[Any]:
        return []


class Served:
    """``service`` on an ``address`` of its kind, on a loop of its own; in the name of ``actors`` control was asked for.

    ``tokens``: those in the file ``tokens`` are asked for; ``client_ca``: a certificate of the authority in ``ca.crt``.
    """

    def __init__(
        self, service: str, address: str, folder: Path, *, tokens: bool = True, client_ca: bool = False
    ) -> None:
        self.service, self.address, self.folder = service, address, folder
        self.actors: list[Any] = []
        self.encrypted = address == "tls"
        (folder / "tokens").write_text(f"{TOKEN} alice deployers oncall\n")
        (folder / "tokens").chmod(0o600)
        (folder / "ca.crt").write_bytes(AUTHORITY.pem)
        identity("first", AUTHORITY).write(folder)
        files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt" if client_ca else None)
        endpoint = UnixEndpoint(folder / "run" / "s") if address == "unix" else TcpEndpoint("127.0.0.1", 0)
        self.listening = Listening(
            endpoint,
            "--listen",
            tls=files if self.encrypted else None,
            tokens=folder / "tokens" if tokens else None,
            names=("dropout.example",),
            open_to_all=address != "unix" and not tokens and not client_ca,
        )
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, daemon=True)
        self._server: Any = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    @property
    def listener(self) -> Listener:
        return self._server.listener

    def pass_time(self, seconds: int) -> None:
        """Have the service find that as many seconds are over."""

        async def sweep() -> None:
            for _ in range(int(seconds / self.listener._room._tick_seconds) + 1):
                self.listener._room.sweep()

        self.call(sweep())

    # -- asking

    def ask(self, token: str | None = TOKEN, who: Identity | None = None, **headers: str) -> str:
        """What becomes of a good question: "answered", "refused" if it is said that it is nobody's, else "closed"."""
        with suppress(OSError, HTTPException, Unreachable):
            if self.service in _HTTP:
                status = self.get(token, who, **headers)[0]
                return {200: "answered", 401: "refused"}.get(status, str(status))
            if self.service == "control":
                return self._ask_control(token, who)
            return self._ask_observer(token, who)
        return "closed"

    def get(
        self, token: str | None = TOKEN, who: Identity | None = None, path: str = "", **headers: str
    ) -> tuple[int, bytes]:
        """A page, or what becomes of some feedback."""
        connection = HTTPConnection("localhost", timeout=60)
        connection.sock = self.connect(who)
        with closing(connection):
            given = {"host": "localhost", **headers}
            given |= {"authorization": f"Bearer {token}"} if token is not None else {}
            if self.service == "admin" or path:
                connection.request("GET", path or "/page", headers=given)
            else:
                connection.request("POST", "/v1/feedback", b'{"records": []}', given)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def connect(self, who: Identity | None = None, *, encrypted: bool = True) -> socket.socket:
        """A connection on which nothing was sent yet."""
        endpoint = self.listener.endpoint
        if isinstance(endpoint, UnixEndpoint):
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(str(endpoint.path))  # waits where the queue is full; with a timeout it would fail at once
            plain.settimeout(60)
            return plain
        plain = socket.create_connection((endpoint.host, endpoint.port), timeout=60)
        if not (self.encrypted and encrypted):
            return plain
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        context.set_alpn_protocols(["http/1.1" if self.service in _HTTP else "h2"])
        if who is not None:
            files = self._files_of(who)
            context.load_cert_chain(*files)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def half(self) -> bytes:
        """The beginning of what a client says."""
        return b"GET /page HTTP/1.1\r\nhost: loc" if self.service in _HTTP else PREFACE[:14]

    def served_name(self) -> str:
        """The common name in the certificate that a new connection is shown."""
        with self.connect() as connection:
            assert isinstance(connection, ssl.SSLSocket)
            return str(dict(part[0] for part in connection.getpeercert()["subject"])["commonName"])

    def _files_of(self, who: Identity) -> tuple[Path, Path]:
        files = self.folder / "client.crt", self.folder / "client.key"
        files[0].write_bytes(who.pem)
        files[1].write_bytes(who.key_pem)
        return files

    def target(self) -> str:
        """Its address, as ``--control`` has it."""
        target = self.listener.endpoint.target
        return target if self.address == "unix" else f"http{'s' if self.encrypted else ''}://{target}"

    def remote(self, token: str | None = TOKEN, who: Identity | None = None) -> RemoteControl:
        """A client of control."""
        shown = self.folder / "shown"
        shown.write_text(token or "")
        files = self._files_of(who) if who is not None else (None, None)
        return RemoteControl(
            self.target(), Credentials(shown if token is not None else None, self.folder / "ca.crt", *files)
        )

    def _ask_control(self, token: str | None, who: Identity | None) -> str:
        with closing(self.remote(token, who)) as remote:
            try:
                remote.rollouts()
            except Refused as error:
                return "refused" if error.code == "unauthorized" else error.code
            return "answered"

    def _ask_observer(self, token: str | None, who: Identity | None) -> str:
        target, options = self.listener.endpoint.target, [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(target, options)
        if self.encrypted:
            pair = (who.key_pem, who.pem) if who is not None else (None, None)
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(AUTHORITY.pem, *pair), options)
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        with channel:
            try:
                channel.stream_unary(f"/{SERVICE}/{METHOD}")(iter([b""]), timeout=60, metadata=metadata)
            except grpc.RpcError as error:
                return "refused" if error.code() is grpc.StatusCode.UNAUTHENTICATED else "closed"
            return "answered"

    # -- serving

    async def _start(self) -> None:
        listening = self.listening
        if self.service == "admin":
            self._server = AdminServer(listening, {"/healthz": _page, "/page": _large_page})
        elif self.service == "feedback":
            feedback: Any = NoFeedback()
            self._feedback = FeedbackService(feedback, lambda _code, _records: None)
            self._server = await self._feedback.start(listening)
            return
        elif self.service == "control":
            self._store = SqliteStore(self.folder / "dropout.db", create=True)
            self._server = ControlServer(listening, self._control)
        else:
            handler = AccessLogService(lambda _entries: None, lambda: None).handler()
            self._server = GrpcService(listening, (handler,), server_options())
        await self._server.start()

    def _control(self, who: Any, _lane: Lane) -> DirectControl:
        self.actors.append(who)
        return DirectControl(self._store, who.name, SystemClock())

    async def _stop(self) -> None:
        if self.service == "admin":
            await self._server._service.stop(0)
        elif self.service == "feedback":
            await self._feedback.stop(0)
        else:
            await self._server.stop(0)


async def _page() -> Page:
    return Page(200, b"ok\n")


async def _large_page() -> Page:
    return Page(200, PAGE)
