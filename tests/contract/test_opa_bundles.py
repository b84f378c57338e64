"""Bundles: what is built here OPA loads and verifies, and what OPA builds and signs is read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.regorus.bundle_signatures import TrustedKeys, read_key
from extproc.cli.main import main
from extproc.errors import InvalidInput
from extproc.resources.policies import read_sources
from tests.support.paths import POLICIES
from tests.systems.opa import BundledOpa, opa

RULES = 'package routing\n\ndecision := {"allow": true, "version": data.routing.pinned}\n'
DATA = (
    '{"pinned": "4", "z": {"b": [1, 2.50, 1e3], "a": "\\u00e9\\u2028<&>", "": null, "\\ufb33": 1, "\\ud834\\udd1e": 2}}'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "routing").mkdir(parents=True)
    (source / "routing" / "decision.rego").write_text(RULES)
    (source / "routing" / "decision_test.rego").write_text("package routing_test\n\ntest_it if true\n")
    (source / "routing" / "data.json").write_text(DATA)
    (source / "more").mkdir()
    (source / "more" / "data.yaml").write_text("a: [1, 1.5, yes, ~]\nb:\n  c: text\n")
    return source


@pytest.fixture(params=["RS256", "PS512", "ES256", "HS256"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path, str]:
    """An algorithm, the files of the key that signs and of the one that verifies, and what OPA is given for that."""
    algorithm: str = request.param
    private, public = tmp_path / "private", tmp_path / "public"
    if algorithm == "HS256":
        private.write_text("a secret of more than thirty-two letters\n")
        return algorithm, private, private, private.read_text().strip()
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else rsa.generate_private_key(65537, 2048)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return algorithm, private, public, str(public)


def built(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["policy", "build", *map(str, arguments)])
    assert exit_.value.code in (0, None)


def test_what_is_built_and_signed_here_is_verified_by_opa(
    folder: Path, keys: tuple[str, Path, Path, str], tmp_path: Path
) -> None:
    algorithm, private, _, verifies = keys
    file = tmp_path / "ours.tar.gz"
    built(folder, "-f", file, "--revision", "r7", "--signing-key", private, "--signing-alg", algorithm)
    arguments = ("--verification-key", verifies, "--signing-alg", algorithm)
    again = opa("build", "-b", file, *arguments, "-o", tmp_path / "again.tar.gz")
    assert again.returncode == 0, again.stderr
    there = read_sources(tmp_path / "again.tar.gz")
    assert (there.revision, there.data) == ("r7", read_sources(folder).data)
    first = file.read_bytes()
    built(folder, "-f", file, "--revision", "r7")
    second = file.read_bytes()
    built(folder, "-f", file, "--revision", "r7")
    assert file.read_bytes() == second != first


def test_what_opa_builds_and_signs_is_read_and_verified(
    folder: Path, keys: tuple[str, Path, Path, str], tmp_path: Path
) -> None:
    algorithm, private, public, _ = keys
    file = tmp_path / "theirs.tar.gz"
    signing = private.read_text().strip() if algorithm == "HS256" else private
    arguments = ("--signing-key", signing, "--signing-alg", algorithm)
    made = opa("build", "-b", folder, "-r", "r8", *arguments, "-o", file)
    assert made.returncode == 0, made.stderr
    trust = TrustedKeys([read_key(public, "--verification-key")])
    there = read_sources(file, trust=trust)
    assert (there.revision, there.data) == ("r8", read_sources(folder).data)
    assert [name.rpartition("/")[2] for name in there.files] == ["decision.rego"]
    other = tmp_path / "other"
    other.write_text("another secret, as long as the first one")
    with pytest.raises(InvalidInput, match="no key of") as caught:
        read_sources(file, trust=TrustedKeys([read_key(other, "--verification-key")]))
    assert caught.value.code == "bundle_signature"


def test_an_opa_runs_on_what_is_built_here(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ours.tar.gz"
    built(folder, "-f", file, "--revision", "r9", "--root", "routing", "--root", "more")

    class OurOpa(BundledOpa):
        def prepare(self) -> None:
            (self.folder / "main.tar.gz").write_bytes(file.read_bytes())

    with OurOpa() as running:
        assert running.decide("routing/decision", {}) == {"allow": True, "version": "4"}


def test_a_policy_of_the_project_is_the_same_from_a_bundle_of_opa(tmp_path: Path) -> None:
    file = tmp_path / "project.tar.gz"
    assert opa("build", "-b", POLICIES, "-o", file).returncode == 0
    with pytest.raises(SystemExit) as exit_:
        main(["policy", "check", str(file)])
    assert exit_.value.code in (0, None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=8, max_size=8))
def test_both_hash_any_data_alike(tmp_path: Path, many: list[Mapping[str, Any]]) -> None:
    source, file, secret = tmp_path / "any", tmp_path / "any.tar.gz", tmp_path / "secret"
    secret.write_text("a secret of more than thirty-two letters")
    for number, value in enumerate(many):
        (source / str(number)).mkdir(parents=True, exist_ok=True)
        (source / str(number) / "data.json").write_text(json.dumps(value, ensure_ascii=number % 2 == 0))
    (source / "decision.rego").write_text("package routing\n\nallow := true\n")
    built(source, "-f", file, "--signing-key", secret, "--signing-alg", "HS256")
    arguments = ("--verification-key", secret.read_text(), "--signing-alg", "HS256")
    again = opa("build", "-b", file, *arguments, "-o", tmp_path / "again.tar.gz")
    assert again.returncode == 0, again.stderr
