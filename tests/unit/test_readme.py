"""The README says what is so: its tables are the code's, its commands and links exist, its documents are valid."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from extproc.cli.main import COMMANDS, cli
from extproc.datapath.words import REASONS
from extproc.metrics import METRICS, merge
from extproc.names import OWN_HEADERS, Reason
from extproc.resources.analysis_template import EXAMPLE_RESULTS, RATES, FeedbackSpec, MetricSpec, ObservedSpec
from extproc.resources.document import Part
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_paths
from extproc.resources.schema import schema_of
from extproc.settings import described
from tests.support.paths import ROOT
from tests.support.readme import README, blocks, code, links, table

TEXT = README.read_text()
GUIDES = [README, ROOT / "policies" / "README.md", ROOT / "envoy" / "README.md"]
TARGETS = [
    "setup",
    "demo",
    "unit",
    "test",
    "nightly",
    "check",
    "bench",
    "bench-count",
    "tools",
    "systems",
    "format",
    "clean",
]
STAGES = [
    "deny",
    "kill",
    "attributes",
    "unit",
    "policy",
    "feature",
    "holdout",
    "layer",
    "coverage",
    "abort",
    "trip",
    "weight",
]


# -- tables


def test_the_settings_are_those_of_the_code() -> None:
    written = [(setting.name, setting.default or "(none)", setting.meaning) for setting in described()]
    rows = table(TEXT, "variable", "default", "meaning")
    assert [(name.strip("`"), default.strip("`"), meaning) for name, default, meaning in rows] == written


def test_the_metrics_are_those_of_the_code() -> None:
    rows = table(TEXT, "metric", "type", "labels", "meaning")
    assert [(code(name)[0], kind, tuple(code(labels)), meaning) for name, kind, labels, meaning in rows] == [
        (metric.name, metric.type, metric.labels, metric.help) for metric in METRICS
    ]


def test_the_metrics_are_those_that_are_exported() -> None:
    exported = {
        (family.name + "_total" if family.type == "counter" else family.name, family.type, family.documentation)
        for family in text_string_to_metric_families(merge([]))
    }
    rows = table(TEXT, "metric", "type", "labels", "meaning")
    assert {(code(name)[0], kind, meaning) for name, kind, _, meaning in rows} == exported


def test_the_fields_of_metrics_are_those_of_the_code() -> None:
    rows = table(TEXT, "field of a metric", "default", "meaning")
    assert sorted(code(name)[0] for name, _, _ in rows) == sorted(fields_of(MetricSpec))
    rows = table(TEXT, "provider", "field", "default", "meaning")
    for provider, model in (("observed", ObservedSpec), ("feedback", FeedbackSpec)):
        assert [code(name)[0] for of, name, _, _ in rows if code(of) == [provider]] == fields_of(model)


@pytest.mark.parametrize(
    ("model", "row"),
    [
        (MetricSpec, ("field of a metric", "default", "meaning")),
        (ObservedSpec, ("provider", "field", "default", "meaning")),
        (FeedbackSpec, ("provider", "field", "default", "meaning")),
    ],
)
def test_the_defaults_of_metrics_are_those_of_the_code(model: type[Part], row: tuple[str, ...]) -> None:
    provider = {ObservedSpec: "observed", FeedbackSpec: "feedback"}.get(model)
    defaults = {field.alias: field.default for field in model.model_fields.values()}
    for *of, name, default, _ in table(TEXT, *row):
        if (not of or code(of[0]) == [provider]) and code(default):
            assert code(default)[0] == str(defaults[code(name)[0]]).lower()


def test_what_conditions_see_is_what_providers_give() -> None:
    rows = table(TEXT, "provider", "metric", "what `result` has")
    named = {
        (code(provider)[0], code(metric)[0] if code(metric) else "rates"): code(has) for provider, metric, has in rows
    }
    for provider, metrics in EXAMPLE_RESULTS.items():
        for metric, result in metrics.items():
            has = named[provider, "rates" if metric in RATES else metric]
            assert sorted(has) == sorted([*result, *result["canary"]])


def fields_of(model: type[Part]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def test_every_reason_is_there_once_in_the_order_of_the_stages() -> None:
    rows = table(TEXT, "stage", "reason", "meaning")
    reasons = [code(reason)[0] for _, reason, _ in rows]
    assert sorted(reasons) == sorted(Reason) == sorted(REASONS)
    assert [stage for stage, _, _ in rows if stage] == [*STAGES, "(no rollout)"]


def test_every_header_is_named() -> None:
    assert [name for name in OWN_HEADERS if f"`{name}`" not in TEXT] == []


def test_the_folders_of_the_layout_exist_and_none_is_left_out() -> None:
    folders = {code(cell)[0] for cell, _ in table(TEXT, "folder", "what is in it")}
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    packages = {
        f"extproc/{folder.name}/"
        for folder in (ROOT / "extproc").iterdir()
        if folder.is_dir() and (folder / "__init__.py").exists()
    }
    assert packages <= folders


# -- make


def test_make_help_lists_the_targets_that_the_readme_names() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+) ", shown, re.MULTILINE) == TARGETS
    rows = table(TEXT, "target", "what it does")
    assert sorted(code(target)[0] for target, _ in rows) == sorted(f"make {target}" for target in TARGETS)


# -- commands


def command_lines(text: str) -> list[str]:
    """Every ``dropout ...`` of the code in ``text``: blocks, inline, and the comments of files that are shown."""
    shown = [block.text.replace("\\\n", " ") for block in blocks(text, "sh", "console", "text")]
    lines = [line.strip().removeprefix("$ ") for block in shown for line in block.splitlines()]
    inline = re.findall(r"`(dropout [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line.replace("\\|", "|") for line in (*lines, *inline) if line.startswith("dropout ")]


def unknown_parts(line: str) -> list[str]:
    """The sub-commands and flags of a command line that do not exist."""
    words = shlex.split(re.split(r" (?:&&|\|\||[|>&])(?: |$)| #", line)[0])[1:]
    command: click.Command = cli
    unknown = []
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        following = command.get_command(click.Context(command), words.pop(0))
        if following is None:
            return [line]
        command = following
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    unknown += [f"{line}: {word}" for word in words if word.startswith("-") and word not in {*known, "--help", "-"}]
    return unknown


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_the_commands_of_the_guides_and_their_flags_exist(guide: Path) -> None:
    lines = command_lines(guide.read_text())
    assert lines
    assert [unknown for line in lines for unknown in unknown_parts(line)] == []


def test_policies_are_served_from_the_folder_that_their_data_is_relative_to() -> None:
    shown = "\n".join(file.read_text() for file in (*GUIDES, ROOT / "envoy" / "envoy.yaml"))
    folders = {folder for folder in re.findall(r"--policies (\S+)", shown) if (ROOT / folder).is_dir()}
    assert folders == {"policies"}
    # From policies/routing the file would be `data` itself, and the default policy would never find its threshold.
    assert (ROOT / "policies" / "routing" / "data.json").exists()


@pytest.mark.parametrize(
    "line",
    [
        "dropout serv",
        "dropout serve --transports grpc",
        "dropout rollout demote x",
        "dropout apply -f x --dry-run && y",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert len(unknown_parts(line)) == 1


def test_every_command_is_in_the_table_of_commands() -> None:
    cells = " ".join(cell for cell, _ in table(TEXT, "command", "what it does"))
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert f"`dropout {name}" in cells
        for sub in command.commands if isinstance(command, click.Group) else ():
            assert re.search(rf"`(dropout {name} )?{sub}\b", cells), f"{name} {sub}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_flag_has_a_help_that_is_not_cut_off(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        assert not one.get_short_help_str(66).endswith("..."), one.name
        for parameter in one.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), (one.name, parameter.name)


# -- the demo


def test_the_demo_is_shown_with_its_acts_and_its_picture() -> None:
    pytest.importorskip("rich")
    from extproc.demo.acts import ACTS
    from extproc.demo.loops import LOOP_ACTS

    section = TEXT[TEXT.index("\n## The demo\n") : TEXT.index("\n## Your first rollout\n")]
    shown = re.findall(r"^\d+  (.*)$", blocks(section, "text")[0].text, re.MULTILINE)
    assert shown == [title for title, *_ in (*ACTS, *LOOP_ACTS)]
    assert "errors: 0" in section
    picture = ROOT / links(section)[0]
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- documents and links


def documents() -> list[Any]:
    """The README's YAML blocks, and the document that its first example writes."""
    texts = [block.text for block in blocks(TEXT, "yaml")]
    first = re.search(r"<<'END'\n(apiVersion.*?)^END$", TEXT, re.MULTILINE | re.DOTALL)
    assert first is not None
    return [document for text in (first[1], *texts) for document in yaml.safe_load_all(text)]


def test_the_documents_are_valid_one_by_one_and_together(tmp_path: Path) -> None:
    found = documents()
    assert len(found) >= 5
    for number, document in enumerate(found):
        jsonschema.validate(document, schema_of(KINDS[document["kind"]].model))
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(document))
    loaded = load_paths([tmp_path])
    # The short document and the long one are of one model, so that they can be compared; they live in two tenants.
    assert [fault for fault in loaded.faults if fault.code != "match_collision"] == []
    for number in range(len(found)):
        assert load_paths([tmp_path / f"{number}.yaml"]).faults == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(guide: Path) -> None:
    targets = [target for target in links(guide.read_text()) if "://" not in target]
    assert [target for target in targets if not (guide.parent / target).exists()] == []


def test_every_row_of_the_failure_table_names_a_test_that_exists() -> None:
    rows = table(GUIDES[2].read_text(), "failure", "what traffic sees", "who notices", "within", "test")
    assert len(rows) >= 10
    named = [name.split(": ") for row in rows for name in code(row[-1])]
    assert len(named) >= len(rows)
    for file, test in named:
        assert f"def test_{test}(" in (ROOT / "tests" / "e2e" / f"{file}.py").read_text(), f"{file}: {test}"


def test_the_readme_links_the_other_guides() -> None:
    assert {"policies/README.md", "envoy/README.md"} <= set(links(TEXT))
