"""TLS on TCP endpoints: plaintext refused to the outside, certificates of both sides, rotation while serving."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from pathlib import Path

import grpc
import pytest

from tests.support.certificates import Identity, identity
from tests.support.dropout import DropoutServer, wait_for

AUTHORITY = identity("authority")


def free_port() -> int:
    """A port that is free, as is the one after it; below those that the system hands out to others meanwhile."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


def tls_server(folder: Path, *options: str) -> DropoutServer:
    identity("first", AUTHORITY).write(folder)
    (folder / "ca.crt").write_bytes(AUTHORITY.pem)
    flags = ("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"), *options)
    server = DropoutServer(*flags, workers=1, listen=f"127.0.0.1:{free_port()}")
    server.write_rollout()
    return server


def channel(server: DropoutServer, client: Identity | None = None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        AUTHORITY.pem, client.key_pem if client else None, client.pem if client else None
    )
    return grpc.secure_channel(server.socket(), credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def served_name(server: DropoutServer) -> str:
    """The common name in the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = server.socket().partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        certificate = connection.getpeercert()
        assert certificate is not None
        return str(dict(part[0] for part in certificate["subject"])["commonName"])


def test_the_pages_are_not_shown_to_the_outside_unless_it_is_asked_for() -> None:
    server = DropoutServer("--admin", "0.0.0.0:0", workers=1)
    server.write_rollout()
    status, said = server.refused()
    assert (status, "(insecure_admin)" in said) == (2, True)
    server.options = (*server.options, "--insecure")
    with server:
        assert server.get("/healthz")[0] == 200


def test_plaintext_to_the_outside_is_refused_unless_it_is_asked_for() -> None:
    server = DropoutServer(workers=1, listen=f"0.0.0.0:{free_port()}")
    server.write_rollout()
    status, said = server.refused()
    assert (status, "(insecure_listen)" in said) == (2, True)
    server.options = ("--insecure",)
    with server:
        assert server.ask()["x-model-version"] == "3"


def test_workers_on_tcp_listen_on_consecutive_ports_and_leave_them_at_once_when_alone() -> None:
    port = free_port()
    server = DropoutServer(workers=2, listen=f"127.0.0.1:{port}")
    server.write_rollout()
    with server:
        assert [server.ask(worker=worker)["x-model-version"] for worker in (0, 1)] == ["3", "3"]
        server.stop(9)
        server.start()
        assert [server.ask(worker=worker)["x-model-version"] for worker in (0, 1)] == ["3", "3"]


def test_a_port_in_use_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = DropoutServer(workers=1, listen=f"127.0.0.1:{other.getsockname()[1]}")
        server.write_rollout()
        status, said = server.refused()
    assert (status, "(address_in_use)" in said) == (2, True)


def test_tls_is_served_and_certificates_are_read_again_when_they_change(tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        with channel(server) as secure:
            assert server.ask(channel=secure)["x-model-version"] == "3"
        assert served_name(server) == "first"
        (tmp_path / "tls.crt").write_bytes(b"half a file")
        assert served_name(server) == "first"
        identity("second", AUTHORITY).write(tmp_path)
        wait_for(lambda: served_name(server) == "second", "the new certificate")
        with channel(server) as secure:
            assert server.ask(channel=secure)["x-model-version"] == "3"


def test_mtls_takes_only_clients_of_the_authority(tmp_path: Path) -> None:
    with tls_server(tmp_path, "--tls-client-ca", str(tmp_path / "ca.crt")) as server:
        with channel(server, identity("client", AUTHORITY)) as known:
            assert server.ask(channel=known)["x-model-version"] == "3"
        for stranger in (None, identity("stranger")):
            with channel(server, stranger) as unknown, pytest.raises(grpc.RpcError):
                server.ask(channel=unknown, timeout=2)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--tls-cert", "{folder}/tls.crt"], "tls_incomplete"),
        (["--tls-cert", "{folder}/tls.crt", "--tls-key", "{folder}/absent"], "tls_invalid"),
        (["--tls-cert", "{folder}/tls.crt", "--tls-key", "{folder}/ca.crt"], "tls_invalid"),
    ],
)
def test_unusable_certificates_are_sentences(tmp_path: Path, flags: list[str], code: str) -> None:
    server = tls_server(tmp_path)
    server.options = tuple(flag.format(folder=tmp_path) for flag in flags)
    status, said = server.refused()
    assert (status, f"({code})" in said, "Traceback" in said) == (2, True, False)
