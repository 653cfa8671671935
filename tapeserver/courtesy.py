"""Work beside decisions: in slices of milliseconds, and none while a decision is under way, because drives wait for it.

It runs nothing itself. Whoever decides says so with `deciding`; whoever has other work for the same event loop calls
`breathe` between pieces of it, each well below a millisecond. A slice is done for each decision at least, so that work
beside goes on however often decisions are asked for. Never breathe in a transaction that a decision may wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

#: others have the loop after so long
SLICE_SECONDS = 0.002
#: turns of the loop that a wake-up takes from the socket to the beginning of its decision
TURNS = 8


def pause_seconds(spent: float, *, share: float, least: float, most: float) -> float:
    """How long what took `spent` seconds is left alone: `share` times as long, so that it never takes much of the loop.
    Within limits, because it may have waited all the time for others."""
    return min(max(least, share * spent), most)


class Courtesy:
    """Of one event loop."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._over.set()
        self._began = 0.0

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Until it is left, others wait, for a slice's beginning. Never two at once."""
        self._over.clear()
        try:
            yield
        finally:
            self._over.set()

    async def breathe(self) -> None:
        """Returns at once while the slice lasts, else when the decision that is under way is through."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._began + SLICE_SECONDS:
            await self.give_turn()

    async def give_turn(self) -> None:
        """As `breathe`, however young the slice is: before what makes the catalog work, too."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await self._over.wait()
        self._began = asyncio.get_running_loop().time()
