"""Every feature store keeps the contract of feature stores."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from extproc.adapters.sqlite.features import FeatureRecord, SqliteFeatureStore
from extproc.datapath.ports import FeatureStore
from extproc.plugins import FEATURES, open_adapter
from extproc.testing.features import FeatureCatalogueContract, FeatureStoreContract, MemoryCatalogue, Values
from tests.support.feature_server import TEMPLATE, KnowingStore
from tests.systems.resp import Redis


class TestMemory(FeatureStoreContract, FeatureCatalogueContract):
    """The one that unit tests use."""

    def make(self, values: Values) -> FeatureStore:
        return MemoryCatalogue(values)

    def make_unreachable(self) -> None:
        """It is always there."""


class TestSqlite(FeatureStoreContract, FeatureCatalogueContract):
    """The embedded one, which blocks, on its thread."""

    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, values: Values) -> FeatureStore:
        file = self.folder / "features.db"
        file.unlink(missing_ok=True)
        SqliteFeatureStore(file).load(
            FeatureRecord(key.view.name, key.text, name, row.value, row.event_time or 0)
            for key, rows in values.items()
            for name, row in rows.items()
        )
        return open_adapter(FEATURES, f"sqlite:{file}", "--features")

    def make_unreachable(self) -> FeatureStore:
        return open_adapter(FEATURES, f"sqlite:{self.folder}/none.db", "--features")


class TestRedis(FeatureStoreContract):
    """A real Redis."""

    @pytest.fixture(autouse=True)
    def _with(self, redis: Redis) -> None:
        self.redis = redis

    def make(self, values: Values) -> FeatureStore:
        self.redis.clear()
        for key, rows in values.items():
            fields = {name: orjson.dumps(row.value).decode() for name, row in rows.items()}
            event_time = next(repr(row.event_time) for row in rows.values())
            where = f"{quote(key.view.name, safe='')}:{key.text}"
            self.redis.call(
                "HSET", where, "event_time", event_time, *(part for pair in fields.items() for part in pair)
            )
        return open_adapter(FEATURES, self.redis.url, "--features")

    def make_unreachable(self) -> FeatureStore:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            return open_adapter(FEATURES, f"redis://127.0.0.1:{nobody.getsockname()[1]}", "--features")


class TestRest(FeatureStoreContract):
    """A server over HTTP, in the words of a template."""

    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path, start: Callable[[AbstractContextManager[KnowingStore]], KnowingStore]) -> None:
        self.template, self.start = tmp_path / "template.yaml", start
        self.template.write_text(TEMPLATE)

    def make(self, values: Values) -> FeatureStore:
        server = self.start(KnowingStore(values))
        return open_adapter(FEATURES, f"http://{server.address}?template={self.template}", "--features")

    def make_unreachable(self) -> FeatureStore:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{nobody.getsockname()[1]}"
            return open_adapter(FEATURES, f"http://{where}?template={self.template}", "--features")


class TestRestCatalogue(FeatureCatalogueContract):
    """A template that names its views; another one cannot say."""

    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path) -> None:
        self.template = tmp_path / "template.yaml"

    def make(self, values: Values) -> FeatureStore:
        views = {
            key.view.name: {"joinKeys": {"entity": "string"}, "features": dict.fromkeys(key.view.features, "any")}
            for key in values
        }
        self.template.write_text(f"{TEMPLATE}views: {orjson.dumps(views).decode()}\n")
        return open_adapter(FEATURES, f"http://127.0.0.1?template={self.template}", "--features")

    def make_unreachable(self) -> FeatureStore:
        self.template.write_text(TEMPLATE)
        return open_adapter(FEATURES, f"http://127.0.0.1?template={self.template}", "--features")
