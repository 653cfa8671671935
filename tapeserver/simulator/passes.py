"""One pass over a volume: in which order its files are read, and when each is done. Pure: a generator is given.

Few files are ordered as the mover orders them; many, for which `ordering` would take seconds, go in block order, which
is as good when they lie densely (see `dense_files`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tapeserver.drivemodel import Geometry
from tapeserver.simulator.trace import Floats, Integers


@dataclass(slots=True)
class Pass:
    """Rows of the trace's files in the order they are read; times are of the simulation's clock."""

    rows: Integers
    begins: float
    ends: Floats
    locates: Floats
    #: where the head is behind each file
    heads: Integers
    #: so many are told to the rest of the simulation as done
    told: int = 0

    def begun(self, now: float) -> int:
        """How many are done or being read."""
        return min(len(self.rows), int(np.searchsorted(self.ends, now, side="right")) + 1)

    def done(self, now: float) -> int:
        return int(np.searchsorted(self.ends, now, side="right"))


@dataclass(slots=True)
class Reader:
    """Makes passes. `noise` is the sigma of the lognormal factor on every locate; 0: none."""

    starts: Integers
    lengths: Integers
    draw: np.random.Generator
    noise: float = 0.0
    #: so many files are read in block order
    dense_files: int = 192

    def read(self, geometry: Geometry, rows: Integers, head: int, now: float) -> Pass:
        """The pass that reads `rows` from `head` on, beginning now. The same bytes wanted twice are read once."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        order = _order(geometry, starts, lengths, head, self.dense_files)
        rows, starts, lengths = rows[order], starts[order], lengths[order]
        ends = starts + lengths
        before = np.empty_like(starts)
        before[0] = head
        before[1:] = ends[:-1]
        locates = geometry.locate_many(before, starts)
        transfers = lengths / geometry.model.native_rate
        if len(rows) > 1:
            again = np.flatnonzero((starts[1:] == starts[:-1]) & (lengths[1:] == lengths[:-1])) + 1
            locates[again] = 0.0
            transfers[again] = 0.0
        if self.noise:
            locates = locates * self.draw.lognormal(0.0, self.noise, len(locates))
        return Pass(rows=rows, begins=now, ends=now + np.cumsum(locates + transfers), locates=locates, heads=ends)


def _order(geometry: Geometry, starts: Integers, lengths: Integers, head: int, dense_files: int) -> Integers:
    return np.argsort(starts, kind="stable")
