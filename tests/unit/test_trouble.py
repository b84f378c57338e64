"""What is wrong for a while is told once, and so is its end."""

from __future__ import annotations

from extproc.trouble import Troubles
from tests.support.clock import FakeClock


def test_each_fault_is_told_once_while_it_lasts_and_the_end_of_the_last_with_how_long_it_took() -> None:
    clock, said = FakeClock(), list[str]()
    troubles = Troubles(said.append, clock.monotonic)
    for faults in ([], ["old"], ["old"], ["old", "new"], ["new", "new"], [], [], ["old"]):
        troubles.note("rollouts", *faults)
        clock.advance(1)
    assert said == ["rollouts: old", "rollouts: new", "rollouts: well again after 4.0 s", "rollouts: old"]


def test_by_its_code_a_fault_is_told_once_in_whatever_words_and_a_message_that_names_its_subject_as_it_is() -> None:
    clock, said = FakeClock(), list[str]()
    troubles = Troubles(said.append, clock.monotonic)
    for faults in ({"full": "no room for 2"}, {"full": "no room for 3"}, {"lost": "the file is away"}, {}):
        troubles.note_codes("the file", faults)
        clock.advance(1)
    assert said == ["the file: no room for 2", "the file is away", "the file: well again after 3.0 s"]
