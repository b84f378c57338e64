"""A feature store that is asked aside from requests: opened, waited for, closed, and whose every failure is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from extproc.datapath.ports import FeatureCatalogue, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import DropoutError, Fault, Unreachable
from extproc.plugins import FEATURES, open_adapter, scheme_of
from extproc.snapshot.model import FeatureView

PATIENCE_SECONDS: Final = 5.0
CATALOGUE_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0


@asynccontextmanager
async def asked_features(
    url: str, flag: str = "--features", within: float = PATIENCE_SECONDS
) -> AsyncIterator[FeatureStore]:
    """The feature store at ``url``, for at most ``within`` seconds.

    Raises:
        InvalidInput: as ``open_adapter``.
        Unreachable: ``features_unreachable`` when the time is up, ``features_failed`` for whatever is no error of ours.
    """
    store = open_adapter(FEATURES, url, flag)
    try:
        async with asyncio.timeout(within):
            yield store
    except TimeoutError:
        raise Unreachable.of("features_unreachable", f"no answer within {within:.0f} s", field=flag) from None
    except DropoutError:
        raise
    except Exception as error:  # somebody else's code: whatever it raises is told as that store's
        message = f"the feature store {scheme_of(url)}: failed: {type(error).__name__}: {error}"
        raise Unreachable.of("features_failed", message, field=flag) from error
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await store.close()


async def read_one(store: FeatureStore, key: FeatureKey) -> Mapping[str, FeatureRow]:
    """What a decision would read of ``key``. Raises what the store says in its place."""
    async with aclosing(store.read([key])) as answers:
        async for answer in answers:
            if answer.fault is not None:
                raise answer.fault
            return answer.rows or {}
    return {}


async def ask_catalogue(
    store: FeatureCatalogue, views: Iterable[FeatureView]
) -> Mapping[FeatureView, Sequence[Fault] | Unreachable]:
    """What the store does not have of each of ``views``, or why it cannot say."""
    said: dict[FeatureView, Sequence[Fault] | Unreachable] = {}
    for view in views:
        try:
            said[view] = await store.lacking(view)
        except Unreachable as error:
            said[view] = error
    return said
