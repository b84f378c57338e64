"""Who applied a document makes no version stable, whatever the way; who applied it stands in the row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.regorus.control import ControlPolicies
from extproc.control.acting import act
from extproc.control.actions import (
    Abort,
    Action,
    Adopt,
    Apply,
    Delete,
    Kill,
    Pause,
    Promote,
    Restore,
    Resume,
    Retry,
    SetWeight,
    Undo,
)
from extproc.control.applied import who_applied
from extproc.control.as_json import row_json, timestamp
from extproc.control.policy_veto import PolicyVeto
from extproc.errors import Refused
from extproc.resources.loading import load_paths
from extproc.resources.policy_places import PolicyPlaces
from extproc.store.records import HistoryEntry, StoredRollout, Write
from extproc.store.status import Status
from tests.support.damage import damage
from tests.support.paths import POLICIES
from tests.support.reconciling import Environment
from tests.support.rollouts import CANARY, EXPERIMENT, document

NAME = ("payments", "fraud-detector")
GATED: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}]
BY_ITSELF: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {"duration": "10s"}}]
HALVES: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPolicies]:
    folder = tmp_path_factory.mktemp("policies")
    shutil.copytree(POLICIES / "control", folder / "control")
    (folder / "control" / "data.json").write_text('{"four_eyes": ["payments"], "freezes": []}')
    # Whoever is late is not asked again for a while, and one who is shared may be late on a busy machine.
    policies = ControlPolicies(PolicyPlaces([folder]), answer_seconds=30.0)
    yield policies
    policies.close()


class Room:
    """An environment where the shipped policy is asked, and everybody but the controller has a name."""

    def __init__(self, folder: Path, policy: ControlPolicies) -> None:
        self.environment = Environment(folder)
        self.policy = policy
        veto = PolicyVeto(self.environment.store, policy, "controller@a", self.environment.clock.monotonic)
        self.controller = self.environment.controller(veto=veto)

    def documents(self, spec: dict[str, Any], name: str = NAME[1], namespace: str = NAME[0]) -> Apply:
        file = self.environment.folder / "document.yaml"
        file.write_text(yaml.safe_dump(document(spec, name, namespace)))
        return Apply(load_paths([file]).documents)

    def apply(self, actor: str, steps: Sequence[dict[str, Any]] = GATED, **spec: Any) -> str:
        return self.does(actor, self.documents({**CANARY, "steps": list(steps), **spec}))

    def does(self, actor: str, action: Action) -> str:
        """What became of it, or the code of the refusal; a rise that it makes comes to be in force."""
        try:
            (result,) = act(self.environment.store, actor, action, self.environment.clock, self.policy)
        except Refused as refused:
            return refused.code
        self.environment.clock.advance(1)
        return result.result

    def runs(self, seconds: float = 5) -> None:
        self.environment.run(self.controller, seconds)

    @property
    def stable(self) -> str:
        return self.environment.row().status.stable


@pytest.fixture
def room(tmp_path: Path, policy: ControlPolicies) -> Room:
    return Room(tmp_path, policy)


def test_who_applied_it_promotes_it_in_no_way_and_somebody_else_does(room: Room) -> None:
    assert room.apply("alice") == "created"
    room.runs()
    for action in (Promote(*NAME), Promote(*NAME, full=True), SetWeight(*NAME, 10000)):
        assert room.does("alice", action) == "control_denied"
    assert room.does("alice", SetWeight(*NAME, 2000)) == "configured"
    assert room.does("bob", SetWeight(*NAME, 10000)) == "configured"
    assert room.does("alice", SetWeight(*NAME, 500)) == "configured"
    assert room.does("alice", Promote(*NAME, full=True)) == "control_denied"
    assert room.does("bob", Promote(*NAME, full=True)) == "configured"
    assert room.stable == "4"
    assert room.does("alice", Undo(*NAME)) == "configured"
    assert room.stable == "3"


def test_no_flood_makes_anybody_forget_who_applied_it(room: Room) -> None:
    room.apply("alice")
    room.runs()
    row = room.environment.row()
    flood = [HistoryEntry(1.0, *NAME, "alice", verb, str(i)) for i in range(1500) for verb in ("pause", "set-weight")]
    room.environment.store.write(
        [Write(*NAME, row.resource_version, status=replace(row.status, drawn=1), history=flood)]
    )
    assert room.does("alice", Promote(*NAME, full=True)) == "control_denied"
    assert room.does("bob", Promote(*NAME, full=True)) == "configured"


def test_a_pause_that_is_not_the_last_is_ended_by_anybody(room: Room) -> None:
    room.apply("alice", HALVES)
    room.runs()
    assert room.does("alice", Promote(*NAME)) == "configured"
    room.runs()
    assert room.environment.weight() == 5000
    assert room.does("alice", Promote(*NAME)) == "control_denied"


def test_a_resume_past_the_last_pause_is_somebody_elses(room: Room) -> None:
    room.apply("alice")
    room.runs()
    assert room.does("bob", Promote(*NAME)) == "configured"
    assert room.does("alice", Pause(*NAME)) == "configured"
    assert room.does("alice", Resume(*NAME)) == "control_denied"
    room.runs(30)
    assert room.stable == "3"
    assert room.does("bob", Resume(*NAME)) == "configured"
    room.runs()
    assert room.stable == "4"


@pytest.mark.parametrize(
    "edit", [{"match": [{"path": {"value": "/other"}}]}, {"unit": {"header": "x-other"}}, {"policy": {"path": "a/b"}}]
)
def test_what_somebody_else_let_become_stable_is_not_made_stable_for_other_requests(
    room: Room, edit: dict[str, Any]
) -> None:
    room.apply("alice")
    room.runs()
    assert room.does("bob", Promote(*NAME)) == "configured"
    assert room.apply("alice", **edit) == "control_denied"
    assert room.does("alice", Pause(*NAME)) == "configured"
    assert room.apply("alice", **edit) == "configured"
    assert room.does("alice", Resume(*NAME)) == "control_denied"
    assert room.does("bob", Resume(*NAME)) == "configured"
    room.runs()
    assert room.stable == "4"
    assert room.apply("alice") == "configured"


@pytest.mark.parametrize("away", [Abort(*NAME), Kill(*NAME)])
def test_what_brings_back_what_was_past_the_last_pause_is_somebody_elses(room: Room, away: Action) -> None:
    room.apply("alice")
    room.runs()
    room.does("bob", SetWeight(*NAME, 10000))
    assert room.does("alice", away) == "configured"
    if isinstance(away, Kill):
        assert room.does("alice", Restore(*NAME)) == "control_denied"
        assert room.does("bob", Restore(*NAME)) == "configured"
    else:  # it starts over, and comes to the pause
        assert room.does("alice", Retry(*NAME)) == "configured"
        room.runs(30)
        assert (room.stable, room.environment.weight()) == ("3", 500)


def test_a_document_promotes_nothing_by_itself(room: Room) -> None:
    assert room.apply("alice", BY_ITSELF) == "control_denied"
    assert room.apply("alice", [{"setWeight": 100}, {"pause": {}}]) == "control_denied"
    assert room.apply("alice") == "created"
    assert room.apply("alice", BY_ITSELF) == "control_denied"
    assert room.apply("alice", upstream="{model}-v4") == "control_denied"
    assert room.apply("alice", endpoints={"host": "another", "port": 80}) == "control_denied"
    assert room.does("alice", Retry(*NAME)) == "not_aborted"
    assert room.does("alice", room.documents({**EXPERIMENT, "variants": EXPERIMENT["variants"][::-1]})) == (
        "control_denied"
    )


def test_an_edit_of_stable_is_adopted_by_somebody_else(room: Room) -> None:
    room.apply("alice", canary={"version": "5"})
    assert room.apply("alice", stable={"version": "4"}, canary={"version": "5"}) == "configured"
    assert room.stable == "3"
    assert room.does("alice", Adopt(*NAME)) == "control_denied"
    assert room.does("bob", Adopt(*NAME)) == "configured"
    assert room.stable == "4"


@pytest.mark.parametrize(
    "again",
    [
        {**CANARY, "stable": {"version": "4"}},
        {**CANARY, "upstream": "{model}-v4"},
        {**CANARY, "endpoints": {"host": "another", "port": 80}},
        EXPERIMENT,
    ],
)
def test_a_delete_and_an_apply_make_nothing_stable(room: Room, again: dict[str, Any]) -> None:
    room.apply("alice")
    for end in ("3", "4"):
        if end == "4":
            room.does("bob", Promote(*NAME, full=True))
        assert room.does("alice", Delete(*NAME)) == "deleted"
        became = room.does("alice", room.documents(again))
        if became == "control_denied":
            room.apply("alice")
        assert room.stable == end
        assert room.environment.row().status.applied["by"] == "alice"
        room.apply("alice")
        assert room.does("alice", Promote(*NAME, full=True)) in ("control_denied", "no_canary")


def test_the_controller_goes_on_with_what_somebody_else_let_go_and_with_nothing_that_nobody_applied(
    room: Room,
) -> None:
    act(room.environment.store, "alice", room.documents({**CANARY, "steps": BY_ITSELF}), room.environment.clock)
    forget(room, "applied", "history")
    room.runs(30)
    assert room.stable == "3"
    assert "apply the document again" in room.environment.row().status.message
    assert room.apply("bob", BY_ITSELF) == "unchanged"
    room.runs(30)
    assert room.stable == "4"


# -- the row


def forget(room: Room, *what: str) -> None:
    """Make it a row of an earlier version; without history, of one that did not keep it so long."""
    row = room.environment.row()
    before = {name: getattr(Status(row.status.stable), name) for name in what if name != "history"}
    room.environment.store.write([Write(*NAME, row.resource_version, status=replace(row.status, **before))])
    if "history" in what:
        assert room.environment.place.content is not None
        room.environment.place.content.history.clear()


def applied_by(row: StoredRollout, room: Room) -> str | None:
    found = who_applied(room.environment.store, row)
    return found.by if found is not None else None


def test_a_row_of_an_earlier_version_takes_over_who_applied_it_from_its_history(room: Room) -> None:
    room.apply("alice")
    forget(room, "applied")
    assert applied_by(room.environment.row(), room) == "alice"
    assert room.does("alice", Promote(*NAME, full=True)) == "control_denied"
    entries = len(room.environment.history())
    assert room.apply("bob") == "unchanged"  # it is in the row from then on
    assert (room.environment.row().status.applied["by"], len(room.environment.history())) == ("alice", entries)
    before = room.environment.row().resource_version
    assert room.apply("bob") == "unchanged"
    assert room.environment.row().resource_version == before


def test_where_nobody_knows_who_applied_it_nobody_is_somebody_else_until_it_is_applied_again(room: Room) -> None:
    room.apply("alice")
    forget(room, "applied", "history")
    with pytest.raises(Refused, match="apply the document again"):
        act(room.environment.store, "bob", Promote(*NAME, full=True), room.environment.clock, room.policy)
    assert room.apply("alice") == "unchanged"
    assert room.does("alice", Promote(*NAME, full=True)) == "control_denied"
    assert room.does("bob", Promote(*NAME, full=True)) == "configured"


def test_what_an_earlier_version_applied_over_it_is_not_taken_for_what_was_applied_before(room: Room) -> None:
    room.apply("bob")
    row = room.environment.row()
    later = {**row.document, "metadata": {**row.document["metadata"], "labels": {}}}
    by_alice = HistoryEntry(room.environment.clock.now(), *NAME, "alice", "apply", "configured")
    room.environment.store.write([Write(*NAME, row.resource_version, later, row.status, history=[by_alice])])
    assert applied_by(room.environment.row(), room) == "alice"


def test_every_way_to_another_document_says_who_took_it_and_every_other_leaves_that(room: Room) -> None:
    def by() -> str:
        return str(room.environment.row().status.applied["by"])

    at = room.environment.clock.now()
    room.apply("alice")
    assert row_json(room.environment.row())["applied"] == {"by": "alice", "at": timestamp(at)}
    room.runs()
    for action in (SetWeight(*NAME, 700), Pause(*NAME), Kill(*NAME), Restore(*NAME), Abort(*NAME), Retry(*NAME)):
        assert room.does("bob", action) in ("configured", "unchanged")
        assert by() == "alice"
    assert room.apply("carol", HALVES) == "configured"
    assert by() == "carol"
    room.does("bob", Delete(*NAME))
    assert room.apply("dave") == "created"
    assert by() == "dave"
    damage(room.environment.place, NAME[1])
    repair = replace(room.documents({**CANARY, "steps": GATED}), repair=True)
    assert room.does("erin", repair) == "repaired"
    assert by() == "erin"


# -- by another rollout


def path(value: str) -> dict[str, Any]:
    return {"match": [{"path": {"value": value}}]}


NARROWER = path("/v1/models/fraud-detector/beta")
ELSEWHERE = path("/v2/models/fraud-detector")
OTHERS = [("other", "payments"), ("other", "lab"), (NAME[1], "lab")]


def new(room: Room, actor: str, name: str, namespace: str, **spec: Any) -> str:
    return room.does(actor, room.documents({**CANARY, "steps": GATED, **spec}, name, namespace))


@pytest.mark.parametrize(("name", "namespace"), OTHERS)
def test_a_narrower_match_brings_no_version_to_the_requests_of_another_rollout(
    room: Room, name: str, namespace: str
) -> None:
    room.apply("bob")
    another = {"stable": {"version": "5"}, **NARROWER}
    assert new(room, "alice", name, namespace, **another) == "control_denied"
    by_hand = room.documents({**CANARY, "steps": GATED, **another}, name, namespace)
    with pytest.raises(Refused, match="it would serve requests of payments/fraud-detector"):
        act(room.environment.store, "alice", by_hand, room.environment.clock, room.policy)
    assert new(room, "alice", name, namespace, **{**another, **ELSEWHERE}) == "created"
    assert new(room, "alice", name, namespace, **{**another, **NARROWER}) == "control_denied"


@pytest.mark.parametrize(("name", "namespace"), OTHERS)
def test_what_serves_the_requests_of_another_rollout_somebody_else_makes_stable(
    room: Room, name: str, namespace: str
) -> None:
    room.apply("bob")
    assert new(room, "alice", name, namespace, **NARROWER) == "created"  # with the stable of the other
    room.runs()
    for action in (Promote(namespace, name, full=True), SetWeight(namespace, name, 10000)):
        assert room.does("alice", action) == "control_denied"
    assert room.does("bob", Promote(namespace, name, full=True)) == "configured"
    assert room.does("alice", Delete(namespace, name)) == "control_denied"  # 3 would come in place of 4
    assert room.does("bob", Delete(namespace, name)) == "deleted"


@pytest.mark.parametrize(("name", "namespace"), OTHERS)
@pytest.mark.parametrize("lets_go", ["delete", "another match"])
def test_what_was_let_go_is_taken_by_nobody_alone(room: Room, name: str, namespace: str, lets_go: str) -> None:
    room.apply("alice")
    if lets_go == "delete":
        assert room.does("alice", Delete(*NAME)) == "deleted"
    else:
        assert room.apply("alice", **ELSEWHERE) == "configured"
    assert new(room, "alice", name, namespace, stable={"version": "5"}) == "control_denied"
    assert new(room, "alice", name, namespace) == "created"
    room.runs()
    assert room.does("alice", Promote(namespace, name, full=True)) == "control_denied"
    assert room.does("bob", Promote(namespace, name, full=True)) == "configured"


def test_what_was_let_go_a_month_ago_is_anybodys(room: Room) -> None:
    room.apply("alice")
    assert room.apply("alice", **ELSEWHERE) == "configured"
    room.environment.clock.advance(31 * 86400)
    assert new(room, "alice", "other", "lab", stable={"version": "5"}) == "created"


def test_another_model_and_another_namespace_that_nobody_shares_requests_with_are_not_held_up(room: Room) -> None:
    room.apply("alice")
    assert new(room, "alice", "other", "payments", stable={"version": "5"}, **ELSEWHERE) == "created"
    assert new(room, "alice", "broad", "payments", stable={"version": "5"}, **path("/v1/models")) == "created"
