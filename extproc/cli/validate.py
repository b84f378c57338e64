"""``dropout validate`` and ``dropout schema``: what documents must look like, and whether these do."""

from __future__ import annotations

import click
import orjson

from extproc.cli.output import output_option, print_json, print_notes
from extproc.errors import InvalidInput
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_valid
from extproc.resources.notes import notes
from extproc.resources.schema import schema_of
from extproc.settings import settings

_MODELS = {name.lower(): kind.model for name, kind in KINDS.items()}


@click.command(short_help="Check documents and list every fault.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--features",
    metavar="URL",
    help="Ask this feature store whether it has the views, features and join keys that rollouts ask for.",
)
@click.option(
    "--sample-entity",
    "sample",
    multiple=True,
    metavar="VALUE",
    help="Read an entity that should have them; once for each of its join keys.",
)
@output_option
def validate(paths: tuple[str, ...], features: str | None, sample: tuple[str, ...], output: str) -> None:
    """Check documents, each by itself and all together, and list every fault with its file, line and field.

    PATH is a file, or a folder whose .yaml, .yml and .json files are read, those of its sub-folders too. Exit code 2
    if anything is wrong. What is right and easily overlooked is noted on stderr.
    """
    if sample and features is None:
        message = "an entity is read from a feature store: name it by --features URL"
        raise InvalidInput.of("sample_unread", message, field="--sample-entity")
    documents = load_valid(paths, deadline=settings().decision_deadline)
    noted = list(notes(documents, outcome_limit=settings().outcome_limit, stored=None))
    if features is not None:
        from extproc.run.feature_checks import check_features  # imported where it is asked for, as for schemas

        noted += check_features(documents, features, sample)
    if output == "json":
        listed = [
            {
                "kind": document.resource.kind,
                "namespace": document.resource.metadata.namespace,
                "name": document.resource.metadata.name,
                "file": document.file,
            }
            for document in documents
        ]
        print_json({"valid": True, "documents": listed, "notes": [note.as_dict() for note in noted]})
        return
    print_notes(noted)
    count = len(documents)
    click.echo("1 document is valid" if count == 1 else f"{count} documents are valid")


@click.command(short_help="Print a JSON Schema: of documents, or of a policy's parts.")
@click.argument(
    "what",
    type=click.Choice([*_MODELS, "policy-input", "policy-decision", "control-input"], case_sensitive=False),
    default="rollout",
)
@output_option
def schema(what: str, output: str) -> None:
    """Print a JSON Schema: of a kind of document, or of what a policy is given and may answer."""
    document = _schema(what)
    if output == "json":
        print_json(document)
    else:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _schema(what: str) -> object:
    if what in _MODELS:
        return schema_of(_MODELS[what])
    # The policy's schemas are imported where they are asked for: validate has no use for them.
    from extproc.resources import control_schema, policy_schema

    return {
        "policy-input": policy_schema.POLICY_INPUT_SCHEMA,
        "policy-decision": policy_schema.POLICY_DECISION_SCHEMA,
        "control-input": control_schema.CONTROL_INPUT_SCHEMA,
    }[what]
