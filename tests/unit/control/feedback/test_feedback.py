"""Feedback: to which arm a record counts, once, and why others do not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from extproc.adapters.sqlite import fallbacks as sqlite_fallbacks
from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.control.feedback import (
    MAX_OUTCOME_NAMES,
    MAX_OUTCOMES,
    MESSAGES,
    Code,
    Feedback,
    FeedbackRecord,
    UnreadableRecord,
)
from extproc.decision_id import IdKeys, Opened, arm_codes, hashed_number, open_id, sealed_code
from extproc.errors import Unreachable
from extproc.measure import LabelTotals
from extproc.store.epoch_records import EpochArm
from tests.support.clock import FakeClock
from tests.support.feedback import CONTROL, EXCLUDED, KEY, FakeEpochs, epoch_of
from tests.support.ids import ID_KEYS, make_id, make_ids

DAY = 24 * 3600.0
RETENTION = 90 * DAY


class Desk:
    """A ``Feedback`` on a real store, with a clock and epochs of the test's own."""

    def __init__(self, path: Path, *epochs: Any) -> None:
        self.clock = FakeClock()
        self.epochs = FakeEpochs(*(epochs or (epoch_of(began=self.clock.now() - 3600),)))
        self.store = SqliteFeedback(path, create=True)
        self.ids = make_ids(self.clock)
        self.answered: Counter[Code] = Counter()
        self.feedback = Feedback(self.store, self.epochs, self._open, self.clock, retention=RETENTION)

    def _open(self, text: str) -> Any:
        return open_id(ID_KEYS, text)

    def send(self, *records: FeedbackRecord | UnreadableRecord) -> list[Code]:
        """What became of them."""
        codes = [result.code for result in self.feedback.record(records)]
        self.answered.update(codes)
        return codes

    def labels(self, rollout: str = KEY, epoch: int = 1) -> dict[str, LabelTotals]:
        """What was counted."""
        return dict(self.store.labels(rollout, epoch))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "dropout.db.feedback")
    yield desk
    desk.store.close()


def label(decision_id: str, prediction: bool = True, truth: bool = True, **more: Any) -> FeedbackRecord:
    return FeedbackRecord(decision_id, prediction, truth, **more)


# What counts


def test_labels_count_for_the_arm_and_the_group_of_their_decision(desk: Desk) -> None:
    sent = [(2, 7, True, True), (2, 7, True, False), (2, 9, False, False), (1, 7, False, True), (0, 3, True, True)]
    for arm, group, prediction, truth in sent:
        assert desk.send(label(make_id(desk.ids, arm, group=group), prediction, truth)) == [Code.RECORDED]
    found = desk.labels()
    assert found["canary"].confusion == {7: [1, 1, 0, 0], 9: [0, 0, 1, 0]}
    assert found["control"].confusion == {7: [0, 0, 0, 1]}
    assert found["excluded"].confusion == {3: [1, 0, 0, 0]}


def test_numbers_count_by_their_name(desk: Desk) -> None:
    for value in (1.5, 2.5, -10.0):
        desk.send(FeedbackRecord(make_id(desk.ids, group=4), outcomes={"amount": value, "clicks": 1}))
    found = desk.labels()["canary"]
    assert found.outcomes == {"amount": {4: [3, -6.0]}, "clicks": {4: [3, 3.0]}}
    assert found.confusion == {}
    assert found.outcome("amount").mean == -2.0


def test_a_label_and_numbers_may_come_together(desk: Desk) -> None:
    desk.send(label(make_id(desk.ids), outcomes={"amount": 3.0}))
    found = desk.labels()["canary"]
    assert (found.total().true_positives, found.outcome("amount").sum) == (1, 3.0)


def test_epochs_are_counted_apart(tmp_path: Path) -> None:
    now = FakeClock().now()
    desk = Desk(tmp_path / "f", epoch_of(epoch=1, began=now - 100), epoch_of(epoch=2, began=now - 50))
    desk.send(label(make_id(desk.ids, epoch=1)), label(make_id(desk.ids, epoch=2)), label(make_id(desk.ids, epoch=2)))
    assert desk.labels(epoch=1)["canary"].total().labels == 1
    assert desk.labels(epoch=2)["canary"].total().labels == 2
    assert desk.labels(epoch=3) == {}


def test_labels_of_a_moment_that_is_long_gone_find_their_epoch(desk: Desk) -> None:
    decided = make_id(desk.ids)
    desk.clock.advance(89 * DAY)
    desk.epochs.known.append(epoch_of(epoch=2, began=desk.clock.now()))
    assert desk.send(label(decided)) == [Code.RECORDED]
    assert desk.labels(epoch=1)["canary"].total().labels == 1


def test_an_experiments_arms_are_its_variants(tmp_path: Path) -> None:
    arms = [EpochArm(code, arm, {"a": "8", "b": "7"}.get(arm, "")) for arm, code in arm_codes(["a", "b"]).items()]
    desk = Desk(tmp_path / "f", epoch_of(arms=arms))
    for arm in ("a", "b", "b"):
        assert desk.send(label(make_id(desk.ids, arm_codes(["a", "b"])[arm]))) == [Code.RECORDED]
    assert {arm: found.total().labels for arm, found in desk.labels().items()} == {"a": 1, "b": 2}
    assert desk.send(label(make_id(desk.ids, 2))) == [Code.UNKNOWN_EPOCH]  # no canary there


# What counts once


def test_a_record_that_is_sent_again_counts_once(desk: Desk) -> None:
    decided = make_id(desk.ids)
    assert desk.send(label(decided), label(decided)) == [Code.RECORDED, Code.DUPLICATE]
    assert desk.send(label(decided), label(decided, False, True)) == [Code.DUPLICATE, Code.DUPLICATE]
    assert desk.send(FeedbackRecord(decided, outcomes={"amount": 1.0})) == [Code.DUPLICATE]
    assert desk.labels()["canary"].confusion == {0: [1, 0, 0, 0]}
    assert desk.labels()["canary"].outcomes == {}


def test_the_order_of_labels_is_of_no_importance(tmp_path: Path) -> None:
    found = []
    for order in (1, -1):
        desk = Desk(tmp_path / f"f{order}")
        records = [label(make_id(desk.ids, 1 + n % 2, group=n % 5), n % 3 == 0, n % 2 == 0) for n in range(60)]
        for record in records[::order]:
            desk.send(record)
        found.append(desk.labels())
    assert found[0] == found[1]


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["label", "fallback"]))), max_size=8))
def test_counts_are_those_of_the_first_records_that_no_fallback_served(
    tmp_path: Path, batches: list[list[tuple[int, str]]]
) -> None:
    """Whatever comes in which order and how often."""
    desk = Desk(tmp_path / f"{os.urandom(8).hex()}.feedback")
    decided = [make_id(desk.ids, 1 + n % 2, group=n % 4) for n in range(31)]
    labelled, fallen = set(), set()
    for batch in batches:
        records = [n for n, what in batch if what == "label"]
        desk.send(*(label(decided[n], n % 3 == 0, n % 5 == 0) for n in records))
        desk.feedback.mark_fallbacks([decided[n] for n, what in batch if what == "fallback"])
        labelled |= set(records)
        fallen |= {n for n, what in batch if what == "fallback"}
    expected = Counter(n % 2 for n in labelled - fallen)
    found = desk.labels()
    assert {arm: found[arm].total().labels if arm in found else 0 for arm in ("control", "canary")} == {
        "control": expected[0],
        "canary": expected[1],
    }
    desk.store.close()


# What does not count


def test_an_id_that_was_not_made_here_is_told_apart(desk: Desk) -> None:
    decided = make_id(desk.ids)
    other = make_ids(keys=IdKeys([b"o" * 32]))
    forged = decided[:-1] + ("A" if decided[-1] != "A" else "B")
    ids = [forged, make_id(other), "", "nonsense", decided + "A", "é" * 32, decided.lower() + " "]
    codes = desk.send(*map(label, ids))
    assert codes == [Code.FORGED, Code.UNKNOWN_KEY, *[Code.MALFORMED] * 5]
    assert desk.labels() == {}
    assert desk.epochs.asked == 0


def test_a_label_of_a_stream_is_one_of_its_arm(desk: Desk) -> None:
    ids = [make_id(desk.ids, sealed_code(2, stream=stream)) for stream in (False, True)]
    assert desk.send(*map(label, ids)) == [Code.RECORDED] * 2
    assert sum(counts[0] for counts in desk.labels()["canary"].confusion.values()) == 2


def test_nothing_is_known_of_an_epoch_that_never_was(desk: Desk) -> None:
    assert desk.send(label(make_id(desk.ids, epoch=77)), label(make_id(desk.ids, rollout="a/b"))) == [
        Code.UNKNOWN_EPOCH,
        Code.UNKNOWN_EPOCH,
    ]
    nobody = desk.ids.seal(desk.ids.nonce(), 0, 0, 0)  # no rollout matched
    assert desk.send(label(nobody)) == [Code.UNKNOWN_EPOCH]


def test_a_record_for_another_version_than_the_arms_is_refused(desk: Desk) -> None:
    canary, control, excluded = (make_id(desk.ids, arm) for arm in (2, 1, 0))
    assert desk.send(label(canary, version="3"), label(control, version="4")) == [Code.WRONG_VERSION] * 2
    # It was not counted, so the right one still may be; who was excluded got one version or the other.
    assert (
        desk.send(label(canary, version="4"), label(control, version="3"), label(excluded, version="9"))
        == [Code.RECORDED] * 3
    )


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"prediction": True},
        {"label": False},
        {"prediction": True, "outcomes": {"amount": 1.0}},
        {"outcomes": {"amount": float("nan")}},
        {"outcomes": {"amount": float("inf")}},
        {"outcomes": {"amount": 1e16}},
        {"outcomes": {"": 1.0}},
        {"outcomes": {"Amount": 1.0}},
        {"outcomes": {"a b": 1.0}},
        {"outcomes": {"a" * 64: 1.0}},
        {"outcomes": {f"o{n}": 1.0 for n in range(MAX_OUTCOMES + 1)}},
    ],
)
def test_a_record_that_says_nothing_countable_is_refused_and_may_be_sent_again(
    desk: Desk, said: dict[str, Any]
) -> None:
    decided = make_id(desk.ids)
    assert desk.send(FeedbackRecord(decided, **said)) == [Code.INVALID]
    assert desk.send(label(decided)) == [Code.RECORDED]


def test_what_could_not_be_read_is_answered_in_its_place(desk: Desk) -> None:
    results = desk.feedback.record([label(make_id(desk.ids)), UnreadableRecord("x", "label: no"), label("y")])
    assert [result.code for result in results] == [Code.RECORDED, Code.INVALID, Code.MALFORMED]
    assert (results[1].decision_id, results[1].message) == ("x", "label: no")


def test_an_epoch_has_room_for_so_many_names_and_no_more(desk: Desk) -> None:
    for number in range(MAX_OUTCOME_NAMES):
        assert desk.send(FeedbackRecord(make_id(desk.ids), outcomes={f"o{number}": 1.0})) == [Code.RECORDED]
    new, known = ({"one_more": 1.0}, {"o1": 1.0})
    assert desk.send(
        FeedbackRecord(make_id(desk.ids), outcomes=new),
        FeedbackRecord(make_id(desk.ids), outcomes=known),
        FeedbackRecord(make_id(desk.ids, 1), outcomes=new),
    ) == [Code.INVALID, Code.RECORDED, Code.INVALID]
    assert len(desk.labels()["canary"].outcomes) == MAX_OUTCOME_NAMES


# Epochs that share a number


def shared(tmp_path: Path, *, apart: float = 10_000.0, **of_second: Any) -> Desk:
    """Two rollouts with epochs of one number: the first lives from ``now`` for 5000 s, the second from ``apart`` on."""
    now = FakeClock().now()
    number = hashed_number(KEY, 1)
    return Desk(
        tmp_path / "f",
        epoch_of(began=now),
        epoch_of(epoch=2, began=now + 5000),
        epoch_of("other/model", 9, began=now + apart, number=number, **of_second),
    )


def at(desk: Desk, seconds: float, arm: int = 2) -> FeedbackRecord:
    """A label of a decision that was made so long after the beginning."""
    ids = make_ids(FakeClock(FakeClock().now() + seconds))
    return label(make_id(ids, arm))


def test_of_epochs_that_share_a_number_the_one_counts_that_was_on(tmp_path: Path) -> None:
    desk = shared(tmp_path)
    desk.clock.advance(20_000)
    assert desk.send(at(desk, 1000), at(desk, 15_000)) == [Code.RECORDED] * 2
    assert desk.labels(KEY, 1)["canary"].total().labels == 1
    assert desk.labels("other/model", desk.epochs.known[2].id)["canary"].total().labels == 1
    # Between the two neither was on, whatever the clocks.
    assert desk.send(at(desk, 7500)) == [Code.UNKNOWN_EPOCH]


def test_clocks_that_differ_a_little_still_find_the_epoch(tmp_path: Path) -> None:
    desk = shared(tmp_path)
    desk.clock.advance(20_000)
    assert desk.send(at(desk, -30), at(desk, 5030), at(desk, 9970)) == [Code.RECORDED] * 3
    assert desk.labels(KEY, 1)["canary"].total().labels == 2


def test_epochs_that_share_a_number_at_one_time_are_ambiguous(tmp_path: Path) -> None:
    desk = shared(tmp_path, apart=2000.0)
    assert desk.send(at(desk, 3000)) == [Code.AMBIGUOUS]
    assert desk.send(at(desk, 1000)) == [Code.RECORDED]
    assert desk.labels(KEY, 1)["canary"].total().labels == 1


def test_epochs_that_share_a_number_are_told_apart_by_the_arm_too(tmp_path: Path) -> None:
    desk = shared(tmp_path, apart=2000.0, arms=(EXCLUDED, CONTROL))
    assert desk.send(at(desk, 3000), at(desk, 3000, arm=1)) == [Code.RECORDED, Code.AMBIGUOUS]


def test_an_epoch_that_shares_its_number_with_none_counts_whatever_the_clock_says(desk: Desk) -> None:
    early = make_ids(FakeClock(desk.clock.now() - 7200))
    late = make_ids(FakeClock(desk.clock.now() + 7200))
    assert desk.send(label(make_id(early)), label(make_id(late))) == [Code.RECORDED] * 2


# Time


def test_decisions_expire_and_their_ids_are_forgotten_while_their_counts_stay(desk: Desk, tmp_path: Path) -> None:
    decided = [make_id(desk.ids) for _ in range(50)]
    desk.send(*map(label, decided))
    desk.clock.advance(RETENTION + 1)
    assert desk.send(*map(label, decided)) == [Code.EXPIRED] * 50
    assert desk.send(label(make_id(desk.ids))) == [Code.RECORDED]
    assert desk.labels()["canary"].total().labels == 51
    assert rows(desk, "ids") == 1


def test_a_clock_that_is_set_back_counts_nothing_twice(desk: Desk) -> None:
    decided = make_id(desk.ids)
    desk.send(label(decided))
    desk.clock.advance(RETENTION + 1)
    desk.send(label(make_id(desk.ids)))  # forgets the first
    desk.clock.advance(-3600)
    assert desk.send(label(decided)) == [Code.EXPIRED]
    assert desk.labels()["canary"].total().labels == 2


def test_counts_go_when_nothing_was_added_for_more_than_a_year(desk: Desk) -> None:
    desk.send(label(make_id(desk.ids), outcomes={"amount": 1.0}))
    desk.epochs.known.append(epoch_of(epoch=2))
    desk.clock.advance(RETENTION + 367 * DAY)
    desk.send(label(make_id(desk.ids, epoch=2)))
    assert desk.labels(epoch=1) == {}
    assert (rows(desk, "tallies"), rows(desk, "outcomes"), rows(desk, "ids")) == (1, 0, 1)


def rows(desk: Desk, table: str) -> int:
    (count,) = desk.store._read().execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


# Fallbacks


def test_what_a_fallback_served_does_not_count_whichever_was_known_first(desk: Desk) -> None:
    before, after, never = (make_id(desk.ids, group=group) for group in (1, 2, 3))
    desk.feedback.mark_fallbacks([before, "nonsense"])
    record = {"outcomes": {"amount": 4.5}}
    assert desk.send(*(label(each, **record) for each in (before, after, never))) == [
        Code.SERVED_BY_FALLBACK,
        Code.RECORDED,
        Code.RECORDED,
    ]
    desk.feedback.mark_fallbacks([after])
    desk.feedback.mark_fallbacks([after, before])
    assert desk.labels()["canary"].confusion == {3: [1, 0, 0, 0]}
    assert desk.labels()["canary"].outcomes == {"amount": {3: [1, 4.5]}}
    assert desk.send(label(after, **record)) == [Code.SERVED_BY_FALLBACK]


def test_fallbacks_are_forgotten_with_their_ids(desk: Desk) -> None:
    fallen = make_id(desk.ids)
    desk.feedback.mark_fallbacks([fallen])
    desk.clock.advance(RETENTION + 1)
    desk.send(label(make_id(desk.ids)))
    assert rows(desk, "fallbacks") == 0
    desk.feedback.mark_fallbacks([fallen])
    assert rows(desk, "fallbacks") == 0
    desk.clock.advance(-3600)
    assert desk.send(label(fallen)) == [Code.EXPIRED]


def test_fallbacks_are_forgotten_where_nobody_sends_any_feedback_too(desk: Desk) -> None:
    desk.feedback.mark_fallbacks([make_id(desk.ids) for _ in range(3)])
    desk.clock.advance(RETENTION + 1)
    desk.feedback.mark_fallbacks([make_id(desk.ids)])
    assert rows(desk, "fallbacks") == 1


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many fallbacks of an epoch are known one by one."""
    monkeypatch.setattr(sqlite_fallbacks, "MAX_FALLBACKS", 4)
    return 4


def test_of_a_time_with_more_fallbacks_than_are_remembered_neither_arm_takes_labels(desk: Desk, few: int) -> None:
    """They are summed up: what a canary that answers nothing costs is bounded, and none of its labels is wrong."""
    early, served = make_id(desk.ids), make_id(desk.ids)
    desk.clock.advance(1)
    assert desk.send(label(served)) == [Code.RECORDED]
    fallen, beside = [], []
    for _ in range(10 * few):
        fallen.append(make_id(desk.ids))
        desk.clock.advance(1)
        beside.append(make_id(desk.ids, arm=1))
        desk.clock.advance(1)
    told = [epoch for each in fallen for epoch in desk.feedback.mark_fallbacks([each])]
    assert told == [epoch_of(began=told[0].began)], "it is said once"
    assert rows(desk, "fallbacks") <= few
    assert rows(desk, "ids") == rows(desk, "unclear") == 1
    assert desk.send(label(fallen[0]), label(beside[0])) == [Code.FALLBACKS_UNCLEAR] * 2
    assert desk.send(label(fallen[-1]), label(beside[-1])) == [Code.SERVED_BY_FALLBACK, Code.RECORDED]
    assert desk.send(label(early), label(make_id(desk.ids))) == [Code.RECORDED] * 2
    assert desk.send(label(served)) == [Code.DUPLICATE]
    desk.clock.advance(RETENTION + DAY)
    desk.feedback.mark_fallbacks([make_id(desk.ids, epoch=9)])
    assert (rows(desk, "unclear"), rows(desk, "fallbacks")) == (0, 1)


def test_fallbacks_of_one_epoch_make_no_room_for_those_of_another(desk: Desk, few: int) -> None:
    fallen, other = make_id(desk.ids), [make_id(desk.ids, epoch=2) for _ in range(10 * few)]
    desk.feedback.mark_fallbacks([fallen, *other])
    assert desk.send(label(fallen), label(make_id(desk.ids))) == [Code.SERVED_BY_FALLBACK, Code.RECORDED]


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["label", "fallback"]))), max_size=8))
def test_however_many_fall_back_none_of_them_counts(
    tmp_path: Path, few: int, batches: list[list[tuple[int, str]]]
) -> None:
    desk = Desk(tmp_path / f"{os.urandom(8).hex()}.feedback")
    decided = []
    for n in range(31):
        decided.append(make_id(desk.ids, group=n))
        desk.clock.advance(1)
    fallen = set()
    for batch in batches:
        desk.send(*(label(decided[n]) for n, what in batch if what == "label"))
        desk.feedback.mark_fallbacks([decided[n] for n, what in batch if what == "fallback"])
        fallen |= {n for n, what in batch if what == "fallback"}
        assert not fallen or rows(desk, "fallbacks") <= few
    assert not fallen & set(desk.labels()["canary"].confusion if desk.labels() else ())
    assert Code.RECORDED not in desk.send(*(label(decided[n]) for n in sorted(fallen)))
    desk.store.close()


# A flood, and what it leaves


def test_a_flood_of_forged_feedback_leaves_nothing_behind(desk: Desk) -> None:
    real = make_id(desk.ids)
    desk.send(label(real))
    size = desk.store._file.path.stat().st_size
    for batch in range(20):
        forged = [
            real[:10] + ids[10:] if number % 2 else ids for number in range(1000) for ids in [os.urandom(24).hex()[:32]]
        ]
        desk.send(*(label(text, outcomes={f"o{batch}": 1.0}) for text in forged))
    assert sum(desk.answered.values()) == 20_001
    assert set(desk.answered) <= {Code.RECORDED, Code.FORGED, Code.UNKNOWN_KEY, Code.MALFORMED}
    assert desk.answered[Code.RECORDED] == 1
    assert desk.answered[Code.FORGED] >= 10_000
    assert desk.labels()["canary"].total().labels == 1
    assert (desk.store._file.path.stat().st_size, rows(desk, "ids"), desk.epochs.asked) == (size, 1, 1)


def test_a_batch_asks_once_for_each_epoch(desk: Desk) -> None:
    desk.send(*(label(make_id(desk.ids)) for _ in range(500)))
    assert desk.epochs.asked == 1


def test_when_epochs_cannot_be_reached_nothing_has_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = make_id(desk.ids)

    def away(number: int) -> Any:
        raise Unreachable.of("store_locked", "locked")

    with monkeypatch.context() as broken:
        broken.setattr(desk.epochs, "epochs", away)
        with pytest.raises(Unreachable):
            desk.send(label(decided))
    assert desk.send(label(decided)) == [Code.RECORDED]


def test_every_code_has_a_sentence() -> None:
    assert set(MESSAGES) == set(Code)
    assert all(message or code is Code.RECORDED for code, message in MESSAGES.items())


def test_an_id_says_when_so_that_keys_are_in_the_order_of_time() -> None:
    clock = FakeClock()
    ids = make_ids(clock)
    keys = []
    for _ in range(100):
        opened = open_id(ID_KEYS, make_id(ids))
        assert isinstance(opened, Opened)
        keys.append(opened.key)
        clock.advance(0.001)
    assert keys == sorted(keys)
