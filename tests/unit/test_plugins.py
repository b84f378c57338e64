"""From a URL to an adapter: ours by the table, others' by their entry points, and a sentence for what is missing."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from extproc import plugins
from extproc.errors import DropoutError
from extproc.plugins import _OURS, FEATURES, Plugin, Port, open_adapter


def refusal(url: str) -> tuple[str, str]:
    with pytest.raises(DropoutError) as refused:
        open_adapter(FEATURES, url, "--features")
    (fault,) = refused.value.faults
    assert fault.field == "--features"
    return fault.code, fault.message


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Entry points of somebody else's, by scheme."""
    declared: dict[str, str] = {}

    def found(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in declared.items() if group == "dropout.features"]

    monkeypatch.setattr(plugins, "entry_points", found)
    return declared


OPENED = Plugin(FEATURES.version, lambda url, flag: (url, flag))
OF_ANOTHER_PORT = Plugin(FEATURES.version + 1, lambda url, flag: None)
NO_PLUGIN = "a text"


def test_a_scheme_of_ours_is_opened_without_a_look_at_others(others: dict[str, str]) -> None:
    others["sqlite"] = "nowhere:NOTHING"
    assert type(open_adapter(FEATURES, "sqlite:features.db", "--features")).__name__ == "ThreadedCatalogue"


def test_a_scheme_of_somebody_elses_is_opened_with_the_url_and_the_flag(others: dict[str, str]) -> None:
    others["theirs"] = f"{__name__}:OPENED"
    assert open_adapter(FEATURES, "theirs://x", "--features") == ("theirs://x", "--features")  # type: ignore[comparison-overlap]


def test_a_scheme_of_nobodys_is_refused_with_those_that_there_are(others: dict[str, str]) -> None:
    others["theirs"] = f"{__name__}:OPENED"
    code, message = refusal("redsi://host")
    assert code == "features_url"
    assert message.startswith("'redsi' is no feature store: ")
    assert message.endswith("sqlite, theirs; did you mean 'redis'?")


def test_a_path_alone_is_told_as_the_address_that_was_meant() -> None:
    assert refusal("/var/lib/features.db")[1].endswith("; did you mean 'sqlite:/var/lib/features.db'?")


@pytest.mark.parametrize("url", ["", "features.db", "sqlite:", "sqlite"])
def test_what_is_no_address_is_refused(url: str) -> None:
    assert refusal(url)[0] == "features_url"


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("nowhere_at_all:PLUGIN", "plugin_broken", "No module named 'nowhere_at_all'"),
        (f"{__name__}:NO_PLUGIN", "plugin_broken", "is no extproc.plugins.Plugin"),
        (f"{__name__}:OF_ANOTHER_PORT", "plugin_version", "written for version 2 of a feature store's port"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_sentence_that_names_it(
    others: dict[str, str], value: str, code: str, said: str
) -> None:
    others["theirs"] = value
    found, message = refusal("theirs://x")
    assert found == code
    assert said in message
    assert repr(value) in message


def test_an_adapter_whose_library_is_missing_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_OURS, ("features", "later"), plugins._Ours("library_of_later.client:PLUGIN", "later"))
    assert refusal("later://x") == (
        "extras_missing",
        "--features with later: needs more to be installed: pip install 'dropout-router[later]'",
    )


def test_every_adapter_of_the_table_is_there_and_for_the_port_as_it_is() -> None:
    ports: dict[str, Port[object]] = {port.name: port for port in vars(plugins).values() if isinstance(port, Port)}
    assert ports
    for (port, scheme), ours in _OURS.items():
        assert plugins._imported(ours, scheme, "--flag").version == ports[port].version
