"""Processes that tests start: found, in a group of their own, waited for until they are ready, ended by id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import pytest

from extproc.demo.processes import free_ports
from tests.support.paths import ROOT

ATTEMPTS = 3
"""To start a process whose ports were taken by somebody else since they were chosen."""
PORT_TAKEN = "address already in use"
PATIENCE = 60.0
"""Seconds that a test waits for what comes at once on a machine that does nothing else."""
SHOWN = 4000
"""Characters of its output that the failure of a start shows, the last ones."""


def found(name: str, brought_by: str, places: Iterable[Path] = ()) -> Path:
    """The first of ``places`` that exists, else the command ``name`` in PATH.

    Without one the test is skipped, or fails where ``CI`` is set; both say what command brings it.
    """
    for place in places:
        if place.exists():
            return place
    in_path = shutil.which(name)
    if in_path is not None:
        return Path(in_path)
    if os.environ.get("CI"):
        pytest.fail(f"CI may leave nothing out, and there is no {name}: {brought_by}", pytrace=False)
    pytest.skip(f"there is no {name}: {brought_by}")


def in_venv(name: str, pattern: str) -> list[Path]:
    """What matches ``pattern`` in the virtual environment ``name``, one of those that are no part of ours."""
    return sorted((ROOT / "build" / "venvs" / name).glob(pattern))


def wait_for(holds: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Wait until ``holds()`` is true and give what it gave; fail with ``what`` after ``within`` seconds.

    No test names a shorter time: one that is reached only by a failure costs nothing, and a busy machine needs it.
    """
    until = time.monotonic() + within
    while True:
        given = holds()
        if given:
            return given
        if time.monotonic() > until:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.02)


def end(process: subprocess.Popen[Any], signum: int = signal.SIGTERM, within: float = PATIENCE) -> int:
    """Send it a signal, after ``within`` seconds SIGKILL, and wait until it is gone; its exit status."""
    process.send_signal(signum)
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Process(ABC):
    """A process that serves: what starts it and when it is ready is said by those who derive from this.

    Its files are in ``folder``; if none is given, in one of its own that is removed at the end. As a context it is
    started and ended. Between a ``stop`` and the next ``start`` its files and ports stay what they were.
    """

    name: ClassVar[str]
    """The command, as the reason of a skip names it."""
    count_of_ports: ClassVar[int] = 1
    """How many it listens on; they are in ``ports`` from the first start on, and lie on loopback."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 10.0
    user: int | None = None
    """The id of the user and of the group that it runs as, if not as ours."""

    def __init__(self, folder: Path | None = None) -> None:
        self._is_own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dr-"))
        self.output = self.errors = self.folder / f"{self.name}.log"
        self.ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._said = 0

    # -- what each of them says of itself

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The command line."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves; an error of the connection says that it does not yet."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to write
        """Write what it reads at its start; ``ports`` are chosen by then."""

    # -- its life

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start it and wait until it is ready; what is not is ended.

        Raises:
            AssertionError: with what it said, when it ended, or was not ready within ``start_seconds``.
        """
        attempts = ATTEMPTS if self.count_of_ports and not self.ports else 1
        while True:
            attempts -= 1
            if not self.ports:
                self.ports = free_ports(self.count_of_ports)
            self._said = len(self.log())
            try:
                self.prepare()
                self._launch()
                wait_for(self._is_ready, f"a {self.name} that is ready", self.start_seconds)
            except BaseException as error:
                self.stop(signal.SIGKILL)
                said = self.log()[self._said :]
                if isinstance(error, AssertionError):
                    if attempts and PORT_TAKEN in said.lower():
                        self.ports = []
                        continue
                    raise AssertionError(f"{error}; it says: {said[-SHOWN:]}") from None
                raise
            return self

    def stop(self, signum: int | None = None) -> None:
        """End it, by ``stop_signal`` unless another is named, with all of its group; wait until it is gone."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum or self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.stop_seconds)
        # Whoever is left of the group. Ids are given out in turn: this one is nobody else's so soon.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def hang(self) -> None:
        """Have it take connections and say nothing, until it is to ``go_on``."""
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"a {self.name} that stands still")

    def go_on(self) -> None:
        """Have it answer again."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its own folder."""
        self.stop()
        if self._is_own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The first of its ports."""
        return self.ports[0]

    def owner(self) -> dict[str, Any]:
        """Whose process it is, as ``subprocess`` takes it."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    def log(self) -> str:
        """Everything that it said, where it says errors."""
        return self.errors.read_text(errors="replace") if self.errors.exists() else ""

    def _launch(self) -> None:
        # None outlives the tests, however they end: the kernel tells it when its parent is gone. Who was gone before
        # the kernel was asked is not told of, so the parent is looked at once more after that.
        orphan_of = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
        command = ["setpriv", "--pdeathsig", "TERM", *orphan_of, *map(str, self.command())]
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=self.folder,
                start_new_session=True,
                **self.owner(),
            )

    def _is_ready(self) -> bool:
        """Whether it is ready; what answers in its place, on a port that it could not get, does not count."""
        assert self._process is not None
        ready = False
        with suppress(OSError, HTTPException):
            ready = self.ready()
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self._process.returncode} at its start")
        return ready
