"""Garbage in cycles is looked for when nobody decides. Owns nothing, and knows no planner.

By itself Python goes through all objects there are whenever enough of them have been made, and the process does nothing
else meanwhile: a tenth of a second with what a planner remembers of millions of recalls, and in a decision as likely as
not, because decisions make objects too. What dies young is still found by itself, in about a millisecond.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: all objects are gone through so often
SWEEP_SECONDS = 300.0
_USUAL = gc.get_threshold()
_NEVER = 1_000_000_000


@contextmanager
def left_to_us() -> Iterator[None]:
    """Until it is left, all objects are gone through only by `sweep`."""
    gc.set_threshold(*_USUAL[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*_USUAL)


def sweep() -> None:
    """Go through all objects but the frozen: some hundred milliseconds, if there are a million."""
    gc.collect()


def set_aside() -> None:
    """What is there now lives long, and sweeps need not go through it again: it is frozen, without the garbage in it.
    What was frozen before is looked at once more, or what has become garbage since would stay for ever."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
