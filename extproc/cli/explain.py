"""``dropout explain``: why a request goes where it goes, or went."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from extproc.adapters.regorus.why import ExplainedRule, as_json, explain_rules
from extproc.adapters.stores import open_store
from extproc.cli.logs import lines_of
from extproc.cli.output import output_option, print_json, to_json
from extproc.cli.why_text import why_lines
from extproc.clock import Clock, SystemClock
from extproc.control.intent import intent_of
from extproc.control.transitions import configure, create
from extproc.datapath.decide import decide
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.explanation import explain as in_words
from extproc.datapath.explanation import explain_logged
from extproc.datapath.logged import (
    LoggedEvents,
    facts_of,
    is_of_policy_shadow,
    is_plan,
    overlay_of,
    rollout_of,
    verdict_of,
)
from extproc.datapath.model import Mutation, Request
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.record import record_of, unit_text
from extproc.datapath.remote_policies import RemotePolicies
from extproc.decision_id import DecisionIds, IdKeys
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.matching import MatchTable
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import load_valid, of_kind
from extproc.resources.policies import read_sources
from extproc.resources.rollout import Rollout
from extproc.run.given import GivenFeatures, GivenTime, given_engine, given_request
from extproc.settings import settings
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot
from extproc.store.ports import Rollouts
from extproc.store.records import Tombstone
from extproc.store.status import Status

_FOLDER: Final = click.Path(path_type=Path)

NOBODY_SERVED: Final = "Nobody was served by this: it is what other policies, in --policies-shadow, would have decided."


_REQUEST: Final = (
    click.option(
        "--rollouts", type=_FOLDER, metavar="DIR", help="Documents to decide by; default: those in the store."
    ),
    click.option("--store", help="The store whose status counts; default: DROPOUT_STORE, if it is there."),
    click.option("--method", default="GET", show_default=True, help="The request's method."),
    click.option("--path", help="The request's path, with its query."),
    click.option(
        "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header; may be repeated."
    ),
    click.option(
        "--attribute",
        "attributes",
        multiple=True,
        metavar="NAME=VALUE",
        help="What Envoy is asked for, such as source.address=10.0.0.1:4711; may be repeated.",
    ),
    click.option(
        "--feature",
        "given",
        multiple=True,
        metavar="NAME=VALUE",
        help="A feature, fresh; may be repeated. NAME@VERSION where a version has its own view.",
    ),
    click.option("--time", "at", metavar="TIME", help="When it is asked, such as 2026-11-30T09:00:00Z; default: now."),
)


def request_options(command: Any) -> Any:
    """The options that describe a request, and the rollouts that it meets."""
    for option in reversed(_REQUEST):
        command = option(command)
    return command


@click.command(short_help="Decide a request that you describe, or read a decision from a log, and say why.")
@request_options
@click.option("--policies", type=_FOLDER, metavar="DIR", help="The policies; needed where a rollout asks one.")
@click.option(
    "--policy-engine", metavar="URL", help="Ask an OPA, opa+http://HOST:PORT, in place of the rules of --policies."
)
@click.option("--why", is_flag=True, help="Say which rules held, and which condition of the others failed first.")
@click.option("--decision", type=(str, _FOLDER), metavar="ID LOG", help="Explain this decision of a log instead.")
@output_option
@click.pass_context
def explain(context: click.Context, /, decision: tuple[str, Path] | None, output: str, **described: Any) -> None:
    """Decide a request that you describe, as the server would, and say why.

    Documents are taken as applied to the store: one that it has not seen is adopted, so that a canary starts at
    weight 0. Nothing is written. An evaluation has the time that it has in a server (DROPOUT_EVALUATION_LIMIT): a
    policy that does not end is in quarantine.

    With --why each rule that the policy came to is listed with its value and its definitions: which held, and of the
    others the first condition that failed, with the values of its parts.

    With --decision nothing is asked: it is said what was decided, and from what, as far as the log holds it.
    """
    if decision is None:
        record, sentences, rules = _explained(**described)
    else:
        _refuse_more(context)
        (record, sentences), rules = _of_log(*decision), None
    if output == "json":
        listed = {} if rules is None else {"why": [as_json(rule) for rule in rules]}
        print_json({**record, "explanation": sentences, **listed})
        return
    for name, value in record.items():
        click.echo(f"{name:<16}{to_json(value).decode()}")
    click.echo()
    for sentence in sentences:
        click.echo(sentence)
    if rules is not None:
        click.echo()
    for line in why_lines(rules or ()):
        click.echo(line)


_Explained = tuple[Mapping[str, Any], list[str]]
"""The record of a decision, and the reasons."""


def _explained(
    *,
    rollouts: Path | None,
    store: str | None,
    policies: Path | None,
    policy_engine: str | None,
    method: str,
    path: str | None,
    headers: tuple[str, ...],
    attributes: tuple[str, ...],
    given: tuple[str, ...],
    at: str | None,
    why: bool,
) -> tuple[Mapping[str, Any], list[str], list[ExplainedRule] | None]:
    """The decision on a request that was described, and with ``why`` the rules that the policy came to."""
    if path is None:
        raise click.UsageError("missing option '--path' (or '--decision')")
    if why and policies is None:
        raise InvalidInput.of(
            "flags_conflict", "--why needs --policies: its rules are what is explained", field="--why"
        )
    clock = SystemClock() if at is None else GivenTime(at)
    request = given_request(method, path, headers, attributes)
    features = GivenFeatures(given)
    snapshot, unreadable = snapshot_of(rollouts, store, SystemClock())
    ids = throwaway_ids(clock)
    with given_engine(policies, policy_engine) as engine:
        pipeline = Pipeline(_Held(snapshot), _Held(engine), features, ids, clock)
        mutation, decided = asyncio.run(_decided(pipeline, request, engine))
    sentences = [*in_words(snapshot, decided, mutation), *_not_given(decided, features, engine), *_left_out(unreadable)]
    rules = None
    if why and policies is not None:
        try:
            rules = _rules(policies, decided)
        except Unreachable as error:  # the decision is known all the same
            sentences += [f"{fault.field}: {fault.message}." for fault in error.faults]
    return record_of(decided.decision, unit_text(decided.decision.unit)), sentences, rules


def _rules(policies: Path, decided: DecisionRecord) -> list[ExplainedRule]:
    """Why the policy said what it said; nothing where none was asked."""
    _, _, facts, rollout, _ = decided
    if facts is None or facts.policy_input is None or rollout is None or rollout.policy is None:
        return []
    return explain_rules(read_sources(policies), rollout.policy.path, facts.policy_input)


async def _decided(
    pipeline: Pipeline, request: Request, engine: Embedded | RemotePolicies | None
) -> tuple[Mutation, DecisionRecord]:
    try:
        return await pipeline.decide(request)
    finally:
        if engine is not None:
            await engine.close()


def _refuse_more(context: click.Context) -> None:
    """Nothing else can be said of a decision that was made."""
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name not in ("decision", "output"):
            flag = parameter.opts[-1]
            message = f"--decision says what was decided, so that {flag} has no say; dropout replay decides again"
            raise InvalidInput.of("flags_conflict", message, field=flag)


def _of_log(decision_id: str, log: Path) -> _Explained:
    """The decision as it was made."""
    number, event = _found(decision_id, log)
    result = event["result"]
    if result["rollout"] is None:
        return result, ["No rollout matched the request: nothing was decided, and Envoy's own routes applied."]
    try:
        rollout, overlay = rollout_of(event), overlay_of(event)
        facts = facts_of(event, verdict_of(event))
        revisions = {"revision": result["revision"], "policy_revision": result["policy_revision"]}
        again = decide(rollout, overlay, facts, **revisions)
        before = [NOBODY_SERVED] if is_of_policy_shadow(event) else []
        return result, [*before, *explain_logged(event, again, facts, rollout)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the event lacks what a decision is made from: {error!r}"
        raise InvalidInput.of("bad_line", message, file=str(log), line=number) from error


def _found(decision_id: str, log: Path) -> tuple[int, dict[str, Any]]:
    """The number of the line that a decision has in a log, and its event."""
    wanted, events = os.fsencode(decision_id), LoggedEvents(with_shadow=True)
    for number, line in enumerate(lines_of(log), start=1):
        if wanted in line or is_plan(line):
            with suppress(ValueError):
                event = events.read(line)
                if event is not None and event["decision_id"] == decision_id:
                    return number, event
    raise InvalidInput.of("decision_unknown", f"there is no decision {decision_id!r} in the log", file=str(log))


def throwaway_ids(clock: Clock) -> DecisionIds:
    """Ids that nobody opens."""
    return DecisionIds(_Held(IdKeys.throwaway()), 0, clock)


@dataclass(slots=True)
class _Held:
    """Something that stays as it is, where the pipeline looks for what is in force."""

    current: Any


def _not_given(
    decided: DecisionRecord, features: GivenFeatures, engine: Embedded | RemotePolicies | None
) -> Iterable[str]:
    """What a server has for the rollout that decided, and was not given here."""
    rollout = decided.rollout
    if rollout is None:
        return
    yield from features.beside(rollout)
    if rollout.policy is not None and engine is None:
        yield "No policies are asked here; --policies DIR gives them."


def _left_out(unreadable: Mapping[str, Fault]) -> Iterable[str]:
    for key, fault in sorted(unreadable.items()):
        yield f"{key} is left out here, and a running server goes by what it last read of it: {fault.message}"


def snapshot_of(rollouts: Path | None, url: str | None, clock: Clock) -> tuple[Snapshot, Mapping[str, Fault]]:
    """The store's snapshot and what could not be read for it, or that of a folder with the status in the store, if any.

    Raises:
        InvalidInput, Unreachable: as the documents and the store do.
    """
    if rollouts is None:
        holder = SnapshotHolder(open_store(url or settings().store), clock)
        holder.load()
        return holder.current, holder.errors
    documents = of_kind(load_valid([rollouts]), Rollout)
    store = _store_if_any(url)
    now = clock.now()
    compiled: dict[str, CompiledRollout] = {}
    overlay: dict[str, Overlay] = {}
    for document in documents:
        rollout = document.resource
        status = _status(document, store, now)
        compiled[rollout.key] = compile_rollout(rollout, status, now)
        if status.killed:
            overlay[rollout.key] = Overlay(killed=True)
    table = MatchTable().changed((key, (), rollout.match) for key, rollout in compiled.items())
    return Snapshot(0, compiled, table, overlay), {}


def _store_if_any(url: str | None) -> Rollouts | None:
    """The store that was named, or the usual one if it happens to be there."""
    try:
        return open_store(url or settings().store)
    except Unreachable as error:
        if url is not None or error.code != "store_unreachable":
            raise
        return None


def _status(document: LoadedDocument[Rollout], store: Rollouts | None, now: float) -> Status:
    """The status that the rollout would have if the document were applied now."""
    intent, (namespace, _, name) = intent_of(document.resource), document.resource.key.partition("/")
    if store is None:
        return create(intent, Tombstone(), now).status
    row = store.get(namespace, name)
    if row is None:
        return create(intent, store.tombstone(namespace, name), now).status
    return row.status if row.document == document.body else configure(intent, row.status, now).status
