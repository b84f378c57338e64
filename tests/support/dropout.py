"""A real ``dropout serve`` for tests: started on sockets of its own, asked over gRPC, ended by id."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extproc._gen.envoy.config.core.v3 import base_pb2
from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from tests.support.process import PATIENCE, end, wait_for
from tests.support.rollouts import CANARY, document

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
REQUEST_PATH = "/v1/models/fraud-detector:predict"


class DropoutServer:
    """``dropout serve`` in a folder of its own.

    ``options`` are further flags; ``settings`` are variables of its environment. ``rollouts`` and ``policies`` are
    folders that it follows; policies only if there is a file in it at the start. As a context it starts, waits until
    it is ready, and at the end is stopped and removed.
    """

    def __init__(self, *options: str, workers: int = 2, listen: str | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dr-"))
        self.rollouts = self.folder / "rollouts"
        self.policies = self.folder / "policies"
        self.sockets = self.folder / "run"
        self.store = f"sqlite:{self.folder / 'dropout.db'}"
        self.listen = listen or f"unix:{self.sockets}/w-{{worker}}.sock"
        self.log_file = self.folder / "serve.log"
        self.admin_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.workers = workers
        self.options = options
        self._settings = settings
        self.rollouts.mkdir()
        self.policies.mkdir()

    # -- what it follows

    def write_rollout(self, name: str = "fraud-detector", **spec: Any) -> None:
        """Write a document: the usual canary, ``spec`` over it; a field of None is left out."""
        merged = {key: value for key, value in {**CANARY, **spec}.items() if value is not None}
        self.write(self.rollouts / f"{name}.yaml", yaml.safe_dump(document(merged, name)))

    def write_policy(self, text: str, name: str = "decision.rego") -> None:
        """Write a policy."""
        self.write(self.policies / name, text)

    @staticmethod
    def write(file: Path, text: str) -> None:
        """Replace a file in one step."""
        temporary = file.with_name(f".{file.name}.new")
        temporary.write_text(text)
        temporary.replace(file)

    # -- its life

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            end(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> list[str]:
        """The command line."""
        command = [sys.executable, "-m", "extproc.cli", "serve", "--store", self.store, "--listen", self.listen]
        command += ["--workers", str(self.workers), "--admin", f"127.0.0.1:{self.admin_port}"]
        command += ["--rollouts", str(self.rollouts)]
        command += ["--policies", str(self.policies)] if any(self.policies.iterdir()) else []
        return [*command, *self.options]

    def launch(self) -> None:
        """Start it and do not wait."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env={**os.environ, **self._settings}
            )

    def start(self) -> Self:
        """Start it and wait until all workers serve."""
        said = len(self.log())
        self.launch()
        assert self.process is not None
        process = self.process

        def ready() -> re.Match[str] | None:
            if process.poll() is not None:
                raise AssertionError(f"serve ended with {process.returncode}: {self.log()[said:]}")
            return re.search(r"ready: .*admin http://[^\n]*:(\d+)\n", self.log()[said:])

        self.admin_port = int(wait_for(ready, "a server that is ready")[1])
        return self

    def refused(self) -> tuple[int, str]:
        """Start it where it must not start: its exit status and what it says."""
        done = subprocess.run(
            self.command(), capture_output=True, text=True, timeout=60, env={**os.environ, **self._settings}
        )
        return done.returncode, done.stderr

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(30)

    def log(self) -> str:
        """Everything that it said."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    # -- what it says

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """A page of the admin endpoint: status and body; 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def snapshot(self) -> dict[str, Any]:
        """The page /snapshot."""
        document: dict[str, Any] = json.loads(self.get("/snapshot")[1])
        return document

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry ``labels``."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if (
                found
                and found[1] == name
                and all(f'{key}="{value}"' in (found[2] or "") for key, value in labels.items())
            ):
                total += float(found[3])
        return total

    def worker_pids(self) -> list[int]:
        """The processes of the workers, by their number."""
        return [worker["pid"] for worker in self.snapshot()["workers"]]

    def controller_pid(self) -> int:
        """The process of the controller, once there is one."""
        assert self.process is not None
        parent = self.process.pid

        def running() -> list[int]:
            return [pid for pid in children_of(parent) if b"\0controller\0" in _command_line(pid)]

        (pid,) = wait_for(running, "a controller")
        return int(pid)

    def socket(self, worker: int = 0) -> str:
        """A worker's address as gRPC takes it."""
        if self.listen.startswith("unix:"):
            return self.listen.replace("{worker}", str(worker))
        host, _, port = self.listen.rpartition(":")
        return f"{host}:{int(port) + worker}"

    # -- asking it

    def ask(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        worker: int = 0,
        channel: grpc.Channel | None = None,
        timeout: float = PATIENCE,
    ) -> dict[str, str]:
        """What one request gets: the headers that are set, ``:status`` for a denial.

        Raises:
            grpc.RpcError: when there is no answer.
        """
        own = channel or grpc.insecure_channel(self.socket(worker), options=[("grpc.use_local_subchannel_pool", 1)])
        try:
            call = own.stream_stream(
                PROCESS,
                request_serializer=ext_proc.ProcessingRequest.SerializeToString,
                response_deserializer=ext_proc.ProcessingResponse.FromString,
            )
            answers = call(iter([request_of(headers or {})]), timeout=timeout)
            return headers_of(next(answers))
        finally:
            if channel is None:
                own.close()

    def health(self, worker: int = 0) -> str:
        """What grpc.health.v1 says, or the status code of the failure."""
        with grpc.insecure_channel(self.socket(worker), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            except grpc.RpcError as error:
                return str(error.code().name)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def request_of(headers: Mapping[str, str]) -> ext_proc.ProcessingRequest:
    """A request's headers as Envoy sends them; what is not given is that of a prediction by user ``u-1``."""
    given = {
        ":method": "POST",
        ":path": REQUEST_PATH,
        ":authority": "models",
        ":scheme": "http",
        "x-user-id": "u-1",
        **headers,
    }
    values = [base_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in given.items()]
    request = ext_proc.ProcessingRequest()
    request.request_headers.headers.headers.extend(values)
    request.request_headers.end_of_stream = True
    return request


def headers_of(answer: ext_proc.ProcessingResponse) -> dict[str, str]:
    """The headers that an answer sets."""
    if answer.HasField("immediate_response"):
        return {":status": str(answer.immediate_response.status.code)}
    mutation = answer.request_headers.response.header_mutation
    return {entry.header.key: entry.header.raw_value.decode() for entry in mutation.set_headers}


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def children_of(pid: int) -> Sequence[int]:
    """The direct children of a process."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
