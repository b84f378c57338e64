"""Bundles: what is no bundle, or would mean something else here, is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.bundle_signatures import SECRET_ALGORITHMS, Key, TrustedKeys, sign
from extproc.errors import InvalidInput
from extproc.resources.bundles import MAX_PACKED_BYTES, MAX_UNPACKED_BYTES, SIGNATURES, pack
from extproc.resources.policies import list_policies, read_several, read_sources

RULES = b'package routing\n\ndecision := {"allow": true}\n'
KEY = Key(b"a secret of more than thirty-two letters", SECRET_ALGORITHMS)
TRUST = TrustedKeys([KEY])
GOOD = {"routing/decision.rego": RULES, "routing/data.json": b'{"a": 1}'}


def manifest(**said: Any) -> bytes:
    return json.dumps(said).encode()


def put(folder: Path, contents: Mapping[str, bytes], name: str = "bundle.tar.gz") -> Path:
    (folder / name).write_bytes(pack(contents))
    return folder / name


def refused(place: Path, **how: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        read_sources(place, **how)
    return [fault.code for fault in caught.value.faults]


def tar_of(change: Callable[[tarfile.TarInfo], None], again: int = 1) -> bytes:
    """A tar, packed by gzip, of one entry after ``change``, ``again`` times."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for _ in range(again):
            entry = tarfile.TarInfo("routing/decision.rego")
            entry.size = len(RULES)
            change(entry)
            tar.addfile(entry, io.BytesIO(RULES) if entry.isreg() else None)
    return archive.getvalue()


def rename(name: str) -> Callable[[tarfile.TarInfo], None]:
    return lambda entry: setattr(entry, "name", name)


def become(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(entry: tarfile.TarInfo) -> None:
        entry.type, entry.size, entry.linkname = kind, 0, "/etc/passwd"

    return change


def test_a_bundle_is_what_its_folder_is_and_has_the_revision_of_its_manifest(tmp_path: Path) -> None:
    contents = {**GOOD, ".manifest": manifest(revision="v1", roots=["routing"], metadata={"by": "us"})}
    packed = read_sources(put(tmp_path, {**contents, "routing/decision_test.rego": b"package t\n"}))
    assert (packed.revision, packed.data, list(packed.files)) == (
        "v1",
        {"routing": {"a": 1}},
        ["routing/decision.rego"],
    )
    for name, content in contents.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    assert read_sources(tmp_path / "folder") == packed
    plain = read_sources(put(tmp_path, GOOD))
    assert plain.revision not in ("", "v1")
    with_notes = read_sources(put(tmp_path, {**GOOD, "notes.json": b"no JSON", "README.md": b"\xff"}))
    assert with_notes.revision == plain.revision


def test_an_edit_of_a_bundle_and_of_a_manifest_is_seen(tmp_path: Path) -> None:
    place = put(tmp_path, GOOD)
    before = list_policies(place)
    put(tmp_path, {**GOOD, ".manifest": manifest(revision="v2")})
    assert list_policies(place) != before
    (tmp_path / "folder").mkdir()
    before = list_policies(tmp_path / "folder")
    (tmp_path / "folder" / ".manifest").write_bytes(manifest(revision="v1"))
    assert list_policies(tmp_path / "folder") != before


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "bundle_invalid"),
        (b"package routing\n", "bundle_invalid"),
        (gzip.compress(b"no tar at all" * 100), "bundle_invalid"),
        (pack(GOOD)[:-20], "bundle_invalid"),
        (gzip.compress(gzip.decompress(pack({"a.rego": b"x" * 5000}))[:2000]), "bundle_invalid"),
        (tar_of(rename("../decision.rego")), "bundle_entry"),
        (tar_of(rename("a/../../decision.rego")), "bundle_entry"),
        (tar_of(rename("/")), "bundle_entry"),
        (tar_of(become(tarfile.SYMTYPE)), "bundle_entry"),
        (tar_of(become(tarfile.LNKTYPE)), "bundle_entry"),
        (tar_of(become(tarfile.CHRTYPE)), "bundle_entry"),
        (tar_of(lambda entry: None, again=2), "bundle_entry"),
        (tar_of(rename("\udcff.rego")), "file_name"),
        (gzip.compress(bytes(MAX_UNPACKED_BYTES + 1)), "policies_too_large"),
        (bytes(MAX_PACKED_BYTES + 1), "policies_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "b.tar.gz").write_bytes(content)
    assert refused(tmp_path / "b.tar.gz") == [code]


def test_200_megabytes_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "b.tar.gz").open("wb") as file:
        file.truncate(200 << 20)
    assert refused(tmp_path / "b.tar.gz") == ["policies_too_large"]


@pytest.mark.parametrize(
    ("beside", "code"),
    [
        ({".manifest": b"[]"}, "bundle_invalid"),
        ({".manifest": b'{"revision": 1}'}, "bundle_invalid"),
        ({".manifest": manifest(revision="x" * 257)}, "bundle_invalid"),
        ({".manifest": manifest(revision="a\nb")}, "bundle_invalid"),
        ({".manifest": manifest(roots=["routing", "routing/more"])}, "bundle_roots_overlap"),
        ({".manifest": manifest(roots=["routing", "other", "routing"])}, "bundle_roots_overlap"),
        ({".manifest": manifest(roots=["rout"])}, "bundle_roots"),
        ({".manifest": manifest(roots=[])}, "bundle_roots"),
        ({"other/data.json": b"{}\n", ".manifest": manifest(roots=["routing"])}, "bundle_roots"),
        ({"patch.json": b"{}"}, "bundle_delta"),
        ({".manifest": manifest(rego_version=0)}, "bundle_rego_v0"),
        ({".manifest": manifest(rego_version=1, file_rego_versions={"/routing/*": 0})}, "bundle_rego_v0"),
    ],
)
def test_a_bundle_that_means_something_else_here_is_refused(
    tmp_path: Path, beside: Mapping[str, bytes], code: str
) -> None:
    assert set(refused(put(tmp_path, {**GOOD, **beside}))) == {code}
    folder = tmp_path / "folder"
    for name, content in {".manifest": b"{}", **GOOD, **beside}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert set(refused(folder)) == {code}


def test_rules_that_are_compiled_and_nothing_else_are_refused(tmp_path: Path) -> None:
    assert refused(put(tmp_path, {"policy.wasm": b"\0asm", "data.json": b"{}"})) == ["bundle_compiled"]
    assert refused(put(tmp_path, {"plan.json": b"{}"})) == ["bundle_compiled"]
    assert read_sources(put(tmp_path, {"policy.wasm": b"\0asm", **GOOD})).files


def test_a_package_is_found_behind_comments_and_in_brackets(tmp_path: Path) -> None:
    odd = b'# package other\n\n# more\npackage routing["a-b"].c # here\n\nx := "\npackage z"\n'
    beside = {"odd.rego": odd.replace(b'"\npackage', b'"package'), ".manifest": manifest(roots=["routing"])}
    assert read_sources(put(tmp_path, {**GOOD, **beside})).files
    beside[".manifest"] = manifest(roots=["routing/decision", "routing/a-b", "routing/a"])
    with pytest.raises(InvalidInput, match="package routing is outside"):
        read_sources(put(tmp_path, {**GOOD, **beside}))


# -- signatures


def signed(contents: Mapping[str, bytes], scope: str = "") -> dict[str, bytes]:
    return {**contents, SIGNATURES: sign(contents, KEY, "HS256", scope)}


def test_what_was_signed_is_read_and_who_does_not_ask_reads_it_too(tmp_path: Path) -> None:
    place = put(tmp_path, signed(GOOD))
    assert read_sources(place, trust=TRUST) == read_sources(place)
    again = {**signed(GOOD), "routing/data.json": b'{\n "a" : 1 }'}
    assert read_sources(put(tmp_path, again), trust=TRUST).data == {"routing": {"a": 1}}
    old = Key(b"the key before this one, of 32 letters", SECRET_ALGORITHMS)
    assert read_sources(place, trust=TrustedKeys([old, KEY]))


@pytest.mark.parametrize(
    ("contents", "trust", "code"),
    [
        (GOOD, TRUST, "bundle_unsigned"),
        (signed(GOOD), TrustedKeys(), "bundle_key_missing"),
        (signed(GOOD), TrustedKeys([Key(b"x" * 40, SECRET_ALGORITHMS)]), "bundle_signature"),
        (signed(GOOD), TrustedKeys([KEY], "production"), "bundle_signature"),
        (signed(GOOD, "staging"), TRUST, "bundle_signature"),
        ({**signed(GOOD), "routing/more.rego": b"package routing\n"}, TRUST, "bundle_signature"),
        ({**signed(GOOD), "notes.txt": b"not signed either"}, TRUST, "bundle_signature"),
        ({**signed(GOOD), "routing/decision.rego": RULES + b"\n"}, TRUST, "bundle_signature"),
        ({**signed(GOOD), "routing/data.json": b'{"a": 1.0}'}, TRUST, "bundle_signature"),
        ({SIGNATURES: signed(GOOD)[SIGNATURES], "routing/decision.rego": RULES}, TRUST, "bundle_signature"),
        ({**GOOD, SIGNATURES: b"{}"}, TRUST, "bundle_signature"),
        ({**GOOD, SIGNATURES: b'{"signatures": []}'}, TRUST, "bundle_signature"),
        ({**GOOD, SIGNATURES: b'{"signatures": ["a.b.c"]}'}, TRUST, "bundle_signature"),
        ({**GOOD, SIGNATURES: b'{"signatures": ["eyJhbGciOiJub25lIn0.eyJmaWxlcyI6W119."]}'}, TRUST, "bundle_signature"),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused(
    tmp_path: Path, contents: Mapping[str, bytes], trust: TrustedKeys, code: str
) -> None:
    assert refused(put(tmp_path, contents), trust=trust) == [code]
    folder = tmp_path / "folder"
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert refused(folder, trust=trust) == [code]


# -- several


def test_several_bundles_with_roots_of_their_own_are_one_set(tmp_path: Path) -> None:
    one = put(tmp_path, {**GOOD, ".manifest": manifest(revision="v1", roots=["routing"])}, "authz.tar.gz")
    two = put(
        tmp_path, {"geo/data.json": b'{"de": 1}', ".manifest": manifest(revision="v7", roots=["geo"])}, "geo.tar.gz"
    )
    both = read_several([one, two])
    assert both.revision == "authz=v1,geo=v7"
    assert both.data == {"routing": {"a": 1}, "geo": {"de": 1}}
    assert list(both.files) == ["authz/routing/decision.rego"]
    assert both.data_files[("geo",)] == "geo/geo/data.json"


def test_bundles_whose_roots_overlap_are_refused_with_their_names(tmp_path: Path) -> None:
    one = put(tmp_path, {**GOOD, ".manifest": manifest(roots=["routing"])}, "authz.tar.gz")
    two = put(tmp_path, {**GOOD, ".manifest": manifest(roots=["routing/decision"])}, "geo.tar.gz")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "x.rego").write_bytes(RULES)
    for other in (two, tmp_path / "plain"):
        with pytest.raises(InvalidInput) as caught:
            read_several([one, other])
        assert "bundle_roots_overlap" in [fault.code for fault in caught.value.faults]
        assert "authz and" in str(caught.value) or "and authz" in str(caught.value)
