"""The documents that the demo applies."""

from __future__ import annotations

from pathlib import Path

from extproc.demo.documents import GUARD, STEPS, TEMPLATES, step_words, write_ramp, write_rollout, write_templates
from extproc.resources.loading import load_valid


def test_every_document_is_valid(tmp_path: Path) -> None:
    by_hand = write_rollout(tmp_path, "by-hand", **GUARD)
    ramp, templates = write_ramp(tmp_path, "2", "3"), write_templates(tmp_path)
    assert len(load_valid([by_hand])) == 1
    assert len(load_valid([ramp, templates])) == 3


def test_every_analysis_of_a_ramp_has_its_template(tmp_path: Path) -> None:
    named = {step["analysis"]["templates"][0]["templateName"] for step in STEPS if "analysis" in step}
    assert named | {"no-harm"} == set(TEMPLATES)


def test_steps_are_said_in_a_word_or_two() -> None:
    words = [step_words(index) for index in range(len(STEPS))]
    assert words == ["shadow", "pause", "weight 25%", "pause", "analysis", "weight 50%", "pause", "analysis"]
