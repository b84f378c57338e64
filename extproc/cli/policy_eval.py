"""``dropout policy eval``: a query on policies, for an input from a file or one request's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import click
import orjson

from extproc.adapters.regorus.querying import evaluate_query
from extproc.cli.explain import request_options, snapshot_of, throwaway_ids
from extproc.cli.output import output_option, print_json
from extproc.clock import SystemClock
from extproc.datapath.model import NO_FEATURES
from extproc.datapath.pipeline import select
from extproc.datapath.policy_input import EVERYTHING, build_input
from extproc.datapath.unit import unit_of
from extproc.errors import InvalidInput, Refused
from extproc.files import why_not
from extproc.run.given import GivenFeatures, GivenTime, checked_policies, given_request

_MAX_INPUT_BYTES: Final = 8 * 1_048_576


@click.command("eval", short_help="Evaluate a query on policies; exit with 1 if it is undefined.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("query", metavar="QUERY")
@click.option("-i", "--input", "given_input", metavar="FILE", help="The input, as JSON; - is standard input.")
@request_options
@output_option
def evaluate(directory: Path, query: str, given_input: str | None, output: str, **described: Any) -> int:
    """Evaluate QUERY, such as data.routing.decision, on the policies and data under DIR, as opa eval does.

    The input is that of --input, or of a request that is described as for `dropout explain`, by a rollout that matches
    it: the query input shows it, for a test. Without either there is none. Exit with 1 if the query is undefined.
    """
    sources = checked_policies(directory)
    asked_for_request = described["path"] is not None
    if given_input is not None and asked_for_request:
        message = "--input is all that the policy is given, so that there is no request to describe by --path"
        raise InvalidInput.of("flags_conflict", message, field="--path")
    document = _read(given_input) if given_input is not None else _described(**described) if asked_for_request else None
    found = evaluate_query(sources, query, document, has_input=given_input is not None or asked_for_request)
    if output == "json":
        print_json({"result": found} if found else {})
    else:
        _print(found)
    return 0 if found else Refused.exit_code


def _read(name: str) -> Any:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_MAX_INPUT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_MAX_INPUT_BYTES + 1)
        if len(content) > _MAX_INPUT_BYTES:
            raise InvalidInput.of("input_invalid", f"the input has more than {_MAX_INPUT_BYTES} bytes", field="--input")
        return orjson.loads(content)
    except OSError as error:
        message = f"the input cannot be read: {why_not(error, Path(name))}"
        raise InvalidInput.of("input_invalid", message, file=name, field="--input") from error
    except orjson.JSONDecodeError as error:
        message = f"the input is no JSON: {error.msg}"
        raise InvalidInput.of("input_invalid", message, file=name, line=error.lineno, field="--input") from None


def _described(
    *,
    rollouts: Path | None,
    store: str | None,
    method: str,
    path: str,
    headers: tuple[str, ...],
    attributes: tuple[str, ...],
    given: tuple[str, ...],
    at: str | None,
) -> dict[str, Any]:
    """All of the input that a policy can be given of a request."""
    clock = SystemClock() if at is None else GivenTime(at)
    request, features = given_request(method, path, headers, attributes), GivenFeatures(given)
    snapshot, _ = snapshot_of(rollouts, store, SystemClock())
    nonce = throwaway_ids(clock).nonce()
    compiled = select(snapshot.find(request.host, request.path, request.headers, request.repeated), request, nonce)
    if compiled is None:
        raise InvalidInput.of(
            "no_rollout", "no rollout matches the request, so that no policy is asked", field="--path"
        )
    compiled = compiled.at(clock)
    unit = unit_of(compiled.unit, request, nonce)
    found = NO_FEATURES if compiled.features is None else features.cached(compiled.features, ("given",))
    return build_input(request, compiled, unit, found, clock.now(), EVERYTHING)


def _print(found: list[dict[str, Any]]) -> None:
    """Each value as JSON over several lines; where names got values, those; undefined where there is nothing."""
    if not found:
        click.echo("undefined")
    for row in found:
        values = [expression["value"] for expression in row["expressions"]]
        shown = row.get("bindings") or (values[0] if len(values) == 1 else values)
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
