"""A feature store that blocks, on threads of its own, as one that does not."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, Protocol

from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import Fault
from extproc.snapshot.model import FeatureView

_CLOSE: Final = None


class BlockingFeatures(Protocol):
    """Reads the online values of one entity, and may take its time. One thread at a time calls it."""

    def read(self, view: str, entity: str, names: Sequence[str]) -> Mapping[str, FeatureRow]:
        """The values that exist; a name without a value is left out.

        Raises:
            Unreachable: when the store cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class ThreadedFeatures:
    """A ``FeatureStore`` of ``stores``, each read on a thread of its own, one key after the other.

    Daemons, not an executor: a store that never answers must not keep the process from ending.
    """

    max_batch = 256

    def __init__(self, stores: Sequence[BlockingFeatures]) -> None:
        self._stores = stores
        self._wanted: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """An answer for each of ``keys``, as the threads come to it. What nobody waits for any more is not read."""
        if not self._threads:
            self._start()
        wanted = _Wanted(keys, asyncio.get_running_loop(), asyncio.Queue())
        for _ in self._threads:  # each takes the next key until there is none
            self._wanted.put(wanted)
        try:
            for _ in keys:
                yield await wanted.answers.get()
        finally:
            wanted.left.clear()

    async def close(self) -> None:
        """Let the threads end, after which each closes its store; does not wait for them."""
        if not self._threads:
            for store in self._stores:
                store.close()
        for _ in self._threads:
            self._wanted.put(_CLOSE)

    def _start(self) -> None:
        for store in self._stores:
            self._threads.append(threading.Thread(target=self._serve, args=(store,), name="features", daemon=True))
            self._threads[-1].start()

    def _serve(self, store: BlockingFeatures) -> None:
        while (wanted := self._wanted.get()) is not _CLOSE:
            while (key := wanted.next()) is not None:
                try:
                    answer = FeatureAnswer(key, store.read(key.view.name, key.text, key.view.features))
                except Exception as error:  # unreachable, or a store's own bug: the thread must outlive both
                    answer = FeatureAnswer(key, None, error)
                with suppress(RuntimeError):  # the loop that asked may be gone by then
                    wanted.loop.call_soon_threadsafe(wanted.answers.put_nowait, answer)
        store.close()


class BlockingCatalogue(Protocol):
    """Says what it has, and may take its time. Any thread calls it."""

    def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """See ``FeatureCatalogue``."""
        ...


class ThreadedCatalogue(ThreadedFeatures):
    """One that is a ``FeatureCatalogue`` too: ``catalogue`` is asked on a thread of each question's own."""

    def __init__(self, stores: Sequence[BlockingFeatures], catalogue: BlockingCatalogue) -> None:
        super().__init__(stores)
        self._catalogue = catalogue

    async def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """See ``FeatureCatalogue``. The thread outlives who gave up waiting for it, and no process."""
        answer: Future[Sequence[Fault]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._catalogue.lacking(view))
            except Exception as error:  # whoever asked is told
                answer.set_exception(error)

        answer.set_running_or_notify_cancel()
        threading.Thread(target=ask, name="feature catalogue", daemon=True).start()
        return await asyncio.wrap_future(answer)


class _Wanted:
    """Keys that somebody waits for, and where the answers go."""

    def __init__(
        self, keys: Sequence[FeatureKey], loop: asyncio.AbstractEventLoop, answers: asyncio.Queue[FeatureAnswer]
    ) -> None:
        self.left = list(reversed(keys))
        self.loop = loop
        self.answers = answers

    def next(self) -> FeatureKey | None:
        """A key that no thread has taken; None when there is none."""
        with suppress(IndexError):
            return self.left.pop()
        return None
