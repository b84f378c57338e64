"""Features in the hashes of a Redis: ``VIEW:ENTITY`` has a field for each feature, and maybe one for the event time.

A value is JSON; what is none is text. The event time, in Unix seconds, is the field ``event_time``; a hash without one
has features of an unknown age. In the name of a view ``%`` and all that would end it are percent-encoded, so that no
two views share a key; several join keys are joined as in ``FeatureKey.text``.

The keys of a batch go out in one pipeline: one round trip, whatever their number.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import InvalidInput, Unreachable
from extproc.plugins import FEATURES, Plugin
from extproc.urls import read_named_file, read_secret, read_url

EVENT_TIME: Final = "event_time"

MAX_CONNECTIONS: Final = 8
"""Batches under way at once; each has a connection of its own until it is answered."""

_CONNECT_SECONDS: Final = 1.0
_PARAMETERS: Final = ("password-file", "ca")


class RedisFeatures:
    """A ``FeatureStore``. Connects on first use, and anew whenever a connection is gone."""

    max_batch = 64

    def __init__(self, pool: BlockingConnectionPool, where: str) -> None:
        self._pool = pool
        self._client = Redis(connection_pool=pool)  # once: it takes longer to make than to ask
        self._where = where

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """An answer for each of ``keys``, all from one round trip; a hash that is none is its own key's fault.

        Raises:
            Unreachable: ``features_refused`` when Redis wants another password, ``features_unreachable``.
        """
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(f"{quote(key.view.name, safe='')}:{key.text}", [*key.view.features, EVENT_TIME])
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (AuthenticationError, AuthorizationError) as error:
            raise Unreachable.of("features_refused", f"Redis refuses us: {error}", file=self._where) from error
        except (RedisError, OSError) as error:
            raise Unreachable.of(
                "features_unreachable", f"Redis cannot be reached: {error}", file=self._where
            ) from error
        for key, answer in zip(keys, answers, strict=True):
            yield self._answer(key, answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    def _answer(self, key: FeatureKey, answer: Any) -> FeatureAnswer:
        if isinstance(answer, Exception):
            message = f"Redis says: {answer}"
            if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
                return FeatureAnswer(key, None, InvalidInput.of("feature_type", message, file=self._where))
            return FeatureAnswer(key, None, Unreachable.of("features_unreachable", message, file=self._where))
        *values, written = answer
        try:
            event_time = None if written is None else float(written)
        except ValueError:
            message = f"the {EVENT_TIME} of view {key.view.name!r} is not in Unix seconds"
            return FeatureAnswer(key, None, InvalidInput.of("feature_type", message, file=self._where))
        rows = {
            name: FeatureRow(_value(value), event_time)
            for name, value in zip(key.view.features, values, strict=True)
            if value is not None
        }
        return FeatureAnswer(key, rows)


def _value(written: bytes) -> Any:
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:
        return written.decode("utf-8", "replace")


def open_features(url: str, flag: str) -> RedisFeatures:
    """The store at ``redis://[USER@]HOST[:PORT][/DB]``, or ``rediss://`` for TLS.

    ``?password-file=PATH`` holds the password, ``?ca=PATH`` the certificates that sign the server's; without it, those
    that the machine trusts.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid`` for a database that is no number or a missing host,
            ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    found = read_url(url, flag, _PARAMETERS)
    database = found.path.strip("/") or "0"
    if not found.host or not database.isascii() or not database.isdecimal():
        raise InvalidInput.of("url_invalid", f"{flag}: a Redis is redis://HOST:PORT/DATABASE, a number", field=flag)
    options: dict[str, Any] = {
        "host": found.host,
        "port": found.port or 6379,
        "db": int(database),
        "username": found.user or None,
        "password": read_secret(found, "password-file", flag),
        "socket_connect_timeout": _CONNECT_SECONDS,
        # Once more and at once: a connection that was idle while Redis was restarted is found dead when it is used.
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [ConnectionError],
    }
    kind: type[Connection] = Connection
    if found.scheme == "rediss":
        kind = SSLConnection
        options["ssl_ca_data"] = read_named_file(found, "ca", flag)
        options["ssl_min_version"] = ssl.TLSVersion.TLSv1_2
    pool = BlockingConnectionPool(max_connections=MAX_CONNECTIONS, timeout=None, connection_class=kind, **options)
    return RedisFeatures(pool, f"{found.scheme}://{found.bracketed_host}:{found.port or 6379}/{database}")


PLUGIN: Final = Plugin(FEATURES.version, open_features)
