"""The client of a controller: the ``Control`` that commands use with ``--control``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.control.access import Listing
from extproc.control.actions import Change, Promote, Result, SetWeight
from extproc.control.api.codec import from_entry, from_reached, from_result, from_rollout, from_unreadable, to_error
from extproc.control.api.service import CALL_SECONDS, SERVICE
from extproc.control.emergency import Reached
from extproc.errors import InvalidInput, Unreachable
from extproc.snapshot.store import HistoryEntry, StoredRollout

MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""What an answer may have: a list of ten thousand rollouts with long analyses."""

_T = TypeVar("_T", bound=Message)


class RemoteControl:
    """A ``Control`` at ``target``: ``unix:PATH``.

    Raises:
        InvalidInput: ``control_invalid``, for any other address.
    """

    def __init__(self, target: str) -> None:
        if not target.removeprefix("unix:") or not target.startswith("unix:"):
            raise InvalidInput.of("control_invalid", f"{target!r} is not unix:PATH", field="--control")
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(target, options=options)

    def rollouts(self) -> Listing:
        """See ``Control``."""
        answer = self._call("List", pb.ListRequest(), pb.ListResponse)
        return Listing(
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
        )(pb.RolloutName(namespace=namespace, name=name), timeout=seconds)
        try:
            with _errors():
                for rollout in call:
                    yield from_rollout(rollout)
        except Unreachable as error:
            if error.code != "control_timeout" or seconds is None:
                raise
        finally:
            call.cancel()

    def act(self, action: Change) -> Result:
        """See ``Control``."""
        method = type(action).__name__
        answer = self._call(method, _request(action), pb.ActionResult)
        if answer.reached.store_code:
            raise Unreachable.of(answer.reached.store_code, answer.reached.store_message)
        return from_result(answer)

    def kill(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._stopping("Kill", namespace, name)

    def restore(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._stopping("Restore", namespace, name)

    def _stopping(self, method: str, namespace: str, name: str) -> Reached:
        request = pb.RolloutName(namespace=namespace, name=name)
        return from_reached(namespace, name, self._call(method, request, pb.ActionResult))

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
            found: _T = call(request, timeout=CALL_SECONDS + 1)
        return found


def _request(action: Change) -> Message:
    match action:
        case SetWeight(namespace, name, weight):
            return pb.SetWeightRequest(namespace=namespace, name=name, weight=weight)
        case Promote(namespace, name, full, without):
            return pb.PromoteRequest(namespace=namespace, name=name, full=full, without=without)
        case _:
            return pb.RolloutName(namespace=action.namespace, name=action.name)


@contextmanager
def _errors() -> Iterator[None]:
    """gRPC's errors as those that the controller meant."""
    try:
        yield
    except grpc.RpcError as error:
        trailers = [(key, value) for key, value in cast(Any, error.trailing_metadata() or ())]
        raise to_error(error.code(), error.details() or "", trailers) from None
