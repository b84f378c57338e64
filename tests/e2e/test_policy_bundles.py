"""Bundles that a real OPA built, from a server: whatever becomes of it, the last good ones decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import BundleServer
from tests.support.dropout import DropoutServer
from tests.support.process import wait_for

pytestmark = pytest.mark.e2e

SECRET = "a secret of more than thirty-two letters"
PIN = 'package routing\n\ndecision := {{"allow": true, "version": "{version}"}}\n'
NEVER_ENDS = """package routing

decision := {"allow": count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a * b == 7]) == 2}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BundleServer]:
    with BundleServer() as server:
        offer(server, tmp_path, "4", "r1")
        yield server
        server.go_on.set()


@pytest.fixture
def dropout(server: BundleServer, tmp_path: Path) -> Iterator[DropoutServer]:
    (tmp_path / "key").write_text(SECRET)
    address = f"http://{server.address}/authz.tar.gz?min-delay-seconds=0.1&max-delay-seconds=0.2"
    one = DropoutServer("--policies", address, "--verification-key", str(tmp_path / "key"), workers=1)
    one.options += ("--status", f"http://{server.address}/opa", "--with-controller")
    one.options += ("--control-listen", f"unix:{one.sockets}/control.sock", "--decision-log", str(one.folder / "log"))
    one.write_rollout(policy={"path": "routing/decision", "onError": "stable"})
    with one:
        yield one


def offer(server: BundleServer, folder: Path, version: str, revision: str, secret: str = SECRET) -> None:
    signing = ("--signing-key", secret, "--signing-alg", "HS256")
    server.offer(folder, PIN.format(version=version), revision, *signing)


def decides(dropout: DropoutServer, revision: str) -> Callable[[], bool]:
    return lambda: bool(dropout.snapshot()["workers"][0]["policy_revision"] == revision)


def version(dropout: DropoutServer) -> str:
    return dropout.ask({"x-user-id": "u"})["x-model-version"]


def codes(dropout: DropoutServer) -> list[str]:
    return [error["code"] for error in dropout.snapshot()["errors"]]


def bundle(dropout: DropoutServer) -> dict[str, Any]:
    (found,) = dropout.snapshot()["bundles"]
    return dict(found)


def test_a_bundle_decides_and_another_one_takes_its_place(
    server: BundleServer, dropout: DropoutServer, tmp_path: Path
) -> None:
    assert (version(dropout), dropout.snapshot()["policy_revision"]) == ("4", "r1")
    wait_for(lambda: server.asked[-1][2] == 304, "an answer that nothing changed")
    offer(server, tmp_path, "3", "r2")
    wait_for(decides(dropout, "r2"), "the second bundle")
    assert version(dropout) == "3"
    assert bundle(dropout)["active_revision"] == "r2"
    assert dropout.metric("dropout_policy_info", revision="r2") == 1
    wait_for(lambda: "r2" in (dropout.folder / "log").read_text(), "the revision in the log")
    events = [json.loads(line) for line in (dropout.folder / "log").read_text().splitlines()]
    assert [event["bundles"]["policies"]["revision"] for event in events if "bundles" in event] == ["r1", "r2"]
    wait_for(lambda: [each for each in server.reports if revision_in(each) == "r2"], "the status")
    (told,) = [each["bundles"]["authz.tar.gz"] for each in server.reports if revision_in(each) == "r2"][-1:]
    assert (told["name"], "errors" in told, server.reports[-1]["path"]) == ("authz.tar.gz", False, "/opa/status")
    assert {"last_request", "last_successful_request", "last_successful_download", "last_successful_activation"} <= {
        *told
    }


def revision_in(report: dict[str, Any]) -> str:
    return str(report["bundles"]["authz.tar.gz"]["active_revision"])


def test_whatever_a_server_answers_the_last_good_bundle_decides(
    server: BundleServer, dropout: DropoutServer, tmp_path: Path
) -> None:
    good = server.bundle

    def becomes(code: str) -> None:
        wait_for(lambda: codes(dropout) == [code], code)
        assert (version(dropout), dropout.snapshot()["policy_revision"]) == ("4", "r1")
        assert dropout.get("/readyz")[0] == 200

    for status in (404, 500, 301):
        server.status = status
        becomes("bundle_unreachable")
    server.status = 200
    server.bundle = b"garbage"
    becomes("bundle_invalid")
    offer(server, tmp_path, "3", "evil", secret="another secret of more than thirty letters")
    becomes("bundle_signature")
    server.offer(tmp_path, PIN.format(version="3"), "unsigned")
    becomes("bundle_unsigned")
    server.offer(tmp_path, NEVER_ENDS, "endless", "--signing-key", SECRET, "--signing-alg", "HS256")
    becomes("policy_too_slow")
    server.offer(
        tmp_path,
        "package routing\n\ndecision := http.send({})\n",
        "n",
        "--signing-key",
        SECRET,
        "--signing-alg",
        "HS256",
    )
    becomes("policy_builtin_forbidden")
    assert bundle(dropout)["errors"]
    wait_for(lambda: server.reports[-1]["bundles"]["authz.tar.gz"].get("code") == "bundle_error", "the fault as status")
    server.bundle = good
    wait_for(lambda: codes(dropout) == [], "that it is well again")
    assert dropout.metric("dropout_reloads_refused_total", what="bundles") >= 5


def test_a_server_that_is_down_or_hangs_is_waited_for_by_nobody_and_a_restart_finds_the_last_good_bundle(
    server: BundleServer, dropout: DropoutServer, tmp_path: Path
) -> None:
    server.go_on.clear()
    offer(server, tmp_path, "3", "r2")
    assert version(dropout) == "4"
    assert dropout.stop() == 0
    dropout.start()
    assert (version(dropout), dropout.snapshot()["policy_revision"]) == ("4", "r1")
    server.go_on.set()
    wait_for(decides(dropout, "r2"), "the bundle that was offered meanwhile")
    server.__exit__(None, None, None)
    wait_for(lambda: codes(dropout) == ["bundle_unreachable"], "that nobody answers")
    assert version(dropout) == "3"
    with BundleServer(port=int(server.address.rpartition(":")[2])) as back:
        offer(back, tmp_path, "4", "r3")
        wait_for(decides(dropout, "r3"), "the server that is back")


def test_a_start_without_any_bundle_goes_to_stable_until_there_is_one(server: BundleServer, tmp_path: Path) -> None:
    server.status = 503
    address = f"http://{server.address}/a.tar.gz?min-delay-seconds=0.1&max-delay-seconds=0.2"
    one = DropoutServer("--policies", address, workers=1)
    one.write_rollout(policy={"path": "routing/decision", "onError": "stable"})
    server.offer(tmp_path, PIN.format(version="4"), "r1")
    with one:
        assert version(one) == "3"
        assert "bundle_unreachable" in codes(one)
        server.status = 200
        wait_for(decides(one, "r1"), "the first bundle")
        assert version(one) == "4"


def test_several_bundles_decide_together_and_a_file_is_watched(server: BundleServer, tmp_path: Path) -> None:
    server.offer(tmp_path, PIN.replace('"{version}"', "data.pins.all").format(), "r1")
    unpacked = tmp_path / "pins"
    (unpacked / "pins").mkdir(parents=True)
    (unpacked / ".manifest").write_text('{"revision": "p1", "roots": ["pins"]}')
    (unpacked / "pins" / "data.json").write_text('{"all": "4"}')
    one = DropoutServer("--policies", str(tmp_path / "built.tar.gz"), "--policies", str(unpacked), workers=1)
    code, said = one.refused()
    assert (code, "bundle_roots_overlap" in said) == (2, True)
    server.offer(tmp_path, PIN.replace('"{version}"', "data.pins.all").format(), "r1", "-e", "routing/decision")
    rooted = tmp_path / "bundle-source" / ".manifest"
    rooted.write_text('{"roots": ["routing"]}')
    server.offer(tmp_path, PIN.replace('"{version}"', "data.pins.all").format(), "r1")
    one.write_rollout(policy={"path": "routing/decision", "onError": "stable"})
    with one:
        assert (version(one), one.snapshot()["policy_revision"]) == ("4", "built=r1,pins=p1")
        DropoutServer.write(unpacked / ".manifest", '{"revision": "p2", "roots": ["pins"]}')
        DropoutServer.write(unpacked / "pins" / "data.json", '{"all": "3"}')
        wait_for(decides(one, "built=r1,pins=p2"), "the edit")
        wait_for(lambda: version(one) == "3", "the edit of its data")
