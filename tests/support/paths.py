"""Where things are in the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "policies"
RECIPES = ROOT / "docs" / "recipes"


def vectors(name: str) -> list[dict[str, Any]]:
    """The vectors of a file in ``tests/vectors``: what every version of Dropout must compute."""
    found: list[dict[str, Any]] = json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())["vectors"]
    return found
