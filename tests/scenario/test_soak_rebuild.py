"""What the soak takes for the same catalog after a rebuild, and what it does not."""

from __future__ import annotations

from tests.scenario.soak_rebuild import SAME, THERE, Rows, different


def _catalog(**found: set[tuple[object, ...]]) -> Rows:
    return {**{name: set() for name in (*SAME, *THERE, "known", "labels")}, **found}


def test_a_volume_that_was_reclaimed_may_have_what_it_had_until_its_next_label() -> None:
    reclaimed = ("E00001", "east", 1)
    assert different(_catalog(labels={reclaimed}), _catalog(volumes={reclaimed}, labels={reclaimed})) == []


def test_a_volume_never_comes_back_with_another_generation_than_its_last() -> None:
    before, after = ("E00001", "east", 2), ("E00001", "east", 1)
    assert different(_catalog(labels={before}), _catalog(volumes={after}, labels={after})) != []


def test_a_volume_with_something_on_it_must_come_back() -> None:
    written = ("E00001", "east", 1)
    assert different(_catalog(volumes={written}, labels={written}), _catalog(labels={written})) != []
