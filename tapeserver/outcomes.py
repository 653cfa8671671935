"""How mounts end, in words, and what that says of whom: of volume and drive, of the cache, or of nobody. Pure: strings.

Sessions write these at the beginning of an outcome, history keeps them, the planner reads them again. What was wrong
in detail stands behind, for people.
"""

from __future__ import annotations

from typing import Literal

EndKind = Literal["well", "failed", "cache_full", "cache_away", "gave_way"]

DONE = "done"
STOPPED = "stopped: "
GAVE_WAY = "gave way"
READ_FAILED, WRITE_FAILED, DRIVE_STUCK = "read failed", "write failed", "drive stuck"
#: there was no room for what was to be read
CACHE_FULL = "no cache space"
#: no cache server took what was read, or gave what was to be written
CACHE_AWAY = "the cache does not"
#: mounts that end so and moved nothing are counted in a row; what somebody stopped, or what died with its processes,
#: says nothing
FRUITLESS = (READ_FAILED, WRITE_FAILED, DRIVE_STUCK, CACHE_FULL, CACHE_AWAY, "wrong_label")


def end_kind(outcome: str) -> EndKind:
    if outcome.startswith(STOPPED + GAVE_WAY):
        return "gave_way"
    if outcome == DONE or outcome.startswith(STOPPED):
        # What somebody stopped did not fail.
        return "well"
    if outcome.startswith(CACHE_AWAY):
        return "cache_away"
    return "cache_full" if outcome.startswith(CACHE_FULL) else "failed"


def is_fruitless(outcome: str) -> bool:
    """Whether a mount that ended so, and moved nothing, counts among those in a row that brought nothing."""
    return outcome.startswith(FRUITLESS)
