"""Certificates, requests and keys are read field by field as by OPA, and the chains that hold are those of OPA."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID as Access
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from extproc.adapters.rego.chains import USAGES
from extproc.adapters.regorus.builtins.x509 import _held
from extproc.adapters.regorus.policy import check_here
from tests.contract.test_opa_builtins import NO_TEXTS, THROWS, UNDEFINED, of_opa, of_ours
from tests.support.policies import sources_of

NOW = datetime(2025, 6, 1, tzinfo=UTC)
NANOSECONDS = int(NOW.timestamp()) * 10**9
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVES = [ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)]
EDWARDS = ed25519.Ed25519PrivateKey.generate()
NAMES = [x509.DNSName("a.example"), x509.DNSName("*.b.example"), x509.IPAddress(ip_address("10.0.0.1"))]
NAMES += [
    x509.IPAddress(ip_address("::1")),
    x509.RFC822Name("a@b.c"),
    x509.UniformResourceIdentifier("spiffe://td:8/ns/x"),
]
WHOLE: list[tuple[x509.ExtensionType, bool]] = [
    (x509.KeyUsage(True, True, False, False, True, False, False, False, True), True),
    (x509.ExtendedKeyUsage([Usage.CLIENT_AUTH, x509.ObjectIdentifier("1.2.3.4"), Usage.CODE_SIGNING]), False),
    (x509.SubjectAlternativeName(NAMES), False),
    (x509.SubjectKeyIdentifier(b"own"), False),
    (x509.AuthorityKeyIdentifier(b"issuer", None, None), False),
    (
        x509.CRLDistributionPoints(
            [x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl")], None, None, None)]
        ),
        False,
    ),
    (
        x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(Access.OCSP, x509.UniformResourceIdentifier("http://ocsp")),
                x509.AccessDescription(Access.CA_ISSUERS, x509.UniformResourceIdentifier("http://issuers")),
            ]
        ),
        False,
    ),
    (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)]), False),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), b"\x05\x00"), False),
]
UNKNOWN = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), b"\x05\x00"), True)
NOT_SURE = [
    (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://u@h/a%20b?x#f")]), False),
    (x509.NameConstraints([x509.DNSName("b")], None), True),
    (x509.PolicyConstraints(0, None), True),
]


def name(text: str) -> x509.Name:
    parts = [(NameOID.COMMON_NAME, text), (NameOID.ORGANIZATION_NAME, "Örg"), (NameOID.ORGANIZATION_NAME, "two")]
    parts += [(NameOID.COUNTRY_NAME, "DE"), (NameOID.SERIAL_NUMBER, "77"), (NameOID.DOMAIN_COMPONENT, "dc")]
    parts += [(NameOID.STREET_ADDRESS, "s"), (NameOID.POSTAL_CODE, "1"), (NameOID.EMAIL_ADDRESS, "x@y")]
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def certificate(
    key: Any,
    signer: Any,
    subject: str = "leaf",
    issuer: str = "root",
    extensions: Any = (),
    since: timedelta = timedelta(days=-9),
    until: timedelta = timedelta(days=9000),
    serial: int = 2**140 + 1,
    **how: Any,
) -> x509.Certificate:
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), serial)
    builder = builder.not_valid_before(NOW + since).not_valid_after(NOW + until)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, None if signer is EDWARDS else how.pop("digest", hashes.SHA256()), **how)


def authority(length: int | None = None, *, ca: bool = True) -> tuple[x509.ExtensionType, bool]:
    return x509.BasicConstraints(ca, length), True


def signing(may: bool) -> tuple[x509.ExtensionType, bool]:
    return x509.KeyUsage(True, False, False, False, False, may, False, False, False), True


def usable(*usages: x509.ObjectIdentifier) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(list(usages)), False


def pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def texts_of(one: x509.Certificate) -> list[str]:
    """A certificate in every way in which it may be written, and in some in which it may not."""
    text, der = pem(one), b64encode(one.public_bytes(Encoding.DER)).decode()
    twice = one.public_bytes(Encoding.DER) * 2
    return [
        *(
            text,
            text * 2,
            der,
            b64encode(text.encode()).decode(),
            b64encode(twice).decode(),
            text.replace("\n", "\r\n"),
        ),
        *(f"{text}garbage", f" {text}", text[:-40], text[:200], der[:-8], der[4:], text.replace("CERTIFICATE", "X")),
    ]


def written(key: Any) -> Iterator[str]:
    for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
        if key is not EDWARDS or form is PrivateFormat.PKCS8:
            text = key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
            yield text
            yield b64encode(text.encode()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    yield from (public, public + text, text + text, text[:90], f"x\n{text}")


def different(calls: list[str], folder: Path, document: Any) -> list[tuple[str, Any, Any]]:
    """The calls with another answer, numbers over 64 bits left out; and those that end the evaluation."""
    expected, found = _held(of_opa(calls, document, folder)), of_ours(calls, document)
    assert sum(each != UNDEFINED for each in expected) > len(calls) / 5
    return [each for each in zip(calls, expected, found, strict=True) if each[1] != each[2]]


def calls_of(names: str, texts: list[Any]) -> list[str]:
    return [f"crypto.{name}(input.texts[{at}])" for name in names.split() for at in range(len(texts))]


def test_certificates_are_read_field_by_field_as_by_opa(tmp_path: Path) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)
    given = [
        certificate(RSA, RSA),
        certificate(RSA, RSA, extensions=[authority(ca=False), *WHOLE]),
        certificate(RSA, RSA, extensions=[authority(0)], serial=7),
        certificate(RSA, RSA, extensions=[authority(3), UNKNOWN], digest=hashes.SHA512()),
        certificate(RSA, RSA, extensions=[authority()], digest=hashes.SHA384(), rsa_padding=pss),
        certificate(RSA, RSA, until=timedelta(days=40_000), since=timedelta(days=-25_000)),
        certificate(EDWARDS, EDWARDS, extensions=[usable(Usage.ANY_EXTENDED_KEY_USAGE)]),
        certificate(RSA, RSA, extensions=[(x509.SubjectAlternativeName([x509.DirectoryName(name("d"))]), True)]),
        *(
            certificate(key, key, digest=digest)
            for key, digest in zip(CURVES, (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()), strict=True)
        ),
    ]
    texts: list[Any] = [text for one in given for text in (texts_of(one) if one is given[1] else [pem(one)])]
    texts += [pem(*given), "", "x", *NO_TEXTS]
    calls = calls_of("x509.parse_certificates x509.parse_certificate_request", texts)
    assert different(calls, tmp_path, {"texts": texts}) == []


def test_what_is_not_read_as_go_reads_it_ends_the_evaluation(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    given = [certificate(RSA, RSA, extensions=[each]) for each in NOT_SURE]
    given.append(certificate(dsa.generate_private_key(2048), RSA))
    texts = [*map(pem, given), "-----BEGIN CERTIFICATE-----\nX: y\n\nAA==\n-----END CERTIFICATE-----\n"]
    assert weak.key_size == 1024
    assert of_ours(calls_of("x509.parse_certificates", texts), {"texts": texts}) == [THROWS] * len(texts)


def test_requests_are_read_field_by_field_as_by_opa(tmp_path: Path) -> None:
    texts: list[Any] = []
    for key, extensions in (
        (RSA, []),
        (CURVES[0], [(x509.SubjectAlternativeName(NAMES), False)]),
        (EDWARDS, [authority()]),
    ):
        builder = x509.CertificateSigningRequestBuilder(name("x"))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        request = builder.sign(key, None if key is EDWARDS else hashes.SHA256())
        text, der = request.public_bytes(Encoding.PEM).decode(), request.public_bytes(Encoding.DER)
        texts += [
            text,
            b64encode(der).decode(),
            b64encode(text.encode()).decode(),
            text[:90],
            b64encode(der[:-3]).decode(),
        ]
    texts += ["", "x", *NO_TEXTS]
    assert different(calls_of("x509.parse_certificate_request", texts), tmp_path, {"texts": texts}) == []


def test_private_keys_are_read_as_by_opa(tmp_path: Path) -> None:
    texts: list[Any] = [text for key in (RSA, *CURVES, EDWARDS) for text in written(key)]
    texts += ["", "x", b64encode(b"x").decode(), pem(certificate(RSA, RSA)), *NO_TEXTS]
    calls = calls_of("parse_private_keys x509.parse_rsa_private_key", texts)
    assert different(calls, tmp_path, {"texts": texts}) == []


def test_pairs_of_a_certificate_and_its_key_are_read_as_by_opa(tmp_path: Path) -> None:
    keys = [RSA, OTHER, CURVES[0], EDWARDS]
    certificates = [text for key in keys for text in texts_of(certificate(key, RSA))[:5]]
    texts = [*certificates, *(text for key in keys for text in written(key)), "", "x"]
    places = range(len(certificates) - 1, len(texts))
    calls = [
        f"crypto.x509.parse_keypair(input.texts[{one}], input.texts[{at}])"
        for one in range(len(certificates))
        for at in places
    ]
    expected, found = _held(of_opa(calls, {"texts": texts}, tmp_path)), of_ours(calls, {"texts": texts})
    assert sum(each != UNDEFINED for each in expected) > 20
    assert [each for each in zip(calls, expected, found, strict=True) if each[1] != each[2]] == []


def chains() -> dict[str, str]:
    root = certificate(RSA, RSA, "root", "root", [authority()])
    leaf = certificate(OTHER, RSA, extensions=[(x509.SubjectAlternativeName(NAMES), False)])
    old = timedelta(days=-1)
    below = (
        [authority(0)],
        [authority()],
        [authority(), signing(False)],
        [authority(), signing(True)],
        [authority(ca=False)],
        [],
    )
    between = [certificate(OTHER, RSA, "between", "root", extensions) for extensions in below]
    under = certificate(CURVES[0], OTHER, "leaf", "between", [usable(Usage.SERVER_AUTH, Usage.CLIENT_AUTH)])
    deeper = certificate(CURVES[0], OTHER, "deeper", "between", [authority()])
    deepest = certificate(EDWARDS, CURVES[0], "leaf", "deeper")
    limited = certificate(RSA, RSA, "root", "root", [authority(0), usable(Usage.SERVER_AUTH)])
    found = {
        "a leaf": pem(root, leaf),
        "the wrong way round": pem(leaf, root),
        "one alone": pem(root),
        "itself": pem(root, root),
        "itself, with another between": pem(root, leaf, root),
        "signed by another": pem(root, certificate(OTHER, OTHER)),
        "another issuer": pem(root, certificate(OTHER, RSA, issuer="other")),
        "expired": pem(root, certificate(OTHER, RSA, until=old)),
        "not yet valid": pem(root, certificate(OTHER, RSA, since=-old)),
        "until now": pem(root, certificate(OTHER, RSA, until=timedelta())),
        "since now": pem(root, certificate(OTHER, RSA, since=timedelta())),
        "a root that is expired": pem(certificate(RSA, RSA, "root", "root", [authority()], until=old), leaf),
        "a root that is no authority": pem(certificate(RSA, RSA, "root", "root", [authority(ca=False)]), leaf),
        "a root that says nothing": pem(certificate(RSA, RSA, "root", "root"), leaf),
        "an extension that nobody knows": pem(root, certificate(OTHER, RSA, extensions=[UNKNOWN])),
        "a root of one level": pem(limited, leaf),
        "a root of one level, and two": pem(limited, between[1], under),
        "for clients": pem(root, certificate(OTHER, RSA, extensions=[usable(Usage.CLIENT_AUTH)])),
        "for anything": pem(root, certificate(OTHER, RSA, extensions=[usable(Usage.ANY_EXTENDED_KEY_USAGE)])),
        "for what nobody knows": pem(
            root, certificate(OTHER, RSA, extensions=[usable(x509.ObjectIdentifier("1.2.3"))])
        ),
        "three levels": pem(root, between[1], deeper, deepest),
        "three levels, in another order": pem(root, deeper, between[1], deepest),
        "three levels, of which one may have none below": pem(root, between[0], deeper, deepest),
        "a level is missing": pem(root, deeper, deepest),
        "two ways": pem(root, between[1], between[3], under),
        "not between": pem(root, certificate(OTHER, RSA, "x", "root", [authority()]), leaf),
        "garbage": "garbage",
    }
    return found | {f"between {number}": pem(root, each, under) for number, each in enumerate(between)}


HOSTS = (
    "a.example",
    "A.EXAMPLE",
    "a.example.",
    "b.example",
    "x.b.example",
    "x.y.b.example",
    ".b.example",
    "10.0.0.1",
    "[::1]",
    "10.0.0.2",
    "a b",
    '"a.example"',
    "*.b.example",
)


def test_chains_that_hold_are_those_that_hold_for_opa(tmp_path: Path) -> None:
    given = chains()
    options: list[Any] = [
        {},
        *({"KeyUsages": [each]} for each in USAGES),
        {"KeyUsages": ["KeyUsageClientAuth", "KeyUsageServerAuth"]},
    ]
    options += [{"KeyUsages": []}, {"MaxConstraintComparisons": 5}, {"DNSName": ""}, {"KeyUsages": [1]}]
    options += [
        {"x": 1},
        {"DNSName": 1},
        {"CurrentTime": "1"},
        {"KeyUsages": ["x"]},
        {"KeyUsages": 1},
        {"CurrentTime": 1.5},
    ]
    options += [{"DNSName": host} for host in HOSTS]
    moments = [{"CurrentTime": NANOSECONDS + shift} for shift in (-1, 0, 1, 10**9)]
    document = {"texts": list(given.values()), "options": [{**moments[1], **each} for each in options] + moments}
    chance = random.Random(5)
    pairs = [
        (text, option)
        for text in range(len(given))
        for option in range(len(document["options"]))
        if text < 1 or chance.random() < 0.3
    ]
    name = "crypto.x509.parse_and_verify_certificates_with_options"
    calls = [f"{name}(input.texts[{text}], input.options[{option}])" for text, option in pairs]
    calls += [
        f"{name}(input.texts[{text}], input.options[{option}])"
        for text in range(len(given))
        for option in (0, len(options))
    ]
    calls.append(f'{name}(input.texts[0], {{"KeyUsages": {{"KeyUsageAny"}}, "CurrentTime": {NANOSECONDS}}})')
    expected, found = _held(of_opa(calls, document, tmp_path)), of_ours(calls, document)
    held = [isinstance(each, list) and each[0] for each in expected]
    assert 40 < sum(held) < len(held) - 40
    named = list(given)
    assert [
        (named[int(call.partition("[")[2].partition("]")[0])], call, str(theirs)[:60], str(ours)[:60])
        for call, theirs, ours in zip(calls, expected, found, strict=True)
        if theirs != ours
    ] == []


def test_a_chain_is_held_against_the_decision_s_own_time_and_against_none_without_one() -> None:
    text = chains()["until now"]
    call = "crypto.x509.parse_and_verify_certificates(input.text)[0]"
    moments = [NANOSECONDS, NANOSECONDS + 1, NANOSECONDS - 10 * 86_400 * 10**9]
    assert [of_ours([call], {"text": text, "time": moment}) for moment in moments] == [[True], [False], [False]]
    assert of_ours([call], {"text": text}) == [UNDEFINED]


@pytest.mark.parametrize("field", ["SerialNumber", "PublicKey.N", 'PublicKey["X"]'])
def test_a_field_that_the_engine_cannot_hold_is_refused_by_name(field: str) -> None:
    text = f"package routing\n\nnumber := crypto.x509.parse_certificates(input.text)[0].{field}\n"
    (fault,) = check_here(sources_of(text))
    assert (fault.code, fault.line) == ("policy_construct_differs", 3)
    assert "crypto.sha256" in fault.message
    assert check_here(sources_of(text.replace(field, "Subject.SerialNumber"))) == []
