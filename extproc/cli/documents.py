"""``dropout apply``, ``get`` and ``delete``: documents into and out of the store."""

from __future__ import annotations

import click
import yaml

from extproc.cli.options import name_argument, opened, store_option, user
from extproc.cli.output import output_option, print_json
from extproc.cli.rollout import print_result, result_json, status_json
from extproc.clock import SystemClock
from extproc.control.actions import Apply, Delete, act, load
from extproc.errors import InvalidInput
from extproc.resources.loading import load_valid


def _kind(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value.lower() not in ("rollout", "rollouts"):
        raise InvalidInput.of("unsupported_kind", f"kind {value!r} is not known here; rollout is", field="KIND")
    return "rollout"


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
@store_option
@output_option
def apply(paths: tuple[str, ...], store: str, output: str) -> None:
    """Put documents into the store: all of them, or none if anything is wrong with one."""
    documents = load_valid("/dev/stdin" if path == "-" else path for path in paths)
    with opened(store, create=True) as opened_store:
        results = act(opened_store, user(), Apply(documents), SystemClock())
    if output == "json":
        print_json({"results": [result_json(result) for result in results]})
        return
    for result in results:
        print_result(result)


@click.command()
@kind_argument
@name_argument
@store_option
@output_option
def get(kind: str, name: tuple[str, str], store: str, output: str) -> None:
    """Print a document as it was applied; with -o json its status too."""
    with opened(store) as opened_store:
        row = load(opened_store, *name)
    if output == "json":
        print_json({**row.document, "status": status_json(row.status), "resourceVersion": row.resource_version})
    else:
        click.echo(to_yaml(row.document), nl=False)


@click.command()
@kind_argument
@name_argument
@store_option
@output_option
def delete(kind: str, name: tuple[str, str], store: str, output: str) -> None:
    """Take a document out of the store. Versions that were aborted stay aborted."""
    with opened(store) as opened_store:
        (result,) = act(opened_store, user(), Delete(*name), SystemClock())
    if output == "json":
        print_json({"results": [result_json(result)]})
    else:
        print_result(result)


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
