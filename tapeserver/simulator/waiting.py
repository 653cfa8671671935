"""What waits for each volume, in columns: all that the peers' policies look at. Pure.

A need is a volume that is to be read, or, behind them, a pool that is to be written. The planner of Capstan has its own
picture; this one is kept beside it, by the engine alone.
"""

from __future__ import annotations

import numpy as np


class Waiting:
    """Columns over the needs: `volumes` volumes, then `pools` pools."""

    def __init__(self, volumes: int, pools: int = 0) -> None:
        number = volumes + pools
        self.volumes = volumes
        self.files = np.zeros(number, dtype=np.int64)
        self.bytes = np.zeros(number, dtype=np.int64)
        #: arrival of the oldest and of the newest that waits; inf and -inf: nothing does
        self.oldest = np.full(number, np.inf)
        self.newest = np.full(number, -np.inf)
        #: end of the last mount
        self.ended = np.full(number, -np.inf)
        #: in a drive, or on its way to one
        self.mounted = np.zeros(number, dtype=bool)

    @property
    def elsewhere(self) -> bool:
        """Whether anything waits for a need that no drive serves."""
        return bool((self.files[~self.mounted] > 0).any())

    def add(self, need: int, files: int, size: int, at: float) -> None:
        self.files[need] += files
        self.bytes[need] += size
        if at < self.oldest[need]:
            self.oldest[need] = at
        if at > self.newest[need]:
            self.newest[need] = at

    def take(self, need: int, files: int, size: int, oldest: float) -> None:
        """So much is handed to a mount; `oldest` of the rest, inf if there is none."""
        self.files[need] -= files
        self.bytes[need] -= size
        self.oldest[need] = oldest
        if not self.files[need]:
            self.newest[need] = -np.inf

    def clear(self, need: int) -> None:
        """All that waited is handed to a mount."""
        self.files[need] = 0
        self.bytes[need] = 0
        self.oldest[need] = np.inf
        self.newest[need] = -np.inf
