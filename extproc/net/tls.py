"""Certificates of TCP endpoints, read again when their files change.

They are looked at when somebody connects (gRPC asks at every handshake), so nothing polls.
A pair that does not fit together, as in the moment between two writes of a rotation, leaves the last good one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular, why_not
from extproc.net.followed_files import FollowedFiles

if TYPE_CHECKING:
    import grpc  # the supervisor checks files and never loads gRPC, which would slow its start

_MOST_BYTES: Final = 16 << 20
"""Of a file: all authorities that a system knows take a quarter of a megabyte."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain, its key, and the authority of clients (None: any client)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> ssl.SSLContext:
        """See that the files can be used; a context with what is in them.

        Raises:
            InvalidInput: ``tls_invalid`` with the file at fault.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in self._paths():
            try:
                _read(path)
            except OSError as error:
                raise _invalid(path, f"{self._flag(path)} cannot be read: {why_not(error, path)}") from error
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise _invalid(self.certificate, f"not a certificate with its key in {self.key}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise _invalid(self.client_ca, "not a certificate of an authority") from error
        return context

    def _flag(self, path: Path) -> str:
        """The flag that names ``path``."""
        named = {self.client_ca: "--tls-client-ca", self.key: "--tls-key", self.certificate: "--tls-cert"}
        return named[path]

    def followed(self, read: Callable[[], _T]) -> FollowedFiles[_T]:
        """What ``read`` makes of them, as they are now. Raises as ``read``."""
        return FollowedFiles(self._paths(), read, "certificates")

    def _paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


class Certificates:
    """The certificates in force, for gRPC to fetch."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files.

        Raises:
            InvalidInput: ``tls_invalid``.
        """
        import grpc

        followed = self._files.followed(self._configuration)
        return grpc.dynamic_ssl_server_credentials(
            followed.value,
            # gRPC's question at a handshake: a new configuration, or None to keep the one in force.
            lambda: followed.value if followed.fresh() else None,  # type: ignore[arg-type,return-value]
            require_client_authentication=self._files.client_ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        self._files.check()
        authority = _read(self._files.client_ca) if self._files.client_ca is not None else None
        pair = (_read(self._files.key), _read(self._files.certificate))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)


class Contexts:
    """The certificates in force, for asyncio. ``protocol`` is what is spoken over them (ALPN).

    Raises:
        InvalidInput: ``tls_invalid``.
    """

    def __init__(self, files: TlsFiles, protocol: str) -> None:
        self._files = files
        self._protocol = protocol
        self._followed = files.followed(self._context)

    def current(self) -> ssl.SSLContext:
        """What a connection that begins now is to use."""
        self._followed.fresh()
        return self._followed.value

    def _context(self) -> ssl.SSLContext:
        context = self._files.check()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([self._protocol])
        if self._files.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def tls_files(certificate: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
    """The files that the flags name, checked; None without any.

    Raises:
        InvalidInput: ``tls_incomplete`` or ``tls_invalid``.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        missing = "--tls-key" if certificate else "--tls-cert"
        raise InvalidInput.of("tls_incomplete", "TLS needs both --tls-cert and --tls-key", field=missing)
    files = TlsFiles(Path(certificate), Path(key), Path(client_ca) if client_ca else None)
    files.check()
    return files


def insecure(target: str, flag: str) -> InvalidInput:
    """The refusal of plaintext to the outside, at the address that ``flag`` gives."""
    return InvalidInput(
        [
            Fault(
                "insecure_listen",
                f"{target} can be reached from other machines: give it --tls-cert and --tls-key, "
                "or say --insecure if something else protects it",
                field=flag,
            )
        ]
    )


def _read(path: Path) -> bytes:
    return read_regular(path, _MOST_BYTES)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _invalid(path: Path, why: str) -> InvalidInput:
    return InvalidInput.of("tls_invalid", f"{why[:1].lower()}{why[1:]}", file=str(path))
