"""What somebody gives on the command line in place of a request: headers, attributes, features, a time, policies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from extproc.adapters.file.feature_cells import TYPES, BadCell, read_cell
from extproc.adapters.regorus.policy import check_sources
from extproc.adapters.regorus.process import LimitedEngine
from extproc.clock import SystemClock
from extproc.datapath.attributes import AttributeReader
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import Features, FeatureValue, PolicyVerdict, Request
from extproc.datapath.remote_policies import MIN_ASK_SECONDS, RemotePolicies
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.plugins import POLICY_ENGINE, open_adapter
from extproc.resources.policies import PolicySources, read_what_can_be_read
from extproc.settings import settings
from extproc.snapshot.model import CompiledRollout, FeatureNeed, PolicyUse
from extproc.suggestions import did_you_mean


class GivenFeatures:
    """The features of the command line, for whatever entity the request names; a ``FeatureSource``.

    ``NAME`` has its value in every view, ``NAME@VERSION`` in that of a version which has one of its own.

    Raises:
        InvalidInput: ``feature_invalid`` for what is not NAME=VALUE.
    """

    def __init__(self, pairs: Iterable[str]) -> None:
        self._values = {name: _value(text, "--feature") for name, text in _split(pairs, "--feature", "feature_invalid")}

    def cached(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features:
        """What was given, just now; what was not is missing."""
        names, given = need.view.features, self._values
        found = {name: FeatureValue(given[name], 0.0, "given") for name in names if name in given}
        of = {
            version: found
            | {name: FeatureValue(given[own], 0.0, "given") for name in names if (own := f"{name}@{version}") in given}
            for version, _ in need.of_versions
        }
        whole = all(len(each) == len(names) for each in (found, *of.values()))
        return Features(found, None if whole else Reason.FEATURE_MISSING, of)

    async def fetch(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features:
        """The same."""
        return self.cached(need, entity)

    def beside(self, rollout: CompiledRollout) -> Iterator[str]:
        """What ``rollout`` asks for that was not given, and what was given that it does not ask for, in sentences."""
        need = rollout.features
        asked = need.view.features if need is not None else ()
        missing = [name for name in asked if name not in self._values]
        of_versions = need.of_versions if need is not None else ()
        known = [*asked, *(f"{name}@{version}" for version, _ in of_versions for name in asked)]
        if missing:
            flags = " ".join(f"--feature {name}=VALUE" for name in missing)
            yield f"No feature store is read here; {flags} gives what is missing."
        for name in sorted(self._values.keys() - set(known)):
            yield f"--feature {name}: {rollout.key} asks for no such feature{did_you_mean(name, known)}"


class GivenTime(SystemClock):
    """A clock that stands at a time of the wall, as RFC 3339 has it, in UTC where it names no other.

    Raises:
        InvalidInput: ``time_invalid``.
    """

    def __init__(self, text: str) -> None:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            message = f"{text!r} is no time such as 2026-11-30T09:00:00Z"
            raise InvalidInput.of("time_invalid", message, field="--time") from None
        self._now = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def now(self) -> float:
        """That time, in seconds since the Unix epoch."""
        return self._now


def given_request(method: str, path: str, headers: Iterable[str], attributes: Iterable[str]) -> Request:
    """The request as Envoy would describe it: the host is the authority.

    Raises:
        InvalidInput: ``path_invalid``, ``header_invalid``, ``attribute_invalid``.
    """
    if not path.startswith("/") and path != "*":
        message = f"{path!r} is no path of a request, which begins with '/'; did you mean {'/' + path!r}?"
        raise InvalidInput.of("path_invalid", message, field="--path")
    pairs = [(":method", os.fsencode(method)), (":path", os.fsencode(path)), (":scheme", b"http")]
    for header in headers:
        name, colon, value = header.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise InvalidInput.of("header_invalid", f"{header!r} is not 'NAME: VALUE'", field="-H")
        name = ":authority" if name == "host" else name
        pairs.append((name, os.fsencode(value.strip(" \t"))))
    return AttributeReader().request(pairs, _attributes(attributes))


def checked_policies(folder: Path) -> PolicySources:
    """The policies of a folder. Raises ``InvalidInput`` when they cannot be served."""
    sources, faults = read_what_can_be_read(folder)
    faults += check_sources(sources) if sources.files else []
    if faults:
        raise InvalidInput(faults)
    return sources


class _PatientPolicies(RemotePolicies):
    """They wait as a person does: that a first question takes longer than others is no answer."""

    async def fetch(self, use: PolicyUse, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The engine's verdict."""
        return await super().fetch(use, document, max(within, MIN_ASK_SECONDS))


@contextmanager
def given_policies(folder: Path, field: str | None = None) -> Iterator[LimitedEngine]:
    """The policies of a folder, checked and limited as the server checks and limits them.

    ``field`` is the option that names the folder, where several do.

    Raises:
        InvalidInput: when they cannot be served.
    """
    try:
        sources = checked_policies(folder)
    except InvalidInput as error:
        raise InvalidInput(replace(fault, field=fault.field or field) for fault in error.faults) from error
    with closing(LimitedEngine(sources, settings().evaluation_limit)) as engine:
        yield engine


@contextmanager
def given_engine(policies: Path | None, url: str | None) -> Iterator[Embedded | RemotePolicies | None]:
    """The policies of a folder, or the engine at ``url``, to be closed on its event loop; None where neither is given.

    Raises:
        InvalidInput: as ``given_policies`` and the adapter do, and ``policies_twice``.
    """
    if url is None:
        with nullcontext() if policies is None else given_policies(policies) as engine:
            yield None if engine is None else Embedded(engine)
        return
    if policies is not None:
        message = "the request is decided by --policies or by --policy-engine: leave one of them out"
        raise InvalidInput.of("policies_twice", message, field="--policy-engine")
    yield _PatientPolicies(open_adapter(POLICY_ENGINE, url, "--policy-engine"), SystemClock())


def _attributes(given: Iterable[str]) -> Mapping[str, Any]:
    """Envoy's attributes; a value that is JSON is taken as such, any other as text."""
    attributes: dict[str, Any] = {}
    for name, text in _split(given, "--attribute", "attribute_invalid"):
        try:
            attributes[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            attributes[name] = text
    return attributes


def _split(pairs: Iterable[str], flag: str, code: str) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidInput.of(code, f"{pair!r} is not NAME=VALUE", field=flag)
        yield name, text


def _value(text: str, flag: str) -> Any:
    """A value that is JSON is taken as such, any other as a cell of a file of features."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        cell = read_cell(text, comma=False)
    except BadCell as bad:
        message = f'{bad.message}; text is written as in JSON: "{text}"'
        raise InvalidInput.of("feature_invalid", message, field=flag) from None
    return cell.value if cell.kind in TYPES else text
