"""From a store's URL to the store."""

from __future__ import annotations

from extproc.plugins import STORE, open_adapter
from extproc.store.ports import WAIT_SECONDS, RolloutStore


def open_store(url: str, *, create: bool = False, wait: float = WAIT_SECONDS) -> RolloutStore:
    """Open the store at ``url``; ``create`` and ``wait`` as ``store.ports.StorePlace`` has them.

    Raises:
        InvalidInput: ``store_url``, when the URL names no kind of store that there is, or as ``open_adapter``.
        Unreachable: as ``store.ports`` says.
    """
    return open_adapter(STORE, url, "--store").open(create=create, wait=wait)
