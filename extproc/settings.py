"""Settings: every ``DROPOUT_*`` variable of the environment, with its default and its meaning.

What belongs to one start of one command is a flag. What tunes the environment, and is the same for all its processes,
is a setting: workers inherit the variables of their supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Final

from extproc.errors import Fault, InvalidInput
from extproc.store.records import LONGEST_LEASE_SECONDS
from extproc.suggestions import close_to

PREFIX: Final = "DROPOUT_"

LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_SHORTEST_POLL: Final = 0.01
"""Below it, looking for changes would be all that a process does."""


def _written(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _choice(default: str, meaning: str, choices: Sequence[str]) -> Any:
    return field(default=default, metadata={"meaning": f"{meaning}: {', '.join(choices)}", "choices": choices})


def _setting(default: Any, meaning: str, *, least: float = 0, most: float = inf) -> Any:
    meaning = meaning if least == 0 else f"{meaning}; {least:g} at least"
    meaning = meaning if most == inf else f"{meaning}; {_written(most)} at most"
    return field(default=default, metadata={"meaning": meaning, "least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. A field ``orphan_grace`` is the variable ``DROPOUT_ORPHAN_GRACE``; times are in seconds."""

    store: str = _setting("sqlite:dropout.db", "the store that commands use when `--store` is left out")
    state: str = _setting("", "the state folder that commands use when `--state` is left out")
    control: str = _setting(
        "", "the controller that commands ask when `--store` is left out: `unix:PATH` or `https://HOST:PORT`"
    )
    control_token: str = _setting("", "the file with the token that commands show it")
    control_ca: str = _setting("", "the authority of its certificate (PEM), instead of those of the system")
    control_cert: str = _setting("", "the certificate that commands show it (PEM)")
    control_key: str = _setting("", "its key (PEM)")
    control_policies: str = _setting("", "the folder of policies that is asked about actions on the store itself")
    features: str = _setting(
        "", "the feature store; without it `serve` has none, and `dropout features` uses `sqlite:features.db`"
    )
    feature_cache: float = _setting(10.0, "seconds for which a value read from the feature store is used again")
    feature_cache_bytes: int = _setting(
        64 << 20, "bytes, about, of features that a worker remembers; what is over a 64th of it, is read every time"
    )
    feature_cache_entries: int = _setting(100_000, "entities whose features a worker remembers at most")
    feature_skew: float = _setting(
        60.0, "seconds that a feature's event time may be in the future; beyond them its age is not known"
    )
    feature_stale_share: float = _setting(
        0.5, "share of a view's reads that may be older than `maxAge` before `serve` says so", most=1
    )
    trusted_headers: str = _setting(
        "",
        "headers, separated by commas, that Envoy sets and no client can: their entities have half of the cache of "
        "features, and of its reads, to themselves",
    )
    untrusted_reads: float = _setting(
        2000.0,
        "reads of the feature store that entities of other headers may cause, a second and worker; 0 is no limit",
    )
    verdict_cache_entries: int = _setting(4096, "verdicts of policies that a worker remembers; 0 asks every time")
    decision_log_events: int = _setting(
        10_000,
        "events of the decision log that wait before each sink of a worker; what comes then, see `serve`",
        least=1,
    )
    log_format: str = _choice("text", "how `serve` and `controller` write their log", LOG_FORMATS)
    log_level: str = _choice("info", "the least that they write", LOG_LEVELS)
    drain_timeout: float = _setting(10.0, "seconds that streams in flight get after SIGTERM, without `--drain-timeout`")
    decision_deadline: float = _setting(
        4.0,
        "seconds that a decision may wait for features, without `--decision-deadline`; 0.8 of Envoy's "
        "`message_timeout`; documents that would wait longer are refused",
    )
    lame_duck: float = _setting(
        1.0, "seconds at most between NOT_SERVING and the closed socket; shorter when no requests come"
    )
    orphan_grace: float = _setting(
        3.0, "seconds that workers on Unix sockets serve on when their supervisor died and no successor starts"
    )
    start_timeout: float = _setting(60.0, "seconds that a worker may take from its start until it serves")
    evaluation_limit: float = _setting(
        0.3, "seconds of one policy evaluation after which the policy is quarantined and the worker replaced"
    )
    hang_limit: float = _setting(2.0, "seconds without a heartbeat after which a worker is replaced, policy or not")
    trial_limit: float = _setting(
        2.0, "seconds that changed policies may take on a trial input before they are refused"
    )
    policy_poll: float = _setting(0.2, "seconds between two looks at the policies' folder", least=_SHORTEST_POLL)
    outcome_limit: float = _setting(
        15.0, "seconds after which a decision that Envoy's access log has not told the end of counts as failed"
    )
    replay_bytes: int = _setting(
        1 << 20,
        "bytes of a request's body that Envoy keeps by the rendered routes, so that stable can answer it in a "
        "version's place; a larger one has no second attempt",
        least=1,
        most=1 << 30,
    )
    rollouts_poll: float = _setting(0.2, "seconds between two looks at the rollouts' folder", least=_SHORTEST_POLL)
    delete_after: float = _setting(
        10.0, "seconds that a document must be missing from the rollouts' folder before it is deleted"
    )
    delete_many_after: float = _setting(
        300.0, "the same where more than half of a folder is missing, or another folder is in its place"
    )
    # Epochs are remembered for a day longer than that at most.
    label_retention: float = _setting(90.0, "days after which a decision takes no labels any more", most=365)
    lease: float = _setting(
        10.0,
        "seconds after which another controller leads when one is gone without a word",
        most=LONGEST_LEASE_SECONDS,
    )


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as the table in docs/ has it."""

    name: str
    default: str
    meaning: str


def variable(attribute: str) -> str:
    """The environment variable of a field of ``Settings``."""
    return f"{PREFIX}{attribute.upper()}"


def in_help(attribute: str) -> str:
    """What the help of an option says of the setting that is taken where the option is left out."""
    (default,) = [each.default for each in fields(Settings) if each.name == attribute]
    written = f"{default:g}" if isinstance(default, float) else str(default)
    return f"[env var: {variable(attribute)}{f'; default: {written}' if written else ''}]"


def misspelt(environment: Iterable[str]) -> Iterator[Fault]:
    """A note, ``setting_unknown``, for each variable that is like a setting and is none.

    One that is like none may be anybody's: Kubernetes sets ``DROPOUT_PORT`` where there is a service of that name.
    """
    known = [each.name.upper() for each in fields(Settings)]
    for name in environment:
        ours = name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known
        meant = close_to(name.removeprefix(PREFIX), known) if ours else None
        if meant is not None:
            yield Fault("setting_unknown", f"nobody reads this variable; did you mean {PREFIX}{meant}?", field=name)


def described() -> tuple[Described, ...]:
    """Every setting, in order: its variable, its default as one would write it, its meaning."""
    return tuple(Described(variable(f.name), _written(f.default), f.metadata["meaning"]) for f in fields(Settings))


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings of ``environment``.

    Raises:
        InvalidInput: with one ``setting_invalid`` for each value that is no number, none within its limits, or none
            of its choices.
    """
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for each in fields(Settings):
        name = variable(each.name)
        if name not in environment:
            continue
        try:
            values[each.name] = _parse(environment[name], type(each.default), each.metadata)
        except ValueError as error:
            faults.append(Fault("setting_invalid", f"{environment[name]!r} is not {error}", field=name))
    if faults:
        raise InvalidInput(faults)
    return Settings(**values)


def settings() -> Settings:
    """The settings of this process, as its environment has them now."""
    return read_settings(os.environ)


def _parse(text: str, kind: type, limits: Mapping[str, Any]) -> Any:
    if kind is str:
        choices = limits.get("choices", (text,))
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text
    try:
        number = kind(text)
    except ValueError:
        raise ValueError("a number" if kind is float else "a whole number") from None
    if not limits["least"] <= number < inf:
        raise ValueError(f"a number from {limits['least']:g} on")
    if number > limits["most"]:
        raise ValueError(f"{limits['most']:g} at most")
    return number
