"""The templates that come with Dropout, against the real thing or what its real client reads."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import InvalidInput
from extproc.plugins import FEATURES, open_adapter
from extproc.snapshot.model import FeatureView
from tests.support.feature_server import answering, told
from tests.support.process import found, in_venv
from tests.systems.feast_server import FeastServer
from tests.systems.fixtures import Servers

AT = 1_796_040_000.0
RISK = FeatureView("user_risk", ("score", "tries", "country", "known", "last"), ("user_id",))
PAIR = FeatureView("pair", ("visits",), ("user_id", "shop"))


async def ask(url: str, keys: Sequence[FeatureKey]) -> dict[FeatureKey, FeatureAnswer]:
    store: FeatureStore = open_adapter(FEATURES, url, "--features")
    try:
        return {answer.key: answer async for answer in store.read(keys)}
    finally:
        await store.close()


@pytest.fixture
def feast(servers: Servers) -> str:
    """The address of a real feature server."""
    return f"{servers.get(FeastServer).url}?template=feast"


@pytest.mark.nightly
async def test_feasts_values_come_as_they_are_with_their_times(feast: str) -> None:
    """NaN, which Feast answers as null, is missing; an infinity is a text there."""
    found = await ask(feast, [FeatureKey(RISK, (user,)) for user in (7, 8, 9, 99)])
    rows = {key.entity[0]: answer.rows for key, answer in found.items()}
    values: dict[Any, dict[str, Any]] = {
        7: {"score": 0.1, "tries": (1 << 53) + 1, "country": "DE", "known": True, "last": [1, 2]},
        8: {"tries": -2, "country": "ü|:\x00", "known": False, "last": []},
        9: {"score": "Infinity", "tries": 3, "country": "", "known": True, "last": [3]},
        99: {},
    }
    assert rows == {user: {name: FeatureRow(value, AT) for name, value in of.items()} for user, of in values.items()}


@pytest.mark.nightly
async def test_feasts_entities_of_several_join_keys_are_told_apart(feast: str) -> None:
    keys = [FeatureKey(PAIR, (7, shop)) for shop in ("a|b", 'c"d', "a", '"}], "x": [')]
    found = await ask(feast, keys)
    assert [found[key].rows for key in keys] == [{"visits": FeatureRow(5, AT)}, {"visits": FeatureRow(6, AT)}, {}, {}]


@pytest.mark.nightly
async def test_a_join_key_that_feast_cannot_stand_takes_nobody_elses_features(feast: str) -> None:
    view = FeatureView("user_risk", ("country",), ("user_id",))
    found = await ask(feast, [FeatureKey(view, (user,)) for user in ("7", "x", "07", "9")])
    by_user = {key.entity[0]: answer for key, answer in found.items()}
    assert by_user["7"].rows == {"country": FeatureRow("DE", AT)}
    assert by_user["9"].rows == {"country": FeatureRow("", AT)}
    for user, code in (("x", "features_entity"), ("07", "feature_type")):  # the other is taken for 7
        fault = by_user[user].fault
        assert isinstance(fault, InvalidInput)
        assert fault.code == code


@pytest.mark.nightly
async def test_feasts_values_on_demand_have_no_time(feast: str) -> None:
    key = FeatureKey(FeatureView("twice", ("doubled",), ("user_id",)), (7,))
    assert (await ask(feast, [key]))[key].rows == {"doubled": FeatureRow(0.2, None)}


@pytest.mark.nightly
@pytest.mark.parametrize("view", ["user_rsik", "user_risk:score"])
async def test_a_view_that_feast_does_not_have_is_a_fault(view: str, feast: str) -> None:
    key = FeatureKey(FeatureView(view, ("score",), ("user_id",)), (7,))
    assert (await ask(feast, [key]))[key].rows is None


TECTON: dict[str, Any] = {
    "result": {"features": ["669", 58.25, None, ["a", "b"], True, "5"]},
    "metadata": {
        "features": [
            {
                "name": f"user.{name}",
                "dataType": {"type": kind, **more},
                "effectiveTime": "2026-11-30T12:00:00Z",
                "status": status,
            }
            for name, kind, status, more in (
                ("count", "int64", "PRESENT", {}),
                ("mean", "float64", "CACHED_PRESENT", {}),
                ("none", "float64", "MISSING_DATA", {}),
                ("last", "array", "PRESENT", {"elementType": {"type": "string"}}),
                ("known", "boolean", "PRESENT", {}),
                ("name", "string", "PRESENT", {}),
            )
        ]
    },
}
"""As the documentation of Tecton's HTTP API has it: https://docs.tecton.ai/http-api."""

CLIENT = """
import json, sys
from tecton_client import MetadataOptions, TectonClient
client = TectonClient(url=sys.argv[1], api_key="geheim", default_workspace_name="prod")
wanted = MetadataOptions(
    include_names=True, include_data_types=True, include_effective_times=True, include_serving_status=True
)
found = client.get_features(feature_service_name="fraud:v2", join_key_map={"user_id": "7"}, metadata_options=wanted)
print(json.dumps(found.get_features_dict()))
"""


async def test_tectons_own_client_asks_the_same_and_reads_the_same(tmp_path: Path) -> None:
    python = found("tecton-client", "make systems", in_venv("tecton", "bin/python"))
    (tmp_path / "token").write_text("geheim")
    names = tuple(each["name"] for each in TECTON["metadata"]["features"])
    key = FeatureKey(FeatureView("fraud:v2", names, ("user_id",)), (7,))
    async with told(answering(TECTON)) as server:
        client = await asyncio.to_thread(
            subprocess.run, [python, "-c", CLIENT, server.url], capture_output=True, text=True, timeout=100, check=True
        )
        url = f"{server.url}?template=tecton&workspace=prod&token-file={tmp_path}/token"
        ours = (await ask(url, [key]))[key]
    theirs = {name: value for name, value in json.loads(client.stdout).items() if value is not None}
    assert ours.rows == {name: FeatureRow(value, AT) for name, value in theirs.items()}
    assert ours.rows["user.count"].value == 669
    asked = [(each.line, each.headers["authorization"], _said(each.json["params"])) for each in server.asked]
    assert asked[0] == asked[1]


def _said(params: dict[str, Any]) -> dict[str, Any]:
    """What is not empty of it: the client sends the defaults, too."""
    return {name: value for name, value in params.items() if value}
