"""What the supervisor and its processes say to one another, over a ``channel``.

Each direction is a union of messages, told apart by their ``kind``; whoever takes one matches all of them. A question
carries an ``id`` and its answer carries the same. A pipe that closes is a message too: the other is gone.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
from msgspec.json import Decoder

from extproc.errors import Fault
from extproc.metrics.counting import Dump
from extproc.serve.channel import Message
from extproc.serve.worker_config import ObserverConfig, PolicyShadowConfig, WorkerConfig
from extproc.snapshot.trips import LocalTrip


class Question(Message, frozen=True, kw_only=True):
    """Wants an answer, which has its ``id``; with 0 nobody waits for it."""

    id: int = 0


class Answer(Message, frozen=True, kw_only=True):
    """To the question that has its ``id``."""

    id: int


def fingerprint(policies: str) -> str:
    """What tells policies, as JSON text, from all others: a revision is what their author wrote, for several maybe."""
    return hashlib.sha256(policies.encode()).hexdigest()


# -- the supervisor to a worker


class TakenAway(Message, frozen=True, tag="held"):
    """The trips and the killed rollouts that are in force on this host now, all of them."""

    trips: list[LocalTrip]
    killed: list[str]


class StartWorker(Message, frozen=True, tag="start"):
    """What to serve, with what is held now; on ``trial`` every policy is tried before. ``policies`` are JSON text."""

    config: WorkerConfig
    trial: bool
    policies: str | None
    quarantined: list[str]
    held: TakenAway


class SwapPolicies(Question, frozen=True, tag="policies"):
    """Decide by other policies, if they can be loaded."""

    sources: str


class Quarantine(Question, frozen=True, tag="quarantine"):
    """Evaluate the rules at ``paths`` no more, while the policies have this ``fingerprint``."""

    fingerprint: str
    paths: list[str]


class WantTrials(Question, frozen=True, tag="trials"):
    """Before policies are tried: on what?"""


class WantUnanswered(Question, frozen=True, tag="unanswered"):
    """What do rollouts ask for that it does not have?"""


class WantMetrics(Question, frozen=True, tag="metrics"):
    """For /metrics."""


class WantDescription(Question, frozen=True, tag="describe"):
    """For /snapshot."""


class ListenAgain(Question, frozen=True, tag="listen-again"):
    """Nobody finds its socket any more: bind another one."""


class ObserverListens(Message, frozen=True, tag="listening"):
    """An observer began, which has heard of nothing yet."""


class TellPlans(Message, frozen=True, tag="plans"):
    """The policy shadow is there, and knows no rollout, or not all of them."""


class Reload(Message, frozen=True, tag="reload"):
    """Open again what was opened by name: on SIGHUP."""


class Drain(Message, frozen=True, tag="drain"):
    """Finish what was begun, and end: on SIGTERM."""


QuestionToWorker = SwapPolicies | Quarantine | WantTrials | WantUnanswered | WantMetrics | WantDescription | ListenAgain
ToWorker = StartWorker | QuestionToWorker | TakenAway | ObserverListens | TellPlans | Reload | Drain


# -- a worker to the supervisor


class WorkerReady(Message, frozen=True, tag="ready"):
    """It serves."""

    revision: int
    policy_revision: str


class Failed(Message, frozen=True, tag="failed"):
    """It cannot start, and ends."""

    faults: list[Fault]
    exit_code: int


class Swapped(Answer, frozen=True, tag="swapped"):
    """It decides by the policies of this revision, which others may have too, and this ``fingerprint``."""

    policy_revision: str
    fingerprint: str


class PoliciesRefused(Answer, frozen=True, tag="policies_refused"):
    """It decides by those that it had."""

    faults: list[Fault]


class Quarantined(Answer, frozen=True, tag="quarantined"):
    """It is done."""


class Trials(Answer, frozen=True, tag="trials"):
    """An input for each rule that a rollout asks."""

    trials: dict[str, Any]


class Unanswered(Answer, frozen=True, tag="unanswered"):
    """Faults as JSON, each with the first rollout that has it, as they stand in a description too."""

    errors: list[dict[str, Any]]


class Counted(Answer, frozen=True, tag="metrics"):
    """What was counted."""

    dump: Dump


class WorkerCounted(Counted, frozen=True, tag="metrics"):
    """Of a worker, with its revision; and the keys of all rollouts, when they may have changed since."""

    revision: int
    rollouts: list[str] | None


class Description(Answer, frozen=True, tag="description"):
    """What is served, and what is wrong with it. ``rollouts`` are a list of objects that nobody on the way reads."""

    worker: int
    revision: int
    errors: list[dict[str, Any]]
    rollouts: msgspec.Raw


class DecisionCounts(Message, frozen=True, tag="decided"):
    """What was decided in the last second, see ``datapath.sinks.tally.Tallied``; nobody on the way reads it."""

    counts: msgspec.Raw
    units: msgspec.Raw


class EngineState(Message, frozen=True, tag="engine"):
    """How it stands with the policy engine that it asks, at the start and whenever that is otherwise."""

    policy_revision: str
    fault: Fault | None


class ListensAgain(Answer, frozen=True, tag="listens-again"):
    """It serves on another socket, or why not."""

    faults: list[Fault]


class Draining(Message, frozen=True, tag="draining"):
    """It takes no new connections; what it counted comes once more, then it ends."""


FromWorker = (
    WorkerReady
    | Failed
    | Swapped
    | PoliciesRefused
    | Quarantined
    | Trials
    | Unanswered
    | WorkerCounted
    | Description
    | ListensAgain
    | DecisionCounts
    | EngineState
    | Draining
)


# -- the supervisor to the observer, and back


class StartObserver(Message, frozen=True, tag="start"):
    """What to observe, and what is tripped."""

    config: ObserverConfig
    trips: list[LocalTrip]


class AdoptTrips(Message, frozen=True, tag="trips"):
    """What another ``serve`` of this host took away."""

    trips: list[LocalTrip]


ToObserver = StartObserver | DecisionCounts | AdoptTrips | WantMetrics


class ObserverReady(Message, frozen=True, tag="ready"):
    """It listens."""


class TripsInForce(Message, frozen=True, tag="trips"):
    """All trips that are in force now, and those that probes lifted."""

    trips: list[LocalTrip]
    lifted: list[LocalTrip]


class Alive(Message, frozen=True, tag="alive"):
    """Several times a second. ``surpluses``: rollout, version, and how many ends more than decisions."""

    surpluses: list[tuple[str, str, int]]


FromObserver = ObserverReady | Failed | TripsInForce | Alive | Counted


# -- the supervisor to the policy shadow, and back


class StartPolicyShadow(Message, frozen=True, tag="start"):
    """What to compare by. ``policies`` are JSON text, of which the rules at ``quarantined`` are not evaluated."""

    config: PolicyShadowConfig
    policies: str
    quarantined: list[str]


class RolloutsServed(Message, frozen=True, tag="rollouts"):
    """The keys of all rollouts there are: of others nothing is to be kept."""

    keys: list[str]


class MaskByPolicies(Message, frozen=True, tag="masks"):
    """The policies that are served, as JSON text, whose masks hold for what it logs; None where there are none."""

    policies: str | None


ToPolicyShadow = StartPolicyShadow | SwapPolicies | MaskByPolicies | RolloutsServed | Reload


class PolicyShadowState(Message, frozen=True, tag="state"):
    """How it is, several times a second. ``changes`` are a list of objects for /snapshot."""

    policy_revision: str
    dump: Dump
    changes: msgspec.Raw


class WantPlans(Message, frozen=True, tag="plans"):
    """It is there, or a worker showed a decision of a rollout that is not known."""


FromPolicyShadow = PolicyShadowState | WantPlans | Failed

# -- what else runs beside the workers tells what it counted, and is told nothing

TO_WORKER: Final[Decoder[ToWorker]] = Decoder(ToWorker)
FROM_WORKER: Final[Decoder[FromWorker]] = Decoder(FromWorker)
TO_OBSERVER: Final[Decoder[ToObserver]] = Decoder(ToObserver)
FROM_OBSERVER: Final[Decoder[FromObserver]] = Decoder(FromObserver)
TO_POLICY_SHADOW: Final[Decoder[ToPolicyShadow]] = Decoder(ToPolicyShadow)
FROM_POLICY_SHADOW: Final[Decoder[FromPolicyShadow]] = Decoder(FromPolicyShadow)
FROM_BESIDE: Final[Decoder[Counted]] = Decoder(Counted)
