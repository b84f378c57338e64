"""The client of a controller: the ``Control`` that commands use with ``--control``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.control.access import RolloutListing
from extproc.control.actions import Command, Kill, Restore
from extproc.control.api.codec import (
    SERVICE,
    from_entry,
    from_reached,
    from_result,
    from_rollout,
    from_unreadable,
    to_error,
    to_request,
)
from extproc.control.api.service import CALL_SECONDS
from extproc.control.emergency import Reached
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Unreachable
from extproc.files import read_regular
from extproc.net.endpoints import TcpEndpoint, as_socket, parse_host_port
from extproc.store.records import HistoryEntry, StoredRollout

MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""What an answer may have: a list of ten thousand rollouts with long analyses."""

MAX_FILE_BYTES: Final = 1 << 20

CallMetadata = tuple[tuple[str, str | bytes], ...]

_T = TypeVar("_T", bound=Message)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a caller over TCP shows who they are, and knows the controller: files of theirs, each None without one.

    ``token`` has a token first on its first line, ``authority`` what the controller's certificate is checked with
    (default: the system's authorities), ``certificate`` and ``key`` are the caller's own (PEM).
    """

    token: Path | None = None
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class RemoteControl:
    """A ``Control`` at ``target``: ``unix:PATH`` or ``https://HOST:PORT``; ``http://`` on this machine alone.

    Raises:
        InvalidInput: ``control_invalid``, for any other address, and for files that cannot be used.
    """

    def __init__(self, target: str, credentials: Credentials | None = None) -> None:
        self._metadata, self._channel = _connected(target, credentials or Credentials())

    def rollouts(self) -> RolloutListing:
        """See ``Control``."""
        answer = self._call("List", pb.ListRequest(), pb.ListResponse)
        return RolloutListing(
            [from_rollout(rollout) for rollout in answer.rollouts],
            [from_unreadable(rollout) for rollout in answer.unreadable],
        )

    def get(self, namespace: str, name: str) -> StoredRollout:
        """See ``Control``."""
        return from_rollout(self._call("Get", pb.RolloutName(namespace=namespace, name=name), pb.Rollout))

    def history(self, namespace: str, name: str, limit: int) -> Sequence[HistoryEntry]:
        """See ``Control``."""
        request = pb.HistoryRequest(namespace=namespace, name=name, limit=limit)
        return [from_entry(entry) for entry in self._call("History", request, pb.HistoryResponse).entries]

    def watch(self, namespace: str, name: str, seconds: float | None = None) -> Iterator[StoredRollout]:
        """See ``Control``."""
        call = self._channel.unary_stream(
            f"/{SERVICE}/Watch",
            request_serializer=pb.RolloutName.SerializeToString,
            response_deserializer=pb.Rollout.FromString,
        )(pb.RolloutName(namespace=namespace, name=name), timeout=seconds, metadata=self._metadata)
        try:
            with _errors():
                for rollout in call:
                    yield from_rollout(rollout)
        except Unreachable as error:
            if error.code != "control_timeout" or seconds is None:
                raise
        finally:
            call.cancel()

    def act(self, action: Command) -> ActionResult:
        """See ``Control``."""
        answer = self._call(type(action).__name__, to_request(action), pb.ActionResult)
        if answer.reached.store_code:
            raise Unreachable.of(answer.reached.store_code, answer.reached.store_message)
        return from_result(answer)

    def kill(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._stopping(Kill(namespace, name))

    def restore(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._stopping(Restore(namespace, name))

    def _stopping(self, action: Kill | Restore) -> Reached:
        answer = self._call(type(action).__name__, to_request(action), pb.ActionResult)
        return from_reached(action.namespace, action.name, answer)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: str, request: Message, answer: type[_T]) -> _T:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        with _errors():
            found: _T = call(request, timeout=CALL_SECONDS + 1, metadata=self._metadata)
        return found


def _connected(target: str, credentials: Credentials) -> tuple[CallMetadata, grpc.Channel]:
    """What goes with each call, and the channel."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
    metadata: CallMetadata = ()
    if credentials.token is not None:
        metadata = (("authorization", f"Bearer {_token(credentials.token)}"),)
    scheme, _, address = target.partition(":")
    if scheme == "unix" and address:
        return metadata, grpc.insecure_channel(target, options=options)
    endpoint = _endpoint(address)
    if scheme == "https" and endpoint is not None:
        return metadata, grpc.secure_channel(endpoint.target, _encrypted(credentials), options=options)
    if scheme == "http" and endpoint is not None and endpoint.loopback:
        return metadata, grpc.insecure_channel(endpoint.target, options=options)
    message = f"{target!r} is not unix:PATH or https://HOST:PORT, or http:// with an address of this machine"
    if (meant := as_socket(target)) is not None:
        message += f"; did you mean {meant!r}?"
    raise InvalidInput.of("control_invalid", message, field="--control")


def _endpoint(address: str) -> TcpEndpoint | None:
    """What is behind ``https:`` in a URL without a path."""
    with suppress(InvalidInput):
        if address.startswith("//"):
            return TcpEndpoint(*parse_host_port(address.removeprefix("//").removesuffix("/"), "--control"))
    return None


def _encrypted(credentials: Credentials) -> grpc.ChannelCredentials:
    authority, key, certificate = map(_content, (credentials.authority, credentials.key, credentials.certificate))
    if (key is None) != (certificate is None):
        missing = "--control-key" if key is None else "--control-cert"
        raise InvalidInput.of("tls_incomplete", "a certificate and its key go together", field=missing)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _token(path: Path) -> str:
    """The token in a file of theirs, as the controller's own file has it."""
    words = (_content(path) or b"").split()
    if not words or not words[0].isascii():
        raise InvalidInput.of("token_invalid", "there is no token in it", file=str(path))
    return words[0].decode()


def _content(path: Path | None) -> bytes | None:
    try:
        return read_regular(path, MAX_FILE_BYTES) if path is not None else None
    except OSError as error:
        message = f"it cannot be read: {error.strerror}"
        raise InvalidInput.of("control_invalid", message, file=str(path)) from error


@contextmanager
def _errors() -> Iterator[None]:
    """gRPC's errors as those that the controller meant."""
    try:
        yield
    except grpc.RpcError as error:
        trailers = [(key, value) for key, value in cast(Any, error.trailing_metadata() or ())]
        raise to_error(error.code(), error.details() or "", trailers) from None
