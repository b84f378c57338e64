"""``dropout policy``: what a policy author asks before a policy is served."""

from __future__ import annotations

import json
from pathlib import Path

import click
import orjson

from extproc.adapters.regorus.capabilities import offered
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.cli.output import output_option, print_json, print_notes
from extproc.cli.policy_build import build
from extproc.cli.policy_eval import evaluate
from extproc.cli.policy_tests import test
from extproc.control.policy import RULE
from extproc.errors import InvalidInput
from extproc.run.given import checked_policies
from extproc.run.opa import not_answering, run_opa
from extproc.run.opa_check import opa_faults
from extproc.run.policy_checks import (
    default_missing,
    invalid_answers,
    missing_features,
    missing_rules,
    misspelt_reads,
    trial_faults,
    undefined_answers,
    unknown_fields,
    unread_files,
)
from extproc.suggestions import close_to

_DECISION = "decision"
"""What a rule is called by custom, and checked for."""
_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group(short_help="Check, test and evaluate policies.")
def policy() -> None:
    """Check and test policies with the engine that will evaluate them."""


@policy.command(short_help="Say whether policies can be served, and what is wrong if not.")
@_DIRECTORY
@click.option(
    "--rollouts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Documents whose rules (policy.path) have to be there; by themselves, routing/decision is asked.",
)
@click.option("--opa", is_flag=True, help="Have the opa in PATH check them, too.")
@output_option
def check(directory: Path, rollouts: Path | None, opa: bool, output: str) -> None:
    """Say whether the policies and data under DIR can be served, and what is wrong if not.

    All that is called decision is tried as before it is served, and what it reads is compared with the schema of its
    input. Rules that can deny are named: their errors are denials unless a document says onError: stable. What is
    right and easily overlooked is noted on stderr: a rule that no decision leads to, a default that never applies, a
    decision without a value for a plain request, a file that looks like data and is not read, data that nothing gives,
    a folder without the rule that is asked unless a document names another one. With documents it is wrong where one
    asks a rule that no file gives, and noted where its policy reads a feature that it does not ask for.
    """
    sources = checked_policies(directory)
    engine = RegorusEngine(sources)
    faults = [*misspelt_reads(engine), *unknown_fields(engine), *trial_faults(sources, engine)]
    faults += missing_rules(engine, rollouts) if rollouts is not None else []
    faults += opa_faults(directory, sources) if opa else []
    faults = faults or [*invalid_answers(engine)]
    if faults:
        raise InvalidInput(faults)
    noted = [*engine.notes(), *undefined_answers(engine), *unread_files(directory, sources)]
    noted += default_missing(engine) if rollouts is None else missing_features(engine, rollouts)
    can_deny = [path for path in engine.decisions() if path != RULE and engine.can_deny(path)]
    if output == "json":
        listed = sorted(sources.files)
        notes = [note.as_dict() for note in noted]
        print_json({"revision": sources.revision, "files": listed, "can_deny": can_deny, "errors": [], "notes": notes})
    else:
        print_notes(noted)
        count = len(sources.files)
        files = "1 policy file" if count == 1 else f"{count} policy files"
        click.echo(f"{files} can be served, revision {sources.revision}")
        if not engine.decisions():
            click.echo(_without_decision(engine))
        for path in can_deny:
            click.echo(f"{path} can deny: a request that it fails on is denied unless a document says onError: stable")


def _without_decision(engine: RegorusEngine) -> str:
    """That nothing has the usual name, and which rule may have been meant to have it."""
    names = {path.rpartition("/")[2]: path for path in engine.rules()}
    close = close_to(_DECISION, names)
    meant = f"; is {names[close]} meant?" if close is not None else ""
    return f"nothing in them is called {_DECISION}: a rollout has to name the rule that it asks (policy.path){meant}"


@policy.command(short_help="Print what of OPA the engine offers, for opa check --capabilities.")
@output_option
def capabilities(output: str) -> None:
    """Print what of OPA the engine offers: the file that `opa check --capabilities FILE` takes.

    It has the builtins, future keywords and features of the language, as the opa in PATH declares them.
    """
    try:
        found = offered(json.loads(run_opa(["capabilities", "--current"]).stdout))
    except (ValueError, KeyError, TypeError) as error:
        raise not_answering(error) from error
    if output == "json":
        print_json(found)
    else:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


policy.add_command(build)
policy.add_command(test)
policy.add_command(evaluate)
