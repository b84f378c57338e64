"""What is done while the users go on, and what must then hold.

An act checks what it shows: it compares the answers that users got with what the assignment, the features and the
policy say they should get, user by user.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from extproc.demo.documents import CANARY, GUARD, STABLE, WEIGHTS, write_rollout
from extproc.demo.environment import FEATURE_CACHE_SECONDS
from extproc.demo.scenario import SETTLE_SECONDS, Act, Scenario, Scene, Sides
from extproc.demo.screen import Bar
from extproc.demo.traffic import ServedRequest
from extproc.demo.versions import MODEL, upstream_of
from extproc.names import HEADER_DECISION_ID, HEADER_SHADOW, HEADER_VERSION, OWN_HEADERS

NOTICE_SECONDS: Final = 0.25
"""Workers notice a change within this time."""


async def weights_move_live(scenario: Scenario, act: Act, bar: Bar) -> None:
    """From 0 to 100 in steps: each user changes sides once, exactly where the user's bucket says."""
    first, wrong = len(scenario.traffic.answers), set[str]()
    for weight in WEIGHTS:
        if weight:
            await scenario.run(act, "rollout", "set-weight", MODEL, str(weight))
        answers = await scenario.traffic.rounds(scenario.rounds, bar.advance)
        wrong |= _differ(_last(answers), scenario.sides(weight))
    changes = [_changes(versions) for versions in _versions(scenario.traffic.answers[first:]).values()]
    once, twice = changes.count(1), sum(count > 1 for count in changes)
    act.numbers = {
        "users_moved_once": once,
        "users_moved_twice": twice,
        "users_elsewhere_than_their_bucket": len(wrong),
    }
    act.require(twice == 0, f"{twice} users changed sides more than once.")
    act.require(once == len(scenario.users), f"Only {once} of {len(scenario.users)} users moved.")
    act.require(not wrong, f"{len(wrong)} users were not where their bucket says.")
    act.shown = f"{once} users changed sides once, {twice} twice; each at the weight that the user's bucket says."


async def policy_guards(scenario: Scenario, act: Act, bar: Bar) -> None:
    """At 100 percent, those with a high risk score go back to stable."""
    await scenario.run(act, "features", "load", scenario.write_risks("risk", scenario.users))
    await scenario.run(act, "apply", "-f", write_rollout(scenario.environment.folder, "rollout-with-policy", **GUARD))
    await scenario.traffic.rounds(1, bar.advance)
    answers = await scenario.traffic.rounds(1, bar.advance)
    escaped = {a.user for a in answers if a.version == CANARY} & scenario.high_risk
    wrong = _differ(_last(answers), scenario.guarded())
    act.numbers = {"high_risk_users": len(scenario.high_risk), "high_risk_users_on_canary": len(escaped)}
    act.require(not escaped, f"{len(escaped)} high-risk users were served by version {CANARY}.")
    act.require(not wrong, f"{len(wrong)} users were not where the policy wants them.")
    rest = len(scenario.users) - len(scenario.high_risk)
    act.shown = (
        f"{len(scenario.high_risk)} high-risk users are back on version {STABLE} at weight 100, {rest} others stay."
    )


async def feature_steers(scenario: Scenario, act: Act, bar: Bar) -> None:
    """New risk scores take users across, in both directions, with no other change."""
    low = [user for user in scenario.users if user not in scenario.high_risk]
    count = len(scenario.high_risk) // 2
    cured, worse = sorted(scenario.high_risk)[:count], low[:count]
    scenario.high_risk = (scenario.high_risk - set(cured)) | set(worse)
    await scenario.run(act, "features", "load", scenario.write_risks("risk-changed", [*cured, *worse]))
    loaded, left = scenario.traffic.now, set(scenario.users)
    while left and scenario.traffic.now - loaded < SETTLE_SECONDS:
        left = _differ(_last(await scenario.traffic.rounds(1, bar.advance)), scenario.guarded())
    seconds = round(scenario.traffic.now - loaded, 1)
    act.numbers = {"users_steered": len(cured) + len(worse), "seconds": seconds}
    act.require(not left, f"{len(left)} users were not where their new risk score says after {seconds} s.")
    act.shown = (
        f"{len(worse)} users left version {CANARY} and {len(cured)} came to it by their new score, "
        f"after {seconds} s (cached for {FEATURE_CACHE_SECONDS} s)."
    )


async def shadow_copies(scenario: Scenario, act: Act, bar: Bar) -> None:
    """Each request that version 2 answers is also sent to version 1, whose answer nobody waits for."""
    mirrored = write_rollout(
        scenario.environment.folder, "rollout-with-shadow", **GUARD, shadow={"version": STABLE, "percent": 100}
    )
    await scenario.run(act, "apply", "-f", mirrored)
    await scenario.traffic.rounds(1, bar.advance)
    answers = await scenario.traffic.rounds(1, bar.advance)
    wanted = {a.seen[HEADER_DECISION_ID] for a in answers if a.version == CANARY and a.decided}
    copies = await _copies_of(scenario, wanted)
    await scenario.run(act, "apply", "-f", write_rollout(scenario.environment.folder, "rollout-with-policy", **GUARD))
    scenario.copies = {
        version: len(await scenario.environment.copies(version)) for version in scenario.environment.versions
    }
    act.numbers = {"requests_to_copy": len(wanted), "copies": len(wanted & copies)}
    act.require(bool(wanted), "Nothing was there to copy.")
    act.require(wanted <= copies, f"{len(wanted - copies)} of {len(wanted)} copies did not arrive.")
    act.shown = (
        f"Version {STABLE} got a copy of {len(wanted & copies):,} of {len(wanted):,} requests to version {CANARY}."
    )


async def spoofed_headers(scenario: Scenario, act: Act, bar: Bar) -> None:
    """Clients send our own headers; nothing of it gets through."""
    lies = dict.fromkeys(OWN_HEADERS, "spoofed") | {HEADER_VERSION: STABLE, HEADER_SHADOW: upstream_of(STABLE)}
    await scenario.traffic.rounds(1, bar.advance)  # the shadow of the act before is off by now
    scenario.traffic.spoofed_headers = lies
    answers = await scenario.traffic.rounds(1, bar.advance)
    scenario.traffic.spoofed_headers = {}
    told = [a for a in answers if a.decided]
    believed = [a for a in told if "spoofed" in a.seen.values() or HEADER_SHADOW in a.seen]
    wrong = _differ(_last(answers), scenario.guarded())
    act.numbers = {"spoofed_requests": len(answers), "believed": len(believed)}
    act.require(not believed, f"{len(believed)} requests carried a spoofed header to the model.")
    act.require(not wrong, f"{len(wrong)} users were led elsewhere by a spoofed header.")
    act.shown = f"{len(answers):,} requests named version {STABLE} in our own headers; {len(believed)} were believed."


async def worker_killed(scenario: Scenario, act: Act, bar: Bar) -> None:
    """A worker dies under load; the other one decides, and a new one takes its place."""
    before = set(scenario.environment.workers())
    victim = min(before)
    mark = len(scenario.traffic.answers)
    act.commands.append("kill -9 WORKER")
    scenario.screen.command(f"kill -9 {victim}")
    os.kill(victim, signal.SIGKILL)
    killed = scenario.traffic.now
    replaced = asyncio.create_task(_replaced(scenario, before))
    await scenario.traffic.rounds(2, bar.advance)
    seconds = round(await replaced - killed, 1)
    answers = scenario.traffic.answers[mark:]
    errors = sum(a.error is not None for a in answers)
    undecided = sum(a.error is None and not a.decided for a in answers)
    wrong = _differ(_last(answers), scenario.guarded())
    act.numbers = {"errors": errors, "undecided": undecided, "replaced_after_seconds": seconds}
    act.require(seconds < SETTLE_SECONDS, "The worker was not replaced.")
    act.require(errors == 0, f"{errors} requests failed.")
    act.require(undecided < 0.01 * len(answers), f"{undecided} requests were not decided.")
    act.require(not wrong, f"{len(wrong)} users changed sides.")
    act.shown = f"{errors} errors, {undecided} requests undecided; a new worker serves after {seconds} s."


async def kill_switch(scenario: Scenario, act: Act, bar: Bar) -> None:
    """One command takes everybody back to stable."""
    await scenario.run(act, "kill", MODEL)
    returned = scenario.traffic.now
    answers = await scenario.traffic.rounds(2, bar.advance)
    late = [a for a in answers if a.version == CANARY and a.sent > returned + NOTICE_SECONDS]
    last = max((a.sent - returned for a in answers if a.version == CANARY), default=0.0)
    act.numbers = {"last_canary_after_seconds": round(last, 3), "late": len(late)}
    act.require(not late, f"{len(late)} requests reached version {CANARY} more than {NOTICE_SECONDS} s later.")
    act.shown = f"The last request to version {CANARY} was sent {1000 * last:.0f} ms after the command was done."


def _twice(scenario: Scenario) -> int:
    return 2 * len(scenario.users)


ACTS: Final[Sequence[tuple[str, Callable[[Scenario], int], Scene]]] = (
    ("Weights move live", lambda scenario: scenario.rounds * len(WEIGHTS) * len(scenario.users), weights_move_live),
    ("A policy guards high risk", _twice, policy_guards),
    ("A feature steers", lambda scenario: 3 * len(scenario.users), feature_steers),
    ("A shadow copy", _twice, shadow_copies),
    ("A spoofed header", _twice, spoofed_headers),
    ("A killed worker", _twice, worker_killed),
    ("The kill switch", _twice, kill_switch),
)
"""Title, how many requests will have been answered, and what happens."""


async def _copies_of(scenario: Scenario, wanted: set[str]) -> set[str]:
    """The copies that arrived at stable; those still under way get a moment."""
    deadline = time.monotonic() + 2.0
    while True:
        copies = set(await scenario.environment.copies(STABLE))
        if wanted <= copies or time.monotonic() > deadline:
            return copies
        await asyncio.sleep(0.1)


async def _replaced(scenario: Scenario, before: set[int]) -> float:
    """When all workers were there again (seconds of the traffic), or when waiting was given up."""
    deadline = scenario.traffic.now + SETTLE_SECONDS
    while scenario.traffic.now < deadline:
        await asyncio.sleep(0.05)
        if set(scenario.environment.workers()) - before and await scenario.environment.ready():
            break
    return scenario.traffic.now


def _versions(answers: Iterable[ServedRequest]) -> dict[str, list[str]]:
    """The versions that each user got, in the order of the user's requests; undecided ones left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for answer in answers:
        if answer.decided and answer.version is not None:
            found[answer.user].append(answer.version)
    return found


def _last(answers: Iterable[ServedRequest]) -> dict[str, str]:
    return {user: versions[-1] for user, versions in _versions(answers).items()}


def _differ(found: Sides, expected: Sides) -> set[str]:
    return {user for user, version in expected.items() if found.get(user) != version}


def _changes(versions: Sequence[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(versions))
