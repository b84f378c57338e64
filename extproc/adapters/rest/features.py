"""Features of a store that is asked over HTTP, in the words of a template.

The entities of a view that are asked about at once go out together as far as the template's ``batch`` says, and the
requests beside each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from extproc.adapters.access import PARAMETERS, check_tls
from extproc.adapters.rest.answering import AnswerTemplate, parse_json
from extproc.adapters.rest.asking import RequestTemplate
from extproc.adapters.rest.catalogue import lacking
from extproc.adapters.rest.connection import MAX_ANSWER_BYTES, RestConnection
from extproc.adapters.rest.template import TEMPLATE, Template
from extproc.adapters.rest.template_file import bundled, read_template
from extproc.datapath.ports import FeatureAnswer, FeatureKey
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.plugins import FEATURES, Plugin
from extproc.snapshot.model import FeatureView
from extproc.suggestions import listed
from extproc.urls import AdapterUrl, read_url

_REFUSALS: Final = (401, 403, 407)
_OF_THE_ENTITY: Final = (400, 422)
_MAYBE_OF_THE_ENTITY: Final = (*_OF_THE_ENTITY, 500)
"""Answers that one entity of several may be the reason of; whether it is, is known when each is asked about alone."""
_HINTS: Final = {
    404: ": is it the right path, and does it have such a view?",
    429: ": it is asked too often",
}


class RestFeatures:
    """A ``FeatureStore`` and a ``FeatureCatalogue``. Connects on first use."""

    max_batch = 64

    def __init__(self, address: AdapterUrl, flag: str, template: Template) -> None:
        self._flag = flag
        self._template = template
        port = f":{address.port}" if address.port is not None else ""
        self._where = f"{address.scheme}://{address.bracketed_host}{port}"
        base = self._where + quote(address.path.rstrip("/"))
        self._asking = RequestTemplate(template.request, base, address.parameters)
        self._answering = AnswerTemplate(template.response, template.views, self._where)
        self._connection = RestConnection(address, flag, self._where, self._asking.shows_token)

    def check(self) -> None:
        """Raises ``InvalidInput``: ``url_parameter`` where the template shows a token and the URL names none."""
        if self._asking.shows_token and self._connection.token is None:
            message = f"{self._flag} names no token-file, and the template has a header with {{{{token}}}}"
            raise InvalidInput.of("url_parameter", message, field=self._flag)

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """An answer for each of ``keys``, those of a request together; what goes wrong with one is its keys' fault."""
        self._connection.look_again()
        parts = list(self._parts(keys))
        if len(parts) == 1:
            for answer in await self._ask(parts[0]):
                yield answer
            return
        asked = [asyncio.ensure_future(self._ask(part)) for part in parts]
        try:
            for done in asyncio.as_completed(asked):
                for answer in await done:
                    yield answer
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """What the template's ``views`` do not have of ``view``, or what of it the template does not send.

        Raises:
            Unreachable: ``features_unlisted`` where the template names no views.
        """
        faults = self._faults(view)
        if self._template.views is None and not faults:
            message = "the template names no views, so nobody knows which ones the store has"
            raise Unreachable.of("features_unlisted", message, file=self._where)
        return faults

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    def _parts(self, keys: Sequence[FeatureKey]) -> Iterator[list[FeatureKey]]:
        """The keys of each request: of one view, and no more than the template allows."""
        views: dict[FeatureView, list[FeatureKey]] = {}
        for key in keys:
            views.setdefault(key.view, []).append(key)
        for of_view in views.values():
            for start in range(0, len(of_view), self._template.request.batch):
                yield of_view[start : start + self._template.request.batch]

    async def _ask(self, keys: Sequence[FeatureKey]) -> Sequence[FeatureAnswer]:
        """What the store says of the keys of one request."""
        status, answers = await self._asked(keys)
        if len(keys) > 1 and (status in _MAYBE_OF_THE_ENTITY or answers is None):
            return await self._ask_each(keys)
        return answers or [FeatureAnswer(key, None, self._too_large()) for key in keys]

    async def _asked(self, keys: Sequence[FeatureKey]) -> tuple[int, Sequence[FeatureAnswer] | None]:
        """The status of the store's answer, 0 where there is none, and what it says of ``keys``; None is too much."""
        status = 0
        try:
            self._check_view(keys[0].view)
            status, content = await self._connection.send(self._asking.question(keys, self._connection.token))
            if status in self._template.response.absent:
                return status, [FeatureAnswer(key, {}) for key in keys]
            self._check_status(status)
            return status, None if content is None else self._answering.answers(keys, self._parsed(status, content))
        except (InvalidInput, Unreachable) as fault:
            return status, [FeatureAnswer(key, None, fault) for key in keys]

    async def _ask_each(self, keys: Sequence[FeatureKey]) -> Sequence[FeatureAnswer]:
        """What is said of each alone: an entity that the store cannot stand takes nobody's features but its own.

        Where nobody's came, it is the store that is at fault.
        """
        parts = await asyncio.gather(*(self._asked([key]) for key in keys))
        some_came = any(answers and answers[0].rows is not None for _, answers in parts)
        found = []
        for key, (status, answers) in zip(keys, parts, strict=True):
            if answers is None:
                found.append(FeatureAnswer(key, None, self._too_large()))
            elif some_came and status in _MAYBE_OF_THE_ENTITY:
                found.append(FeatureAnswer(key, None, self._unfit(status)))
            else:
                found += answers
        return found

    def _unfit(self, status: int) -> InvalidInput:
        return InvalidInput.of("features_entity", f"it answers {status} to this entity alone", file=self._where)

    def _check_view(self, view: FeatureView) -> None:
        """Raises ``InvalidInput``, with the faults of ``lacking``, where there is no use in asking about a view."""
        if faults := self._faults(view):
            raise InvalidInput(faults)

    def _faults(self, view: FeatureView) -> list[Fault]:
        """What the store does not have of a view, and then what of it the template does not send."""
        faults = [] if self._template.views is None else lacking(view, self._template.views, self._where)
        if any(fault.code == "feature_view_unknown" for fault in faults):
            return faults
        named = {fault.field for fault in faults}
        return faults + [fault for fault in self._asking.lacks(view, self._where) if fault.field not in named]

    def _check_status(self, status: int) -> None:
        if status in _REFUSALS:
            message = f"it refuses us with {status}: is it the right token, and may it read features?"
            raise Unreachable.of("features_refused", message, file=self._where)
        if status in _OF_THE_ENTITY:
            raise self._unfit(status)
        if not 200 <= status < 300:
            hint = ": a redirect, which is not followed" if status < 400 else _HINTS.get(status, "")
            raise Unreachable.of("features_unreachable", f"it answers {status}{hint}", file=self._where)

    def _parsed(self, status: int, content: bytes) -> Any:
        try:
            return parse_json(content)
        except ValueError:
            message = f"it answers {status} with something that is no JSON"
            raise Unreachable.of("features_corrupt", message, file=self._where) from None

    def _too_large(self) -> InvalidInput:
        message = f"the answer about this entity alone has more than {MAX_ANSWER_BYTES} bytes"
        return InvalidInput.of("feature_type", message, file=self._where)


def open_features(url: str, flag: str) -> RestFeatures:
    """The store at ``https://HOST[:PORT][/PATH]?template=TEMPLATE``, or ``http://``.

    TEMPLATE is a file or one of those that come with Dropout. ``token-file``, ``ca``, ``cert`` and ``key`` are files,
    and the template may have parameters of its own.

    Raises:
        InvalidInput: what ``read_url`` and ``read_template`` raise, ``url_invalid`` for a URL without a host or a
            template, ``url_parameter`` for a parameter of the template that it lacks, ``file_unreadable`` for a file
            that cannot be read or is not what it should be.
    """
    named = dict(parse_qsl(urlsplit(url).query)).get(TEMPLATE) if "?" in url else None
    template = read_template(named, flag) if named else None
    wanted = template.parameters if template is not None else []
    found = read_url(url, flag, (TEMPLATE, *PARAMETERS, *wanted))
    if not found.host or found.user:
        message = f"{flag}: a feature store is https://HOST:PORT?template=TEMPLATE"
        raise InvalidInput.of("url_invalid", message, field=flag)
    if template is None:
        message = f"{flag} names no template: add ?template= with the path of a file, or {' or '.join(bundled())}"
        raise InvalidInput.of("url_invalid", message, field=flag)
    check_tls(found, flag)
    if lacking_parameters := [name for name in wanted if not found.parameters.get(name)]:
        message = f"{flag} lacks what the template {found.parameters[TEMPLATE]} wants: {listed(lacking_parameters)}"
        raise InvalidInput.of("url_parameter", message, field=flag)
    store = RestFeatures(found, flag, template)
    store.check()
    return store


PLUGIN: Final = Plugin(FEATURES.version, open_features)
