"""What the store's answer says of each entity: the features that exist, or why nobody can tell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from extproc.adapters.rest.pointers import (
    ABSENT,
    COLUMN,
    ENTITY,
    FEATURE,
    KEY,
    PLACEHOLDERS,
    ROW,
    VIEW,
    WrongShapeError,
    find,
    parse_pointer,
)
from extproc.adapters.rest.template import ResponseSpec, ViewSpec
from extproc.adapters.rest.texts import Scope, parse, plain
from extproc.adapters.rest.values import WrongTypeError, event_time, no_number, typed
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import InvalidInput, Unreachable

_NUMBERS: Final = ("number", "integer")


def parse_json(content: bytes) -> Any:
    """JSON, and what Python and pandas write for it: NaN and infinities are null.

    Raises:
        ValueError: it is none.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content, parse_constant=_nothing, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


def _nothing(_: str) -> None:
    return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | float | None:
    return int(text) if len(text) < 19 else _finite(text)


class AnswerTemplate:
    """Reads answers, as a template says; ``where`` is what messages call the store."""

    def __init__(self, spec: ResponseSpec, views: Mapping[str, ViewSpec] | None, where: str) -> None:
        self._spec = spec
        self._views = views or {}
        self._where = where
        self._feature = parse(spec.feature)
        self._value = parse_pointer(spec.value)
        self._name = None if spec.name is None else parse_pointer(spec.name)
        self._join_key = None if spec.join_key is None else parse_pointer(spec.join_key)
        self._status = None if spec.status is None else parse_pointer(spec.status.at)
        self._time = None if spec.time is None else parse_pointer(spec.time.at)
        self._type = None if spec.type is None else parse_pointer(spec.type.at)

    def answers(self, keys: Sequence[FeatureKey], answer: Any) -> list[FeatureAnswer]:
        """What ``answer`` says of ``keys``, which are of one view and in the order in which they were asked.

        Raises:
            Unreachable: ``features_corrupt`` when it is not built as the template says.
        """
        view = keys[0].view
        try:
            self._check_place(answer)
            columns = self._columns(answer, view.name)
            self._check_rows(answer, len(keys), view.name, columns)
        except WrongShapeError as error:
            raise self._corrupt(error) from None
        names = {feature: plain(self._feature, Scope(view, keys, {}, feature=feature)) for feature in view.features}
        return [self._answer(key, row, answer, columns, names) for row, key in enumerate(keys)]

    def _answer(
        self, key: FeatureKey, row: int, answer: Any, columns: Mapping[str, int], names: Mapping[str, str]
    ) -> FeatureAnswer:
        """What it says of one entity. What is wrong with it is wrong with no other: clients choose who they are."""
        values: dict[str, str | int] = {ROW: row, VIEW: key.view.name, ENTITY: key.text}
        try:
            self._check_entity(key, answer, columns, values)
            return FeatureAnswer(key, self._rows(key.view.name, answer, columns, names, values))
        except WrongShapeError as error:
            message = f"what is answered about an entity of view {key.view.name!r} cannot be: {error}"
            return FeatureAnswer(key, None, InvalidInput.of("feature_type", message, file=self._where))
        except InvalidInput as fault:
            return FeatureAnswer(key, None, fault)

    def _rows(
        self,
        view: str,
        answer: Any,
        columns: Mapping[str, int],
        names: Mapping[str, str],
        values: dict[str, str | int],
    ) -> dict[str, FeatureRow]:
        rows: dict[str, FeatureRow] = {}
        for feature, name in names.items():
            if self._name is not None:
                if name not in columns:
                    continue
                values[COLUMN] = columns[name]
            values[FEATURE] = name
            try:
                found = self._row(view, feature, answer, values)
            except WrongTypeError as error:
                message = f"the feature {feature!r} of view {view!r} is of another type: {error}"
                raise InvalidInput.of("feature_type", message, file=self._where) from None
            if found is not None:
                rows[feature] = found
        return rows

    def _row(self, view: str, feature: str, answer: Any, values: Mapping[str, str | int]) -> FeatureRow | None:
        """A feature; None where there is none."""
        spec = self._spec
        if spec.status is not None and self._status is not None:
            status = find(answer, self._status, values)
            if status not in spec.status.present:
                return None
        value = find(answer, self._value, values)
        if value is ABSENT or (value is None and spec.nulls == "missing"):
            return None
        if value is not None:
            kind = self._kind(view, feature, answer, values)
            if kind in _NUMBERS and no_number(value):
                return None
            value = typed(value, kind)
        return FeatureRow(value, self._event_time(answer, values))

    def _kind(self, view: str, feature: str, answer: Any, values: Mapping[str, str | int]) -> str:
        if view in self._views and feature in self._views[view].features:
            return self._views[view].features[feature]
        if self._spec.type is None or self._type is None:
            return "any"
        found = find(answer, self._type, values)
        return self._spec.type.names.get(found, "any") if isinstance(found, str) else "any"

    def _event_time(self, answer: Any, values: Mapping[str, str | int]) -> float | None:
        if self._spec.time is None or self._time is None:
            return None
        found = find(answer, self._time, values)
        try:
            return None if found is ABSENT else event_time(found, self._spec.time.format)
        except WrongTypeError as error:
            raise WrongShapeError(f"the event time of {values[FEATURE]!r}: {error}") from None

    def _columns(self, answer: Any, view: str) -> dict[str, int]:
        """The place of each name, in an answer that tells values by their place."""
        if self._name is None:
            return {}
        at = self._name.index(COLUMN)
        listed = find(answer, self._name[:at], {VIEW: view})
        if not isinstance(listed, list):
            raise WrongShapeError("there is no list of names in it")
        names = [find(each, self._name[at + 1 :], {VIEW: view}) for each in listed]
        if not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
            raise WrongShapeError("the names in it are not all texts, each once")
        return {name: number for number, name in enumerate(names)}

    def _check_place(self, answer: Any) -> None:
        """What the first placeholder of a value's pointer says the place of is there: else it is no answer at all."""
        first = next((number for number, step in enumerate(self._value) if step in PLACEHOLDERS), None)
        if first is None:
            return
        found = find(answer, self._value[:first], {})
        wanted = list if self._value[first] in (ROW, COLUMN) else Mapping
        if not isinstance(found, wanted):
            raise WrongShapeError("there are no values where they should be")

    def _check_rows(self, answer: Any, count: int, view: str, columns: Mapping[str, int]) -> None:
        """A list with an element for each entity has as many as were asked about: else whose is which?"""
        if ROW not in self._value:
            return
        steps = self._value[: self._value.index(ROW)]
        places = [{COLUMN: number} for number in columns.values()] if COLUMN in steps else [{}]
        for place in places:
            rows = find(answer, steps, {VIEW: view, **place})
            if isinstance(rows, list) and len(rows) != count:
                raise WrongShapeError(f"there are {len(rows)} entities in it, and not {count}")

    def _check_entity(
        self, key: FeatureKey, answer: Any, columns: Mapping[str, int], values: Mapping[str, str | int]
    ) -> None:
        """Where the answer repeats join keys, they are those that were asked about."""
        if self._join_key is None:
            return
        for name, value in zip(key.view.join_keys, key.entity, strict=True):
            if COLUMN in self._join_key and name not in columns:
                raise WrongShapeError(f"the join key {name!r} is not in it")
            at = {**values, KEY: name, COLUMN: columns.get(name, 0)}
            if str(find(answer, self._join_key, at)) != str(value):
                raise WrongShapeError("it is about another entity than the one that was asked about")

    def _corrupt(self, error: WrongShapeError) -> Unreachable:
        message = f"the answer is not built as the template says: {error}"
        return Unreachable.of("features_corrupt", message, file=self._where)
