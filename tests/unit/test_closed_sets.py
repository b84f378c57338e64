"""An action or a message more: the type checker names every place that has to know of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scratch import change, complaints, copied

ACTION = """
@dataclass(frozen=True, slots=True)
class Freeze(_OnRollout):
    \"\"\"Take no step. What it changes, it does not say yet.\"\"\"


OfDocuments = """

MESSAGE = """
class Spare(Message, frozen=True, tag="spare"):
    \"\"\"Nobody takes it yet.\"\"\"


QuestionToWorker = """


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mypy_names_every_place_that_has_to_take_a_new_action_or_message(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    actions, messages = copy / "extproc/control/actions.py", copy / "extproc/serve/messages.py"
    change(actions, "\nOfDocuments = ", ACTION)
    change(actions, "\nCommand = ", "\nCommand = Freeze | ")
    change(actions, "    Retry: ", '    Freeze: ActionRow("freeze", Lane.TAKE),\n    Retry: ')
    change(messages, "\nQuestionToWorker = ", MESSAGE)
    change(messages, "\nToWorker = ", "\nToWorker = Spare | ")
    change(messages, "\nFromWorker = (", "\nFromWorker = (\n    Spare |")
    change(messages, "\nToObserver = ", "\nToObserver = Spare | ")
    change(messages, "\nFromObserver = ", "\nFromObserver = Spare | ")
    assert sorted(complaints(copy)) == [
        ("control/acting.py", "union-attr"),
        ("control/actions.py", "arg-type"),
        ("serve/observer.py", "arg-type"),
        ("serve/supervisor/keepers.py", "arg-type"),
        ("serve/supervisor/protection.py", "arg-type"),
        ("serve/supervisor/workers.py", "arg-type"),
        ("serve/worker/worker.py", "arg-type"),
    ]
