"""Everything on one machine, for real: two versions, Dropout with two workers, and Envoy in front of them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from extproc.cli.main import cli
from extproc.envoy.bootstrap import PROCESSOR_CLUSTER, bootstrap, connection_manager
from tests.support.dropout import DropoutServer
from tests.support.envoy import TEMPLATES, EnvoyProcess, Upstreams, free_port, wait_until
from tests.support.process import PATIENCE

WORKERS = 2
KEY = "payments/fraud-detector"
NOTICE_SECONDS = 0.25
"""Within this time every worker has noticed a change in the store."""
PATH = "/v1/models/fraud-detector:predict"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got; ``upstream`` and ``sent`` are the version that answered and the headers that it saw."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def upstream(self) -> str:
        """The cluster that served the request; empty where Envoy answered itself."""
        return str(self.body["upstream"]) if isinstance(self.body, dict) else ""

    @property
    def sent(self) -> dict[str, str]:
        """The headers as they reached the version."""
        return dict(self.body["headers"])


class Environment:
    """Start it, break it, ask it. ``settings`` are variables of Dropout's environment.

    If it is ``observed``, Envoy tells Dropout's observer what became of requests. ``manager`` are fields of Envoy's
    HTTP connection manager in place of the template's.
    """

    def __init__(
        self,
        policy: str | None = None,
        spec: Mapping[str, Any] | None = None,
        *,
        transport: str = "grpc",
        observed: bool = False,
        manager: Mapping[str, Any] | None = None,
        **settings: str,
    ) -> None:
        self.transport = transport
        self._manager = manager or {}
        self.dropout = DropoutServer(workers=WORKERS, **settings)
        self.folder = self.dropout.folder
        self.envoy_dir = self.folder / "envoy"
        self.sockets = [self.dropout.sockets / f"w-{number}.sock" for number in range(WORKERS)]
        self.upstreams = Upstreams("fraud-detector-v3", "fraud-detector-v4", "fraud-detector-v5", "other-v1")
        self.observer_socket = self.dropout.sockets / "observer.sock" if observed else None
        self.envoy: EnvoyProcess | None = None
        self.change: Callable[[dict[str, Any]], None] = lambda config: None
        self.dropout.options = (
            *("--transport", transport),
            *("--envoy-dir", str(self.envoy_dir)),
            *("--decision-log", str(self.folder / "decisions.jsonl")),
        )
        if self.observer_socket is not None:
            self.dropout.options += ("--access-log-listen", f"unix:{self.observer_socket}")
        if policy is not None:
            self.dropout.write_policy(policy)
        self.dropout.write_rollout(**(spec or {}))

    # -- what it is given

    def load_features(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Load feature values before the start: mappings of entity, view, name, value and event_time."""
        store = f"sqlite:{self.folder / 'features.db'}"
        file = self.folder / "features.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.run("features", "load", str(file), "--features", store)
        self.dropout.options += ("--features", store)

    def run(self, *arguments: str) -> str:
        """``dropout ARGUMENTS``, which must succeed; what it prints."""
        result = CliRunner().invoke(cli, arguments, env={"DROPOUT_STORE": self.dropout.store})
        if result.exit_code:
            raise AssertionError(f"dropout {arguments}: {result.output} {result.exception}")
        return result.output

    def set_weight(self, percent: float, key: str = KEY) -> None:
        """Set a canary's weight and wait until every worker decides by it."""
        self.run("rollout", "set-weight", key, str(percent))
        wait_until(lambda: self.weights(key) == {percent}, f"weight of {percent}")
        time.sleep(NOTICE_SECONDS)

    # -- its life

    def start(self) -> Environment:
        """Start all of it."""
        self.upstreams.start()
        self.dropout.start()
        self.envoy = self.new_envoy(self.folder, self.change)
        return self

    def new_envoy(self, directory: Path, change: Callable[[dict[str, Any]], None]) -> EnvoyProcess:
        """One more Envoy before the same Dropout, with a configuration of its own; started, and it knows all workers.

        One whose first health checks were late would go on undecided until the next ones.
        """
        config = bootstrap(
            TEMPLATES[self.transport],
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=self.sockets,
            envoy_dir=self.envoy_dir,
            models=self.upstreams.ports,
            observer_socket=self.observer_socket,
        )
        connection_manager(config).update(self._manager)
        change(config)
        envoy = EnvoyProcess(config, directory).start()
        wait_until(lambda: _knows_all(envoy), "an Envoy that holds every worker healthy")
        return envoy

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Dropout is gone within the block and back after it."""
        self.dropout.stop()
        try:
            yield
        finally:
            self.dropout.start()

    def stop(self) -> None:
        """End all of it and remove every file."""
        if self.envoy is not None:
            self.envoy.stop()
        self.upstreams.stop()
        self.dropout.__exit__(None, None, None)

    # -- what it says

    def ask(self, path: str = PATH, *, through: EnvoyProcess | None = None, **headers: str) -> Answer:
        """One request through Envoy. ``x_user_id`` is the header ``x-user-id``."""
        envoy = through or self.envoy
        assert envoy is not None
        connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=PATIENCE)
        try:
            connection.putrequest("GET", path, skip_host=True)
            for name, value in {"host": "models", **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            body: Any = answer.read()
        finally:
            connection.close()
        with suppress(ValueError):
            body = json.loads(body)
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    @property
    def port(self) -> int:
        """Where Envoy listens."""
        assert self.envoy is not None
        return self.envoy.port

    def failed_open(self) -> int:
        """Requests that Envoy sent on without a decision."""
        assert self.envoy is not None
        return self.envoy.failed_open()

    def weights(self, key: str) -> set[float | None]:
        """The weights by which workers decide, None where one does not know the rollout.

        One that rises is in force within ``NOTICE_SECONDS``.
        """
        workers = self.dropout.snapshot()["workers"]
        return {worker["rollouts"].get(key, {}).get("weight") for worker in workers}


class ControlledEnvironment(Environment):
    """An environment with a controller beside its workers, which asks the environment's Envoy."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(None, spec, DROPOUT_LEASE="2")
        self._admin_port = free_port()
        self.dropout.options += (
            *("--with-controller", "--control-listen", f"unix:{self.dropout.sockets}/control.sock"),
            *("--envoy-admin", f"127.0.0.1:{self._admin_port}"),
        )

    def new_envoy(self, directory: Path, change: Callable[[dict[str, Any]], None]) -> EnvoyProcess:
        def changed(config: dict[str, Any]) -> None:
            config["admin"]["address"]["socket_address"]["port_value"] = self._admin_port
            for cluster in config["static_resources"]["clusters"]:
                if cluster["name"] == "fraud-detector-v5":
                    cluster["health_checks"] = [_HEALTH_CHECK]
            change(config)

        return super().new_envoy(directory, changed)

    def status(self) -> dict[str, Any]:
        """Where the rollout stands."""
        found: dict[str, Any] = json.loads(self.run("rollout", "get", KEY, "-o", "json"))
        return found


_HEALTH_CHECK: dict[str, Any] = {
    "timeout": "1s",
    "interval": "0.2s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/"},
    "no_traffic_interval": "0.2s",
    "unhealthy_interval": "0.2s",
}


def _knows_all(envoy: EnvoyProcess) -> bool:
    members = f"cluster.{PROCESSOR_CLUSTER}.membership_"
    return envoy.stat(f"{members}healthy") == envoy.stat(f"{members}total") > 0
