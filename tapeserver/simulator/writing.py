"""What waits to be written in a simulation: per pool a queue, and the volumes that fill up. Pure.

Files are written one by one, each with its marks, and flushed once a batch; bundles of small files are not made. Which
pool is written when is the policy's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from tapeserver.drivemodel import Geometry
from tapeserver.simulator.passes import Pass
from tapeserver.simulator.trace import Integers, Trace
from tapeserver.simulator.waiting import Waiting

#: so many are taken at once; behind them a mount may give way
BATCH_FILES = 64
#: and no more bytes: a mover's flush comes no later
BATCH_BYTES = 48 * 1024**3
#: of the capacity is kept for trailer and index
KEPT_PART = 0.01
#: labels before and behind each file
MARKS_PER_FILE = 3


class Writing:
    """Rows of archives are numbered behind the rows of the trace's files."""

    def __init__(self, trace: Trace) -> None:
        self._first_row = trace.files
        self._names = trace.pools
        self._sizes = trace.archive_bytes.tolist()
        self.times = trace.archive_times.tolist()
        self.pools = trace.archive_pools.tolist()
        self.queues: list[deque[int]] = [deque() for _ in trace.pools]
        self._room = [int(volume.capacity_bytes * (1 - KEPT_PART)) - volume.written_bytes for volume in trace.volumes]
        self._written = [volume.written_bytes for volume in trace.volumes]
        numbers = {name: number for number, name in enumerate(trace.pools)}
        #: by volume; -1: it belongs to none
        self.pool_of = [numbers.get(volume.pool, -1) for volume in trace.volumes]
        self._volumes: list[list[int]] = [[] for _ in trace.pools]
        for volume, pool in enumerate(self.pool_of):
            if pool >= 0:
                self._volumes[pool].append(volume)

    def size(self, archive: int) -> int:
        return int(self._sizes[archive])

    def writable(self, pool: int, station_of: Sequence[int]) -> list[int]:
        """Volumes of the pool that are in no drive and take what is next, those that are begun first."""
        queue = self.queues[pool]
        wanted = self.size(queue[0]) if queue else 1
        found = [v for v in self._volumes[pool] if station_of[v] < 0 and self._room[v] >= wanted]
        return sorted(found, key=lambda v: (not self._written[v], v))

    def is_hopeless(self, pool: int) -> bool:
        """No volume of it has room for what is next, and none ever will."""
        queue = self.queues[pool]
        return bool(queue) and all(self._room[volume] < self.size(queue[0]) for volume in self._volumes[pool])

    def what_waits(self, waiting: Waiting) -> str:
        """For who reads why a run came to no end: in words, and of a pool without room that it has none."""
        for pool, name in enumerate(self._names):
            files = int(waiting.files[waiting.volumes + pool])
            if files and self.is_hopeless(pool):
                return f"{files} files wait for pool {name!r}, none of whose volumes has room for the next of them"
        return f"{int(waiting.files.sum())} files wait"

    def take(self, pool: int, volume: int) -> list[int]:
        """The next archives that fit on the volume; none: it is full for them."""
        queue, size = self.queues[pool], 0
        taken: list[int] = []
        while queue and len(taken) < BATCH_FILES and size < BATCH_BYTES and self.size(queue[0]) <= self._room[volume]:
            taken.append(queue.popleft())
            size += self.size(taken[-1])
            self._room[volume] -= self.size(taken[-1])
        return taken

    def write(self, geometry: Geometry, archives: Sequence[int], volume: int, head: int, now: float) -> Pass:
        """The pass that appends them; the volume's end moves on."""
        sizes: Integers = np.array([self.size(one) for one in archives], dtype=np.int64)
        begin = self._written[volume]
        heads = begin + np.cumsum(sizes)
        self._written[volume] = int(heads[-1])
        locates = np.zeros(len(sizes))
        locates[0] = geometry.locate_seconds(head, begin)
        seconds = locates + sizes / geometry.model.native_rate + MARKS_PER_FILE * geometry.model.mark_seconds
        ends = now + np.cumsum(seconds)
        # Only what is flushed is written: all of a batch counts from its flush on.
        ends[:] = ends[-1] + geometry.model.flush_seconds
        rows = self._first_row + np.array(archives, dtype=np.int64)
        return Pass(rows=rows, begins=now, ends=ends, locates=locates, heads=heads, writes=True)
