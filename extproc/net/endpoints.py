"""Where workers listen: one endpoint each, checked, locked and probed before it is taken.

gRPC replaces a live Unix socket without a word and makes its own group- and world-connectable, so neither is left
to it: a supervisor holds a lock beside its sockets, everything that answers on a path is asked who it is, and a
socket is bound under a temporary name with mode 0600 and then renamed over its path, which also lets a successor
take over from workers that outlived their supervisor without one refused connection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import resource
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular
from extproc.key_files import make_private_folder

MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path on Linux."""

ORPHANS_LEAVE_SECONDS: Final = 2.0
"""How long a port may be in use that workers without a supervisor are leaving."""

_MAX_NOTE: Final = 1 << 16
_PLACEHOLDER: Final = "{worker}"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A Unix socket at ``path``."""

    path: Path

    @property
    def target(self) -> str:
        """``unix:/folder/name``."""
        return f"unix:{self.path}"

    @property
    def temporary(self) -> Path:
        """Where this process binds before it renames: of its own, and no longer than the path itself may be."""
        return self.path.parent / f".{os.getpid():x}"


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A TCP port."""

    host: str
    port: int

    @property
    def target(self) -> str:
        """``host:port``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or a loopback address; other names are taken as reachable from outside."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host_port(address: str, flag: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises:
        InvalidInput: ``address_invalid``.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        scheme, found, _ = address.partition("://")
        meant = f", without {scheme + found!r}" if found else ""
        raise InvalidInput.of("address_invalid", f"{address!r} is not HOST:PORT{meant}", field=flag)
    return host, int(port)


def worker_endpoints(listen: str, workers: int) -> tuple[UnixEndpoint, ...] | tuple[TcpEndpoint, ...]:
    """The endpoint of every worker, from the template of ``--listen``.

    ``unix:PATH`` names one socket for each worker by ``{worker}``; of ``HOST:PORT`` worker i gets PORT + i.

    Raises:
        InvalidInput: ``address_invalid``, ``listen_needs_worker`` or ``socket_path_too_long``.
    """
    if listen.startswith("unix:"):
        return _unix_endpoints(listen.removeprefix("unix:"), workers)
    see_no_path(listen, "--listen")
    host, port = parse_host_port(listen.replace(_PLACEHOLDER, ""), "--listen")
    if port == 0 or port + workers - 1 > 65535:
        raise InvalidInput.of("address_invalid", f"{listen!r} has no port for {workers} workers", field="--listen")
    return tuple(TcpEndpoint(host, port + index) for index in range(workers))


def see_no_path(address: str, flag: str) -> None:
    """See that what may be a socket is not a path alone. Raises ``InvalidInput``: ``address_invalid``."""
    if (meant := as_socket(address)) is not None:
        raise InvalidInput.of("address_invalid", f"{address!r} is not HOST:PORT; did you mean {meant!r}?", field=flag)


def as_socket(address: str) -> str | None:
    """The address of the socket that a path alone is short for; None if it is none."""
    return f"unix:{address}" if "/" in address and "://" not in address else None


def _unix_endpoints(template: str, workers: int) -> tuple[UnixEndpoint, ...]:
    if not template or template.endswith("/"):
        raise InvalidInput.of("address_invalid", "'unix:' needs the path of a socket", field="--listen")
    if workers > 1 and _PLACEHOLDER not in Path(template).name:
        raise InvalidInput.of(
            "listen_needs_worker",
            f"{workers} workers need a socket each: the file name of {template!r} has no {_PLACEHOLDER}",
            field="--listen",
        )
    folder = Path(template).parent.absolute()
    endpoints = [
        UnixEndpoint(folder / Path(template).name.replace(_PLACEHOLDER, str(index))) for index in range(workers)
    ]
    for endpoint in endpoints:
        _check_length(endpoint, "--listen")
    return tuple(endpoints)


@contextlib.contextmanager
def private_sockets() -> Iterator[None]:
    """Within it, a Unix socket that is bound is for its owner alone (mode 0600)."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def single_endpoint(address: str, flag: str) -> UnixEndpoint | TcpEndpoint:
    """The endpoint at ``address``: ``unix:PATH`` or ``HOST:PORT``.

    Raises:
        InvalidInput: ``address_invalid`` or ``socket_path_too_long``.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path or path.endswith("/"):
            raise InvalidInput.of("address_invalid", "'unix:' needs the path of a socket", field=flag)
        endpoint = UnixEndpoint(Path(path).absolute())
        _check_length(endpoint, flag)
        return endpoint
    see_no_path(address, flag)
    host, port = parse_host_port(address, flag)
    if port == 0:
        raise InvalidInput.of("address_invalid", f"{address!r} has no port", field=flag)
    return TcpEndpoint(host, port)


def _check_length(endpoint: UnixEndpoint, flag: str) -> None:
    if len(os.fsencode(endpoint.path)) > MAX_SOCKET_PATH:
        raise InvalidInput.of(
            "socket_path_too_long",
            f"{str(endpoint.path)!r} is longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have",
            field=flag,
        )


def prepare_folder(folder: Path, flag: str = "--listen") -> None:
    """Make the sockets' folder for this user alone, or see that nobody else can put a socket into the one there is.

    Raises:
        InvalidInput: ``socket_folder_unusable`` or ``socket_folder_open``.
    """
    make_private_folder(folder, "socket", flag, "socket_folder_unusable", "socket_folder_open")


class FolderLock:
    """Says which supervisor owns the sockets of one template, which they are, and which workers it started.

    The lock goes with the process that holds it, however it ends; the list of workers stays, and tells a successor
    which of the sockets that still answer are left over from its predecessor.
    """

    def __init__(self, endpoints: Sequence[UnixEndpoint], template: str, flag: str = "--listen") -> None:
        self._flag = flag
        self._path = endpoints[0].path.parent / f".{Path(template).name}.lock"
        self._sockets = [endpoint.path.name for endpoint in endpoints]
        self._fd = -1
        self._leftovers: frozenset[int] = frozenset()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def take(self) -> frozenset[int]:
        """Take the lock; the pids of the workers that its last holder started.

        Raises:
            InvalidInput: ``address_in_use`` when another supervisor is alive.
        """
        while self._fd < 0:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise InvalidInput.of(
                    "address_in_use",
                    f"another `dropout serve` listens on the sockets in {self._path.parent}",
                    field=self._flag,
                ) from error
            if self._is_file(fd):
                self._fd = fd
            else:  # its last holder removed the file between the two calls
                os.close(fd)
        self._leftovers = _noted(os.pread(self._fd, _MAX_NOTE, 0)).workers
        self.note(())  # workers of a predecessor serve on when they see that somebody comes after it
        return self._leftovers

    def renew(self) -> bool:
        """Take the lock anew if somebody removed its file, which another supervisor would make again; whether so.

        Raises:
            InvalidInput: ``address_in_use`` when another supervisor has.
        """
        if self._fd < 0 or self._is_file(self._fd):
            return False
        self.release()
        self.take()
        return True

    def note(self, pids: Iterable[int]) -> None:
        """Write down the workers of this supervisor; those of its predecessor stay noted while they live."""
        if self._fd < 0:
            return
        leftovers = {pid for pid in self._leftovers if Path(f"/proc/{pid}").exists()}
        workers = sorted({*pids, *leftovers})
        content = json.dumps({"supervisor": os.getpid(), "workers": workers, "sockets": self._sockets}).encode()
        os.pwrite(self._fd, content.ljust(os.fstat(self._fd).st_size), 0)  # no moment at which it is empty

    def release(self) -> None:
        """Let a successor have the sockets."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def clean_up(self, endpoints: Iterable[UnixEndpoint]) -> None:
        """Remove the sockets and the lock, unless a successor has them by now."""
        try:
            self.take()
        except (InvalidInput, OSError):
            return
        for endpoint in endpoints:
            endpoint.path.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self.release()

    def _is_file(self, fd: int) -> bool:
        try:
            return os.fstat(fd).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False


def has_successor(lock: Path, supervisor: int, socket_name: str) -> bool:
    """Whether another supervisor than the process ``supervisor`` has the lock, lives, and will take this socket over.

    One with fewer workers takes the first sockets alone.
    """
    try:
        noted = _noted(read_regular(lock, _MAX_NOTE))
    except OSError:
        return False
    comes = noted.supervisor not in (0, supervisor) and Path(f"/proc/{noted.supervisor}").exists()
    return comes and (noted.sockets is None or socket_name in noted.sockets)


class _Note(NamedTuple):
    """What a lock's file says: a supervisor (0: nobody), the workers that it knows of, the names of its sockets.

    One of an older version does not say which sockets.
    """

    supervisor: int
    workers: frozenset[int]
    sockets: frozenset[str] | None


def _noted(content: bytes) -> _Note:
    """What a lock's file says; nothing if it cannot be read."""
    try:
        note = json.loads(content)
        supervisor, workers = note["supervisor"], frozenset(note["workers"])
        if any(type(pid) is not int for pid in (supervisor, *workers)):  # a float is nobody's, however it is rounded
            return _Note(0, frozenset(), None)
        return _Note(supervisor, workers, frozenset(map(str, note["sockets"])) if "sockets" in note else None)
    except (ValueError, TypeError, KeyError, RecursionError):
        return _Note(0, frozenset(), None)


def probe_unix(endpoint: UnixEndpoint, leftovers: frozenset[int], flag: str = "--listen") -> None:
    """See that nobody answers on the endpoint but a worker that outlived the last supervisor.

    Raises:
        InvalidInput: ``address_in_use``, or ``socket_path_taken`` when a file that is no socket is in the way.
    """
    path = endpoint.path
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidInput.of("socket_path_taken", f"{path} is there and is no socket", field=flag)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            owner = 0
        else:
            owner = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    if owner not in leftovers:
        raise InvalidInput.of("address_in_use", f"something else listens on {path}", field=flag)


def probe_tcp(endpoint: TcpEndpoint, flag: str = "--listen") -> None:
    """See that the port can be bound: workers without a supervisor get a moment to leave it.

    Raises:
        InvalidInput: ``address_in_use`` or ``address_invalid``.
    """
    until = time.monotonic() + ORPHANS_LEAVE_SECONDS
    while True:
        try:
            bind_tcp(endpoint.host, endpoint.port).close()
            return
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.05)
                continue
            raise InvalidInput([tcp_fault(error, endpoint.target, flag)]) from error


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket bound to the address, in the family that its name resolves to first.

    Raises:
        OSError: as bind does, ``socket.gaierror`` for an unknown name.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def bind_unix(endpoint: UnixEndpoint) -> socket.socket:
    """A socket of its owner's alone, bound at ``endpoint.temporary``; see ``take_place``.

    Raises:
        OSError: as bind does.
    """
    endpoint.temporary.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    try:
        with private_sockets():
            bound.bind(str(endpoint.temporary))
    except OSError:
        bound.close()
        raise
    return bound


def take_place(endpoint: UnixEndpoint, flag: str) -> None:
    """Have what is bound at ``endpoint.temporary`` be found at the path itself, instead of whatever was there.

    Raises:
        InvalidInput: ``address_invalid``; nothing is left at the temporary name.
    """
    try:
        endpoint.temporary.rename(endpoint.path)
    except OSError as error:
        with contextlib.suppress(OSError):
            endpoint.temporary.unlink()
        raise InvalidInput([tcp_fault(error, endpoint.target, flag)]) from error


def tcp_fault(error: OSError, target: str, flag: str) -> Fault:
    """Why an address cannot be bound, as a sentence."""
    if error.errno == errno.EADDRINUSE:
        return Fault("address_in_use", f"something else listens on {target}", field=flag)
    return Fault("address_invalid", f"{target} cannot be bound: {error.strerror}", field=flag)


def allow_descriptors(wanted: int) -> int:
    """A connection is a descriptor, and a process may be started with few: how many it may have now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
