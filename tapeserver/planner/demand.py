"""What waits to be read, per (volume, share), kept by increments. Pure: counts and moments, no decisions.

A cohort (the files of one stage request) counts g(m) on each of the m volumes that it still waits for, more the fewer
they are: the last volume of a job is worth most. What is in a drive is no longer missing. For each row (volume, share)
the sums of g and of g t over its cohorts are kept, t being a cohort's arrival: the sum of g x wait follows at any
moment without a look at the cohorts. Files of cohort 0 belong to none: each counts 1.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NEVER = np.inf
#: from so many volumes a cohort on, g is kept in steps: an arrival then need not touch all of them
EXACT_MISSING_MAX = 16
STEP_BITS = 3
#: p of g(m) = 1 / m ** p: 2 gives a shorter mean of the jobs' waits than 1, and a tail that is little longer
WORTH_POWER = 2
INITIAL_ROWS = 64


def worth(missing: int) -> float:
    """g of a cohort that waits for so many volumes: 1/m^p; above `EXACT_MISSING_MAX` m is rounded to 3 leading bits."""
    if missing == 0:
        return 0.0
    if missing > EXACT_MISSING_MAX:
        shift = missing.bit_length() - STEP_BITS
        missing = missing >> shift << shift
    return float(missing) ** -WORTH_POWER


class _Part:
    """One cohort on one row."""

    __slots__ = ("at", "bytes", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        #: earliest arrival; of cohort 0: the earliest since the row last had none
        self.at = NEVER


class _Removal(NamedTuple):
    """What was there to take away."""

    files: int
    bytes: int
    #: cohorts that wait here no longer, and files of none
    parts: int


class Demand:
    """Rows in columns; `rows` of them are in use or free, free ones hold zeros and `NEVER`."""

    def __init__(self) -> None:
        #: arrivals are summed relative to this: sums of a catalog's times would lose digits
        self.origin: float | None = None
        self.rows = 0
        self.volume: Integers = np.zeros(INITIAL_ROWS, dtype=np.int64)
        self.share: Integers = np.zeros(INITIAL_ROWS, dtype=np.int64)
        self.files: Floats = np.zeros(INITIAL_ROWS)
        self.bytes: Floats = np.zeros(INITIAL_ROWS)
        self.count: Floats = np.zeros(INITIAL_ROWS)
        self.first: Floats = np.zeros(INITIAL_ROWS)
        #: arrival of the oldest, on the clock
        self.oldest: Floats = np.full(INITIAL_ROWS, NEVER)
        self._row_of: dict[tuple[int, int], int] = {}
        self._rows_of_volume: dict[int, list[int]] = {}
        self._free: list[int] = []
        self._parts: dict[int, dict[int, _Part]] = {}
        self._cohorts: dict[int, dict[int, _Part]] = {}
        self._heaps: dict[int, list[tuple[float, int]]] = {}
        self._held: set[int] = set()

    def add(self, volume: int, share: int, cohort: int, files: int, size: int, at: float) -> int:
        """More waits; how many parts have come. O(1), and O(volumes of the cohort) when its worth changes."""
        if self.origin is None:
            self.origin = at
        row = self._row_of.get((volume, share))
        if row is None:
            row = self._new_row(volume, share)
        self.files[row] += files
        self.bytes[row] += size
        parts = self._parts[row]
        part = parts.get(cohort)
        fresh = part is None
        if part is None:
            part = parts[cohort] = _Part()
        part.files += files
        part.bytes += size
        if at < self.oldest[row]:
            self.oldest[row] = at
        if cohort == 0:
            self._shift(row, files, files * (at - self.origin))
            if at < part.at:
                part.at = at
                heapq.heappush(self._heaps[row], (at, 0))
        elif fresh:
            part.at = at
            heapq.heappush(self._heaps[row], (at, cohort))
            if volume not in self._held:
                self._join(cohort, row, part)
        return files if cohort == 0 else int(fresh)

    def take(self, volume: int, share: int, cohort: int, files: int, size: int, at_sum: float) -> _Removal:
        """Less waits: `files` that arrived at `at_sum` in all. What is not there is not taken: the answer says."""
        row = self._row_of.get((volume, share))
        part = self._parts[row].get(cohort) if row is not None else None
        if row is None or part is None:
            return _Removal(0, 0, 0)
        some = min(files, part.files)
        parts = some if cohort == 0 else int(some == part.files)
        gone = _Removal(some, part.bytes if files >= part.files else min(size, part.bytes), parts)
        self.files[row] -= gone.files
        self.bytes[row] -= gone.bytes
        if cohort == 0:
            # Which files went is not known, only when they came on average.
            since = at_sum / max(files, 1) - (self.origin or 0.0)
            self._shift(row, -gone.files, -gone.files * since)
        part.files -= gone.files
        part.bytes -= gone.bytes
        if part.files == 0:
            del self._parts[row][cohort]
            if cohort and volume not in self._held:
                self._leave(cohort, row, part)
            if not self._parts[row]:
                self._drop_row(row)
            elif part.at <= self.oldest[row]:
                self._find_oldest(row)
        return gone

    def oldest_of(self, volume: int) -> float:
        """Arrival of the oldest that waits there."""
        return min((float(self.oldest[row]) for row in self.rows_of(volume)), default=NEVER)

    def hold(self, volume: int) -> None:
        """It is in a drive: its cohorts no longer miss it. Safe to repeat."""
        if volume not in self._held:
            for row in self.rows_of(volume):
                for cohort, part in self._parts[row].items():
                    if cohort:
                        self._leave(cohort, row, part)
            self._held.add(volume)

    def release(self, volume: int) -> None:
        """It is out of the drive again; what still waits there is missing again. Safe to repeat."""
        if volume in self._held:
            self._held.remove(volume)
            for row in self.rows_of(volume):
                for cohort, part in self._parts[row].items():
                    if cohort:
                        self._join(cohort, row, part)

    def rows_of(self, volume: int) -> list[int]:
        return self._rows_of_volume.get(volume, [])

    def _join(self, cohort: int, row: int, part: _Part) -> None:
        parts = self._cohorts.setdefault(cohort, {})
        before, after = worth(len(parts)), worth(len(parts) + 1)
        if after != before:
            self._revalue(parts, after - before)
        parts[row] = part
        self._revalue({row: part}, after)

    def _leave(self, cohort: int, row: int, part: _Part) -> None:
        parts = self._cohorts[cohort]
        before, after = worth(len(parts)), worth(len(parts) - 1)
        del parts[row]
        self._revalue({row: part}, -before)
        if not parts:
            del self._cohorts[cohort]
        elif after != before:
            self._revalue(parts, after - before)

    def _revalue(self, parts: dict[int, _Part], by: float) -> None:
        origin = self.origin or 0.0
        for row, part in parts.items():
            self._shift(row, by, by * (part.at - origin))

    def _shift(self, row: int, count: float, first: float) -> None:
        self.count[row] += count
        self.first[row] += first

    def _find_oldest(self, row: int) -> None:
        heap, parts = self._heaps[row], self._parts[row]
        while heap:
            at, cohort = heap[0]
            part = parts.get(cohort)
            if part is not None and part.at == at:
                self.oldest[row] = at
                return
            heapq.heappop(heap)

    def _new_row(self, volume: int, share: int) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = self.rows
            self.rows += 1
            if row == len(self.volume):
                self._grow()
        self.volume[row], self.share[row] = volume, share
        self._row_of[volume, share] = row
        self._rows_of_volume.setdefault(volume, []).append(row)
        self._parts[row], self._heaps[row] = {}, []
        return row

    def _drop_row(self, row: int) -> None:
        volume = int(self.volume[row])
        del self._row_of[volume, int(self.share[row])]
        rows = self._rows_of_volume[volume]
        rows.remove(row)
        if not rows:
            del self._rows_of_volume[volume]
        del self._parts[row], self._heaps[row]
        # Exactly nothing: what rounding has left of the sums goes with the row.
        for column in (self.files, self.bytes, self.count, self.first):
            column[row] = 0.0
        self.oldest[row] = NEVER
        self._free.append(row)

    def _grow(self) -> None:
        for name in ("volume", "share", "files", "bytes", "count", "first"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self.oldest = np.concatenate([self.oldest, np.full_like(self.oldest, NEVER)])
