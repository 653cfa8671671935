"""What the outcome of a mount says: of volume and drive, of the cache, or of nobody."""

from __future__ import annotations

import pytest

from tapeserver import outcomes
from tapeserver.outcomes import end_kind, is_fruitless


@pytest.mark.parametrize(
    ("outcome", "kind", "fruitless"),
    [
        (outcomes.DONE, "well", False),
        (outcomes.STOPPED + outcomes.GAVE_WAY + " to E00002", "gave_way", False),
        (outcomes.STOPPED + "drive down: read errors", "well", False),
        (outcomes.STOPPED + outcomes.CACHE_FULL, "well", False),
        (outcomes.GAVE_WAY, "failed", False),
        (outcomes.CACHE_FULL + ": 3.0 GB", "cache_full", True),
        (outcomes.CACHE_AWAY + " answer", "cache_away", True),
        (outcomes.READ_FAILED + ": medium error", "failed", True),
        (outcomes.WRITE_FAILED + ": no early warning", "failed", True),
        (outcomes.DRIVE_STUCK, "failed", True),
        ("wrong_label: it is E00003", "failed", True),
        # Its processes died: that says nothing of the volume.
        ("lost: its tape server is silent", "failed", False),
        ("done twice", "failed", False),
        ("", "failed", False),
    ],
)
def test_an_outcome_is_of_one_kind_and_counts_in_a_row_or_not(outcome: str, kind: str, fruitless: bool) -> None:
    assert end_kind(outcome) == kind
    assert is_fruitless(outcome) is fruitless
