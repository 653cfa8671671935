"""A trace in memory: volumes, and what was wanted of them when, in columns. Reading and writing files: `tracefile`.

Columns, because a year of a site is millions of requests: a row of Python objects for each would not fit. Times are
seconds from any zero, positions bytes from the begin of the tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tapeserver.planner.views import Share

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class BadTrace(ValueError):
    """The trace cannot be used; the text says where and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceVolume:
    name: str
    medium: str
    capacity_bytes: int
    #: how far it is written; new archives go behind it
    written_bytes: int = 0
    pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    volumes: Sequence[TraceVolume]
    who: Sequence[Share]
    pools: Sequence[str]
    #: one row a request, sorted by time
    request_times: Floats
    request_who: Integers
    #: requests with the same number above 0 are one job: its wait ends with the last of them
    request_cohorts: Integers
    #: the files of request r are rows `file_offsets[r]` to `file_offsets[r + 1]` of the columns below
    file_offsets: Integers
    file_volumes: Integers
    file_starts: Integers
    file_bytes: Integers
    #: one row an archive, sorted by time
    archive_times: Floats
    archive_who: Integers
    archive_pools: Integers
    archive_bytes: Integers

    @property
    def requests(self) -> int:
        return len(self.request_times)

    @property
    def files(self) -> int:
        return len(self.file_volumes)

    @property
    def archives(self) -> int:
        return len(self.archive_times)

    @property
    def seconds(self) -> float:
        """From the first to the last arrival."""
        times = [column for column in (self.request_times, self.archive_times) if len(column)]
        return float(max(t[-1] for t in times) - min(t[0] for t in times)) if times else 0.0

    def on_medium(self, medium: str, capacity_bytes: int) -> Trace:
        """The same trace with every volume on another medium, one cartridge for one.

        Positions stay where they are if the new cartridge holds them; else those of that volume are scaled down, and
        its files lie closer together than they would (their sizes stay).
        """
        ends = np.zeros(len(self.volumes), dtype=np.int64)
        np.maximum.at(ends, self.file_volumes, self.file_starts + self.file_bytes)
        ends = np.maximum(ends, [volume.written_bytes for volume in self.volumes])
        scale = np.minimum(1.0, capacity_bytes / np.maximum(ends, 1))
        volumes = [
            replace(
                volume,
                medium=medium,
                capacity_bytes=capacity_bytes,
                written_bytes=min(volume.written_bytes, capacity_bytes),
            )
            for volume in self.volumes
        ]
        starts = (self.file_starts * scale[self.file_volumes]).astype(np.int64)
        return replace(self, volumes=volumes, file_starts=np.minimum(starts, capacity_bytes - self.file_bytes))


def empty_floats() -> Floats:
    return np.zeros(0, dtype=np.float64)


def empty_integers() -> Integers:
    return np.zeros(0, dtype=np.int64)
