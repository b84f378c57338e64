"""Everything on one machine, for real: two versions, Dropout with two workers, and Envoy in front of them."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from extproc.cli import cli
from extproc.envoy.bootstrap import bootstrap
from tests.support.envoy import TEMPLATE, EnvoyProcess, Upstreams, free_port, wait_until
from tests.support.rollouts import CANARY, document

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
        """The cluster that served the request."""
        return str(self.body["upstream"])

    @property
    def sent(self) -> dict[str, str]:
        """The headers as they reached the version."""
        return dict(self.body["headers"])


class House:
    """Start it, break it, ask it. ``settings`` are variables of Dropout's environment."""

    def __init__(self, policy: str | None = None, spec: Mapping[str, Any] | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dr-"))
        self.store = f"sqlite:{self.folder / 'dropout.db'}"
        self.features = f"sqlite:{self.folder / 'features.db'}"
        self.rollouts = self.folder / "rollouts"
        self.policies = self.folder / "policies"
        self.envoy_dir = self.folder / "envoy"
        self.sockets = [self.folder / "run" / f"worker-{number}.sock" for number in range(WORKERS)]
        self.upstreams = Upstreams("fraud-detector-v3", "fraud-detector-v4", "fraud-detector-v5", "other-v1")
        self.admin_port = free_port()
        self._settings = settings
        self._dropout: subprocess.Popen[bytes] | None = None
        self.rollouts.mkdir()
        self.policies.mkdir()
        if policy is not None:
            self.write_policy(policy)
        self.write_rollout(spec or {})

    # -- what it is given

    def write_policy(self, text: str) -> None:
        """Replace the policy; without ``spec.policy`` nobody asks it."""
        _swap(self.policies / "decision.rego", text)

    def write_rollout(self, spec: Mapping[str, Any], name: str = "fraud-detector") -> None:
        """Write a document into the followed folder: the usual canary with the fields of ``spec`` over it."""
        merged = {key: value for key, value in {**CANARY, **spec}.items() if value is not None}
        _swap(self.rollouts / f"{name}.yaml", yaml.safe_dump(document(merged, name)))

    def load_features(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Load feature values: mappings of entity, view, name, value and event_time."""
        file = self.folder / "features.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.run("features", "load", str(file), "--features", self.features)

    def run(self, *arguments: str) -> str:
        """``dropout ARGUMENTS``, which must succeed; what it prints."""
        result = CliRunner().invoke(cli, arguments, env={"DROPOUT_STORE": self.store})
        if result.exit_code:
            raise AssertionError(f"dropout {arguments}: {result.output} {result.exception}")
        return result.output

    def set_weight(self, percent: float, key: str = KEY) -> None:
        """Set a canary's weight and wait until every worker decides by it."""
        self.run("rollout", "set-weight", key, str(percent))
        wait_until(lambda: self._weight(key) == percent, f"weight of {percent}")
        time.sleep(NOTICE_SECONDS)

    # -- its life

    def start(self) -> House:
        """Start all of it."""
        self.upstreams.start()
        self.start_dropout()
        self.wait_ready()
        config = bootstrap(
            TEMPLATE,
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=self.sockets,
            envoy_dir=self.envoy_dir,
            models=self.upstreams.ports,
        )
        self.envoy = EnvoyProcess(self.configure(config), self.folder)
        self.envoy.start()
        return self

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """A chance to change Envoy's configuration."""
        return config

    def start_dropout(self) -> None:
        """Start ``dropout serve`` and do not wait."""
        command = [sys.executable, "-m", "extproc.cli", "serve", "--store", self.store, "--workers", str(WORKERS)]
        command += ["--listen", f"unix:{self.folder}/run/worker-{{worker}}.sock", "--rollouts", str(self.rollouts)]
        command += ["--admin", f"127.0.0.1:{self.admin_port}", "--envoy-dir", str(self.envoy_dir)]
        command += ["--policies", str(self.policies)] if any(self.policies.iterdir()) else []
        command += ["--features", self.features] if (self.folder / "features.db").exists() else []
        command += ["--decision-log", str(self.folder / "decisions.jsonl")]
        with (self.folder / "dropout.log").open("ab") as log:
            environment = {"PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore", **self._settings}
            self._dropout = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def end_dropout(self, signum: int = signal.SIGTERM) -> int:
        """Send the supervisor a signal and wait for its end; its exit status."""
        assert self._dropout is not None
        self._dropout.send_signal(signum)
        return self._dropout.wait(30)

    def wait_ready(self) -> None:
        """Wait until every worker serves."""

        def serving() -> bool:
            with suppress(OSError):
                self.admin("/readyz")
                return sum(worker["state"] == "serving" for worker in self.snapshot()["workers"]) == WORKERS
            return False

        wait_until(serving, f"serving workers; Dropout says: {self.log()[-2000:]}", within=40)

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Dropout is gone within the block and back after it."""
        self.end_dropout()
        try:
            yield
        finally:
            self.start_dropout()
            self.wait_ready()

    def stop(self) -> None:
        """End all of it and remove every file."""
        if hasattr(self, "envoy"):
            self.envoy.stop()
        if self._dropout is not None and self._dropout.poll() is None:
            self.end_dropout()
        self.upstreams.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what it says

    def ask(self, path: str = PATH, method: str = "GET", host: str = "models", **headers: str) -> Answer:
        """One request through Envoy. ``x_user_id`` is the header ``x-user-id``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=15)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"host": host, **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        with suppress(ValueError):
            body = json.loads(body)
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    def workers(self) -> list[int]:
        """The process ids of the workers, by their number."""
        return [worker["pid"] for worker in self.snapshot()["workers"] if worker.get("pid")]

    def snapshot(self) -> dict[str, Any]:
        """The admin endpoint's ``/snapshot``."""
        document: dict[str, Any] = json.loads(self.admin("/snapshot"))
        return document

    def admin(self, path: str) -> str:
        """What Dropout's admin endpoint answers; OSError when it does not."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def log(self) -> str:
        """What Dropout wrote to its standard output and error."""
        return (self.folder / "dropout.log").read_text()

    def _weight(self, key: str) -> float | None:
        """The weight by which one worker decides; the others do so within ``NOTICE_SECONDS``."""
        found = {rollout["key"]: rollout["weight"] for rollout in self.snapshot()["rollouts"]}
        return found.get(key)


def _swap(file: Path, text: str) -> None:
    """Replace a file in one step, as an editor or a deployment does."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(text)
    temporary.replace(file)
