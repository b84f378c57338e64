"""``dropout explain`` and ``dropout replay``: why a request goes where it goes, and whether it would again."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import orjson

from extproc.adapters.regorus_policy import RegorusEngine, check_sources
from extproc.adapters.stores import open_store
from extproc.cli.output import output_option, print_json, to_json
from extproc.clock import Clock, SystemClock
from extproc.control.intent import intent_of
from extproc.control.transitions import configure, create
from extproc.datapath.attributes import AttributeReader
from extproc.datapath.features import FeatureReader
from extproc.datapath.model import Features, FeatureValue, Request
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.ports import FeatureRow
from extproc.datapath.record import record_of, unit_text
from extproc.datapath.replay import Replay, Replayed
from extproc.datapath.words import explain as in_words
from extproc.decision_id import DecisionIds, IdKeys
from extproc.errors import Fault, InvalidInput, Refused, Unreachable
from extproc.names import Reason
from extproc.resources.loading import LoadedDocument, load_valid, of_kind
from extproc.resources.policies import read_sources
from extproc.resources.rollout import Rollout
from extproc.settings import settings
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.matching import MatchTable
from extproc.snapshot.model import CompiledRollout, FeatureNeed, Overlay, Snapshot
from extproc.snapshot.store import Remains, RolloutStore, Status

_FOLDER: Final = click.Path(path_type=Path)


@click.command(short_help="Decide a request that you describe, and say why.")
@click.option("--rollouts", type=_FOLDER, metavar="DIR", help="Documents to explain; default: those in the store.")
@click.option("--store", help="The store whose status counts; default: DROPOUT_STORE, if it is there.")
@click.option("--policies", type=_FOLDER, metavar="DIR", help="The policies; needed where a rollout asks one.")
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--path", required=True, help="The request's path, with its query.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header; may be repeated.")
@click.option("--feature", "given", multiple=True, metavar="NAME=VALUE", help="A feature, fresh; may be repeated.")
@output_option
def explain(
    rollouts: Path | None,
    store: str | None,
    policies: Path | None,
    method: str,
    path: str,
    headers: tuple[str, ...],
    given: tuple[str, ...],
    output: str,
) -> None:
    """Decide a request that you describe, as the server would, and say why.

    Documents are taken as applied to the store: one that it has not seen is adopted, so that a canary starts at
    weight 0. Nothing is written.
    """
    clock = SystemClock()
    request = _request(method, path, headers)
    features = _GivenFeatures(_pairs(given), clock)
    snapshot, unreadable = _snapshot(rollouts, store, clock)
    engine = _engine(policies) if policies is not None else None
    ids = DecisionIds(_Held(IdKeys.throwaway()), 0, clock)
    pipeline = Pipeline(_Held(snapshot), _Held(engine), features, ids, clock)
    mutation, decided = asyncio.run(pipeline.decide(request))
    sentences = [*in_words(snapshot, decided, mutation), *_left_out(unreadable)]
    record = record_of(decided.decision, unit_text(decided.decision.unit))
    if output == "json":
        print_json({**record, "explanation": sentences})
        return
    for name, value in record.items():
        click.echo(f"{name:<16}{to_json(value).decode()}")
    click.echo()
    for sentence in sentences:
        click.echo(sentence)


@click.command(short_help="Decide a log's decisions again and list what differs.")
@click.argument("log", type=_FOLDER)
@click.option("--policies", type=_FOLDER, metavar="DIR", required=True, help="The policies to ask.")
@click.option("--rollouts", type=_FOLDER, metavar="DIR", help="Documents in place of those in the log.")
@output_option
def replay(log: Path, policies: Path, rollouts: Path | None, output: str) -> int:
    """Decide every decision of a log again, and list what comes out differently.

    Left out are the decision's id, times and durations. Ends with 1 if anything differs.
    """
    documents = (
        None if rollouts is None else {d.resource.key: d.resource for d in of_kind(load_valid([rollouts]), Rollout)}
    )
    engine = _engine(policies)
    counts = Counter(dict.fromkeys(("decisions", "reproduced", "different", "not_replayable", "faults"), 0))
    try:
        with log.open("rb") as lines:
            for replayed in Replay(engine, documents).lines(lines):
                _count(counts, replayed)
                _print_replayed(replayed, log, output)
    except OSError as error:
        raise InvalidInput.of("log_unreadable", f"the log cannot be read: {error.strerror}", file=str(log)) from error
    if output == "json":
        print_json({**counts, "policy_revision": engine.revision})
    else:
        click.echo(
            f"{counts['decisions']} decisions: {counts['reproduced']} reproduced, {counts['different']} different, "
            f"{counts['not_replayable']} not replayable; {counts['faults']} lines are no decisions."
        )
    if counts["faults"] and not counts["decisions"]:
        return InvalidInput.exit_code
    return Refused.exit_code if counts["different"] else 0


def _count(counts: Counter[str], replayed: Replayed) -> None:
    if replayed.fault is not None:
        counts["faults"] += 1
        return
    counts["decisions"] += 1
    if replayed.not_replayable is not None:
        counts["not_replayable"] += 1
    else:
        counts["different" if replayed.differences else "reproduced"] += 1


def _print_replayed(replayed: Replayed, log: Path, output: str) -> None:
    """What there is to say about one line; a decision that was reproduced goes without saying."""
    for document in _findings(replayed, log):
        if output == "json":
            print_json(document)
        elif replayed.fault is not None:
            click.echo(f"{log}:{replayed.line}: {replayed.fault} (bad_line)", err=True)
        elif replayed.not_replayable is not None:
            click.echo(f"{_plain(replayed.decision_id)}: not_replayable: {_plain(replayed.not_replayable)}")
        else:
            before, now = (to_json(document[side]).decode() for side in ("logged", "replayed"))
            click.echo(f"{_plain(replayed.decision_id)}: {document['field']}: {before} is now {now}")


def _plain(text: object) -> str:
    """What stood in a log, without what a terminal would obey."""
    return shown if (shown := str(text)).isprintable() else ascii(shown)


def _findings(replayed: Replayed, log: Path) -> Iterable[dict[str, Any]]:
    if replayed.fault is not None:
        yield {"code": "bad_line", "message": replayed.fault, "file": str(log), "line": replayed.line, "field": None}
    elif replayed.not_replayable is not None:
        yield {"decision_id": replayed.decision_id, "not_replayable": replayed.not_replayable}
    for difference in replayed.differences:
        yield {"decision_id": replayed.decision_id, **difference._asdict()}


@dataclass(slots=True)
class _Held:
    """Something that stays as it is, where the pipeline looks for what is in force."""

    current: Any


class _NoFeatureStore:
    """Stands where a feature store would; it is never read."""

    def read(self, view: str, entity: str, names: Sequence[str]) -> Mapping[str, FeatureRow]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


class _GivenFeatures(FeatureReader):
    """The features of the command line, for whatever entity the request names."""

    def __init__(self, values: Mapping[str, Any], clock: Clock) -> None:
        super().__init__(_NoFeatureStore(), clock)
        self._values = values

    def cached(self, need: FeatureNeed, entity: str) -> Features:
        """What was given, just now; what was not is missing."""
        found = {name: FeatureValue(self._values[name], 0.0, "given") for name in need.names if name in self._values}
        return Features(found, None if len(found) == len(need.names) else Reason.FEATURE_MISSING)


def _engine(policies: Path) -> RegorusEngine:
    """The policies of a folder, checked as the server checks them before it takes them over."""
    sources = read_sources(policies)
    if faults := check_sources(sources):
        raise InvalidInput(faults)
    return RegorusEngine(sources)


def _request(method: str, path: str, headers: Iterable[str]) -> Request:
    """The request as Envoy would describe it: the host is the authority."""
    pairs = [(":method", os.fsencode(method)), (":path", os.fsencode(path)), (":scheme", b"http")]
    for header in headers:
        name, colon, value = header.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise InvalidInput.of("header_invalid", f"{header!r} is not 'NAME: VALUE'", field="-H")
        name = ":authority" if name == "host" else name
        pairs.append((name, os.fsencode(value.strip(" \t"))))
    return AttributeReader().request(pairs)


def _pairs(given: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs; a value that is JSON is taken as such, any other as text."""
    values: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidInput.of("feature_invalid", f"{pair!r} is not NAME=VALUE", field="--feature")
        try:
            values[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            values[name] = text
    return values


def _left_out(unreadable: Mapping[str, Fault]) -> Iterable[str]:
    for key, fault in sorted(unreadable.items()):
        yield f"{key} is left out here, and a running server goes by what it last read of it: {fault.message}."


def _snapshot(rollouts: Path | None, url: str | None, clock: Clock) -> tuple[Snapshot, Mapping[str, Fault]]:
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


def _store_if_any(url: str | None) -> RolloutStore | None:
    """The store that was named, or the usual one if it happens to be there."""
    try:
        return open_store(url or settings().store)
    except Unreachable as error:
        if url is not None or error.code != "store_unreachable":
            raise
        return None


def _status(document: LoadedDocument[Rollout], store: RolloutStore | None, now: float) -> Status:
    """The status that the rollout would have if the document were applied now."""
    intent, (namespace, _, name) = intent_of(document.resource), document.resource.key.partition("/")
    if store is None:
        return create(intent, Remains(), now).status
    row = store.get(namespace, name)
    if row is None:
        return create(intent, store.remains(namespace, name), now).status
    return row.status if row.document == document.body else configure(intent, row.status, now).status
