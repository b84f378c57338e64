"""The Rollout document as pydantic models: what people write, with camelCase names and nothing coerced.

The models check each field by itself. What fields must say together (one of header and cookie, weights that add up)
is in ``rules.py``, and ``loading.parse_rollout`` applies both: a ``Rollout`` is made there. Percents are hundredths
here, durations seconds. Attribute docstrings are the descriptions that editors show.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, Strict, ValidationInfo, field_validator

from extproc.assignment import BUCKETS
from extproc.errors import InvalidInput
from extproc.matching import MatchKey
from extproc.resources.analysis_spec import BackgroundSpec
from extproc.resources.document import Part, Resource, one_of, such_as, written
from extproc.resources.fields import (
    CookieName,
    Duration,
    HeaderName,
    Host,
    InputPart,
    Name,
    PathValue,
    Percent,
    RulePath,
    Seed,
    Text,
    Timeout,
    UpstreamTemplate,
    Value,
)
from extproc.resources.steps import Step

KIND: Final = "Rollout"
DEFAULT_UPSTREAM: Final = "{model}-v{version}"


MAX_MATCHES: Final = 1000
"""Entries of ``match``. Every process compiles them in one go, and Envoy gets a route for each."""


_FEATURES: Final = [["risk_score"]]


class PathMatch(Part):
    """A path: the whole of it, or a prefix that ends at a '/' or a ':'."""

    type: Literal["PathPrefix", "Exact"] = "PathPrefix"
    """PathPrefix matches the path itself and what follows it after '/' or ':'; Exact matches the path alone."""
    value: PathValue
    """Starts with '/'; compared case-sensitive and undecoded, without the query."""

    @field_validator("value")
    @classmethod
    def _without_trailing_slash(cls, value: str, info: ValidationInfo) -> str:
        """A prefix means the same with and without '/' at its end, however many."""
        if info.data.get("type") == "PathPrefix":
            return value.rstrip("/") or "/"
        return value


class HeaderMatch(Part):
    """A request header with exactly this value."""

    name: Annotated[HeaderName, such_as("x-model")]
    """The header's name, in any case."""
    value: Annotated[Text, such_as("fraud-detector")]
    """The whole value, case-sensitive."""


class MatchEntry(Part):
    """Requests that fit all of path, headers and hosts."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    path: PathMatch | None = None
    """The path of the request."""
    headers: list[HeaderMatch] = []
    """Headers that the request must have, all of them."""
    hosts: list[Host] = []
    """Hosts of which the request must have one; *.example.com stands for every name below example.com."""

    def match_keys(self) -> list[MatchKey]:
        """The entry as what it asks of each of its hosts; no path is the prefix '/', which every path has."""
        exact = self.path is not None and self.path.type == "Exact"
        path = "" if self.path is None else self.path.value if exact else self.path.value.rstrip("/")
        headers = tuple(sorted((header.name, header.value.encode()) for header in self.headers))
        return [MatchKey(host, exact, path, headers) for host in self.hosts or [""]]


class UnitSpec(Part):
    """Who is randomised: the header or the cookie that names a user."""

    model_config = ConfigDict(json_schema_extra=one_of("header", "cookie"))

    header: HeaderName | None = None
    """The request header that holds the unit."""
    cookie: CookieName | None = None
    """The cookie that holds the unit."""
    missing: Literal["stable", "request"] = "stable"
    """What a request without a unit gets: stable, or a draw of its own."""


class VersionRef(Part):
    """A version, by its own name or by an alias."""

    model_config = ConfigDict(json_schema_extra=one_of("version", "alias"))

    alias: Annotated[Value | None, such_as("champion")] = None
    """A key of spec.aliases."""
    version: Value | None = None
    """The version itself; a string, so a number is written in quotes."""


class JoinKeySpec(Part):
    """One of the keys that together name an entity."""

    model_config = ConfigDict(json_schema_extra=one_of("header", "cookie"))

    name: Annotated[Value, such_as("customer")]
    """The join key's name in the feature store."""
    header: HeaderName | None = None
    """The request header that holds its value."""
    cookie: CookieName | None = None
    """The cookie that holds its value."""
    type: Literal["string", "integer"] = "string"
    """What the value is; a request with another has no features. Integers are of 64 bits."""


class EntitySpec(Part):
    """Whose features are read."""

    model_config = ConfigDict(json_schema_extra=one_of("header", "cookie", "keys"))

    header: HeaderName | None = None
    """The request header that holds the entity."""
    cookie: CookieName | None = None
    """The cookie that holds the entity."""
    keys: Annotated[list[JoinKeySpec], Field(min_length=1, max_length=8)] | None = None
    """The join keys, where the entity has several or one that is no text."""

    @property
    def join_keys(self) -> list[JoinKeySpec]:
        """The join keys; a header or cookie is one by the name of entity."""
        return self.keys or [JoinKeySpec(name="entity", header=self.header, cookie=self.cookie)]


class FeaturesSpec(Part):
    """Features read from the feature store before the decision."""

    entity: EntitySpec
    """Whose features are read."""
    view: Annotated[Value, such_as("user_risk")]
    """The feature view of every version that ``views`` does not name."""
    views: Annotated[dict[Value, Value], Field(examples=[{"4": "user_risk_v2"}])] = {}
    """The feature view by version, for versions that read another. The views of all versions that a request may get
    are read for each request, whichever it draws, so that no one's membership depends on the draw."""
    names: Annotated[list[Value], Field(min_length=1, examples=_FEATURES, json_schema_extra={"uniqueItems": True})]
    """The features of the view, of each where there are several."""
    max_age: Duration | None = None
    """A feature older than this counts as missing; left out, any age will do."""
    timeout: Annotated[Duration, written("5ms")] = 0.005
    """How long a decision waits for features that are not in the cache."""
    on_missing: Literal["stable", "policy"] = "stable"
    """What a missing feature does: the request goes to stable, or the policy decides without it."""

    def view_of(self, version: str) -> str:
        """The view that ``version`` reads."""
        return self.views.get(version, self.view)


class PolicySpec(Part):
    """The rule that is asked about every request."""

    path: RulePath = "routing/decision"
    """Package and rule: routing/decision is the rule decision of package routing."""
    on_error: Literal["stable", "deny"] | None = None
    """What a policy that fails does: the request goes to stable, or is denied. Left out, an error of a rule that can
    deny is a denial, and any other goes to stable."""
    no_answer: Literal["stable", "deny"] | None = None
    """What happens to a request that Envoy sends on without a decision: it goes to stable, or is answered 503. Left
    out, it is denied where onError is deny, and goes to stable otherwise."""
    timeout: Annotated[Duration, written("10ms")] = 0.01
    """How long a decision waits for the verdict of a policy engine that is asked over the network."""
    remember: Duration | None = None
    """For how long such a verdict may be given again to a request of which the rule is told the same. Left out, each
    request asks."""
    reads: Annotated[list[InputPart], Field(min_length=1, json_schema_extra={"uniqueItems": True})] | None = None
    """The parts of the input that the rule is told, which are then all that there is for it. Left out, it is told what
    it reads, and a policy engine over the network everything but the time and the request's id."""

    @property
    def denies_unanswered(self) -> bool:
        """Whether no decision is a denial."""
        return (self.no_answer or self.on_error) == "deny"


class LogSpec(Part):
    """What the decision log may hold in clear."""

    headers: list[HeaderName] = []
    """Request headers."""
    features: Annotated[list[Value], Field(examples=_FEATURES)] = []
    """Features."""


class BreakerSpec(Part):
    """When a version is taken away for failing, without asking anybody."""

    window: Annotated[Duration, written("10s")] = 10.0
    """The time over which errors are counted."""
    min_requests: Annotated[int, Field(ge=1, le=2**31)] = 20
    """Fewer requests than this in a window say nothing."""
    error_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The share of failing requests that trips a version."""
    consecutive: Annotated[int, Field(ge=1, le=2**31)] = 10
    """The number of failing requests in a row that trips a version."""


class Variant(Part):
    """One arm of an experiment."""

    name: Name
    """The arm's name."""
    version: Value
    """The version that it gets; a string, so a number is written in quotes."""
    weight: Percent
    """Percent of the enrolled units."""


class HoldoutSpec(Part):
    """Units that are kept out of everything."""

    name: Annotated[Name, such_as("global-2026")]
    """Rollouts that name the same holdout keep the same units out."""
    percent: Percent
    """Percent of all units."""


class LayerSpec(Part):
    """A share of a layer, in which experiments exclude one another."""

    name: Annotated[Name, such_as("checkout")]
    """The layer."""
    range: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=BUCKETS)], Annotated[int, Field(gt=0, le=BUCKETS)]],
        Strict(False),
        such_as([0, 5000]),
    ]
    """First bucket, and the first that is no longer ours, between 0 and 10000."""


class ShadowSpec(VersionRef):
    """A version that gets copies of requests and answers nobody."""

    percent: Annotated[Percent, written(100)] = BUCKETS
    """Percent of the units whose requests are mirrored."""


class EndpointsSpec(Part):
    """Where a version's servers are. Dropout then renders its Envoy cluster, so that a new version needs no other."""

    host: Annotated[UpstreamTemplate, such_as("{model}-v{version}.models.svc")]
    """A name that Envoy resolves, or an address, with {model}, {version}, {namespace} and {name}."""
    port: Annotated[int, Field(ge=1, le=65535, examples=[8080])]
    """Where they listen, for HTTP/1.1 in clear."""


_VARIANTS: Final = [
    {"name": "treatment", "version": "4", "weight": 50},
    {"name": "control", "version": "3", "weight": 50},
]


class RolloutSpec(Part):
    """What is wanted: which model, which requests, which versions, how fast."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["stable", "canary"],
                    "not": {"required": ["coverage"]},
                    "properties": {"analysis": {"properties": {"onFailed": False}}},
                },
                {
                    "required": ["variants"],
                    "not": {"anyOf": [{"required": [n]} for n in ("stable", "canary", "steps")]},
                },
                {
                    "required": ["stable"],
                    "not": {"anyOf": [{"required": [n]} for n in ("variants", "coverage", "steps", "analysis")]},
                },
            ],
            "dependentRequired": {"progressDeadline": ["steps"], "progressDeadlineAbort": ["progressDeadline"]},
        }
    )

    model: Annotated[Value, such_as("fraud-detector")]
    """The registered model."""
    match: Annotated[list[MatchEntry], Field(min_length=1, max_length=MAX_MATCHES)]
    """Which requests: those that fit any entry."""
    unit: UnitSpec
    """Who is randomised."""
    seed: Seed | None = None
    """What is hashed with the unit; by default namespace/name@canary-version, a new cohort for each version."""
    stable: Annotated[VersionRef | None, such_as({"version": "3"})] = None
    """The version that serves everybody else; read once, when the rollout is adopted."""
    canary: VersionRef | None = None
    """The version that is to become stable."""
    aliases: Annotated[dict[Value, Value], such_as({"champion": "3", "challenger": "4"})] = {}
    """Versions by alias, where there is no registry."""
    upstream: UpstreamTemplate = DEFAULT_UPSTREAM
    """The Envoy cluster of a version, with {model}, {version}, {namespace} and {name}."""
    endpoints: EndpointsSpec | None = None
    """Where the servers of a version are; left out, its cluster is in Envoy's own configuration."""
    timeout: Timeout | None = None
    """How long Envoy waits for a version's whole answer, the retry by stable included; 0s for as long as it takes. Left
    out, it is Envoy's 15s."""
    idle_timeout: Timeout | None = None
    """How long Envoy lets a request be in which nothing moves; 0s for as long as it takes. Left out, it is
    stream_idle_timeout of Envoy's configuration."""
    features: FeaturesSpec | None = None
    """Features that the decision reads."""
    policy: PolicySpec | None = None
    """The rule that is asked; left out, none is."""
    log: LogSpec = LogSpec()
    """What the decision log may hold in clear."""
    steps: list[Step] = []
    """How the canary is raised, in order."""
    progress_deadline: Duration | None = None
    """For how long the canary may neither move nor wait for a person, a pause or an analysis; then the rollout is
    Degraded. Left out, for ever."""
    progress_deadline_abort: bool = False
    """Whether the canary is taken away then."""
    analysis: BackgroundSpec | None = None
    """Measured in the background, from the first setWeight on; in an experiment each variant against the control."""
    breaker: BreakerSpec | None = None
    """When a version is taken away for failing."""
    variants: Annotated[list[Variant], Field(examples=[_VARIANTS], json_schema_extra={"minItems": 2})] = []
    """The arms of an experiment, in order; the last is the control."""
    coverage: Percent | None = None
    """Percent of the units enrolled in the experiment; by default all. The others get the control."""
    holdout: HoldoutSpec | None = None
    """Units that are kept out."""
    layer: LayerSpec | None = None
    """Mutual exclusion with other experiments."""
    shadow: ShadowSpec | None = None
    """A version that gets copies of requests."""

    @property
    def is_experiment(self) -> bool:
        """Whether variants take the place of stable and canary."""
        return bool(self.variants)

    def versions(self) -> list[str]:
        """Every version that the spec names, each once: the variants', or those of stable, canary and shadow.

        Raises:
            InvalidInput: ``alias_unresolved``.
        """
        refs = [ref for ref in (self.stable, self.canary, self.shadow) if ref is not None]
        named = [variant.version for variant in self.variants] + [self.resolve(ref) for ref in refs]
        return list(dict.fromkeys(named))

    def resolve(self, ref: VersionRef) -> str:
        """The version that ``ref`` names.

        Raises:
            InvalidInput: ``alias_unresolved`` when its alias is not among ``aliases``.
        """
        if ref.version is not None:
            return ref.version
        if ref.alias is None or ref.alias not in self.aliases:
            raise InvalidInput.of("alias_unresolved", f"the alias {ref.alias!r} is not in spec.aliases")
        return self.aliases[ref.alias]


class Rollout(Resource):
    """One model's move to a new version, or an experiment between versions."""

    kind: Literal["Rollout"]
    """What the document is."""
    spec: RolloutSpec
    """What is wanted."""

    def upstream_of(self, version: str) -> str:
        """The Envoy cluster that serves ``version``."""
        return self._expanded(self.spec.upstream, version)

    def address_of(self, version: str) -> tuple[str, int] | None:
        """The host and port of the servers of ``version``, if the document says where they are."""
        endpoints = self.spec.endpoints
        return (self._expanded(endpoints.host, version), endpoints.port) if endpoints is not None else None

    def _expanded(self, template: str, version: str) -> str:
        return expand_upstream(
            template,
            model=self.spec.model,
            version=version,
            namespace=self.metadata.namespace,
            name=self.metadata.name,
        )


def expand_upstream(template: str, *, model: str, version: str, namespace: str, name: str) -> str:
    """The cluster's name: ``template`` with its variables filled in."""
    return template.format(model=model, version=version, namespace=namespace, name=name)
