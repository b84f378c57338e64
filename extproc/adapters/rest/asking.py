"""What is sent to the store: the request of a template, filled in for entities of one view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import orjson

from extproc.adapters.rest.template import RequestSpec
from extproc.adapters.rest.texts import (
    JOIN_KEY,
    TOKEN,
    ListElement,
    Scope,
    TemplateText,
    all_names,
    compiled,
    encoded,
    parse,
    rendered,
)
from extproc.datapath.ports import FeatureKey
from extproc.errors import Fault, InvalidInput
from extproc.snapshot.model import FeatureView
from extproc.suggestions import did_you_mean, listed

_EVERY_KEY: Final = ("entity", "join_keys", "columns")


class RestRequest(NamedTuple):
    """A request as it is sent, but for the token; ``headers`` are without those of HTTP."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


class RequestTemplate:
    """Makes questions of keys; ``base`` is the URL below which the template's path begins."""

    def __init__(self, spec: RequestSpec, base: str, parameters: Mapping[str, str]) -> None:
        self._spec = spec
        self._base = base
        self._parameters = parameters
        self._segments = [parse(segment) for segment in spec.path.split("/")]
        self._query: dict[str, Any] = {
            name: compiled(value if isinstance(value, list) else [value]) for name, value in spec.query.items()
        }
        self._headers = {name.lower(): parse(value) for name, value in spec.headers.items()}
        self._body = compiled(spec.body)
        self._has_body = "body" in spec.model_fields_set
        named = {*all_names([*map(_once, self._segments), *map(_once, self._headers.values())])}
        named |= {*all_names(self._query), *all_names(self._body)}
        self._sends_every_key = bool(named & set(_EVERY_KEY))
        self._join_keys = {name.removeprefix(JOIN_KEY) for name in named if name.startswith(JOIN_KEY)}
        self.shows_token = any(TOKEN in text.names for text in self._headers.values())

    def lacks(self, view: FeatureView, where: str) -> list[Fault]:
        """That the template does not send a join key of ``view``, or sends one that it has not."""
        sent = self._join_keys
        if unknown := sorted(sent - set(view.join_keys)):
            advice = did_you_mean(unknown[0], view.join_keys) or f"; it has {listed(view.join_keys)}"
            message = f"view {view.name!r} has no join key {unknown[0]!r}, which is to be sent{advice}"
            return [Fault("join_key_unknown", message, where, field=unknown[0])]
        unsent = [name for name in view.join_keys if name not in sent]
        if unsent and not self._sends_every_key:
            message = f"the template does not send the join key {unsent[0]!r} of view {view.name!r}"
            return [Fault("join_key_unknown", message, where, field=unsent[0])]
        return []

    def question(self, keys: Sequence[FeatureKey], token: str | None) -> RestRequest:
        """The request for ``keys``, which are of one view.

        Raises:
            InvalidInput: ``features_entity`` for an entity that cannot be a part of a path, or is no Unicode.
        """
        try:
            return self._filled(keys, token)
        except (TypeError, ValueError) as error:  # of orjson and of urllib
            raise InvalidInput.of("features_entity", f"an entity that is no Unicode: {type(error).__name__}") from None

    def _filled(self, keys: Sequence[FeatureKey], token: str | None) -> RestRequest:
        scope = Scope(keys[0].view, keys, self._parameters, self._spec.integers == "string")
        url = self._base + "/".join(_segment(segment, scope) for segment in self._segments)
        pairs = [
            f"{quote(name, safe='')}={encoded(element.element, each)}"
            for name, elements in self._query.items()
            for element in elements
            for each in element.scopes(scope)
        ]
        if pairs:
            url += "?" + "&".join(pairs)
        headers = {name: _header(text, scope, token) for name, text in self._headers.items()}
        body = orjson.dumps(rendered(self._body, scope)) if self._has_body else None
        return RestRequest(self._spec.method, url, headers, body)


def _once(text: TemplateText) -> ListElement:
    return ListElement(text, by_key=False, by_feature=False)


def _segment(text: TemplateText, scope: Scope) -> str:
    """A part of the path. What servers take for another path, in whatever place they decode it, is none."""
    if text.names:
        filled = encoded(text, scope)
        for name in text.names:
            _check(encoded(TemplateText(("", name, "")), scope), scope)
        return filled
    return "".join(text.parts)


def _check(value: str, scope: Scope) -> None:
    parts = value.lower().replace("%2f", "/").replace("%5c", "/").split("/")
    if not value or {".", ".."} & {*parts}:
        message = f"an entity that is empty, '.' or '..' cannot be asked about in a path, for view {scope.view.name!r}"
        raise InvalidInput.of("features_entity", message)


def _header(text: TemplateText, scope: Scope, token: str | None) -> str:
    if TOKEN not in text.names:
        return encoded(text, scope)
    return "".join(
        (token or "")
        if number % 2 and part == TOKEN
        else encoded(TemplateText(("", part, "")), scope)
        if number % 2
        else part
        for number, part in enumerate(text.parts)
    )
