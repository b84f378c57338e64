"""A real Envoy on free ports, and model versions that say who they are and what they were sent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from extproc.demo.processes import free_ports
from extproc.envoy import bootstrap
from tests.support.paths import ROOT
from tests.support.process import PATIENCE, Process, found, wait_for

TEMPLATES = {transport: ROOT / "envoy" / name for transport, name in bootstrap.TEMPLATES.items()}
TEMPLATE = TEMPLATES["grpc"]


def envoy_binary() -> Path:
    """The path of Envoy: the one that the variable ENVOY names, else that of our environment, else one in PATH."""
    named = [Path(os.environ["ENVOY"])] if os.environ.get("ENVOY") else []
    return found("envoy", "make setup", [*named, Path(sys.executable).with_name("envoy")])


def free_port() -> int:
    """A loopback port that nobody listens on."""
    return free_ports(1)[0]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for ``holds``, or fail with ``what`` did not happen."""
    wait_for(holds, what)


def validate(config: Mapping[str, Any], directory: Path) -> str:
    """What ``envoy --mode validate`` has against the configuration; empty if nothing."""
    file = directory / "validate.json"
    file.write_text(json.dumps(config))
    command = [str(envoy_binary()), "--mode", "validate", "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    done = subprocess.run([*command, "-c", str(file)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


class EnvoyProcess(Process):
    """One Envoy, from its configuration to its end."""

    name = "envoy"
    count_of_ports = 0  # the configuration names them

    def __init__(self, config: Mapping[str, Any], directory: Path) -> None:
        super().__init__(directory)
        self.config = config
        self.admin_port = int(config["admin"]["address"]["socket_address"]["port_value"])
        listener = config["static_resources"]["listeners"][0]
        self.ports = [int(listener["address"]["socket_address"]["port_value"])]
        self.output = directory / "access.log"

    def prepare(self) -> None:
        (self.folder / "envoy.json").write_text(json.dumps(self.config))

    def command(self) -> Sequence[str | Path]:
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--drain-time-s", "1"]
        return [envoy_binary(), "-c", self.folder / "envoy.json", *options]

    def ready(self) -> bool:
        return self.admin("/ready").strip() == "LIVE"

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges whose name starts with ``prefix``."""
        lines = (line.partition(": ") for line in self.admin("/stats").splitlines())
        return {name: int(value) for name, _, value in lines if name.startswith(prefix) and value.isdigit()}

    def stat(self, name: str) -> int:
        """One counter or gauge; 0 while Envoy has not made it."""
        return self.stats(name).get(name, 0)

    def failed_open(self) -> int:
        """Requests that went on without a decision."""
        return self.stat("http.ingress.ext_proc.failure_mode_allowed")

    def admin(self, path: str) -> str:
        """What the admin endpoint answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def access_entries(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]


class Upstreams:
    """Model versions on one event loop in a thread; each answers with its name and what it was sent: the headers,
    and how many bytes of a body. ``hosts`` are the addresses of those that are not at 127.0.0.1.

    ``seen[name]`` counts the requests of each; ``failing`` holds names that answer 503, ``hasty`` those that do so
    before they have read a body, ``broken`` those that answer 500, ``hanging`` those that do not answer; ``said`` are
    headers that all add to their answers, ``last[name]`` those that each was sent last. An upgrade is accepted and
    stays open, but with those that are ``failing``; who is in ``dribbling`` begins an answer and ends it when it is
    there no more.
    """

    def __init__(self, *names: str, hosts: Mapping[str, str] | None = None) -> None:
        self.ports: dict[str, int] = {}
        self._hosts = hosts or {}
        self.seen: dict[str, int] = dict.fromkeys(names, 0)
        self.failing: set[str] = set()
        self.broken: set[str] = set()
        self.hasty: set[str] = set()
        self.hanging: set[str] = set()
        self.dribbling: set[str] = set()
        self.said: dict[str, str] = {}
        self.last: dict[str, dict[str, str]] = {}
        self._names = names
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._servers: dict[str, asyncio.Server] = {}

    def start(self) -> Upstreams:
        """Listen, each on a port of its own."""
        self._thread.start()
        for name in self._names:
            self._call(self._listen(name))
        return self

    def stop(self, *names: str) -> None:
        """Close the named ones, or all and the thread with them."""
        for name in names or tuple(self._servers):
            self._call(self._close(name))
        if not names:
            self._call(_cancel_all())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60)
            self._loop.close()

    def restart(self, name: str) -> None:
        """Have one that was stopped listen again, on its port."""
        self._call(self._listen(name))

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _listen(self, name: str) -> None:
        server = await asyncio.start_server(
            lambda reader, writer: self._serve(name, reader, writer),
            self._hosts.get(name, "127.0.0.1"),
            self.ports.get(name, 0),
            backlog=4096,
        )
        self.ports[name] = server.sockets[0].getsockname()[1]
        self._servers[name] = server

    async def _close(self, name: str) -> None:
        server = self._servers.pop(name)
        server.close()
        if hasattr(server, "close_clients"):
            server.close_clients()

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while name in self._servers:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = [line.partition(": ")[::2] for line in head[1:] if line]
                fields = {key.lower(): value for key, value in headers}
                if name in self.hasty:
                    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                received = len(await reader.readexactly(int(fields.get("content-length", 0))))
                if fields.get("transfer-encoding") == "chunked":
                    received = await _chunked(reader)
                self.seen[name] += 1
                if name in self.hasty:
                    continue
                self.last[name] = fields
                while name in self.hanging:  # noqa: ASYNC110 - tests change it from another thread
                    await asyncio.sleep(0.05)
                if "upgrade" in fields:
                    writer.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                    )
                    if name not in self.failing:
                        await reader.read()
                    break
                line = head[0].split(" ")
                said = {"upstream": name, "method": line[0], "path": line[1], "headers": fields, "received": received}
                body = json.dumps(said).encode()
                status = b"503 Service Unavailable" if name in self.failing else b"200 OK"
                status = b"500 Internal Server Error" if name in self.broken else status
                more = "".join(f"{key}: {value}\r\n" for key, value in self.said.items()).encode()
                writer.write(b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n" % (status, more, len(body)))
                while name in self.dribbling:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                writer.write(body)
                await writer.drain()
        writer.close()


async def _chunked(reader: asyncio.StreamReader) -> int:
    """Take a chunked body without trailers; how many bytes it has."""
    received = 0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        received += len(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return received


async def _cancel_all() -> None:
    """End every task of this loop but this one."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def running(*things: Any) -> Iterator[None]:
    """Start everything in order, stop it in reverse."""
    started: list[Any] = []
    try:
        for thing in things:
            thing.start()
            started.append(thing)
        yield
    finally:
        for thing in reversed(started):
            thing.stop()
