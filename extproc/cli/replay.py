"""``dropout replay``: whether a log's decisions would come out the same again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli.comparison_text import as_json, counts, lines_of_text
from extproc.cli.logs import lines_of
from extproc.cli.output import output_option, print_json, printable, to_json
from extproc.datapath.comparing import PolicyComparison
from extproc.datapath.replay import Replay, Replayed
from extproc.errors import InvalidInput, Refused
from extproc.resources.loading import load_valid, of_kind
from extproc.resources.rollout import Rollout
from extproc.run.given import given_policies

_FOLDER: Final = click.Path(path_type=Path)


@click.command(short_help="Decide a log's decisions again and list what differs.")
@click.argument("log", type=_FOLDER)
@click.option(
    "--policies", type=_FOLDER, metavar="DIR", help="The policies to ask; default: none, what they said is a fact."
)
@click.option(
    "--against", type=_FOLDER, metavar="DIR", help="Policies to compare with, in place of the log's decisions."
)
@click.option("--rollouts", type=_FOLDER, metavar="DIR", help="Documents in place of those in the log.")
@output_option
def replay(log: Path, policies: Path | None, against: Path | None, rollouts: Path | None, output: str) -> int:
    """Decide every decision of a log again, and list what comes out differently.

    Without --policies what a policy said is taken from the log, as of one that was asked over the network.
    Left out are the decision's id, times and durations. LOG may be packed by gzip, and - is standard input.

    With --against both sets of policies decide, and what they decide otherwise is counted by rollout, arm and version,
    each with decisions as examples. Ends with 1 if anything differs, else with 2 if of a rollout no decision could be
    made again, so that nothing is known of it.
    """
    documents = (
        None if rollouts is None else {d.resource.key: d.resource for d in of_kind(load_valid([rollouts]), Rollout)}
    )
    if against is not None and policies is None:
        raise click.UsageError("--against needs --policies, which it is compared with")
    if against is not None and policies is not None:
        return _compare(log, policies, against, documents, output)
    counted = Counter(dict.fromkeys(("decisions", "reproduced", "different", "not_replayable", "faults"), 0))
    made: set[str | None] = set()
    lost: set[str | None] = set()
    with nullcontext() if policies is None else given_policies(policies) as engine:
        for replayed in Replay(engine, documents).lines(lines_of(log)):
            _count(counted, replayed)
            if replayed.fault is None:
                (made if replayed.not_replayable is None else lost).add(replayed.rollout)
            _print_replayed(replayed, log, output)
    untold = _named(lost - made)
    if output == "json":
        revision = engine.revision if engine is not None else None
        print_json({**counted, "policy_revision": revision, "rollouts_not_replayable": untold})
    else:
        _say_untold(untold)
        click.echo(
            f"{counted['decisions']} decisions: {counted['reproduced']} reproduced, {counted['different']} different, "
            f"{counted['not_replayable']} not replayable; {counted['faults']} lines are no decisions."
        )
    if counted["different"]:
        return Refused.exit_code
    nothing = not made and (lost or counted["faults"])
    return InvalidInput.exit_code if untold or nothing else 0


def _compare(log: Path, policies: Path, against: Path, documents: Mapping[str, Rollout] | None, output: str) -> int:
    """What ``policies`` would decide otherwise than those of ``against``."""
    faults = 0
    with given_policies(against, "--against") as before, given_policies(policies, "--policies") as after:
        found = PolicyComparison(before, after, documents)
        for line, why in found.lines(lines_of(log)):
            faults += 1
            _print_replayed(Replayed(line, fault=why), log, output)
    counted, untold = counts(found, faults), _named(found.lost_of.keys() - found.of_rollout.keys())
    if output == "json":
        revisions = {"policy_revision": after.revision, "against_revision": before.revision}
        print_json({**counted, **revisions, **as_json(found), "rollouts_not_replayable": untold})
    else:
        for text in lines_of_text(found, faults):
            click.echo(text)
        _say_untold(untold)
    if counted["changed"]:
        return Refused.exit_code
    nothing = not counted["same"] and (counted["decisions"] or faults)
    return InvalidInput.exit_code if untold or nothing else 0


def _say_untold(rollouts: Collection[str]) -> None:
    for name in rollouts:
        click.echo(f"{printable(name)}: none of its decisions could be made again, so nothing is known of it")


def _named(rollouts: Collection[str | None]) -> list[str]:
    """Rollouts by name; those that no rollout decided have none."""
    return sorted(str(name) for name in rollouts if name is not None)


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
            click.echo(f"{printable(replayed.decision_id)}: not_replayable: {printable(replayed.not_replayable)}")
        else:
            before, now = (to_json(document[side]).decode() for side in ("logged", "replayed"))
            click.echo(f"{printable(replayed.decision_id)}: {document['field']}: {before} is now {now}")


def _findings(replayed: Replayed, log: Path) -> Iterable[dict[str, Any]]:
    if replayed.fault is not None:
        yield {"code": "bad_line", "message": replayed.fault, "file": str(log), "line": replayed.line, "field": None}
    elif replayed.not_replayable is not None:
        yield {"decision_id": replayed.decision_id, "not_replayable": replayed.not_replayable}
    for difference in replayed.differences:
        yield {"decision_id": replayed.decision_id, **difference._asdict()}
