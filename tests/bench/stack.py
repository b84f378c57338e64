"""What is measured: a server (ours, a no-op or none) with one pinned worker behind an Envoy of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extproc.envoy.bootstrap import PROCESSOR_CLUSTER, bootstrap, connection_manager
from extproc.serve.children import GRPC_SETTINGS
from tests.support.envoy import TEMPLATES, EnvoyProcess, free_port

USERS = 1000
SERVER_CPU = 0
ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "policies"
FULL_POLICY = "routing/decision"
CACHED_FOR_LONG = {"DROPOUT_FEATURE_CACHE": "3600"}
"""The users come back more seldom than real ones: their features stay in the cache for as long as this runs."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: Envoy alone without a ``transport``, without ``rollouts`` a no-op server, else ours.

    ``tuned`` gives the no-op the gRPC settings that our worker has.
    """

    name: str
    transport: str = ""
    rollouts: int = 0
    full: bool = False
    tuned: bool = False


def paths(case: Case) -> list[str]:
    """The paths that load asks for: users of one rollout, or spread over all of them."""
    count = max(case.rollouts, 1)
    return [f"/v1/models/m{user * count // USERS}:predict?user={user}" for user in range(USERS)]


def document(number: int, *, full: bool) -> dict[str, Any]:
    """The rollout of model ``number``; ``full`` adds a policy and a feature that it reads."""
    model = f"m{number}"
    spec: dict[str, Any] = {
        "model": model,
        "match": [{"path": {"type": "PathPrefix", "value": f"/v1/models/{model}"}}],
        "unit": {"header": "x-user-id"},
        "stable": {"version": "1"},
        "canary": {"version": "2"},
    }
    if full:
        spec["features"] = {
            "entity": {"header": "x-user-id"},
            "view": "user_risk",
            "names": ["risk_score"],
            "timeout": "50ms",
            "onMissing": "policy",
        }
        spec["policy"] = {"path": FULL_POLICY}
        spec["log"] = {"headers": ["x-region"], "features": ["risk_score"]}
    metadata = {"namespace": "bench", "name": model}
    return {"apiVersion": "dropout.dev/v1alpha1", "kind": "Rollout", "metadata": metadata, "spec": spec}


def write_documents(folder: Path, case: Case, per_file: int = 500) -> None:
    """All rollouts of the case, in files that stay below the limit of one."""
    folder.mkdir()
    for start in range(0, case.rollouts, per_file):
        numbers = range(start, min(start + per_file, case.rollouts))
        texts = [json.dumps(document(number, full=case.full)) for number in numbers]
        (folder / f"{start:05}.yaml").write_text("\n---\n".join(texts))


def dropout(*arguments: str, directory: Path) -> str:
    """Run one ``dropout`` command to its end."""
    command = [sys.executable, "-m", "extproc.cli", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=300).stdout


def prepare(directory: Path, case: Case) -> tuple[str, str]:
    """The stores of rollouts and of features that the case is decided from, made in ``directory``; their URLs."""
    store, features = f"sqlite:{directory / 'dropout.db'}", f"sqlite:{directory / 'features.db'}"
    documents = directory / "rollouts"
    write_documents(documents, case)
    dropout("apply", "-f", str(documents), "--store", store, directory=directory)
    if case.full:
        table = directory / "features.csv"
        rows = "".join(f"{path},user_risk,risk_score,{user % 100 / 100},\n" for user, path in enumerate(paths(case)))
        table.write_text("entity,view,name,value,event_time\n" + rows)
        dropout("features", "load", str(table), "--features", features, directory=directory)
    set_weight(directory, 0, "50")
    return store, features


def set_weight(directory: Path, number: int, percent: str) -> None:
    """Change one rollout of the store in ``directory``."""
    store = f"sqlite:{directory / 'dropout.db'}"
    dropout("rollout", "set-weight", f"bench/m{number}", percent, "--store", store, directory=directory)


@dataclass
class Stack:
    """A running case: the process that decides (``worker``, if there is one), its Envoy, and how to end both."""

    case: Case
    directory: Path
    worker: int | None = None
    _envoy: EnvoyProcess | None = None
    _exit: ExitStack = field(default_factory=ExitStack)

    def start(self) -> Stack:
        """Start the server and its Envoy; all ready when this returns."""
        self.directory.mkdir()
        socket = self.directory / "worker-0.sock"
        if self.case.rollouts:
            self._start_dropout()
        elif self.case.transport:
            self._start_noop(socket)
        if self.worker is not None:
            _pin(self.worker, {SERVER_CPU})
        self._envoy = EnvoyProcess(_envoy_config(self.case, self.directory, socket), self.directory).start()
        self._exit.callback(self._envoy.stop)
        _pin(self._envoy.pid, other_cpus())
        return self

    def stop(self) -> None:
        """End both."""
        self._exit.close()

    @property
    def envoy(self) -> EnvoyProcess:
        """Its Envoy, once it is started."""
        assert self._envoy is not None
        return self._envoy

    def log(self) -> str:
        """What the server has said."""
        return (self.directory / "server.log").read_text()

    def _start_noop(self, socket: Path) -> None:
        module = "tests.bench.noop_http" if self.case.transport == "http" else "tests.bench.noop"
        settings = GRPC_SETTINGS if self.case.tuned else {}
        self.worker = self._spawn(sys.executable, "-m", module, str(socket), **settings).pid
        _wait(socket.exists, f"the no-op server's socket, see {self.directory}/server.log")

    def _start_dropout(self) -> None:
        store, features = prepare(self.directory, self.case)
        admin = free_port()
        arguments = [
            *("--transport", self.case.transport),
            *("--listen", f"unix:{self.directory}/worker-{{worker}}.sock"),
            *("--workers", "1"),
            *("--admin", f"127.0.0.1:{admin}"),
            *("--store", store),
            *("--features", features),
            *("--policies", str(POLICIES)),
            *("--decision-log", str(self.directory / "decisions.log")),
        ]
        command = [sys.executable, "-m", "extproc.cli", "serve", *arguments]
        process = self._spawn(*command, **CACHED_FOR_LONG)
        _wait(lambda: _answers(f"http://127.0.0.1:{admin}/readyz"), f"dropout serve, see {self.directory}/server.log")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.worker = int(children[0])

    def _spawn(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.directory / "server.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **environment})
        self._exit.callback(_end, process)
        return process


def other_cpus() -> set[int]:
    """Every processor but the pinned worker's."""
    return os.sched_getaffinity(0) - {SERVER_CPU} or {SERVER_CPU}


def _pin(pid: int, cpus: set[int]) -> None:
    """Keep a process, with the threads that it has, on these processors."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def _envoy_config(case: Case, directory: Path, socket: Path) -> dict[str, Any]:
    """The shipped configuration, with the user's id made from the path and an answer without a model behind it."""
    config = bootstrap(
        TEMPLATES[case.transport or "grpc"],
        listen_port=free_port(),
        admin_port=free_port(),
        worker_sockets=[socket],
        envoy_dir=directory,
        models={"m0-v1": free_port()},
    )
    config.pop("dynamic_resources")
    manager = connection_manager(config)
    manager.pop("rds")
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    hosts = [{"name": "models", "domains": ["*"], "routes": [answer]}]
    manager["route_config"] = {"name": "models", "virtual_hosts": hosts}
    mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    mutations.append({"append": {"header": {"key": "x-user-id", "value": "%REQ(:path)%"}}})
    if not case.transport:
        manager["http_filters"] = [each for each in manager["http_filters"] if "ext_proc" not in each["name"]]
        resources = config["static_resources"]
        resources["clusters"] = [each for each in resources["clusters"] if each["name"] != PROCESSOR_CLUSTER]
    return config


def _wait(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
