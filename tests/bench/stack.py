"""What is measured: a server (ours, a no-op or none) with one pinned worker behind an Envoy of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extproc.envoy.bootstrap import PROCESSOR_CLUSTER, bootstrap, connection_manager
from extproc.serve.supervisor.children import GRPC_SETTINGS
from tests.support.dropout import children_of
from tests.support.envoy import TEMPLATES, EnvoyProcess, free_port
from tests.support.paths import ROOT
from tests.support.process import end, wait_for

Route = Mapping[str, Any]

USERS = 1000
START_SECONDS = 120
SERVER_CPU = 0
POLICIES = ROOT / "policies"
FULL_POLICY = "routing/decision"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
ANSWER: Route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
"""Envoy's answer to everything, without a model behind it."""
OBSERVER_SOCKET = "observer.sock"
CACHED_FOR_LONG = {"DROPOUT_FEATURE_CACHE": "3600"}
"""The users come back more seldom than real ones: their features stay in the cache for as long as this runs."""
NOTHING_REMEMBERED = {"DROPOUT_VERDICT_CACHE_ENTRIES": "0"}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: Envoy alone without a ``transport``, without ``rollouts`` a no-op server, else ours.

    ``full``: with a policy and a feature; ``unremembered``: the policy is asked about every request, what it was asked
    before too. ``tuned`` gives the no-op the gRPC settings that our worker has. ``observed``: Envoy tells an observer
    what became of requests. More than one of the ``workers`` are left on the processors that the system gives them.
    """

    name: str
    transport: str = ""
    rollouts: int = 0
    full: bool = False
    unremembered: bool = False
    tuned: bool = False
    observed: bool = False
    workers: int = 1


def paths(case: Case) -> list[str]:
    """The paths that load asks for: users of one rollout, or spread over all of them."""
    count = max(case.rollouts, 1)
    return [f"/v1/models/m{user * count // USERS}:predict?user={user}" for user in range(USERS)]


def users(number: int) -> list[str]:
    """The paths by which all users ask for the model ``number``, in an order that has nothing to do with them."""
    return [f"/v1/models/m{number}:predict?user={user}" for user in random.Random(number).sample(range(USERS), USERS)]


def document(number: int, *, full: bool) -> dict[str, Any]:
    """The rollout of model ``number``; ``full`` adds a policy and a feature that it reads."""
    model = f"m{number}"
    spec: dict[str, Any] = {
        "model": model,
        "match": [{"path": {"type": "PathPrefix", "value": f"/v1/models/{model}"}}],
        "unit": {"header": "x-user-id"},
        "stable": {"version": "1"},
        "canary": {"version": "2"},
        "breaker": BREAKER,
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


def dropout(*arguments: str, directory: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run one ``dropout`` command to its end, in this environment or else in ours, and give what it says.

    Raises:
        RuntimeError: when it says no.
    """
    command = [sys.executable, "-m", "extproc.cli", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"dropout {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def prepare(directory: Path, case: Case, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The stores of rollouts and of features that the case is decided from, made in ``directory``; their URLs.

    The commands that make them run in ``environment``, which may name another version of the code.
    """
    store, features = f"sqlite:{directory / 'dropout.db'}", f"sqlite:{directory / 'features.db'}"
    documents = directory / "rollouts"
    write_documents(documents, case)
    dropout("apply", "-f", str(documents), "--store", store, directory=directory, environment=environment)
    if case.full:
        table = directory / "features.csv"
        rows = "".join(f"{path},user_risk,risk_score,{user % 100 / 100},\n" for user, path in enumerate(paths(case)))
        table.write_text("entity,view,name,value,event_time\n" + rows)
        command = ("features", "load", str(table), "--features", features)
        dropout(*command, directory=directory, environment=environment)
    set_weight(directory, 0, "50", environment)
    return store, features


def set_weight(directory: Path, number: int, percent: str, environment: Mapping[str, str] | None = None) -> None:
    """Change one rollout of the store in ``directory``."""
    command = ("rollout", "set-weight", f"bench/m{number}", percent, "--store", f"sqlite:{directory / 'dropout.db'}")
    dropout(*command, directory=directory, environment=environment)


def retry(directory: Path, number: int) -> bool:
    """Let the canary of one rollout start over; False if nobody took it away."""
    store = f"sqlite:{directory / 'dropout.db'}"
    try:
        dropout("rollout", "retry", f"bench/m{number}", "--store", store, directory=directory)
    except RuntimeError:
        return False
    return True


@dataclass
class Stack:
    """A running case: the process that decides (``worker``, if there is one), its Envoy, and how to end both.

    ``routes`` are what Envoy answers, ``settings`` variables of Dropout's environment. ``admin`` is the port of its
    pages, if it is ours that runs.
    """

    case: Case
    directory: Path
    routes: Sequence[Route] = (ANSWER,)
    settings: Mapping[str, str] = field(default_factory=dict)
    worker: int | None = None
    admin: int | None = None
    _envoy: EnvoyProcess | None = None
    _spawned: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _exit: ExitStack = field(default_factory=ExitStack)

    def start(self) -> Stack:
        """Start the server and its Envoy; all ready when this returns."""
        self.directory.mkdir()
        if self.case.rollouts:
            self._start_dropout()
        elif self.case.transport:
            self._start_noop(self.directory / "worker-0.sock")
        self._envoy = EnvoyProcess(_envoy_config(self.case, self.directory, self.routes), self.directory).start()
        self._exit.callback(self._envoy.stop)
        if self.case.workers == 1:
            self._keep_apart()
        return self

    def stop(self) -> None:
        """End both."""
        self.wake()
        self._exit.close()

    def rest(self) -> None:
        """Hold all of its processes: even idle ones wake up often, and leave others' caches cold."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        for pid in reversed(self._processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """Those who watch others first."""
        pids = [self._envoy.pid] if self._envoy is not None else []
        for process in self._spawned:
            pids += [process.pid, *children_of(process.pid)]
        return pids

    @property
    def envoy(self) -> EnvoyProcess:
        """Its Envoy, once it is started."""
        assert self._envoy is not None
        return self._envoy

    @property
    def observer(self) -> int:
        """The process that observes, of a case that is observed."""
        pid: int = self.snapshot()["observer"]["pid"]
        return pid

    def snapshot(self) -> dict[str, Any]:
        """What ours says that it decides from."""
        return json.loads(self.page("/snapshot"))  # type: ignore[no-any-return]

    def weights(self, key: str) -> list[float]:
        """What each worker gives the canary of the rollout ``key``, in percent."""
        workers = self.snapshot()["workers"]
        return [worker["rollouts"].get(key, {"weight": -1.0})["weight"] for worker in workers]

    def tripped(self) -> list[str]:
        """The rollouts of which the observer took a version away."""
        return [trip["rollout"] for trip in self.snapshot()["observer"]["trips"]]

    def page(self, path: str) -> str:
        """One of the pages of ours."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def switch(self, name: str, percent: int) -> None:
        """Have so many of the requests taken by the route whose ``runtime_key`` is ``name``."""
        url = f"http://127.0.0.1:{self.envoy.admin_port}/runtime_modify?{name}={percent}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=5):
            pass

    def spawn(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with the stack; what it says goes to the server's log."""
        with (self.directory / "server.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **environment})
        self._exit.callback(end, process)
        self._spawned.append(process)
        return process

    def log(self) -> str:
        """What the server has said."""
        return (self.directory / "server.log").read_text()

    def _start_noop(self, socket: Path) -> None:
        module = "tests.bench.noop_http" if self.case.transport == "http" else "tests.bench.noop"
        settings = GRPC_SETTINGS if self.case.tuned else {}
        self.worker = self.spawn(sys.executable, "-m", module, str(socket), **settings).pid
        wait_for(socket.exists, f"the no-op server's socket, see {self.directory}/server.log")

    def _start_dropout(self) -> None:
        store, features = prepare(self.directory, self.case)
        self.admin = free_port()
        arguments = [
            *("--transport", self.case.transport),
            *("--listen", f"unix:{self.directory}/worker-{{worker}}.sock"),
            *("--workers", str(self.case.workers)),
            *("--admin", f"127.0.0.1:{self.admin}"),
            *("--store", store),
            *("--features", features),
            *("--policies", str(POLICIES)),
            *("--decision-log", str(self.directory / "decisions.log")),
        ]
        if self.case.observed:
            arguments += ["--access-log-listen", f"unix:{self.directory / OBSERVER_SOCKET}"]
        settings = {**CACHED_FOR_LONG, **(NOTHING_REMEMBERED if self.case.unremembered else {}), **self.settings}
        self.spawn(sys.executable, "-m", "extproc.cli", "serve", *arguments, **settings)
        wait_for(self._ready, f"dropout serve, see {self.directory}/server.log", START_SECONDS)
        self.worker = self.snapshot()["workers"][0]["pid"]

    def _ready(self) -> bool:
        with suppress(urllib.error.URLError, OSError):
            ready = self.page("/readyz") == "ok\n"
            return ready and (not self.case.observed or self.snapshot()["observer"]["state"] == "serving")
        return False

    def _keep_apart(self) -> None:
        """The worker on a processor of its own, all else on the others."""
        pin(self.envoy.pid, other_cpus())
        if self.worker is not None:
            pin(self.worker, {SERVER_CPU})
        if self.case.observed:
            pin(self.observer, other_cpus())


def other_cpus() -> set[int]:
    """Every processor but the pinned worker's."""
    return os.sched_getaffinity(0) - {SERVER_CPU} or {SERVER_CPU}


def pin(pid: int, cpus: set[int]) -> None:
    """Keep a process, with the threads that it has, on these processors."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def _envoy_config(case: Case, directory: Path, routes: Sequence[Route]) -> dict[str, Any]:
    """The shipped configuration, with the user's id made from the path, these routes, and switches for them."""
    config = bootstrap(
        TEMPLATES[case.transport or "grpc"],
        listen_port=free_port(),
        admin_port=free_port(),
        worker_sockets=[directory / f"worker-{number}.sock" for number in range(case.workers)],
        envoy_dir=directory,
        models={"m0-v1": free_port()},
        observer_socket=directory / OBSERVER_SOCKET if case.observed else None,
    )
    config.setdefault("layered_runtime", {"layers": []})["layers"].append({"name": "switches", "admin_layer": {}})
    config.pop("dynamic_resources")
    manager = connection_manager(config)
    manager.pop("rds")
    hosts = [{"name": "models", "domains": ["*"], "routes": [*routes]}]
    manager["route_config"] = {"name": "models", "virtual_hosts": hosts}
    mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    mutations.append({"append": {"header": {"key": "x-user-id", "value": "%REQ(:path)%"}}})
    if not case.transport:
        manager["http_filters"] = [each for each in manager["http_filters"] if "ext_proc" not in each["name"]]
        resources = config["static_resources"]
        resources["clusters"] = [each for each in resources["clusters"] if each["name"] != PROCESSOR_CLUSTER]
    return config
