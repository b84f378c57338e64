"""``dropout replay``: whether a log's decisions would come out the same again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli.output import output_option, print_json, to_json
from extproc.datapath.replay import Replay, Replayed
from extproc.errors import InvalidInput, Refused
from extproc.resources.loading import load_valid, of_kind
from extproc.resources.rollout import Rollout
from extproc.run.given import given_policies

_FOLDER: Final = click.Path(path_type=Path)


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
    counts = Counter(dict.fromkeys(("decisions", "reproduced", "different", "not_replayable", "faults"), 0))
    with given_policies(policies) as engine:
        for replayed in Replay(engine, documents).lines(lines_of(log)):
            _count(counts, replayed)
            _print_replayed(replayed, log, output)
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


def lines_of(log: Path) -> Iterator[bytes]:
    """The lines of a log. Raises ``InvalidInput``: ``log_unreadable``."""
    try:
        with log.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise InvalidInput.of("log_unreadable", f"the log cannot be read: {error.strerror}", file=str(log)) from error
