"""Certificates and requests for them, field by field as Go's ``crypto/x509`` has them. Needs the extra ``rego``.

What is shown as it stands in the certificate is looked for there: where the library writes it otherwise, nobody knows
how it was.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PSS
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, ObjectIdentifier

from extproc.adapters.regorus.builtins.pem import Unsure, base64, blocks, inside, is_pem, of_base64, parts

Fields = dict[str, Any]

_NAMES: Final = {
    "6": "Country",
    "7": "Locality",
    "8": "Province",
    "9": "StreetAddress",
    "10": "Organization",
    "11": "OrganizationalUnit",
    "17": "PostalCode",
}
_SINGLE: Final = {"3": "CommonName", "5": "SerialNumber"}
_OF_NAMES: Final = "2.5.4."

_SIGNATURES: Final = {
    "1.2.840.113549.1.1.4": 2,
    "1.2.840.113549.1.1.5": 3,
    "1.2.840.113549.1.1.11": 4,
    "1.2.840.113549.1.1.12": 5,
    "1.2.840.113549.1.1.13": 6,
    "1.2.840.10045.4.1": 9,
    "1.2.840.10045.4.3.2": 10,
    "1.2.840.10045.4.3.3": 11,
    "1.2.840.10045.4.3.4": 12,
    "1.3.101.112": 16,
}
_PSS: Final = {"sha256": 13, "sha384": 14, "sha512": 15}
_PSS_OID: Final = "1.2.840.113549.1.1.10"
INSECURE_SIGNATURES: Final = frozenset({2, 3, 9})
"""By MD5 or SHA-1: read, and never believed."""

EXTENDED_USAGES: Final = {
    "2.5.29.37.0": 0,
    **{f"1.3.6.1.5.5.7.3.{number}": number for number in range(1, 10)},
    "1.3.6.1.4.1.311.10.3.3": 10,
    "2.16.840.1.113730.4.1": 11,
    "1.3.6.1.4.1.311.2.1.22": 12,
    "1.3.6.1.4.1.311.61.1.1": 13,
}
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
"""In the order of their bits."""

_NOT_READ: Final = (x509.NameConstraints, x509.PolicyConstraints, x509.InhibitAnyPolicy)
_POLICY_MAPPINGS: Final = "2.5.29.33"
_KNOWN: Final = {f"2.5.29.{last}" for last in (14, 15, 17, 19, 31, 32, 35, 37)} | {"1.3.6.1.5.5.7.1.1"}
"""Extensions that Go handles, beside those that are not read here."""

_URI: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)(?P<path>(?:/[\w.~-]*)*)", re.ASCII
)
_LEAST_RSA_BITS: Final = 1024


def certificates_in(text: str) -> list[x509.Certificate]:
    """The certificates in PEM, base64 of PEM, or base64 of DER. Raises ``ValueError`` or ``Unsure``."""
    if is_pem(text):
        return _of_blocks(text)
    content = of_base64(text)
    return _of_blocks(content.decode()) if is_pem(content) else [certificate(der) for der in parts(content)]


def certificate(der: bytes) -> x509.Certificate:
    """One certificate. Raises ``ValueError``."""
    with warnings.catch_warnings(action="ignore"):
        found = x509.load_der_x509_certificate(der)
        if found.serial_number < 0:
            raise ValueError("a serial number below zero")
    _, algorithm, _ = inside(der)
    if algorithm not in inside(found.tbs_certificate_bytes):
        raise ValueError("two signature algorithms")
    return found


def _of_blocks(text: str) -> list[x509.Certificate]:
    content = blocks(text)
    if any(kind != "CERTIFICATE" for kind, _ in content):
        raise ValueError("a block of another kind")
    return [certificate(der) for der in parts(b"".join(der for _, der in content))]


def fields_of(given: x509.Certificate) -> Fields:
    """All fields of a certificate."""
    tbs = given.tbs_certificate_bytes
    extensions = _extensions(given, tbs)
    if any(isinstance(each.value, _NOT_READ) or each.oid.dotted_string == _POLICY_MAPPINGS for each in extensions):
        raise Unsure("constraints on names and policies")
    found = {type(each.value): each.value for each in extensions}
    return {
        **_described(given, tbs),
        **_of_names(found.get(x509.SubjectAlternativeName)),
        **_of_usages(found),
        **_of_places(found),
        **_EMPTY,
        "RawTBSCertificate": base64(tbs),
        "RawIssuer": _standing(given.issuer.public_bytes(), tbs),
        "Issuer": _name(given.issuer),
        "Version": given.version.value + 1,
        "SerialNumber": given.serial_number,
        "NotBefore": given.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "NotAfter": given.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        "UnhandledCriticalExtensions": [_numbers(each.oid) for each in unhandled(extensions)] or None,
    }


def uri_strings(given: x509.Certificate) -> list[str] | None:
    """What OPA adds in some places: the URIs as texts."""
    return _texts(_alternatives(given), x509.UniformResourceIdentifier)


def fields_of_request(der: bytes) -> Fields:
    """All fields of a request. Raises ``ValueError`` or ``Unsure``."""
    given = x509.load_der_x509_csr(der)
    tbs = given.tbs_certrequest_bytes
    extensions = _extensions(given, tbs)
    if any(each.oid.dotted_string != "1.2.840.113549.1.9.14" for each in given.attributes):
        raise Unsure("attributes of other kinds")
    values = [
        [
            {"Type": _numbers(each.oid), "Value": each.critical or base64(each.value.public_bytes())}
            for each in extensions
        ]
    ]
    attribute = {"Type": [1, 2, 840, 113549, 1, 9, 14], "Value": values}
    names = next((each.value for each in extensions if isinstance(each.value, x509.SubjectAlternativeName)), None)
    return {
        **_described(given, tbs),
        **_of_names(names),
        "RawTBSCertificateRequest": base64(tbs),
        "Attributes": [attribute] if len(given.attributes) else None,
        "Version": 0,
    }


def _described(given: x509.Certificate | x509.CertificateSigningRequest, tbs: bytes) -> Fields:
    """What certificates and requests have alike."""
    key = given.public_key()
    listed = [
        {"Id": _numbers(each.oid), "Critical": each.critical, "Value": _standing(each.value.public_bytes(), tbs)}
        for each in given.extensions
    ]
    return {
        "Raw": base64(given.public_bytes(Encoding.DER)),
        "RawSubject": _standing(given.subject.public_bytes(), tbs),
        "RawSubjectPublicKeyInfo": _standing(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), tbs),
        "Subject": _name(given.subject),
        "Signature": base64(given.signature),
        "SignatureAlgorithm": signature_algorithm(given),
        **public_key(key),
        "Extensions": listed or None,
        "ExtraExtensions": None,
    }


def _extensions(given: x509.Certificate | x509.CertificateSigningRequest, tbs: bytes) -> list[x509.Extension[Any]]:
    try:
        return list(given.extensions)
    except (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType) as error:
        raise Unsure("extensions that the library does not read") from error


def _standing(part: bytes, whole: bytes) -> str:
    if part not in whole:
        raise Unsure("written otherwise than the library does")
    return base64(part)


def _numbers(oid: ObjectIdentifier) -> list[int]:
    return list(map(int, oid.dotted_string.split(".")))


def _name(given: x509.Name) -> Fields:
    found: Fields = {**dict.fromkeys(_NAMES.values()), **dict.fromkeys(_SINGLE.values(), ""), "ExtraNames": None}
    listed = []
    for attribute in given:
        if not isinstance(attribute.value, str):
            raise Unsure("a name that is no text")
        dotted = attribute.oid.dotted_string
        listed.append({"Type": _numbers(attribute.oid), "Value": attribute.value})
        last = dotted.removeprefix(_OF_NAMES) if dotted.startswith(_OF_NAMES) else ""
        if last in _SINGLE:
            found[_SINGLE[last]] = attribute.value
        elif last in _NAMES:
            found[_NAMES[last]] = [*(found[_NAMES[last]] or ()), attribute.value]
    return {**found, "Names": listed or None}


def signature_algorithm(given: x509.Certificate | x509.CertificateSigningRequest) -> int:
    """Go's number of it; 0 is one that Go does not know. Raises ``Unsure``."""
    dotted = given.signature_algorithm_oid.dotted_string
    if dotted != _PSS_OID:
        if dotted not in _SIGNATURES:
            raise Unsure("a signature of another kind")
        return _SIGNATURES[dotted]
    padding, digest = given.signature_algorithm_parameters, given.signature_hash_algorithm
    if not isinstance(padding, PSS) or digest is None or padding._salt_length != digest.digest_size:
        raise Unsure("a signature with other parameters")
    return _PSS.get(digest.name) or _unknown()


def _unknown() -> int:
    raise Unsure("a signature of another kind")


def public_key(key: Any) -> Fields:
    """A public key and Go's number of its algorithm. Raises ``Unsure``."""
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _LEAST_RSA_BITS:
            numbers = key.public_numbers()
            return {"PublicKeyAlgorithm": 1, "PublicKey": {"N": numbers.n, "E": numbers.e}}
        case ec.EllipticCurvePublicKey() if key.curve.name in CURVES:
            return {"PublicKeyAlgorithm": 3, "PublicKey": point(key)}
        case ed25519.Ed25519PublicKey():
            return {"PublicKeyAlgorithm": 4, "PublicKey": base64(key.public_bytes_raw())}
    raise Unsure("a key of another kind")


CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def point(key: ec.EllipticCurvePublicKey) -> Fields:
    """A point on a curve, which has no name in JSON."""
    return {"Curve": {}, "X": key.public_numbers().x, "Y": key.public_numbers().y}


def _alternatives(given: x509.Certificate) -> x509.SubjectAlternativeName | None:
    found = [each.value for each in given.extensions if isinstance(each.value, x509.SubjectAlternativeName)]
    return found[0] if found else None


def _texts(given: x509.SubjectAlternativeName | None, kind: type[Any]) -> list[str] | None:
    return None if given is None else [str(each) for each in given.get_values_for_type(kind)] or None


def _of_names(given: x509.SubjectAlternativeName | None) -> Fields:
    return {
        "DNSNames": _texts(given, x509.DNSName),
        "EmailAddresses": _texts(given, x509.RFC822Name),
        "IPAddresses": _texts(given, x509.IPAddress),
        "URIs": [_uri(text) for text in _texts(given, x509.UniformResourceIdentifier) or ()] or None,
    }


def _uri(text: str) -> Fields:
    found = _URI.fullmatch(text)
    if found is None:
        raise Unsure("an address with more than a scheme, a host and a path")
    return {
        **dict.fromkeys(("Opaque", "RawPath", "RawQuery", "Fragment", "RawFragment"), ""),
        **dict.fromkeys(("ForceQuery", "OmitHost"), False),
        "Scheme": found["scheme"],
        "Host": found["host"],
        "Path": found["path"],
        "User": None,
    }


def _of_usages(found: Mapping[type[Any], Any]) -> Fields:
    """What the key may be used for, and whether it is an authority's."""
    usage, extended = found.get(x509.KeyUsage), found.get(x509.ExtendedKeyUsage, ())
    constraints = found.get(x509.BasicConstraints)
    bits = [bool(getattr(usage, f"_{name}", False)) for name in _USAGES] if usage else []
    length = None if constraints is None else constraints.path_length
    return {
        "KeyUsage": sum(1 << place for place, is_set in enumerate(bits) if is_set),
        "ExtKeyUsage": [
            EXTENDED_USAGES[each.dotted_string] for each in extended if each.dotted_string in EXTENDED_USAGES
        ]
        or None,
        "UnknownExtKeyUsage": [_numbers(each) for each in extended if each.dotted_string not in EXTENDED_USAGES]
        or None,
        "BasicConstraintsValid": constraints is not None,
        "IsCA": constraints is not None and constraints.ca,
        "MaxPathLen": 0 if constraints is None else -1 if length is None else length,
        "MaxPathLenZero": length == 0,
        "SubjectKeyId": _digest(found.get(x509.SubjectKeyIdentifier), "digest"),
        "AuthorityKeyId": _digest(found.get(x509.AuthorityKeyIdentifier), "key_identifier"),
    }


def _digest(given: Any, name: str) -> str | None:
    digest = getattr(given, name, None)
    return base64(digest) if digest else None


def _of_places(found: Mapping[type[Any], Any]) -> Fields:
    """Where more is to be had, and the policies."""
    access = [(each.access_method, each.access_location) for each in found.get(x509.AuthorityInformationAccess, ())]
    policies = [each.policy_identifier for each in found.get(x509.CertificatePolicies, ())]
    points = [name for each in found.get(x509.CRLDistributionPoints, ()) for name in each.full_name or ()]
    return {
        "OCSPServer": _addresses(place for how, place in access if how == AuthorityInformationAccessOID.OCSP),
        "IssuingCertificateURL": _addresses(
            place for how, place in access if how == AuthorityInformationAccessOID.CA_ISSUERS
        ),
        "CRLDistributionPoints": _addresses(points),
        "PolicyIdentifiers": [_numbers(each) for each in policies] or None,
        "Policies": [each.dotted_string for each in policies] or None,
    }


def _addresses(given: Iterable[Any]) -> list[str] | None:
    return [each.value for each in given if isinstance(each, x509.UniformResourceIdentifier)] or None


def unhandled(extensions: Sequence[x509.Extension[Any]]) -> list[x509.Extension[Any]]:
    """Those that are critical and that Go does not know, or of which it can use nothing."""
    return [each for each in extensions if each.critical and not _is_handled(each)]


def _is_handled(extension: x509.Extension[Any]) -> bool:
    if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
        return any(value for value in _of_names(extension.value).values())
    return extension.oid.dotted_string in _KNOWN


_EMPTY: Final = {
    **{
        f"{how}{what}": None
        for how in ("Permitted", "Excluded")
        for what in ("DNSDomains", "EmailAddresses", "IPRanges", "URIDomains")
    },
    **dict.fromkeys(("InhibitAnyPolicy", "InhibitPolicyMapping", "RequireExplicitPolicy"), 0),
    **dict.fromkeys(("InhibitAnyPolicyZero", "InhibitPolicyMappingZero", "RequireExplicitPolicyZero"), False),
    "PermittedDNSDomainsCritical": False,
    "PolicyMappings": None,
}
"""Of what is not read."""
