"""How long a library takes for what its drives do: as in life, so many times faster, or as fast as a disk. Pure.

What it takes in life is the drive model's to say; a library that is not there in life and has no `speed` takes what its
files take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeserver.drivemodel import Geometry
from tapeserver.planner.volumes import MOVED_BYTES_TYPICAL, Volumes, change_seconds

Floats = NDArray[np.float64]

#: part of a medium's rate at which it is written, marks and labels included, and what each file costs besides
#: (measured: docs/benchmarks.md)
WRITE_PART, WRITE_FILE_SECONDS = 0.96, 0.0004
#: of a library that is only files: a mount until it is ready, its end, its rate, and what each file costs besides
#: (about what docs/benchmarks.md has; waits of seconds are told as no more than that)
DISK_READY_SECONDS, DISK_UNLOAD_SECONDS, DISK_RATE, DISK_FILE_SECONDS = 0.2, 0.1, 500e6, 0.001


@dataclass(frozen=True, slots=True)
class Pace:
    #: times faster than in life; None: as fast as a disk
    speed: float | None = 1.0

    def ready_seconds(self, geometry: Geometry) -> float:
        """Until a volume can be read."""
        if self.speed is None:
            return DISK_READY_SECONDS
        return (geometry.model.robot_seconds + geometry.load_seconds()) / self.speed

    def change_seconds(self, geometry: Geometry) -> float:
        """The same, and until it is out again."""
        if self.speed is None:
            return DISK_READY_SECONDS + DISK_UNLOAD_SECONDS
        return change_seconds(geometry) / self.speed

    def unload_seconds(self, geometry: Geometry) -> float:
        if self.speed is None:
            return DISK_UNLOAD_SECONDS
        return geometry.unload_seconds(MOVED_BYTES_TYPICAL, geometry.capacity_bytes / 2) / self.speed

    def end_seconds(self, geometry: Geometry, written_bytes: float) -> float:
        """Until the end of what is written is found."""
        return 0.0 if self.speed is None else geometry.locate_seconds(0, written_bytes) / self.speed

    def passes(self, volumes: Volumes, slots: NDArray[np.int64], changes: Floats) -> Floats:
        """Of each volume, reading all that waits there; `changes`: what `change_seconds` has for each."""
        if self.speed is None:
            seconds: Floats = volumes.bytes[slots] / DISK_RATE + volumes.files[slots] * DISK_FILE_SECONDS
            return seconds
        passes: Floats = volumes.costs()[slots] / self.speed - changes
        return passes

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
