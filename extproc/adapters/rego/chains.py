"""Whether a chain of certificates holds, found and judged step by step as Go's ``Certificate.Verify`` does.

Needs the extra ``rego``. The library's own verification keeps the rules of browsers, which Go does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from extproc.adapters.rego.certificates import (
    INSECURE_SIGNATURES,
    Fields,
    fields_of,
    signature_algorithm,
    unhandled,
)
from extproc.adapters.regorus.builtins.pem import Unsure

SERVER_AUTH: Final = 1
ANY_USAGE: Final = 0
USAGES: Final = {
    f"KeyUsage{name}": number
    for number, name in enumerate(
        (
            *("Any", "ServerAuth", "ClientAuth", "CodeSigning", "EmailProtection", "IPSECEndSystem", "IPSECTunnel"),
            *("IPSECUser", "TimeStamping", "OCSPSigning", "MicrosoftServerGatedCrypto", "NetscapeServerGatedCrypto"),
            *("MicrosoftCommercialCodeSigning", "MicrosoftKernelCodeSigning"),
        )
    )
}
"""Go's numbers, by the names that OPA takes."""

_MOST_CHECKS: Final = 100
"""Signatures that are looked at for one leaf."""

_CERT_SIGN: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_PATTERN: Final = re.compile(rf"(?:\*\.)?{_HOST.pattern}")
_ASCII: Final = re.compile(r"[ -~]*")


class Certificate(NamedTuple):
    """A certificate, with its fields as Go has them."""

    given: x509.Certificate
    fields: Fields

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes another one the same in a chain."""
        names = tuple(str(self.fields[name]) for name in ("DNSNames", "EmailAddresses", "IPAddresses", "URIs"))
        return (self.fields["RawSubject"], self.fields["RawSubjectPublicKeyInfo"], names)


class Wanted(NamedTuple):
    """What a chain is held against. ``now`` is in nanoseconds since 1970."""

    now: int
    host: str = ""
    usages: Sequence[int] = (SERVER_AUTH,)


class _NoChainError(Exception):
    """There is none that holds."""


def verified(given: Sequence[x509.Certificate], wanted: Wanted) -> list[Certificate] | None:
    """The chain from the last to the first; None if there is none that holds. Raises ``Unsure``."""
    if len(given) < 2:
        return None
    root, *between, leaf = (Certificate(each, fields_of(each)) for each in given)
    try:
        if not _may_be_in(leaf, [], wanted, authority=False) or not _is_for(leaf, wanted.host):
            return None
        chains = [[leaf]] if leaf.given == root.given else list(_chains([leaf], [root], between, wanted, [0]))
    except _NoChainError:
        return None
    return next((chain for chain in chains if _may_be_used(chain, wanted.usages)), None)


def _chains(
    chain: list[Certificate], roots: list[Certificate], between: list[Certificate], wanted: Wanted, checks: list[int]
) -> Iterator[list[Certificate]]:
    """The chains that begin with ``chain``: those that end at a root now come first."""
    for parent in _parents(chain[-1], roots, chain, wanted, checks, authority=False):
        yield [*chain, parent]
    for parent in _parents(chain[-1], between, chain, wanted, checks, authority=True):
        yield from _chains([*chain, parent], roots, between, wanted, checks)


def _parents(
    child: Certificate,
    pool: list[Certificate],
    chain: list[Certificate],
    wanted: Wanted,
    checks: list[int],
    *,
    authority: bool,
) -> Iterator[Certificate]:
    """Who may have signed ``child``, those first whose key has the id that it names."""
    named = [each for each in pool if each.fields["RawSubject"] == child.fields["RawIssuer"]]
    for parent in sorted(named, key=lambda each: _mismatch(each, child)):
        checks[0] += 1
        if checks[0] > _MOST_CHECKS:
            raise _NoChainError
        if parent.identity in [each.identity for each in chain]:
            continue
        if _signed(child, parent) and _may_be_in(parent, chain, wanted, authority=authority):
            yield parent


def _mismatch(parent: Certificate, child: Certificate) -> int:
    own, said = parent.fields["SubjectKeyId"], child.fields["AuthorityKeyId"]
    return 0 if own == said else 1 if own is None or said is None else 2


def _signed(child: Certificate, parent: Certificate) -> bool:
    fields = parent.fields
    may_sign = fields["IsCA"] if fields["BasicConstraintsValid"] else fields["Version"] != 3
    if not may_sign or (fields["KeyUsage"] and not fields["KeyUsage"] & _CERT_SIGN):
        return False
    if signature_algorithm(child.given) in INSECURE_SIGNATURES:
        return False
    try:
        child.given.verify_directly_issued_by(parent.given)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _may_be_in(one: Certificate, chain: list[Certificate], wanted: Wanted, *, authority: bool) -> bool:
    """Whether a certificate is valid at the time, and may stand above ``chain``."""
    if unhandled(list(one.given.extensions)):
        return False
    since, until = (
        (time - _EPOCH) // timedelta(seconds=1) * 10**9
        for time in (one.given.not_valid_before_utc, one.given.not_valid_after_utc)
    )
    if not since <= wanted.now <= until:
        return False
    if authority and not (one.fields["BasicConstraintsValid"] and one.fields["IsCA"]):
        return False
    length = one.fields["MaxPathLen"]
    return not (one.fields["BasicConstraintsValid"] and 0 <= length < len(chain) - 1)


def _may_be_used(chain: Sequence[Certificate], usages: Sequence[int]) -> bool:
    """Whether each certificate that names usages allows one of those that are wanted, the same in all."""
    if ANY_USAGE in usages:
        return True
    left = set(usages)
    for each in chain:
        own, unknown = each.fields["ExtKeyUsage"] or [], each.fields["UnknownExtKeyUsage"]
        if (own or unknown) and ANY_USAGE not in own:
            left &= set(own)
    return bool(left)


def _is_for(leaf: Certificate, host: str) -> bool:
    """Whether the certificate is for ``host``, a name or an address; for an empty one it is."""
    if not host:
        return True
    address = _address(host)
    if address is not None:
        return address in map(ip_address, leaf.fields["IPAddresses"] or ())
    if not _ASCII.fullmatch(host):
        raise Unsure("a name beyond ASCII")
    names = leaf.fields["DNSNames"] or []
    if not all(map(_ASCII.fullmatch, names)):
        raise Unsure("a name beyond ASCII")
    is_name = _HOST.fullmatch(host.removesuffix("."))
    return any(
        _matches(each.lower(), host.lower()) if is_name and _PATTERN.fullmatch(each) else each.lower() == host.lower()
        for each in names
    )


def _address(host: str) -> Any:
    try:
        return ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _matches(pattern: str, host: str) -> bool:
    """Whether a name is meant; ``*`` stands for its first part."""
    asked, named = host.removesuffix(".").split("."), pattern.split(".")
    if len(asked) != len(named):
        return False
    return asked[1:] == named[1:] and named[0] in ("*", asked[0])
