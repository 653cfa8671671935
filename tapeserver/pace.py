"""How long a library takes for what its drives do: as in life, so many times faster, or as fast as a disk. Pure.

What it takes in life is the drive model's to say; a library that is not there in life and has no `speed` takes what its
files take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeserver.drivemodel import Geometry
from tapeserver.planner.volumes import Volumes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: part of a medium's rate at which it is written, marks and labels included, and what each file costs besides
#: (measured: docs/benchmarks.md)
WRITE_PART, WRITE_FILE_SECONDS = 0.96, 0.0004
#: of a library that is only files: a mount until it is ready, its end, its rate, and what each file costs besides
#: (about what docs/benchmarks.md has; waits of seconds are told as no more than that)
DISK_READY_SECONDS, DISK_UNLOAD_SECONDS, DISK_RATE, DISK_FILE_SECONDS = 0.2, 0.1, 500e6, 0.001


class Reading(NamedTuple):
    """Of mounts: until they are ready, the pass, until they are out."""

    ready: Floats
    passes: Floats
    unload: Floats


@dataclass(frozen=True, slots=True)
class Pace:
    #: times faster than in life; None: as fast as a disk
    speed: float | None = 1.0

    def ready_seconds(self, geometry: Geometry) -> float:
        """Until a volume can be read."""
        if self.speed is None:
            return DISK_READY_SECONDS
        return geometry.ready_seconds() / self.speed

    def unload_seconds(self, geometry: Geometry, moved_bytes: float, written_bytes: float) -> float:
        """Until a volume is out, its head anywhere on what is written, after a mount that moved so much."""
        if self.speed is None:
            return DISK_UNLOAD_SECONDS
        return float(_unload(geometry, np.array(moved_bytes), np.array(written_bytes))) / self.speed

    def end_seconds(self, geometry: Geometry, written_bytes: float) -> float:
        """Until the end of what is written is found."""
        return 0.0 if self.speed is None else geometry.locate_seconds(0, written_bytes) / self.speed

    def reading(self, volumes: Volumes, slots: Integers) -> Reading:
        """What reading all that waits for each of these takes."""
        size, files, parts = volumes.bytes[slots], volumes.files[slots], volumes.parts[slots]
        if self.speed is None:
            ready, unload = np.full(len(slots), DISK_READY_SECONDS), np.full(len(slots), DISK_UNLOAD_SECONDS)
            return Reading(ready, size / DISK_RATE + files * DISK_FILE_SECONDS, unload)
        ready, passes, unload = np.zeros(len(slots)), np.zeros(len(slots)), np.zeros(len(slots))
        written = volumes.written[slots]
        searched = parts + volumes.scatter * np.maximum(files - parts, 0)
        for geometry, some in volumes.by_geometry(slots):
            span = np.minimum(written[some], geometry.capacity_bytes)
            ready[some] = geometry.ready_seconds()
            passes[some] = geometry.pass_seconds_many(searched[some], size[some], np.maximum(span, size[some]))
            unload[some] = _unload(geometry, size[some], span)
        return Reading(ready / self.speed, passes / self.speed, unload / self.speed)

    def pass_seconds(self, geometry: Geometry, files: float, searched: float, size: float) -> float:
        """Of some files, of which so many are searched for."""
        if self.speed is None:
            return size / DISK_RATE + files * DISK_FILE_SECONDS
        return geometry.pass_seconds(searched, size) / self.speed

    def writing_seconds(self, geometry: Geometry, files: float, size: float) -> float:
        """Of so many files of `size` in all, until they are flushed."""
        if not files:
            return 0.0
        if self.speed is None:
            return size / DISK_RATE + files * DISK_FILE_SECONDS
        rate = WRITE_PART * geometry.model.native_rate
        return (size / rate + files * WRITE_FILE_SECONDS + geometry.model.flush_seconds) / self.speed


IN_LIFE = Pace()


def _unload(geometry: Geometry, moved: Floats, written: Floats) -> Floats:
    """The mean over where the head may stand; see `Geometry.unload_seconds`."""
    model = geometry.model
    # On all wraps but the first the head is as likely near the begin of the tape as near its end.
    place = np.minimum(0.5, written / geometry.wrap_bytes / 2)
    below, counts = zip(*model.unload_rewinds, strict=True)
    further = np.array(counts)[np.searchsorted(below, moved, side="right")] - 1
    seconds: Floats = 2 + geometry.rewind_seconds_per_place * place + model.unload_seconds
    return seconds + further * model.rewind_average_seconds
