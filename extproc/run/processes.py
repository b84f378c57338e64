"""How the processes are started that nobody types. Light to import, because ``serve`` starts its workers first."""

from __future__ import annotations

import sys
from typing import Final

_PYTHON: Final = (sys.executable, "-P", "-m")

WORKER: Final = (*_PYTHON, "extproc.run.worker")
"""A worker; its transport follows."""

OBSERVER: Final = (*_PYTHON, "extproc.run.observer")
"""The observer."""

POLICY_TRIAL: Final = (*_PYTHON, "extproc.run.policy_trial")
"""What tries policies."""

POLICY_SHADOW: Final = (*_PYTHON, "extproc.run.policy_shadow")
"""What compares decisions with other policies."""

CONTROLLER: Final = (*_PYTHON, "extproc.cli", "controller")
"""A controller beside the workers; its flags follow."""
