"""The guides name every verb that they are the guide to."""

from __future__ import annotations

from pathlib import Path

import pytest

from capstan.commands import volume

OPERATORS = (Path(__file__).parents[2] / "docs" / "guide-operators.md").read_text()


@pytest.mark.parametrize("verb", ["ls", "show", "files", *volume.VERBS])
def test_every_verb_of_a_volume_is_in_the_guide_for_operators(verb: str) -> None:
    assert f"capstan volume {verb}" in OPERATORS
