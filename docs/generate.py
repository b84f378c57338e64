"""Fills the tables of the pages that are made of the code, or says which are not as the code has it.

    python docs/generate.py             write them
    python docs/generate.py --check     exit 1 when what is committed differs from what would be written

A page has each between two comments: ``<!-- made of the code: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click
from error_codes import EXIT_CODES, Package, Said

import extproc
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.cli.main import cli
from extproc.control.feedback.records import MESSAGES
from extproc.datapath.policy_input import NEW_EVERY_TIME
from extproc.metrics.catalogue import METRICS
from extproc.resources.policies import read_sources
from extproc.settings import described

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "docs" / "pages"
GUIDE: Final = ROOT / "policies" / "README.md"
RECIPES: Final = ROOT / "docs" / "recipes"
COSTS: Final = ROOT / "tests" / "bench" / "recipes.json"
OPA_CASES: Final = ROOT / "tests" / "conformance" / "opa" / "regorus.json"

_MADE: Final = re.compile(r"(<!-- made of the code: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
_VARIABLE: Final = re.compile(r" ?\[(DROPOUT_[A-Z_]+)\]")


def filled(text: str) -> str:
    """A page's text, with what is made of the code as the code has it now. Raises KeyError for an unknown name."""

    def made(found: re.Match[str]) -> str:
        return "\n".join([found[1], *_PARTS[found[2]](), found[3]])

    return _MADE.sub(made, text)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield _row(heads)
    yield "|" + "---|" * len(heads)
    yield from map(_row, rows)
    yield ""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(value: object, otherwise: str = "") -> str:
    return otherwise if value in (None, "") else f"`{value}`"


def _commands(command: click.Command = cli, context: click.Context | None = None) -> Iterator[str]:
    context = context or click.Context(command, info_name="dropout")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, click.Context(inner, info_name=name, parent=context))
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"## {context.command_path}", "", "```text", usage, "```", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield from (*_SENTENCE_END.split(" ".join(paragraph.split())), "")
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    if options:
        yield from _table(
            ["option", "default", "variable", "what it says"], (_option(each, context) for each in options)
        )


def _option(option: click.Option, context: click.Context) -> tuple[str, ...]:
    record, extra, meaning = option.get_help_record(context), option.get_help_extra(context), option.help or ""
    assert record is not None
    variables = [*extra.get("envvars", ()), *_VARIABLE.findall(meaning)]
    limits = " ".join(str(extra[name]) for name in ("range", "required") if name in extra)
    meaning = _VARIABLE.sub("", meaning) + (f" ({limits})" if limits else "")
    return f"`{record[0]}`", _code(extra.get("default")), " ".join(map(_code, variables)), meaning


def _errors() -> Iterator[str]:
    said = groupby(Package(ROOT / "extproc").said(), key=lambda each: each.code)
    yield from _table(
        ["code", "exit code", "what it says", "module"], (_error(code, list(all_)) for code, all_ in said)
    )


def _error(code: str, said: list[Said]) -> tuple[str, ...]:
    exits = sorted({str(EXIT_CODES[each.error]) for each in said if each.error})
    messages = dict.fromkeys(each.message.replace("<", "&lt;") for each in said if each.message)
    modules = dict.fromkeys(f"`{each.module}`" for each in said)
    return f"`{code}`", " ".join(exits), "<br>".join(messages), " ".join(modules)


def _feedback() -> Iterator[str]:
    rows = ((f"`{code}`", message) for code, message in MESSAGES.items() if message)
    yield from _table(["code", "what it says"], rows)


def _names() -> Iterator[str]:
    yield from _table(["name", "what it is", "module"], map(_name, extproc.__all__))


def _name(name: str) -> tuple[str, str, str]:
    if name == "__version__":
        return f"`{name}`", "The version of Dropout that is installed.", ""
    found: Any = getattr(extproc, name)
    summary = " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())
    return f"`{name}`", summary.replace("``", "`"), f"`{found.__module__}`"


def _settings() -> Iterator[str]:
    rows = ((f"`{each.name}`", _code(each.default, "(none)"), each.meaning) for each in described())
    yield from _table(["variable", "default", "meaning"], rows)


def _metrics() -> Iterator[str]:
    rows = ((f"`{each.name}`", each.type, ", ".join(map(_code, each.labels)) or "-", each.help) for each in METRICS)
    yield from _table(["metric", "type", "labels", "meaning"], rows)


def _opa_cases() -> Iterator[str]:
    recorded = json.loads(OPA_CASES.read_text())
    refused: dict[str, list[str]] = recorded.pop("refused at load")
    yield f"Of the cases of OPA {recorded.pop('opa')}, {recorded.pop('cases')} ask for a rule's value for an input."
    yield f"The other {recorded.pop('not asked')} have no such question."
    yield ""
    rows = [(outcome, found if isinstance(found, int) else len(found)) for outcome, found in recorded.items()]
    rows[2:2] = [(f"refused at load, `{code}`", len(names)) for code, names in refused.items()]
    yield from _table(["how it goes", "cases"], ((outcome, str(count)) for outcome, count in rows))


def _rego(file: Path) -> Iterator[str]:
    """A file without the comment that it begins with, which the page has in words of its own."""
    yield from ("```rego", re.sub(r"\A(?:#.*\n)+", "", file.read_text()).rstrip("\n"), "```", "")
    tests = file.with_name(f"{file.stem}_test.rego")
    if tests.exists():
        yield from (f"Its [tests](../{tests.relative_to(ROOT)}).", "")


def _recipe_costs() -> Iterator[str]:
    costs = json.loads(COSTS.read_text())["over_the_least"]
    rows = (
        (_as_code(name), _remembered(name), *map(_ratio, (of["time"], of["instructions"])))
        for name, of in costs.items()
    )
    yield from _table(["policy", "remembered", "processor's time", "instructions"], rows)


def _as_code(name: str) -> str:
    return f"`{name}`" if (RECIPES / name).is_dir() else name


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _remembered(name: str) -> str:
    """Whether a verdict of a recipe may be given again: the others read nothing that is new in every request."""
    if not (RECIPES / name).is_dir():
        return "yes"
    reads = RegorusEngine(read_sources(RECIPES)).reads(f"{name}/decision")
    return "no" if any(reads.include(*part) for part in NEW_EVERY_TIME) else "yes"


_PARTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "commands": _commands,
    "errors": _errors,
    "feedback": _feedback,
    "metrics": _metrics,
    "names": _names,
    "opa_cases": _opa_cases,
    "recipe_costs": _recipe_costs,
    "recipe_lib": partial(_rego, RECIPES / "lib" / "people.rego"),
    "tests_tenants": partial(_rego, RECIPES / "tenants" / "decision_test.rego"),
    "settings": _settings,
    **{f"recipe_{file.parent.name}": partial(_rego, file) for file in RECIPES.glob("*/decision.rego")},
}


def main() -> int:
    """Write the pages, or say which differ."""
    pages = {page: page.read_text() for page in (*sorted(PAGES.rglob("*.md")), GUIDE)}
    stale = {page: text for page, before in pages.items() if (text := filled(before)) != before}
    if "--check" not in sys.argv:
        for page, text in stale.items():
            page.write_text(text)
        return 0
    for page in stale:
        print(f"{page.relative_to(ROOT)} is not as the code has it: run `make format`", file=sys.stderr)  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
