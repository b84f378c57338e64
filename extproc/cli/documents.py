"""``dropout apply``, ``get`` and ``delete``: documents into and out of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import yaml

from extproc.cli.options import direct_policy, name_argument, opened, store_option
from extproc.cli.output import output_option, print_json
from extproc.cli.rollout_text import print_result, result_json
from extproc.clock import SystemClock
from extproc.control.access import this_user
from extproc.control.actions import Apply, Delete, DeleteTemplate, Result, act, load
from extproc.control.described import status_json
from extproc.control.templates import TemplateResult, load_template
from extproc.errors import InvalidInput
from extproc.resources import analysis_template
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_valid
from extproc.settings import settings


def _kind(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The kind as documents write it, from any case and the plural."""
    for name in KINDS:
        if value.lower() in (name.lower(), f"{name.lower()}s"):
            return name
    known = " and ".join(name.lower() for name in KINDS)
    raise InvalidInput.of("unsupported_kind", f"kind {value!r} is not known here; {known} are", field="KIND")


kind_argument = click.argument("kind", callback=_kind)


@click.command(short_help="Put documents into the store: all of them, or none.")
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="A file, a folder, or - for standard input; may be given several times.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Make rollouts that the store cannot read anew: from weight 0, killed until restored.",
)
@store_option
@output_option
def apply(paths: tuple[str, ...], repair: bool, store: str, output: str) -> None:
    """Put documents into the store: all of them, or none if anything is wrong with one."""
    files = ["/dev/stdin" if path == "-" else path for path in paths]
    documents = load_valid(files, deadline=settings().decision_deadline)
    with opened(store, create=True) as opened_store:
        results = act(opened_store, this_user(), Apply(documents, repair=repair), SystemClock(), direct_policy())
    _print_results(results, output)


@click.command(short_help="Print a document as it was applied.")
@kind_argument
@name_argument
@store_option
@output_option
def get(kind: str, name: tuple[str, str], store: str, output: str) -> None:
    """Print a document as it was applied; with -o json a rollout's status too."""
    with opened(store) as opened_store:
        if kind == analysis_template.KIND:
            document, standing = load_template(opened_store, *name).document, {}
        else:
            row = load(opened_store, *name)
            document, standing = (
                row.document,
                {"status": status_json(row.status), "resourceVersion": row.resource_version},
            )
    if output == "json":
        print_json({**document, **standing})
    else:
        click.echo(to_yaml(document), nl=False)


@click.command()
@kind_argument
@name_argument
@store_option
@output_option
def delete(kind: str, name: tuple[str, str], store: str, output: str) -> None:
    """Take a document out of the store. Of a rollout its stable version, a kill and aborts are remembered."""
    with opened(store) as opened_store:
        action = DeleteTemplate(*name) if kind == analysis_template.KIND else Delete(*name)
        results = act(opened_store, this_user(), action, SystemClock(), direct_policy())
    _print_results(results, output)


def _print_results(results: Sequence[Result | TemplateResult], output: str) -> None:
    if output == "json":
        print_json({"results": [_result_json(result) for result in results]})
        return
    for result in results:
        if isinstance(result, Result):
            print_result(result)
        else:
            click.echo(f"{analysis_template.KIND.lower()} {result.row.key} {result.result}")


def _result_json(result: Result | TemplateResult) -> dict[str, Any]:
    if isinstance(result, Result):
        return result_json(result)
    row = result.row
    return {
        "kind": analysis_template.KIND,
        "namespace": row.namespace,
        "name": row.name,
        "result": result.result,
    }


class _Dumper(yaml.SafeDumper):
    """YAML that reads the same by YAML 1.1 and 1.2."""

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out; documents are read without anchors."""
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A version such as 12e4 is a string by the one and a number by the other.
    style = "'" if text[:1] in tuple("+-.0123456789") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _string)


def to_yaml(document: object) -> str:
    """A document as YAML that ``dropout apply`` reads back as the same."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return text
