"""The feature cache is bounded in bytes: what it says that it takes is what it takes, whatever values are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath import feature_cache
from extproc.datapath.feature_cache import LARGEST_SHARE, CachedRows, FeatureCache, size_of
from extproc.datapath.ports import FeatureKey, FeatureRow
from extproc.snapshot.model import FeatureView

UNLIMITED = 1 << 40
VIEW = FeatureView("user_risk", ("risk",))

VALUES = {
    "a number": 0.123,
    "a vector": [n / 7 for n in range(1024)],
    "a long text": "x" * 20_000,
    "texts": [f"text number {n}" for n in range(300)],
    "objects": [{"name": f"n-{n}", "score": n / 7} for n in range(200)],
    "nested": [[[n / 7]] for n in range(300)],
}


def key(entity: str) -> FeatureKey:
    return FeatureKey(VIEW, (entity,))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.usefixtures("traced")
def test_the_size_of_an_entry_is_what_it_takes(value: Any) -> None:
    cache, written = FeatureCache(UNLIMITED), orjson.dumps(value).decode()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(100):
        rows = {"".join(["ri", "sk"]): FeatureRow(orjson.loads(written), 1_700_000_000.0 + number)}
        asked = key(f"entity-{number}")
        cache.put(asked, CachedRows(rows, 12.5 * number, size_of(asked, rows, UNLIMITED)))
    taken = tracemalloc.get_traced_memory()[0] - before
    assert 0.8 * taken <= cache.bytes <= 1.6 * taken


def test_a_value_is_not_walked_further_than_the_limit() -> None:
    rows = {"risk": FeatureRow([[0.5] * 1000] * 1000, 0.0)}
    with patch.object(feature_cache, "getsizeof", wraps=feature_cache.getsizeof) as measured:
        assert size_of(key("u-1"), rows, 10_000) > 10_000
    assert measured.call_count < 1000


OPERATIONS = st.lists(st.tuples(st.sampled_from(("put", "get", "drop")), st.sampled_from("abcdef"), st.integers(0, 30)))


@given(OPERATIONS)
def test_whatever_is_done_the_bytes_are_those_of_the_entries_and_within_the_bound(
    operations: list[tuple[str, str, int]],
) -> None:
    cache = FeatureCache(20 * LARGEST_SHARE)
    for operation, entity, size in operations:
        sizes = [entry.size for name in "abcdef" if (entry := cache.get(key(name))) is not None]
        assert (len(sizes), sum(sizes)) == (len(cache), cache.bytes)
        assert cache.bytes <= 20 * LARGEST_SHARE
        if operation == "put":
            cache.put(key(entity), CachedRows({}, 0.0, size))
            assert (cache.get(key(entity)) is None) == (size > cache.max_entry_bytes)
        elif operation == "get":
            cache.get(key(entity))
        else:
            cache.drop(key(entity))
            assert cache.get(key(entity)) is None


def test_the_least_recently_used_leaves_first() -> None:
    cache = FeatureCache(LARGEST_SHARE)
    for number in range(LARGEST_SHARE):
        cache.put(key(f"u-{number}"), CachedRows({}, 0.0, 1))
    cache.get(key("u-0"))
    cache.put(key("one more"), CachedRows({}, 0.0, 1))
    assert cache.get(key("u-1")) is None
    assert cache.get(key("u-0")) is not None
