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
from extproc.resources.document import EXACTLY_ONE, Part, Resource, one_of, written
from extproc.resources.fields import (
    CookieName,
    Duration,
    HeaderName,
    Host,
    Name,
    PathValue,
    Percent,
    RulePath,
    Seed,
    Text,
    UpstreamTemplate,
    Value,
)
from extproc.snapshot.matching import MatchKey

KIND: Final = "Rollout"
DEFAULT_UPSTREAM: Final = "{model}-v{version}"


MAX_MATCHES: Final = 1000
"""Entries of ``match``. Every process compiles them in one go, and Envoy gets a route for each."""


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

    name: HeaderName
    """The header's name, in any case."""
    value: Text
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

    model_config = ConfigDict(json_schema_extra=one_of("alias", "version"))

    alias: Value | None = None
    """A key of spec.aliases."""
    version: Value | None = None
    """The version itself; a string, so a number is written in quotes."""


class EntitySpec(Part):
    """Whose features are read."""

    model_config = ConfigDict(json_schema_extra=one_of("header", "cookie"))

    header: HeaderName | None = None
    """The request header that holds the entity."""
    cookie: CookieName | None = None
    """The cookie that holds the entity."""


class FeaturesSpec(Part):
    """Features read from the feature store before the decision."""

    entity: EntitySpec
    """Whose features are read."""
    view: Value
    """The feature view."""
    names: Annotated[list[Value], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
    """The features of the view."""
    max_age: Duration | None = None
    """A feature older than this counts as missing; left out, any age will do."""
    timeout: Annotated[Duration, written("5ms")] = 0.005
    """How long a decision waits for features that are not in the cache."""
    on_missing: Literal["stable", "policy"] = "stable"
    """What a missing feature does: the request goes to stable, or the policy decides without it."""


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

    @property
    def denies_unanswered(self) -> bool:
        """Whether no decision is a denial."""
        return (self.no_answer or self.on_error) == "deny"


class LogSpec(Part):
    """What the decision log may hold in clear."""

    headers: list[HeaderName] = []
    """Request headers."""
    features: list[Value] = []
    """Features."""


class ShadowStep(Part):
    """Mirror requests to the canary."""

    percent: Percent
    """Percent of the units whose requests are mirrored."""


class PauseStep(Part):
    """Wait."""

    duration: Duration | None = None
    """For how long; left out, until promoted."""


class TemplateRef(Part):
    """An AnalysisTemplate, by name."""

    template_name: Name
    """The name of the AnalysisTemplate."""


class AnalysisArg(Part):
    """An argument of the templates."""

    name: Value
    """The argument's name."""
    value: Text
    """Its value; a string, so a number is written in quotes."""


class AnalysisSpec(Part):
    """Measurements that a version must pass."""

    templates: Annotated[list[TemplateRef], Field(min_length=1)]
    """The templates to run."""
    args: list[AnalysisArg] = []
    """What the templates are given."""


class Step(Part):
    """One step of a rollout: exactly one of its fields."""

    model_config = ConfigDict(json_schema_extra=EXACTLY_ONE)

    shadow: ShadowStep | None = None
    """Mirror requests to the canary, which answers nobody."""
    pause: PauseStep | None = None
    """Wait for a while, or with {} until promoted."""
    set_weight: Percent | None = None
    """Percent of the units that the canary serves from here on."""
    analysis: AnalysisSpec | None = None
    """Measure, and go on only if it passes."""


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

    name: Name
    """Rollouts that name the same holdout keep the same units out."""
    percent: Percent
    """Percent of all units."""


class LayerSpec(Part):
    """A share of a layer, in which experiments exclude one another."""

    name: Name
    """The layer."""
    range: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=BUCKETS)], Annotated[int, Field(gt=0, le=BUCKETS)]], Strict(False)
    ]
    """First bucket, and the first that is no longer ours, between 0 and 10000."""


class ShadowSpec(VersionRef):
    """A version that gets copies of requests and answers nobody."""

    percent: Annotated[Percent, written(100)] = BUCKETS
    """Percent of the units whose requests are mirrored."""


class RolloutSpec(Part):
    """What is wanted: which model, which requests, which versions, how fast."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["variants"],
                    "not": {"anyOf": [{"required": [n]} for n in ("stable", "canary", "steps")]},
                },
                {"required": ["stable", "canary"], "not": {"required": ["coverage"]}},
                {
                    "required": ["stable", "shadow"],
                    "not": {"anyOf": [{"required": [n]} for n in ("coverage", "steps")]},
                },
            ]
        }
    )

    model: Value
    """The registered model."""
    match: Annotated[list[MatchEntry], Field(min_length=1, max_length=MAX_MATCHES)]
    """Which requests: those that fit any entry."""
    unit: UnitSpec
    """Who is randomised."""
    seed: Seed | None = None
    """What is hashed with the unit; by default namespace/name@canary-version, a new cohort for each version."""
    stable: VersionRef | None = None
    """The version that serves everybody else; read once, when the rollout is adopted."""
    canary: VersionRef | None = None
    """The version that is to become stable."""
    aliases: dict[Value, Value] = {}
    """Versions by alias, where there is no registry."""
    upstream: UpstreamTemplate = DEFAULT_UPSTREAM
    """The Envoy cluster of a version, with {model}, {version}, {namespace} and {name}."""
    features: FeaturesSpec | None = None
    """Features that the decision reads."""
    policy: PolicySpec | None = None
    """The rule that is asked; left out, none is."""
    log: LogSpec = LogSpec()
    """What the decision log may hold in clear."""
    steps: list[Step] = []
    """How the canary is raised, in order."""
    analysis: AnalysisSpec | None = None
    """Measured in the background, from the first setWeight on."""
    breaker: BreakerSpec | None = None
    """When a version is taken away for failing."""
    variants: Annotated[list[Variant], Field(json_schema_extra={"minItems": 2})] = []
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
        return expand_upstream(
            self.spec.upstream,
            model=self.spec.model,
            version=version,
            namespace=self.metadata.namespace,
            name=self.metadata.name,
        )


def expand_upstream(template: str, *, model: str, version: str, namespace: str, name: str) -> str:
    """The cluster's name: ``template`` with its variables filled in."""
    return template.format(model=model, version=version, namespace=namespace, name=name)
