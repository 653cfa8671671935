"""Which files of a volume are worth reading while it is mounted, besides those that are wanted. Pure.

An extra file is worth it while reading on costs less than coming back for it, times the chance that somebody will want
it; and what lies between two files that are read anyway is, when reading across it is no slower than locating past it.
The room that it takes in the cache is not weighed here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeserver.drivemodel import Geometry


def worth_reading(
    geometry: Geometry,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    *,
    chance: float,
) -> NDArray[np.bool_]:
    """Which files to read, the wanted ones among them. Positions and lengths are bytes, by position.

    `chance`: of a file that nobody wants now to be wanted within its life in the cache. Coming back is a change of the
    volume and a locate from its begin (tape physics, "Whole volume": P x (change + locate) > size / rate).
    """
    if not len(starts):
        return wanted.copy()
    model = geometry.model
    change = geometry.change_seconds(float(lengths.mean()), geometry.wrap_bytes / 2)
    coming_back = change + geometry.locate_many(np.zeros(len(starts)), starts)
    taken = wanted | (chance * coming_back > lengths / model.native_rate)
    return taken | _read_across(geometry, starts, lengths, taken)


def _read_across(
    geometry: Geometry, starts: NDArray[np.int64], lengths: NDArray[np.int64], taken: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The files in gaps between taken ones which are read as fast as they are passed."""
    across = np.zeros(len(starts), dtype=np.bool_)
    places = np.flatnonzero(taken)
    if len(places) < 2:
        return across
    left, right = places[:-1], places[1:]
    gap = right - left > 1
    left, right = left[gap], right[gap]
    ends = starts + lengths
    passed = geometry.locate_many(ends[left], starts[right])
    sums = np.concatenate([[0], np.cumsum(lengths)])
    # A locate on one wrap is never longer than the gap takes to read: the first is then equal to the second.
    read = (sums[right] - sums[left + 1]) / geometry.model.native_rate
    for first, last in zip(left[read <= passed * 1.000001], right[read <= passed * 1.000001], strict=True):
        across[first + 1 : last] = True
    return across
