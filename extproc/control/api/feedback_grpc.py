"""The service ``dropout.v1.Feedback``: feedback over gRPC, for who may call the controller."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from extproc._gen.dropout.v1 import feedback_pb2 as pb
from extproc.control.api.codec import status_code, to_trailer
from extproc.control.api.feedback_thread import FeedbackThread
from extproc.control.feedback import FeedbackRecord, RecordResult, check_count
from extproc.errors import DropoutError, InvalidInput

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Feedback"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class FeedbackRpc:
    """Answers calls with what ``thread`` makes of them."""

    def __init__(self, thread: FeedbackThread) -> None:
        self._thread = thread

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio.server`` is given in ``add_generic_rpc_handlers``."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._record)
        return grpc.method_handlers_generic_handler(SERVICE, {"Record": method})

    async def _record(self, data: bytes, context: Context) -> bytes:
        try:
            results = await self._thread.record(partial(_records, data))
        except DropoutError as error:
            await context.abort(status_code(error), str(error), to_trailer(error))
        return _response(results).SerializeToString()


def _records(data: bytes) -> list[FeedbackRecord]:
    """The records of a request."""
    try:
        request = pb.RecordRequest.FromString(data)
    except DecodeError:
        raise InvalidInput.of("message_malformed", f"this is no {pb.RecordRequest.DESCRIPTOR.full_name}") from None
    check_count(len(request.records))
    return [_read(record) for record in request.records]


def _read(message: pb.FeedbackRecord) -> FeedbackRecord:
    return FeedbackRecord(
        decision_id=message.decision_id,
        prediction=message.prediction if message.HasField("prediction") else None,
        label=message.label if message.HasField("label") else None,
        outcomes=dict(message.outcomes),
        version=message.version if message.HasField("version") else None,
    )


def _response(results: list[RecordResult]) -> pb.RecordResponse:
    shown = [pb.RecordResult(decision_id=id_, code=code, message=message) for id_, code, message in results]
    return pb.RecordResponse(results=shown, counts=Counter(result.code.value for result in results))
