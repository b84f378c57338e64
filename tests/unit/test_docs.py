"""The pages say what is so: their tables are the code's, their commands and links exist, their documents are valid."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from extproc.cli.main import COMMANDS, cli
from extproc.control.analysis.ends import ABANDONED_ALPHA
from extproc.control.analysis.sample_ratio import FEWEST_UNITS, UNHEALTHY_BELOW
from extproc.control.analysis.sequential import FEWEST_GROUPS, TUNED_FOR
from extproc.control.status_changes import (
    EXPERIMENT_CONDITIONS,
    EXPERIMENT_FAULTS,
    PROGRESS_DEADLINE,
    SPEC_BEHIND,
    STABLE_DRIFT,
    STABLE_TRIPPED,
    TOLD,
)
from extproc.control.transitions import MANUAL_PAUSES, STEP_PAUSES
from extproc.datapath.explanation import REASONS
from extproc.measure import UNIT_GROUPS
from extproc.measure.breaker import ABANDONED_LEVEL, LEVEL
from extproc.measure.sketch import RELATIVE_ERROR
from extproc.measure.units import KEPT
from extproc.metrics.merging import merge
from extproc.names import OWN_HEADERS, Reason
from extproc.resources.analysis_template import MetricSpec
from extproc.resources.document import Part
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_paths
from extproc.resources.providers.feedback import RATES
from extproc.resources.providers.kind import ProviderKind
from extproc.resources.providers.table import OURS, provider
from extproc.resources.schema import schema_of
from tests.support.pages import (
    GUIDES,
    PAGES,
    README,
    anchors,
    blocks,
    code,
    links,
    page,
    pages,
    prose_lines,
    table,
    two_sentences,
)
from tests.support.paths import ROOT

EVERYTHING = (*GUIDES, *pages())
TARGETS = [
    "setup",
    "demo",
    "unit",
    "test",
    "nightly",
    "check",
    "bench",
    "bench-count",
    "docs",
    "tools",
    "systems",
    "format",
    "clean",
]
NO_ERRORS = {"recorded", "undecided"}
"""Codes of answers that are none: a record that is counted, and the rendered routes' own 503."""
STAGES = [
    "deny",
    "kill",
    "attributes",
    "log",
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

ALIKE = ("extproc/_gen/", "extproc/adapters/", "extproc/demo/")
"""Folders that say for all in them what is in each."""


def where(file: Path) -> str:
    return str(file.relative_to(ROOT))


# -- tables


def test_what_pages_have_of_the_code_is_as_the_code_has_it() -> None:
    """Settings, metrics, options, error codes, and the names of the package; `make format` writes them."""
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def error_codes() -> dict[str, set[str]]:
    """Every code on the page of error codes, with its exit codes."""
    found = {
        code(name)[0]: set(exits.split())
        for name, exits, *_ in table(page("reference/errors"), "code", "exit code", "what it says", "module")
    }
    return found | {code(name)[0]: set() for name, _ in table(page("reference/errors"), "code", "what it says")}


def test_every_code_that_a_test_expects_is_on_the_page_of_error_codes() -> None:
    """Tests and the page know of codes by different ways."""
    expected = {
        found
        for file in (ROOT / "tests").rglob("*.py")
        for found in re.findall(r"""\.code == "([a-z_]+)"|\["code"\] == "([a-z_]+)\"""", file.read_text())
    }
    named = {name for pair in expected for name in pair if name}
    assert len(named) > 60
    assert named - error_codes().keys() - NO_ERRORS == set()


def test_a_code_ends_a_command_with_one_exit_code() -> None:
    """An entity without features is a no; a rollout of that name is expected to be there."""
    several = {name for name, exits in error_codes().items() if len(exits) > 1}
    assert several == {"not_found"}


def test_the_example_of_the_package_says_what_the_page_shows(tmp_path: Path) -> None:
    (document,), (program,), (said,) = (blocks(page("reference/python"), kind) for kind in ("yaml", "python", "text"))
    (tmp_path / "rollout.yaml").write_text(document.text)
    done = subprocess.run(
        [sys.executable, "-c", program.text], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == said.text


def test_the_metrics_are_those_that_are_exported() -> None:
    exported = {
        (family.name + "_total" if family.type == "counter" else family.name, family.type, family.documentation)
        for family in text_string_to_metric_families(merge([]))
    }
    rows = table(page("reference/metrics"), "metric", "type", "labels", "meaning")
    assert {(code(name)[0], kind, meaning) for name, kind, _, meaning in rows} == exported


def test_the_fields_of_metrics_are_those_of_the_code() -> None:
    rows = table(page("reference/analysis-template"), "field of a metric", "default", "meaning")
    assert sorted(code(name)[0] for name, _, _ in rows) == sorted(fields_of(MetricSpec))
    rows = table(page("reference/analysis-template"), "provider", "field", "default", "meaning")
    for name in OURS:
        assert [code(field)[0] for of, field, _, _ in rows if code(of) == [name]] == fields_of(kind(name).spec)


def test_the_defaults_of_metrics_are_those_of_the_code() -> None:
    rows = [("", *row) for row in table(page("reference/analysis-template"), "field of a metric", "default", "meaning")]
    rows += table(page("reference/analysis-template"), "provider", "field", "default", "meaning")
    for of, name, default, _ in rows:
        model = kind(code(of)[0]).spec if of else MetricSpec
        (written,) = (field.default for field in model.model_fields.values() if field.alias == code(name)[0])
        if code(default):
            assert code(default)[0] in (str(written).lower(), written if isinstance(written, str) else f"{written:g}s")


def test_what_conditions_see_is_what_providers_give() -> None:
    rows = table(page("reference/analysis-template"), "provider", "metric", "what `result` has")
    named = {(code(of)[0], code(metric)[0] if code(metric) else "rates"): sorted(code(has)) for of, metric, has in rows}
    assert named == {
        (name, "rates" if metric in RATES else metric): sorted([*result, *result["canary"]])
        if isinstance(result, dict)
        else []
        for name in OURS
        for metric, result in kind(name).results.items()
    }


def kind(name: str) -> ProviderKind:
    found = provider(name)
    assert found is not None
    return found


def fields_of(model: type[Part]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def test_every_reason_is_there_once_in_the_order_of_the_stages() -> None:
    rows = table(page("reference/reasons"), "stage", "reason", "meaning")
    reasons = [code(reason)[0] for _, reason, _ in rows]
    assert sorted(reasons) == sorted(Reason) == sorted(REASONS)
    assert [stage for stage, _, _ in rows if stage] == [*STAGES, "(no rollout)"]


def test_every_phase_reason_and_condition_of_a_rollout_is_on_its_page() -> None:
    text = page("reference/status")
    assert [code(phase)[0] for phase, _ in table(text, "phase", "meaning")] == [
        "Progressing",
        "Paused",
        "Healthy",
        "Degraded",
    ]
    conditions = {each for cell, _ in table(text, "condition", "meaning") for each in code(cell)}
    assert conditions == {STABLE_DRIFT, SPEC_BEHIND, STABLE_TRIPPED, PROGRESS_DEADLINE, *TOLD, *EXPERIMENT_CONDITIONS}
    reasons = {each for _, cell, _ in table(text, "phase", "reason", "meaning") for each in code(cell)}
    assert reasons >= {*MANUAL_PAUSES, *STEP_PAUSES, *EXPERIMENT_FAULTS.values()}
    sources = [
        file.read_text() for folder in ("control", "store") for file in (ROOT / "extproc" / folder).rglob("*.py")
    ]
    given = {each for text in sources for each in re.findall(r'\breason(?:: str)?\s*=\s*"(\w+)"', text)}
    assert given <= reasons
    assert [each for each in reasons if not any(f'"{each}"' in text for text in sources)] == []


def test_the_headers_are_those_of_the_code() -> None:
    rows = table(page("reference/headers"), "header", "for example", "what it says")
    assert tuple(code(name)[0] for name, _, _ in rows) == OWN_HEADERS


def test_the_folders_of_the_layout_exist_and_none_is_left_out() -> None:
    folders = {code(cell)[0] for cell, _ in table(page("architecture"), "folder", "what is in it")}
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    packages = {f"{where(file.parent)}/" for file in (ROOT / "extproc").rglob("__init__.py")} - {"extproc/"}
    assert {each for each in packages if not each.startswith(ALIKE)} | {*ALIKE} <= folders


def test_every_system_that_an_adapter_speaks_to_has_a_page() -> None:
    systems = {folder.parent.name for folder in (ROOT / "extproc" / "adapters").glob("*/__init__.py")}
    assert systems == {file.stem for file in (PAGES / "adapters").glob("*.md")}


# -- make


def test_make_help_lists_the_targets_that_are_documented() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+) ", shown, re.MULTILINE) == TARGETS
    rows = table(page("contributing"), "target", "what it does")
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


def test_the_commands_of_the_pages_and_their_flags_exist() -> None:
    lines = {guide: command_lines(guide.read_text()) for guide in EVERYTHING}
    assert [guide for guide in GUIDES if guide.name == README.name and not lines[guide]] == []
    unknown = [(where(guide), part) for guide in EVERYTHING for line in lines[guide] for part in unknown_parts(line)]
    assert unknown == []


def test_policies_are_served_from_the_folder_that_their_data_is_relative_to() -> None:
    shown = "\n".join(file.read_text() for file in (*EVERYTHING, ROOT / "envoy" / "envoy.yaml"))
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
    cells = " ".join(cell for cell, _ in table(page("reference/commands"), "command", "what it does"))
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

    text = page("demo")
    shown = re.findall(r"^\d+  (.*)$", blocks(text, "text")[0].text, re.MULTILINE)
    assert shown == [title for title, *_ in (*ACTS, *LOOP_ACTS)]
    assert "errors: 0" in text
    assert ("demo.png", "") in links(text)
    assert ("docs/pages/demo.png", "") in links(README.read_text())
    assert (PAGES / "demo.png").read_bytes().startswith(b"\x89PNG")


# -- documents and links


def documents() -> list[Any]:
    """The pages' YAML blocks, and the document that the tutorial writes."""
    texts = [block.text for each in pages() for block in blocks(each.read_text(), "yaml")]
    first = re.search(r"<<'END'\n(apiVersion.*?)^END$", page("tutorial"), re.MULTILINE | re.DOTALL)
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


def test_every_link_leads_to_a_file_and_to_a_heading_in_it() -> None:
    dead = []
    for guide in EVERYTHING:
        for target, anchor in links(guide.read_text()):
            if "://" in target:
                continue
            file = guide.parent / target if target else guide
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                dead.append(f"{where(guide)}: {target}#{anchor}")
    assert dead == []


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(PAGES.rglob("*.md")) == sorted(pages())


def test_the_readme_is_one_screen_and_leads_on() -> None:
    assert len(README.read_bytes()) <= 8 * 1024
    linked = {target for target, _ in links(README.read_text())}
    assert {"policies/README.md", "envoy/README.md", "docs/pages/tutorial.md"} <= linked


# -- text


def test_a_line_of_a_page_is_a_sentence() -> None:
    """So that a change shows as the sentence that it changes."""
    found = [
        f"{where(each)}:{number}"
        for each in EVERYTHING
        for number, line in prose_lines(each.read_text())
        if two_sentences(line) or not re.search(r"[.:!?][)*\"]*$", line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "two"),
    [
        ("One. Two.", True),
        ("One (a. B) more.", False),
        ("One `a. B` more.", False),
        ("At version 1.2 it is.", False),
        ("One ends (so.) Two.", True),
    ],
)
def test_a_second_sentence_in_a_line_is_found(line: str, two: bool) -> None:
    assert two_sentences(line) == two


def test_the_newest_version_of_the_changelog_is_the_one_that_is_built_and_installed() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    installed = re.findall(
        r"dropout(?:_router)?-(\d+\.\d+\.\d+)", (ROOT / "docs" / "pages" / "operate" / "install.md").read_text()
    )
    assert {newest[1], *installed} == {version}


def test_the_changelog_is_by_version_and_an_entry_is_a_line() -> None:
    """Whoever merges two of them sees what came twice; an entry stands under Added, Changed or Fixed."""
    intro, *versions = (ROOT / "CHANGELOG.md").read_text().split("\n## ")
    assert intro.startswith("# Changelog\n")
    for version in versions:
        head, *parts = version.split("\n### ")
        assert re.fullmatch(r"\d+\.\d+\.\d+ \((unreleased|\d{4}-\d\d-\d\d)\)\n", head), head
        assert [part.partition("\n")[0] for part in parts] == ["Added", "Changed", "Fixed"]
        lines = [line for part in parts for line in part.splitlines()[1:] if line]
        assert [line for line in lines if not line.startswith("- ") and not line.endswith(":")] == []
        assert len(lines) == len(set(lines))


def test_every_page_says_first_what_it_is_for() -> None:
    for each in pages():
        title, blank, intro = each.read_text().splitlines()[:3]
        assert title.startswith("# "), each
        assert not blank, each
        assert " for " in intro, each


def test_every_alert_is_on_its_page_in_the_words_of_the_rule() -> None:
    rules = yaml.safe_load((ROOT / "envoy" / "alerts.yaml").read_text())["groups"][0]["rules"]
    said = [
        (f"`{rule['alert']}`", rule["labels"]["severity"], *map(without_templates, rule["annotations"].values()))
        for rule in rules
    ]
    assert table(page("operate/alerts"), "alert", "severity", "what it says", "where to look") == said


def without_templates(text: str) -> str:
    """What a rule says of whatever it fires for: labels in capitals, and its value as ``so long``."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: label[1].upper(), text).replace(
        "{{ $value | humanizeDuration }}", "so long"
    )


def test_the_page_of_analyses_has_the_numbers_of_the_code() -> None:
    text = page("analysis")
    said = [
        f"by {UNIT_GROUPS} groups",
        f"fewer than {FEWEST_GROUPS} groups",
        f"n = {TUNED_FOR}",
        f"`alpha` of {ABANDONED_ALPHA}",
        f"exact to {RELATIVE_ERROR * 100:g} %",
        f"the {KEPT} smallest",
        f"fewer than {FEWEST_UNITS} units",
        f"p < {UNHEALTHY_BELOW}",
        f"below {LEVEL:.6f}",
        f"below {ABANDONED_LEVEL:.9f}",
    ]
    assert [each for each in said if each not in text] == []


def test_every_row_of_the_failure_table_names_a_test_that_exists() -> None:
    rows = table(page("operate/failures"), "failure", "what traffic sees", "who notices", "within", "test")
    assert len(rows) >= 10
    named = [name.split(": ") for row in rows for name in code(row[-1])]
    assert len(named) >= len(rows)
    for file, test in named:
        assert f"def test_{test}(" in (ROOT / "tests" / "e2e" / f"{file}.py").read_text(), f"{file}: {test}"
