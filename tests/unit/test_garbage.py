"""Garbage in cycles goes only when it is told to, and goes then."""

from __future__ import annotations

import gc
import weakref

from tapeserver import garbage


class Knot:
    """It holds itself."""

    def __init__(self) -> None:
        self.me = self


def test_no_pass_over_all_objects_begins_by_itself_until_it_is_left() -> None:
    usual = gc.get_threshold()
    with garbage.left_to_us():
        passes = gc.get_stats()[2]["collections"]
        kept = [[n] for n in range(300_000)]
        assert gc.get_stats()[2]["collections"] == passes
        assert gc.get_stats()[1]["collections"] > 0
        del kept
    assert gc.get_threshold() == usual


def test_a_sweep_takes_what_holds_itself() -> None:
    with garbage.left_to_us():
        knot = weakref.ref(Knot())
        garbage.sweep()
        assert knot() is None
