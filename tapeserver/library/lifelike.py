"""The virtual library's times as those of a real one: `speed = 1` in its spec, or 100 for a drill. Off by default.

A `tapeserver.library.Delay` over `tapeserver.drivemodel`, and the order of reads that a drive of a medium recommends.
Slows nothing down that is slower by itself, and knows nothing of faults: those are in `faults`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.library import Motion
from tapeserver.ordering import order_reads

MEDIUM = "LTO-9"
"""Whose times a library takes that names a speed and no medium."""

SLEEP_SECONDS_MIN = 0.005
"""Less is owed until more has come together: a block takes a millisecond, and a sleep is never shorter than asked."""

SPEED_MAX = 1e6

SEGMENTS_MAX = 2730
"""How many segments a drive puts in order at once, as LTO-9 drives do [M]."""


class Lifelike:
    """Sleeps as long as a drive of `medium` would be busy, `speed` times faster.

    Unloading is told without the head's place and without what the mount moved: it takes the average rewind.
    """

    def __init__(
        self,
        medium: str,
        speed: float,
        capacity_of: Callable[[str], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`capacity_of`: a volume's capacity in bytes. Raises ValueError: an unknown medium, no speed above 0."""
        if not 0 < speed <= SPEED_MAX:
            raise ValueError(f"a speed is above 0 and at most {SPEED_MAX:g}, not {speed}")
        self._model, self._speed = model_of(medium), speed
        self._capacity_of, self._geometries = capacity_of, dict[str, Geometry]()
        self._clock, self._sleep = clock, sleep
        #: when the drive would be through with all that it was asked so far
        self._due = 0.0

    def __call__(self, motion: Motion, volume: str, from_byte: int, to_byte: int) -> None:
        seconds = self.seconds(motion, volume, from_byte, to_byte) / self._speed
        now = self._clock()
        # Blocks and marks are told when they are done: what that took counts towards them, but no earlier idleness.
        told_after = motion in (Motion.TRANSFER, Motion.MARK)
        self._due = max(self._due, now - seconds if told_after else now) + seconds
        if self._due - now >= SLEEP_SECONDS_MIN:
            self._sleep(self._due - now)

    def seconds(self, motion: Motion, volume: str, from_byte: int, to_byte: int) -> float:
        """What the real drive takes."""
        model = self._model
        if motion is Motion.LOAD:
            return model.robot_seconds / 2 + model.load_seconds
        if motion is Motion.UNLOAD:
            return model.rewind_average_seconds + model.unload_seconds + model.robot_seconds / 2
        if motion is Motion.MARK:
            return model.mark_seconds
        if motion is Motion.FLUSH:
            return model.flush_seconds
        if volume not in self._geometries:
            self._geometries = {volume: Geometry(model, self._capacity_of(volume))}
        geometry = self._geometries[volume]
        if motion is Motion.TRANSFER:
            return geometry.transfer_seconds(to_byte - from_byte)
        return geometry.rewind_seconds(from_byte) if to_byte == 0 else geometry.locate_seconds(from_byte, to_byte)


def recommended_order(
    medium: str, capacity_bytes: int, head: int, places: Sequence[tuple[int, int]]
) -> Sequence[int] | None:
    """The order of reads that a drive of `medium` recommends for (start, end) in bytes; None: its kind has none."""
    model = model_of(medium)
    if not model.recommends_order or len(places) > SEGMENTS_MAX:
        return None
    start, end = np.array(places, dtype=np.int64).reshape(-1, 2).T
    found: list[int] = order_reads(Geometry(model, capacity_bytes), start, end - start, head=head).indices.tolist()
    return found
