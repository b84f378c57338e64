"""The process in which ``dropout serve`` tries policies before any worker has them.

Started as ``python -m extproc.run.policy_trial FD``, see ``lifeline``. It may be brought down, or never end: that is
what it is for.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from extproc.adapters.regorus.policy import RegorusEngine, check_here
from extproc.errors import InvalidInput
from extproc.lifeline import hang_on
from extproc.resources.policies import PolicySources
from extproc.serve.supervisor.policy_trial import answer_trial


def load(sources: str) -> RegorusEngine:
    """What evaluates the policies. Raises ``InvalidInput``."""
    parsed = PolicySources.from_json(sources)
    faults = check_here(parsed)
    if faults:
        raise InvalidInput(faults)
    return RegorusEngine(parsed)


if __name__ == "__main__":
    hang_on(int(sys.argv[1]))
    with suppress(BrokenPipeError):  # nobody is there to be told any more
        answer_trial(sys.stdin.buffer.read(), load, lambda line: os.write(1, line))
