"""The yardstick over gRPC: a grpc.aio server that answers every message with the same bytes and decides nothing.

Stream-stream, raw bytes, Unix socket, uvloop: what any Python ext_proc server pays before it has done anything.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE

from extproc.datapath.model import Mutation
from extproc.datapath.transports.grpc import METHOD, SERVICE, server_options
from extproc.datapath.transports.grpc_codec import encode
from extproc.names import HEADER_ARM, HEADER_CLUSTER, HEADER_DECISION_ID, HEADER_ROLLOUT, HEADER_VERSION

MUTATION = Mutation(
    tuple(
        (name, b"payments/fraud-detector")
        for name in (HEADER_VERSION, HEADER_CLUSTER, HEADER_ARM, HEADER_ROLLOUT, HEADER_DECISION_ID)
    )
)
"""The mutation of a real decision, always the same."""


async def serve(socket: str) -> None:
    """Serve on ``socket`` until killed."""
    reply = encode(MUTATION)
    healthy = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()

    async def process(messages: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for _ in messages:
            yield reply

    async def check(message: bytes, context: object) -> bytes:
        return healthy

    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(process)}),
            grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(check)}),
        )
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
