"""``dropout apply``, ``get`` and ``delete``: documents into and out of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import yaml

from extproc.cli.options import direct_policy, documents_options, name_argument, opened
from extproc.cli.output import output_option, print_json, print_notes
from extproc.cli.rollout_text import print_result, result_json
from extproc.clock import SystemClock
from extproc.control.access import this_user
from extproc.control.acting import act
from extproc.control.actions import Apply, Delete, DeleteTemplate
from extproc.control.applying import conflicts_with_store
from extproc.control.as_json import status_json
from extproc.control.as_served import as_served, left_out
from extproc.control.documents import load
from extproc.control.result import ActionResult
from extproc.control.status_changes import is_under_way
from extproc.control.templates import TemplateResult, load_template
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.resources import analysis_template
from extproc.resources.drafts import Draft
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_together, parse_rollout
from extproc.resources.notes import notes
from extproc.resources.uses import uses
from extproc.settings import settings
from extproc.store.ports import Rollouts
from extproc.store.records import StoredRollout
from extproc.suggestions import did_you_mean, listed


def _kind(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The kind as documents write it, from any case and the plural."""
    for name in KINDS:
        if value.lower() in (name.lower(), f"{name.lower()}s"):
            return name
    known = [name.lower() for name in KINDS]
    meant = did_you_mean(value, known) or f"; {listed(known)} are"
    raise InvalidInput.of("unsupported_kind", f"kind {value!r} is not known here{meant}", field="KIND")


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
@documents_options
@output_option
def apply(paths: tuple[str, ...], repair: bool, store: str, output: str) -> None:
    """Put documents into the store: all of them, or none if anything is wrong with one.

    What is right and easily overlooked is noted on stderr.
    """
    files = ["/dev/stdin" if path == "-" else path for path in paths]
    loaded = load_together(files, deadline=settings().decision_deadline)
    if loaded.faults:
        raise InvalidInput([*loaded.faults, *_faults_with_store(store, loaded.meant)])
    documents = loaded.documents
    with opened(store, create=True) as opened_store:
        results = act(opened_store, this_user(), Apply(documents, repair=repair), SystemClock(), direct_policy())
        stored = {row.key for row in opened_store.documents().templates}
        unled = () if opened_store.led() else tuple(_without_controller(results))
    noted = [*notes(documents, outcome_limit=settings().outcome_limit, stored=stored), *unled]
    if output == "json":
        print_json({"results": _results_json(results), "notes": [note.as_dict() for note in noted]})
        return
    _print_results(results)
    print_notes(noted)


def _faults_with_store(store: str, meant: Sequence[Draft]) -> Sequence[Fault]:
    """What else the next ``apply`` would say of documents that are wrong by themselves, if there is a store to ask."""
    try:
        with opened(store) as opened_store:
            return conflicts_with_store(opened_store.documents(), meant)
    except InvalidInput as error:
        return error.faults
    except Unreachable:
        return ()


def _without_controller(results: Sequence[ActionResult | TemplateResult]) -> Iterator[Fault]:
    """That nobody moves what has steps, as a note."""
    keys = [result.row.key for result in results if _has_steps_to_take(result)]
    if keys:
        whose = keys[0] + (f" and {len(keys) - 1} more" if keys[1:] else "")
        message = (
            f"no controller leads on this store, so nobody takes the steps of {whose}; "
            "start `dropout controller`, or `serve --with-controller`"
        )
        yield Fault("no_controller", message)


def _has_steps_to_take(result: ActionResult | TemplateResult) -> bool:
    if not isinstance(result, ActionResult):
        return False
    return bool(result.row.document["spec"].get("steps")) and is_under_way(result.row.status)


@click.command(short_help="Print a document as it was applied, or as it is served by now.")
@kind_argument
@name_argument
@click.option(
    "--as-served",
    "served",
    is_flag=True,
    help="With the stable version that there is, and without a canary that became it.",
)
@documents_options
@output_option
def get(kind: str, name: tuple[str, str], served: bool, store: str, output: str) -> None:
    """Print a document as it was applied; with -o json a rollout's status too."""
    if served and kind == analysis_template.KIND:
        raise InvalidInput.of("no_rollout", "--as-served is for rollouts: a template serves nobody", field="KIND")
    document: Mapping[str, Any]
    note = ""
    with opened(store) as opened_store:
        if kind == analysis_template.KIND:
            document, standing = load_template(opened_store, *name).document, {}
        else:
            row = load(opened_store, *name)
            document = as_served(row) if served else row.document
            note = _left_out(row) if served else ""
            standing = {"status": status_json(row.status), "resourceVersion": row.resource_version}
    if output == "json":
        print_json({**document, **standing})
    else:
        click.echo(note + to_yaml(document), nl=False)


def _left_out(row: StoredRollout) -> str:
    """A comment on what ``as_served`` leaves out."""
    names = left_out(row)
    if not names:
        return ""
    fields = listed([f"spec.{name}" for name in names])
    return (
        f"# Left out, because version {row.status.stable} is stable and there is no canary: {fields}.\n"
        "# They go back in with the next canary; `dropout get rollout` prints them as they were applied.\n"
    )


@click.command()
@kind_argument
@name_argument
@documents_options
@output_option
def delete(kind: str, name: tuple[str, str], store: str, output: str) -> None:
    """Take a document out of the store. Of a rollout its stable version, a kill and aborts are remembered."""
    with opened(store) as opened_store:
        action = DeleteTemplate(*name) if kind == analysis_template.KIND else Delete(*name)
        results = act(opened_store, this_user(), action, SystemClock(), direct_policy())
        noted = list(_still_used(opened_store, "/".join(name))) if kind == analysis_template.KIND else []
    if output == "json":
        print_json(
            {"results": _results_json(results), **({"notes": [note.as_dict() for note in noted]} if noted else {})}
        )
        return
    _print_results(results)
    print_notes(noted)


def _still_used(store: Rollouts, template: str) -> Iterator[Fault]:
    """That rollouts name a template that was deleted, as a note."""
    keys = [row.key for row in store.documents().rollouts if template in _templates_of(row)]
    if keys:
        message = (
            f"the analysis template {template} is used by {listed(keys)}: without it nothing is measured, and a canary "
            "waits; apply it again, or take it out of the document"
        )
        yield Fault("template_used", message)


def _templates_of(row: StoredRollout) -> set[str]:
    try:
        found = uses(parse_rollout(row.document))
    except InvalidInput:  # an earlier version of Dropout took it
        return set()
    return {f"{row.namespace}/{named.template_name}" for use in found for named in use.analysis.templates}


def _print_results(results: Sequence[ActionResult | TemplateResult]) -> None:
    for result in results:
        if isinstance(result, ActionResult):
            print_result(result)
        else:
            click.echo(f"{analysis_template.KIND.lower()} {result.row.key} {result.result}")


def _results_json(results: Sequence[ActionResult | TemplateResult]) -> list[dict[str, Any]]:
    return [_result_json(result) for result in results]


def _result_json(result: ActionResult | TemplateResult) -> dict[str, Any]:
    if isinstance(result, ActionResult):
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
