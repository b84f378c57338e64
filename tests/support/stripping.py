"""What stands behind a transport in tests where only the question matters."""

from __future__ import annotations

from extproc.datapath.model import Mutation, Request
from extproc.datapath.mutation import STRIPPED


class Stripping:
    """Decides nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def __call__(self, request: Request) -> Mutation:
        """Nothing set, and whatever the client claimed removed."""
        self.asked.append(request)
        return STRIPPED
