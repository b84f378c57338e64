"""The document that a policy sees as ``input``: OPA-Envoy's shape, and what Dropout adds to it.

Only the parts that the policy can read are built, known from its own references (``InputPaths``): this runs once per
request, and handing a policy all headers costs more than evaluating it. A container above a part that is read is
always there if it is in the full document, so a policy cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

from extproc.assignment import policy_bucket
from extproc.datapath.model import NO_FEATURES, Features, Request, Unit
from extproc.datapath.ports import InputReads
from extproc.resources.input_paths import InputPath, format_path, parse_path
from extproc.snapshot.model import CompiledRollout

INPUT_VERSION: Final = {"encoding": "protojson", "ext_proc": "v3"}
"""``input.version``, where OPA-Envoy says ``{"encoding": "protojson", "ext_authz": "v3"}``."""

_MAX_PORT_DIGITS: Final = 5

_HTTP: Final = ("attributes", "request", "http")
_HEADERS: Final = (*_HTTP, "headers")
_BUT: Final = "!"
_MAX_DOCUMENTS: Final = 4096


class InputPaths:
    """The input paths that a policy can read; the empty path is the whole input. Implements ``InputReads``.

    What is ``but`` them, and all below it, the policy does not read although it lies below one of them.
    """

    def __init__(self, paths: Iterable[InputPath], but: Iterable[InputPath] = ()) -> None:
        wanted = set(paths)
        self._paths = frozenset(p for p in wanted if not any(p[:n] in wanted for n in range(len(p))))
        self._but = frozenset(but)

    @property
    def raw_paths(self) -> frozenset[InputPath]:
        """The paths as tuples, none a prefix of another."""
        return self._paths

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths as sorted text: ``features.risk_score``; a part with a dot or bracket is written ``["a.b"]``.

        Behind them is what is not read: ``!time``.
        """
        excepted = sorted(f"{_BUT}{format_path(path)}" for path in self._but)
        return (*sorted(format_path(path) for path in self._paths), *excepted)

    @classmethod
    def parse(cls, paths: Iterable[str]) -> InputPaths:
        """The reads that ``paths`` lists. Raises ValueError for text that ``paths`` would not write."""
        read: list[InputPath] = []
        but: list[InputPath] = []
        for text in paths:
            (but if text.startswith(_BUT) else read).append(parse_path(text.removeprefix(_BUT)))
        return cls(read, but)

    def include(self, *path: str) -> bool:
        """Whether the policy may read ``input.<path>`` or anything below or above it."""
        if any(path[: len(not_read)] == not_read for not_read in self._but):
            return False
        return any(read[: len(path)] == path[: len(read)] for read in self._paths)

    def include_whole(self, *path: str) -> bool:
        """Whether the policy may read ``input.<path>`` as a whole."""
        return self._covers(path) and not any(not_read[: len(path)] == path[: len(not_read)] for not_read in self._but)

    def below(self, *path: str) -> frozenset[str] | None:
        """The parts right below ``path`` that may be read; None if it may be read as a whole, but for exceptions."""
        if self._covers(path):
            return None
        depth = len(path)
        return frozenset(read[depth] for read in self._paths if len(read) > depth and read[:depth] == path)

    def within(self, others: InputPaths) -> InputPaths:
        """Those that are in both, for paths without exceptions."""
        both = [
            max(mine, theirs, key=len) for mine in self._paths for theirs in others.raw_paths if _is_above(mine, theirs)
        ]
        return InputPaths(both)

    def _covers(self, path: InputPath) -> bool:
        return any(path[: len(read)] == read for read in self._paths)

    @cached_property
    def plan(self) -> InputPlan:
        """What to build for this policy."""
        return _plan(self)


def _is_above(one: InputPath, other: InputPath) -> bool:
    """Or is below it, or the same."""
    return one[: len(other)] == other[: len(one)]


@lru_cache(_MAX_DOCUMENTS)
def paths_of(reads: tuple[str, ...]) -> InputPaths:
    """What a document says that its rule is told, see ``PolicyUse``."""
    return InputPaths.parse(reads)


EVERYTHING: Final = InputPaths([()])
"""The reads of a policy of which nothing is known."""

NEW_EVERY_TIME: Final = (
    ("time",),
    ("attributes", "request", "time"),
    (*_HTTP, "id"),
    (*_HEADERS, "x-request-id"),
)
"""Parts of the input that no two requests have in common."""

REPEATABLE: Final = InputPaths([()], but=NEW_EVERY_TIME)
"""Everything that two requests may have in common."""


class InputPlan(NamedTuple):
    """What to build, decided once per policy. A set names the parts that are read; None reads the whole."""

    http: tuple[tuple[str, Callable[[Request], str | None]], ...]
    headers: frozenset[str] | None
    request_id: bool
    request: bool
    request_time: bool
    addresses: tuple[tuple[str, str], ...]
    envoy: bool
    attributes: bool
    parsed_path: bool
    parsed_query: bool
    version: bool
    rollout: frozenset[str] | None
    unit: bool
    draw: bool
    features: frozenset[str] | None
    features_of: Mapping[str, frozenset[str] | None] | None
    time: bool


def _plan(reads: InputPaths) -> InputPlan:
    return InputPlan(
        http=tuple((name, get) for name, get in _HTTP_FIELDS if reads.include(*_HTTP, name)),
        headers=reads.below(*_HEADERS),
        request_id=reads.include(*_HEADERS, "x-request-id"),
        request=reads.include("attributes", "request"),
        request_time=reads.include("attributes", "request", "time"),
        addresses=tuple(
            (end, f"{end}.address") for end in ("source", "destination") if reads.include("attributes", end)
        ),
        envoy=reads.include("attributes", "envoy"),
        attributes=reads.include("attributes"),
        parsed_path=reads.include("parsed_path"),
        parsed_query=reads.include("parsed_query"),
        version=reads.include("version"),
        rollout=reads.below("rollout"),
        unit=reads.include("unit"),
        draw=reads.include("draw"),
        features=reads.below("features"),
        features_of=_below_each(reads, "features_of"),
        time=reads.include("time"),
    )


def _below_each(reads: InputPaths, name: str) -> Mapping[str, frozenset[str] | None] | None:
    """What is read of each part of ``name``, as ``below`` has it."""
    parts = reads.below(name)
    return None if parts is None else {part: reads.below(name, part) for part in parts}


def plain_input(compiled: CompiledRollout, now: float, reads: InputReads) -> dict[str, Any]:
    """What ``reads`` may look at of a plain request to ``compiled``: what policies are tried on."""
    request = Request(method="POST", path="/", host="trial", scheme="http", headers={":path": b"/"})
    return build_input(request, compiled, Unit(b"trial"), NO_FEATURES, now, reads)


def build_input(
    request: Request,
    compiled: CompiledRollout,
    unit: Unit,
    features: Features,
    now: float,
    reads: InputReads,
) -> dict[str, Any]:
    """The part of the policy input that ``reads`` may look at; ``now`` is in Unix seconds.

    InputPaths that are not ``InputPaths`` (an engine that knows nothing of its policies) get the whole document.
    """
    plan = reads.plan if isinstance(reads, InputPaths) else EVERYTHING.plan
    document: dict[str, Any] = {}
    if plan.attributes:
        document["attributes"] = _attributes(request, now, plan)
    if plan.parsed_path:
        document["parsed_path"] = parsed_path(request.path)
    if plan.parsed_query:
        document["parsed_query"] = parsed_query(request.path)
    if plan.version:
        document["version"] = INPUT_VERSION
    if plan.rollout is None:
        document["rollout"] = dict(compiled.policy_input)
    elif plan.rollout:
        given = compiled.policy_input
        document["rollout"] = {name: given[name] for name in plan.rollout if name in given}
    if plan.unit:
        document["unit"] = _unit(unit)
    if plan.draw and unit.value is not None:
        document["draw"] = policy_bucket(compiled.seed, unit.value)
    wanted = plan.features
    if wanted is None or wanted:
        document["features"] = {
            name: found.value for name, found in features.values.items() if wanted is None or name in wanted
        }
    if plan.features_of is None or plan.features_of:
        document["features_of"] = _features_of(compiled, features, plan.features_of)
    if plan.time:
        document["time"] = int(now * 1_000_000) * 1_000  # a float holds microseconds
    return document


def _features_of(
    compiled: CompiledRollout, features: Features, read: Mapping[str, frozenset[str] | None] | None
) -> dict[str, dict[str, Any]]:
    """By each version that may be served the features of its view, as far as they were found and are ``read``."""
    document: dict[str, dict[str, Any]] = {}
    if compiled.features is None:
        return document
    for version in compiled.versions if read is None else compiled.versions & read.keys():
        wanted = None if read is None else read[version]
        values = features.of.get(version, features.values)
        document[version] = {name: found.value for name, found in values.items() if wanted is None or name in wanted}
    return document


def _unit(unit: Unit) -> str | None:
    """The unit as text, None when the request has none of its own (a per-request draw names no one)."""
    if unit.value is None or unit.per_request or unit.fault is not None:
        return None
    return unit.value.decode("utf-8", "replace")


def _attributes(request: Request, now: float, plan: InputPlan) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if plan.request:
        of_request: dict[str, Any] = {"http": _http(request, plan)}
        attributes["request"] = of_request
        if plan.request_time:
            moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
            of_request["time"] = moment.replace("+00:00", "Z")
    for end, name in plan.addresses:
        address = request.attributes.get(name)
        if isinstance(address, str):
            attributes[end] = {"address": {"socketAddress": _socket_address(address)}}
    if plan.envoy:
        attributes["envoy"] = dict(request.attributes)
    return attributes


def _http(request: Request, plan: InputPlan) -> dict[str, Any]:
    http: dict[str, Any] = {}
    for name, get in plan.http:
        value = get(request)
        if value is not None:
            http[name] = value
    given = request.headers
    if plan.headers is None:
        http["headers"] = {name: value.decode("utf-8", "replace") for name, value in given.items()}
        if not plan.request_id:
            http["headers"].pop("x-request-id", None)
    elif plan.headers:
        http["headers"] = {name: given[name].decode("utf-8", "replace") for name in plan.headers if name in given}
    return http


def _request_id(request: Request) -> str | None:
    value = request.headers.get("x-request-id")
    return None if value is None else value.decode("utf-8", "replace")


def _protocol(request: Request) -> str | None:
    value = request.attributes.get("request.protocol")
    return value if isinstance(value, str) else None


_HTTP_FIELDS: Final[tuple[tuple[str, Callable[[Request], str | None]], ...]] = (
    ("method", lambda request: request.method),
    ("path", lambda request: request.path),
    ("host", lambda request: request.host),
    ("scheme", lambda request: request.scheme),
    ("protocol", _protocol),
    ("id", _request_id),
)


def _socket_address(address: str) -> dict[str, Any]:
    """Envoy's ``1.2.3.4:80`` or ``[::1]:80`` in protobuf's JSON."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > _MAX_PORT_DIGITS:
        return {"address": address}
    return {"address": host.strip("[]"), "portValue": int(port)}


def parsed_path(path: str) -> list[str]:
    """The segments of a path without its query, percent-decoded first, then split: ``/a%2Fb/`` is ``a, b, ""``."""
    return unquote(path.partition("?")[0]).lstrip("/").split("/")


def parsed_query(path: str) -> Mapping[str, list[str]]:
    """The parameters of a path's query, each with its values in order; ``+`` is a space, a bare name has ``""``."""
    return parse_qs(path.partition("?")[2], keep_blank_values=True)
