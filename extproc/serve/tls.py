"""Certificates of TCP endpoints, read again when their files change.

gRPC asks for the certificate at every handshake, so nothing polls: the files are looked at when somebody connects.
A pair that does not fit together, as in the moment between two writes of a rotation, leaves the last good one.
"""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular

if TYPE_CHECKING:
    import grpc  # the supervisor checks files and never loads gRPC, which would slow its start

logger = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.5
_MOST_BYTES: Final = 16 << 20
"""Of a file: all authorities that a system knows take a quarter of a megabyte."""

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain, its key, and the authority of clients (None: any client)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """See that the files can be used.

        Raises:
            InvalidInput: ``tls_invalid`` with the file at fault.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in self._paths():
            try:
                _read(path)
            except OSError as error:
                raise _invalid(path, error.strerror or str(error)) from error
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise _invalid(self.certificate, f"not a certificate with its key in {self.key}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise _invalid(self.client_ca, "not a certificate of an authority") from error

    def stamp(self) -> Stamp:
        """What changes when a file does."""
        stats = [path.stat() for path in self._paths()]
        return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in stats)

    def _paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


class Certificates:
    """The certificates in force, for gRPC to fetch."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._looked = 0.0
        self._stamp: Stamp = ()
        self._refused: Stamp | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files.

        Raises:
            InvalidInput: ``tls_invalid``.
        """
        import grpc

        self._files.check()
        self._stamp = self._files.stamp()
        self._looked = time.monotonic()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._fetch,  # type: ignore[arg-type]  # None is gRPC's "keep the one in force"
            require_client_authentication=self._files.client_ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        authority = _read(self._files.client_ca) if self._files.client_ca is not None else None
        pair = (_read(self._files.key), _read(self._files.certificate))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC's question at a handshake: a new configuration, or None to keep the one in force. Never raises."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return None
        self._looked = now
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            self._files.check()
            fresh = self._configuration()
        except (InvalidInput, OSError) as error:
            self._report(error)
            return None
        self._stamp = stamp
        logger.info("certificates read again from %s", self._files.certificate)
        return fresh

    def _report(self, error: Exception) -> None:
        """Once for each state of the files, not at every handshake."""
        try:
            stamp = self._files.stamp()
        except OSError:
            stamp = ()
        if stamp != self._refused:
            self._refused = stamp
            logger.warning("the changed certificates are not used: %s", error)


def tls_files(certificate: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
    """The files that the flags name, checked; None without any.

    Raises:
        InvalidInput: ``tls_incomplete`` or ``tls_invalid``.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        missing = "--tls-key" if certificate else "--tls-cert"
        raise InvalidInput.of("tls_incomplete", "TLS needs both --tls-cert and --tls-key.", field=missing)
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
                "or say --insecure if something else protects it.",
                field=flag,
            )
        ]
    )


def _read(path: Path) -> bytes:
    return read_regular(path, _MOST_BYTES)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _invalid(path: Path, why: str) -> InvalidInput:
    return InvalidInput.of("tls_invalid", f"{why[:1].upper()}{why[1:]}.", file=str(path))
