"""Who may have a place: what is shared by those who are known, and by how many descriptors there are."""

from __future__ import annotations

import pytest

from extproc.net.admission import Admission, Phase


class Caller:
    """A connection that is being answered for as long as it likes."""

    since = 0
    phase = Phase.DECIDING

    def __init__(self) -> None:
        self.gone = False

    def go(self) -> None:
        self.gone = True

    turn_away = give_up = shutdown = make_way = abort = go


def come(room: Admission, who: str, number: int = 1) -> tuple[list[Caller], int]:
    """So many connections, and how many of them got a place."""
    callers = [Caller() for _ in range(number)]
    got = 0
    for caller in callers:
        room.admit(caller)
        got += room.introduce(caller, who)
    return callers, got


async def test_of_who_has_the_most_places_one_goes_and_never_more_than_makes_them_equal() -> None:
    room = Admission(8, 4, {})
    greedy, got = come(room, "mallory", 9)
    assert got == 8
    assert not any(caller.gone for caller in greedy[:8])  # nobody takes their own
    others, got = come(room, "alice", 6)
    assert got == 4
    assert [caller.gone for caller in greedy[:8]] == [True] * 4 + [False] * 4
    assert not any(caller.gone for caller in others[:4])
    assert come(room, "bob")[1] == 1
    assert come(room, "mallory")[1] == 0


async def test_where_nobody_says_who_calls_nobody_who_is_being_answered_goes() -> None:
    room = Admission(2, 4, {})
    first, got = come(room, "", 3)
    assert got == 2
    assert not any(caller.gone for caller in first[:2])


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 16 * 1024])
async def test_what_is_known_and_strange_leaves_descriptors_for_everything_else(descriptors: int) -> None:
    room = Admission(1024, 1024, {})
    room.fit(descriptors)
    _, known = come(room, "alice", 1100)
    strangers = [Caller() for _ in range(1100)]
    for stranger in strangers:
        room.admit(stranger)
    assert known >= 4
    assert len(room) > known
    # One that is relayed has three; two of pages stand beside it.
    assert 5 * len(room) <= 3 * descriptors // 4
