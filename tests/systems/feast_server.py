"""A real feature server of Feast, over its embedded online store."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.http import ask
from tests.support.process import Process, found, in_venv

STORE = """
project: fraud
registry: data/registry.db
provider: local
online_store: {type: sqlite, path: data/online.db}
entity_key_serialization_version: 3
telemetry: false
"""

VIEWS = """
import datetime

import pandas
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
at = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)

def view(name, entities, schema, values):
    frame = pandas.DataFrame({**values, "ts": [at] * len(next(iter(values.values())))})
    frame.to_parquet(f"data/{name}.parquet")
    source = FileSource(path=f"data/{name}.parquet", timestamp_field="ts")
    pushed = PushSource(name=f"push_{name}", batch_source=source)
    return FeatureView(name=name, entities=entities, schema=schema, source=pushed), pushed, frame

risk, pushed_risk, risk_values = view("user_risk", [user], [
    Field(name="score", dtype=Float64), Field(name="tries", dtype=Int64), Field(name="country", dtype=String),
    Field(name="known", dtype=Bool), Field(name="last", dtype=Array(Int64)),
], {
    "user_id": [7, 8, 9], "score": [0.1, float("nan"), float("inf")], "tries": [(1 << 53) + 1, -2, 3],
    "country": ["DE", "\\u00fc|:\\x00", ""], "known": [True, False, True], "last": [[1, 2], [], [3]],
})
pair, pushed_pair, pair_values = view("pair", [user, shop], [Field(name="visits", dtype=Int64)], {
    "user_id": [7, 7], "shop": ["a|b", 'c"d'], "visits": [5, 6],
})

@on_demand_feature_view(sources=[risk], schema=[Field(name="doubled", dtype=Float64)])
def twice(inputs: pandas.DataFrame) -> pandas.DataFrame:
    return pandas.DataFrame({"doubled": inputs["score"] * 2})

store = FeatureStore(".")
store.apply([user, shop, risk, pair, pushed_risk, pushed_pair, twice])
store.push("push_user_risk", risk_values)
store.push("push_pair", pair_values)
"""


class FeastServer(Process):
    """It has the views ``user_risk`` (users 7, 8 and 9), ``pair`` (user 7 in two shops) and, on demand, ``twice``."""

    name = "feast"
    start_seconds = 240.0  # its imports alone take several

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Fill the store: in one process, because each imports all of Feast."""
        if (self.folder / "data").is_dir():
            return
        (self.folder / "data").mkdir()
        (self.folder / "feature_store.yaml").write_text(STORE)
        python = found("feast", "make nightly", in_venv("feast", "bin/feast")).with_name("python")
        (self.folder / "fill.py").write_text(VIEWS)  # a file: Feast keeps the source of what is computed on demand
        done = subprocess.run(
            [python, "fill.py"], cwd=self.folder, capture_output=True, text=True, timeout=self.start_seconds
        )
        assert done.returncode == 0, done.stderr[-4000:]

    def command(self) -> Sequence[str | Path]:
        feast = found("feast", "make nightly", in_venv("feast", "bin/feast"))
        return [feast, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"]

    def ready(self) -> bool:
        return ask(f"{self.url}/health") == ""
