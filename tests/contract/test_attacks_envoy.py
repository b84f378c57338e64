"""What clients send to break or to fool the proxy and us together, through a real Envoy."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.environment import PATH, Environment

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    environment = Environment()
    try:
        environment.start()
        environment.set_weight(100)
        yield environment
    finally:
        environment.stop()


def ask(environment: Environment, *headers: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    """The status, and what the version that answered says of itself; header by header as they are given."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("host", "models"), ("x-user-id", "u-1"), *headers))
    with socket.create_connection(("127.0.0.1", environment.port), timeout=60) as client:
        client.sendall(f"GET {PATH} HTTP/1.1\r\n{lines}connection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    return status, json.loads(body) if status == 200 else {}


@pytest.mark.parametrize("count", [70, *range(80, 102)])
def test_no_number_of_headers_that_envoy_takes_is_answered_with_an_error(environment: Environment, count: int) -> None:
    status, said = ask(environment, *((f"x-{number}", "1") for number in range(count)))
    assert status in (200, 431)
    if status == 200:
        decided = said["headers"].get("x-model-version") == "4"
        assert said["upstream"] == ("fraud-detector-v4" if decided else "fraud-detector-v3")
        assert decided or count > 80
    assert environment.failed_open() == 0


@pytest.mark.parametrize("size", [30_000, *range(59_500, 61_500, 100)])
def test_no_size_of_headers_that_envoy_takes_is_answered_with_an_error(environment: Environment, size: int) -> None:
    status, said = ask(environment, ("x-long", "a" * size))
    assert status in (200, 431)
    if status == 200:
        assert said["upstream"] == ("fraud-detector-v4" if size == 30_000 else "fraud-detector-v3")
    if size <= 60_000:
        assert status == 200


@pytest.mark.parametrize(
    "name", ["x_model_version", "X-Model_Cluster", "x_model-arm", "X_MODEL_SHADOW", "x-decision_id"]
)
def test_a_header_that_a_server_could_take_for_ours_never_reaches_a_version(
    environment: Environment, name: str
) -> None:
    status, said = ask(environment, (name, "99"), ("x_model_name", "mine"), (name.upper(), "98"))
    assert status == 200
    assert "99" not in said["headers"].values()
    assert "98" not in said["headers"].values()
    assert said["headers"]["x_model_name"] == "mine"
