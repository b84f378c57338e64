"""Weights, failures and false positives while nobody touches anything, with each step and each verdict marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes

from extproc.demo.documents import STEPS, step_words
from extproc.demo.picture.style import AREAS, ASKED, FAINT, INK, LINES, percent_axis

SMOOTHED_BINS: Final = 6
"""A false-positive rate is that of so many bins."""
TOGETHER_SECONDS: Final = 0.7
"""Marks that are no further apart have one label."""
VERDICTS: Final = {"promoted": "promoted", "rolled_back": "rolled back", "tripped": "tripped"}


class Mark(NamedTuple):
    """Something that happened."""

    second: float
    label: str
    verdict: bool = False


def plot(axes: Sequence[Axes], facts: dict[str, Any], acts: Sequence[dict[str, Any]], acts_before: int) -> None:
    """Draw three panels, one below the other, of what happened in ``acts``."""
    began, end = acts[0]["began"], acts[-1]["ended"]
    weights, failures, false_positives = axes
    _shares(weights, [part for part in facts["shares"] if began <= part["from"] < end], end)
    _weights(weights, facts["rollouts"])
    bins = [each for each in facts["rates"]["bins"] if began <= each["from"] < end]
    _rates(failures, bins, facts["rates"]["seconds"], ("failed", "requests"), 1)
    _rates(false_positives, bins, facts["rates"]["seconds"], ("false_positives", "healthy"), SMOOTHED_BINS)
    for panel, label in zip(axes, ("share of requests", "failed", "false positives"), strict=True):
        panel.set_xlim(began, end)
        percent_axis(panel, label)
        for ending in facts["rollouts"].values():
            _lines(panel, ending)
    for ending in facts["rollouts"].values():
        _labels(weights, ending)
        _to_zero(failures if ending["failed_requests"] else false_positives, ending)
    _titles(weights, acts, acts_before)
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
    false_positives.set_xlabel("seconds")
    weights.legend(loc="upper right", bbox_to_anchor=(1, -0.005), ncols=5, frameon=False, fontsize=9)


def _shares(axes: Axes, shares: Sequence[dict[str, float]], end: float) -> None:
    """Who was served by what, one version on top of the other, the newest at the bottom."""
    edges = [*(part["from"] for part in shares), end]
    base = [0.0] * len(shares)
    for version in sorted(AREAS, reverse=True):
        top = [below + 100 * part[f"version_{version}"] for below, part in zip(base, shares, strict=True)]
        axes.stairs(top, edges, baseline=base, fill=True, color=AREAS[version], linewidth=0, label=f"version {version}")
        base = top


def _weights(axes: Axes, rollouts: dict[str, dict[str, Any]]) -> None:
    """The weight of each new version while it was the newest."""
    label: str | None = "weight of the newest"
    for ending in rollouts.values():
        points = [*ending["weights"], {"second": ending["ended"], "weight": ending["weights"][-1]["weight"]}]
        axes.step(
            [point["second"] for point in points],
            [point["weight"] for point in points],
            where="post",
            color=ASKED,
            linewidth=2.4,
            label=label,
        )
        label = None


def _rates(axes: Axes, bins: Sequence[dict[str, Any]], width: float, of: tuple[str, str], smoothed: int) -> None:
    """A line for each version of how much of the second count the first one was, over the last ``smoothed`` bins."""
    part, whole = of
    for version, color in LINES.items():
        counts = {round(each["from"] / width): each.get(f"version_{version}") for each in bins}
        points = []
        for number, count in sorted(counts.items()):
            window = [found for at in range(number - smoothed + 1, number + 1) if (found := counts.get(at))]
            total = sum(found[whole] for found in window)
            share = 100 * sum(found[part] for found in window) / total if count and total else math.nan
            points.append(((number + 0.5) * width, share))
        axes.plot(*zip(*points, strict=True), color=color, linewidth=2)


def _marks(ending: dict[str, Any]) -> list[Mark]:
    """The steps of a rollout as they began, those at one moment together, and its verdict."""
    done = {entry["step"]: entry["second"] for entry in ending["history"] if entry["step"] is not None}
    begins = {0: ending["began"], **{step + 1: second for step, second in done.items()}}
    marks: list[Mark] = []
    for step, second in sorted(begins.items()):
        if step >= len(STEPS) or second >= ending["ended"]:
            continue
        if marks and second - marks[-1].second < TOGETHER_SECONDS:
            marks[-1] = Mark(marks[-1].second, f"{marks[-1].label} + {step_words(step)}")
        else:
            marks.append(Mark(second, step_words(step)))
    return [*marks, Mark(ending["ended"], VERDICTS.get(ending["outcome"], "not ended"), verdict=True)]


def _lines(axes: Axes, ending: dict[str, Any]) -> None:
    for mark in _marks(ending):
        width, style = (1.6, "-") if mark.verdict else (0.9, ":")
        axes.axvline(mark.second, color=INK if mark.verdict else FAINT, linewidth=width, linestyle=style)


def _labels(axes: Axes, ending: dict[str, Any]) -> None:
    for mark in _marks(ending):
        axes.annotate(
            mark.label,
            (mark.second, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=45,
            rotation_mode="anchor",
            fontsize=8,
            fontweight="bold" if mark.verdict else "normal",
            color=INK,
        )


def _to_zero(axes: Axes, ending: dict[str, Any]) -> None:
    """How long it took, beside the time that it took."""
    if ending["seconds_to_zero"] is not None:
        axes.axvspan(ending["from_second"], ending["last_request_second"], color=ASKED, alpha=0.18, linewidth=0)
        axes.annotate(
            f"{ending['seconds_to_zero']:.2f} s from when\n{ending['from']}",
            (ending["from_second"], 82),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color=ASKED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )


def _titles(axes: Axes, acts: Sequence[dict[str, Any]], before: int) -> None:
    """The number and title of each act, above the steps."""
    for number, act in enumerate(acts, start=before + 1):
        axes.annotate(
            f"{number}  {act['title']}",
            (act["began"], 1.5),
            xycoords=axes.get_xaxis_transform(),
            va="bottom",
            fontsize=10,
            fontweight="bold",
        )
