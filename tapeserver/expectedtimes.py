"""What is expected of volumes and pools: the times that a run forward finds, in columns. Pure.

Who finds them is `tapeserver.estimates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from catalog.model import ReadingTime, WritingTime
from tapeserver.planner.picture import Picture

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimates:
    """By slot of the picture's volumes; inf: no drive can, or it may not be read. Archives by pool; those that are
    missing cannot be written now, or nobody knows when."""

    now: float
    #: when the first file may come from it: it is in a drive and ready
    begins: Floats
    #: what reading all that waits for it takes from there, behind what is in hand
    reading: Floats
    files: Floats
    #: it is being read
    mounted: Booleans
    #: what its mover has: seconds, and files
    in_hand: Floats
    in_hand_files: Floats
    pools: dict[str, WritingTime] = field(default_factory=dict)

    @classmethod
    def nothing(cls, picture: Picture, now: float) -> Estimates:
        count = len(picture.volumes)
        return cls(
            now=now,
            begins=np.full(count, np.inf),
            reading=np.zeros(count),
            files=picture.volumes.files[:count].copy(),
            mounted=np.zeros(count, dtype=bool),
            in_hand=np.zeros(count),
            in_hand_files=np.zeros(count),
        )

    def of(self, slot: int) -> ReadingTime:
        return ReadingTime(
            float(self.begins[slot]),
            float(self.reading[slot]),
            float(self.files[slot]),
            bool(self.mounted[slot]),
            float(self.in_hand[slot]),
            float(self.in_hand_files[slot]),
        )

    def done(self, slot: int, files: int) -> float:
        """When the last of `files` of those that wait there is expected to be read."""
        return self.of(slot).done(files)

    def all_done(self, wanted: Iterable[tuple[int, int]]) -> float:
        """When files on several volumes, as (slot, files), are expected to be there, all of them."""
        return max((self.done(slot, files) for slot, files in wanted), default=self.now)
