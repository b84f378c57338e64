"""Metrics of a Prometheus, or of what speaks its HTTP API: ``POST /api/v1/query``, an instant query for each.

Results are as Argo Rollouts has them: a scalar is a number, a vector the list of the numbers of its series, and
anything else an Error. So is an answer with warnings, because they say that a part of the data is missing. Each
question has a connection of its own: they are seconds apart, and an old one may be dead when it is used.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from math import ceil
from typing import Any, Final

import orjson
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from extproc.adapters.prometheus.promql import ARGUMENT, OF_THE_ROLLOUT, filled
from extproc.control.analysis.ports import MetricQuery, Reading
from extproc.errors import InvalidInput
from extproc.plugins import METRICS, Plugin
from extproc.urls import AdapterUrl, read_named_file, read_secret, read_token, read_url

MAX_ANSWER_BYTES: Final = 1 << 20

_PORTS: Final = {"prometheus+http": 9090, "prometheus+https": 443}
_PARAMETERS: Final = ("token-file", "password-file", "ca")
_SHOWN: Final = 300


class _NoAnswer(Exception):
    """Why there is no result, in words."""


class PrometheusMetrics:
    """A ``MetricProvider``. Connects when it is asked; ``where`` is what messages call it."""

    provider = "prometheus"

    def __init__(self, url: str, where: str, tls: ssl.SSLContext | None, headers: Mapping[str, str]) -> None:
        self._url = url
        self._where = where
        self._tls = tls
        self._headers = headers
        self._session: ClientSession | None = None

    async def measure(self, question: MetricQuery, within: float) -> Reading:
        """The value of the question's query now, within so many seconds."""
        if within <= 0:
            return Reading(error=f"there is no time left to ask {self._where}")
        try:
            query = filled(question.spec.query, _values(question))
            return Reading(_result(await self._ask(query, within)))
        except TimeoutError:
            return Reading(error=f"{self._where} did not answer within {within:.0f} s")
        except (ClientError, OSError) as error:  # some of which are a ValueError, too
            return Reading(error=f"{self._where} cannot be asked: {_short(str(error) or type(error).__name__)}")
        except (ValueError, _NoAnswer) as error:
            return Reading(error=str(error))

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, query: str, within: float) -> Mapping[str, Any]:
        if self._session is None:
            connector = TCPConnector(ssl=self._tls or True, force_close=True)
            self._session = ClientSession(
                connector=connector, cookie_jar=DummyCookieJar(), headers=self._headers, auto_decompress=False
            )
        asked = {"query": query, "timeout": f"{ceil(within * 1000)}ms"}
        limits = ClientTimeout(total=within)
        async with self._session.post(self._url, data=asked, timeout=limits, allow_redirects=False) as answer:
            return self._body(answer, await _read(answer))

    def _body(self, answer: ClientResponse, content: bytes) -> Mapping[str, Any]:
        """The data of an answer that is one, complete."""
        if len(content) > MAX_ANSWER_BYTES:
            raise _NoAnswer(f"the answer of {self._where} has more than {MAX_ANSWER_BYTES} bytes; let the query sum up")
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError:
            body = None
        status = body.get("status") if isinstance(body, dict) else None
        if status != "error" and (status != "success" or answer.status != 200):
            said = f"{answer.status} {_short(answer.reason)}"
            raise _NoAnswer(f"{self._where} answers {said}, and nothing of a Prometheus")
        if status == "error":
            raise _NoAnswer(f"{self._where} says: {_short(body.get('errorType'))}: {_short(body.get('error'))}")
        if warnings := body.get("warnings"):
            raise _NoAnswer(f"{self._where} warns: {_short(warnings)}")
        data = body.get("data")
        return data if isinstance(data, dict) else {}


async def _read(answer: ClientResponse) -> bytes:
    """The answer's content, or one byte more than it may have."""
    content = bytearray()
    async for part in answer.content.iter_chunked(65_536):
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            break
    return bytes(content[: MAX_ANSWER_BYTES + 1])


def _values(question: MetricQuery) -> dict[str, str]:
    """The variables of a query."""
    namespace, _, name = question.of.rollout.partition("/")
    canary, control = question.of.versions
    of_rollout = zip(OF_THE_ROLLOUT, (namespace, name, canary, control), strict=True)
    return {f"{ARGUMENT}{arg}": value for arg, value in question.args.items()} | dict(of_rollout)


def _result(data: Mapping[str, Any]) -> float | list[float]:
    kind, result = data.get("resultType"), data.get("result")
    try:
        if kind == "scalar":
            return _number(result)
        if kind == "vector":
            return [_number(series["value"]) for series in _list(result)]
    except (KeyError, TypeError, ValueError):
        raise _NoAnswer(f"the query gives something else than numbers: {_short(result)}") from None
    raise _NoAnswer(f"the query gives a {_short(kind)}; an instant vector or a scalar is measured")


def _number(sample: Any) -> float:
    """Of a sample, which is its time and its value as text, without the ``_`` that only Python reads."""
    _, text = _list(sample)
    if not isinstance(text, str) or "_" in text:
        raise TypeError
    return float(text)


def _list(found: Any) -> list[Any]:
    """What is a list, and not a text or a mapping, of which elements could be taken as well."""
    if not isinstance(found, list):
        raise TypeError
    return found


def _short(said: Any) -> str:
    """What a server says, in a line that is not long."""
    text = said if isinstance(said, str) else repr(said)
    line = "".join(sign if sign.isprintable() else " " for sign in text[:_SHOWN])
    return line + ("..." if len(text) > _SHOWN else "")


def open_metrics(url: str, flag: str) -> PrometheusMetrics:
    """The server at ``prometheus+http://[USER@]HOST[:PORT][/PREFIX]``, or ``prometheus+https://``.

    ``?token-file=PATH`` holds a bearer token, ``?password-file=PATH`` the password of USER, ``?ca=PATH`` the
    certificates that sign the server's; without it, those that the machine trusts.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid`` for one without a host and for what goes with nothing
            else in it, ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    found = read_url(url, flag, _PARAMETERS)
    if not found.host:
        message = f"{flag}: a Prometheus is NAME=prometheus+http://HOST:PORT"
        raise InvalidInput.of("url_invalid", message, field=flag)
    if "ca" in found.parameters and found.scheme != "prometheus+https":
        raise InvalidInput.of("url_invalid", f"{flag}: ca is for prometheus+https", field=flag)
    place = f"{found.bracketed_host}:{found.port or _PORTS[found.scheme]}"
    scheme = found.scheme.removeprefix("prometheus+")
    address = f"{scheme}://{place}{found.path.rstrip('/')}/api/v1/query"
    tls = _tls(found, flag) if scheme == "https" else None
    return PrometheusMetrics(address, f"Prometheus at {place}", tls, _headers(found, flag))


def _headers(found: AdapterUrl, flag: str) -> dict[str, str]:
    token, password = read_token(found, flag), read_secret(found, "password-file", flag)
    if bool(found.user) != (password is not None) or (token is not None and password is not None):
        message = f"{flag}: either a token-file, or a user and a password-file"
        raise InvalidInput.of("url_invalid", message, field=flag)
    headers = {"Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if password is not None:
        headers["Authorization"] = f"Basic {b64encode(f'{found.user}:{password}'.encode()).decode()}"
    return headers


def _tls(found: AdapterUrl, flag: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=read_named_file(found, "ca", flag))
    except (ssl.SSLError, ValueError):
        raise InvalidInput.of("file_unreadable", "the ca holds no certificates", field=flag) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


PLUGIN: Final = Plugin(METRICS.version, open_metrics)
