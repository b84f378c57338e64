"""What is said of a command line that is nearly right: what was meant, or how it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import click
import pytest

from extproc.cli.main import cli
from extproc.settings import Settings, in_help, variable
from tests.unit.cli.test_validate import run

SAID = {
    "aply": "no such command 'aply'; did you mean 'apply'?: see 'dropout --help' (usage)",
    "rollout lst": "no such command 'lst'; did you mean 'list'?: see 'dropout rollout --help' (usage)",
    "promote x": "no such command 'promote'; did you mean 'dropout rollout promote'?: see 'dropout --help' (usage)",
    "rollout kill x": "no such command 'kill'; did you mean 'dropout kill'?: see 'dropout rollout --help' (usage)",
    "feedback send x": "no such command 'send'; there are export and report: see 'dropout feedback --help' (usage)",
    "rollout pause x --for 10m": "no such option '--for': see 'dropout rollout pause --help' (usage)",
    "rollout get -n risk x": (
        "no such option '-n'; a namespace is a part of the name: NAMESPACE/NAME: see 'dropout rollout get --help' "
        "(usage)"
    ),
    "apply --flename x": "no such option '--flename'; did you mean '--filename'?: see 'dropout apply --help' (usage)",
    "apply base.yaml": "missing option '-f' / '--filename'; write -f PATH: see 'dropout apply --help' (usage)",
    "get rolout x": "KIND: kind 'rolout' is not known here; did you mean 'rollout'? (unsupported_kind)",
    "get pod x": "KIND: kind 'pod' is not known here; rollout and analysistemplate are (unsupported_kind)",
    "get rollouts": (
        "missing argument '[NAMESPACE/]NAME'; `dropout rollout list` shows what there is: "
        "see 'dropout get --help' (usage)"
    ),
    "rollout set-weight x 50%": (
        "PERCENT: '50%' is not a number of percent, such as 5 or 12.5, without a percent sign (weight_invalid)"
    ),
    "explain --path v1/models": (
        "--path: 'v1/models' is no path of a request, which begins with '/'; did you mean '/v1/models'? (path_invalid)"
    ),
}


@pytest.mark.parametrize("line", SAID)
def test_a_command_line_that_is_nearly_right_is_told_what_was_meant(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, *line.split()) == (2, "", SAID[line] + "\n")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command there is, by what is typed to reach it."""
    waiting: list[tuple[str, click.Command]] = [("dropout", cli)]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        if isinstance(command, click.Group):
            for each in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), each)
                assert below is not None
                waiting.append((f"{name} {each}", below))


def test_no_line_about_a_command_is_cut_short_in_the_list_of_commands() -> None:
    groups = [(name, command) for name, command in commands() if isinstance(command, click.Group)]
    lists = {name: group.get_help(click.Context(group)).partition("Commands:\n")[2] for name, group in groups}
    cut = [line for listed in lists.values() for line in listed.splitlines() if line.endswith("...")]
    assert cut == []


def test_an_option_that_a_setting_stands_for_names_the_variable_and_its_default() -> None:
    named = {
        (name, option.opts[-1], attribute.name)
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option)
        for attribute in fields(Settings)
        if f"[env var: {variable(attribute.name)}" in (option.help or "")
    }
    assert {(option, attribute) for _, option, attribute in named} == {
        ("--store", "store"),
        ("--features", "features"),
        ("--drain-timeout", "drain_timeout"),
        ("--decision-deadline", "decision_deadline"),
        ("--log-format", "log_format"),
    }
    assert in_help("drain_timeout") == "[env var: DROPOUT_DRAIN_TIMEOUT; default: 10]"
    assert not [name for name, command in commands() for each in command.params if "[DROPOUT_" in _help(each)]


def _help(parameter: click.Parameter) -> str:
    return (parameter.help or "") if isinstance(parameter, click.Option) else ""


def test_a_variable_that_is_nearly_a_setting_is_noted_and_anybody_elses_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DROPOUT_STORES", "DROPOUT_HANGLIMIT", "DROPOUT_STATE", "DROPOUT_PORT", "DROPOUT_SERVICE_HOST"):
        monkeypatch.setenv(name, "")
    code, _, said = run(capsys, "schema")
    assert code == 0
    assert said.splitlines() == [
        "DROPOUT_STORES: note: nobody reads this variable; did you mean DROPOUT_STORE? (setting_unknown)",
        "DROPOUT_HANGLIMIT: note: nobody reads this variable; did you mean DROPOUT_HANG_LIMIT? (setting_unknown)",
    ]
