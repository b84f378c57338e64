"""Every action stands in one table, and whatever has a part in one knows all of them: what is forgotten is named."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.cli.main import cli
from extproc.control.actions import ACTIONS, Apply, Change, Command, Delete, Promote, Report, SetWeight
from extproc.control.api.codec import from_request, request_of, to_request
from extproc.resources.control_schema import CONTROL_ACTIONS
from tests.support.paths import ROOT

LOOKS = {"List", "Get", "Watch", "History"}
GUIDE = (ROOT / "docs" / "pages" / "reference" / "control-policy.md").read_text()


def test_the_table_has_every_action_on_a_rollout_and_no_other() -> None:
    assert list(ACTIONS) == [Apply, Delete, *get_args(Command), *get_args(Report)]
    assert set(get_args(Change)) == {*get_args(Command), *get_args(Report)}


def test_there_is_an_rpc_for_whatever_somebody_may_ask_for_and_for_nothing_else() -> None:
    rpcs = {method.name for method in pb.DESCRIPTOR.services_by_name["Control"].methods}
    assert rpcs - LOOKS == {kind.__name__ for kind in get_args(Command)}


@pytest.mark.parametrize("kind", get_args(Command))
def test_an_rpc_asks_for_what_the_action_has_and_for_nothing_else(kind: type[Command]) -> None:
    asked = set(request_of(kind).DESCRIPTOR.fields_by_name)
    of_the_action = {field.name for field in fields(kind)}
    assert {"namespace", "name"} <= asked <= of_the_action
    assert asked == of_the_action or ACTIONS[kind].verb in ("kill", "restore")  # whose ids are made where they are done


@given(
    st.tuples(st.text(min_size=1), st.text()).flatmap(
        lambda name: st.one_of(
            st.sampled_from(get_args(Command)).filter(lambda kind: kind is not SetWeight).map(lambda kind: kind(*name)),
            st.integers(0, 2**32 - 1).map(lambda weight: SetWeight(*name, weight)),
            st.tuples(st.booleans(), st.lists(st.text()).map(tuple)).map(lambda rest: Promote(*name, *rest)),
        )
    )
)
def test_what_a_client_asks_for_is_what_the_controller_understands(action: Command) -> None:
    sent = to_request(action).SerializeToString()
    assert from_request(type(action), request_of(type(action)).FromString(sent)) == action


@pytest.mark.parametrize("kind", [kind for kind, row in ACTIONS.items() if row.command])
def test_there_is_a_command_for_whatever_people_do(kind: type[Command]) -> None:
    command: click.Command | None = cli
    for name in ACTIONS[kind].command.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    assert ACTIONS[kind].command.endswith(ACTIONS[kind].verb)


def test_what_hosts_do_by_themselves_nobody_types() -> None:
    assert [kind for kind, row in ACTIONS.items() if not row.command] == [*get_args(Report)]


def test_a_policy_is_asked_about_whatever_people_do_and_about_the_steps_of_the_controller() -> None:
    assert (*(row.verb for row in ACTIONS.values() if row.command), "advance") == CONTROL_ACTIONS


def test_the_guide_to_policies_names_every_action_that_is_asked_about() -> None:
    (row,) = [line for line in GUIDE.splitlines() if line.startswith("| `action` |")]
    assert [name for name in CONTROL_ACTIONS if f"`{name}`" not in row] == []
