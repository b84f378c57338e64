"""Adapters of somebody else's.

A feature store: the features of everybody are the words of the URL, ``example:risk=0.5``. A sink: the decision log,
compressed, in ``gzip:PATH``. A store of rollouts in a folder, ``folder:PATH``, which has SQLite do the work.
"""

from __future__ import annotations

import fcntl
import gzip
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.analysis.ports import MetricQuery, Reading
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.plugins import Plugin
from extproc.resources.providers.kind import ProviderKind, ServerSpec

Values = Mapping[FeatureKey, Mapping[str, FeatureRow]]


class ExampleFeatures:
    """A ``FeatureStore``: the values of some entities, and the same for everybody else."""

    max_batch = 16

    def __init__(self, values: Values, otherwise: Mapping[str, FeatureRow] | None = None) -> None:
        self._values = values
        self._otherwise = otherwise or {}

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """An answer for each key."""
        for key in keys:
            rows = self._values.get(key, self._otherwise)
            yield FeatureAnswer(key, {name: rows[name] for name in key.view.features if name in rows})

    async def close(self) -> None:
        """Nothing to let go of."""


def _open(url: str, flag: str) -> ExampleFeatures:
    pairs = (word.partition("=") for word in url.partition(":")[2].split(","))
    return ExampleFeatures({}, {name: FeatureRow(json.loads(value), None) for name, _, value in pairs})


class GzipSink:
    """An ``EventSink``: each batch is compressed by itself, and appended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """Whatever is wrong with the file may be mended later."""

    def write(self, events: Sequence[bytes]) -> int:
        """Append all of ``events``."""
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the other workers append as well
            file.write(gzip.compress(b"\n".join((*events, b""))))
        return 0

    def reopen(self) -> None:
        """It is opened by name each time."""

    def close(self) -> None:
        """Nothing stays open."""


class FolderPlace:
    """A ``StorePlace``: a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, *, create: bool, wait: float) -> SqliteStore:
        """Open the store in the folder."""
        if create:
            self._folder.mkdir(exist_ok=True)
        return SqliteStore(self._folder / "rollouts", create=create, wait=wait)


class FixedSpec(ServerSpec):
    """One of the numbers of the URL, by its name."""

    number: str
    """The name."""


class FixedMetrics:
    """A ``MetricProvider`` whose numbers never change."""

    provider = "fixed"

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._numbers = numbers

    async def measure(self, question: MetricQuery, within: float) -> Reading:
        """The number of that name."""
        number = self._numbers.get(question.spec.number) if within > 0 else None
        return Reading(number) if number is not None else Reading(error=f"nobody fixed {question.spec.number} in time")

    async def close(self) -> None:
        """Nothing to let go of."""


def _numbers(url: str) -> FixedMetrics:
    pairs = (word.partition("=") for word in url.partition(":")[2].split(","))
    return FixedMetrics({name: float(value) for name, _, value in pairs})


FOLDER = Plugin(1, lambda url, flag: FolderPlace(Path(url.partition(":")[2])))
FIXED = ProviderKind(FixedSpec, {"number": 0.5})
METRICS = Plugin(1, lambda url, flag: _numbers(url))
PLUGIN = Plugin(1, _open)
GZIP = Plugin(1, lambda url, flag: GzipSink(Path(url.partition(":")[2])))
