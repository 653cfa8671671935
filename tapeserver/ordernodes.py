"""Requests on a volume as arrays for the loops that order them. Pure: numpy, without numba."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeserver.drivemodel import LOCATE_SECONDS_MIN, Geometry

Floats = NDArray[np.float64]

BASE, WRAP, BAND, HALF, DIRECTION, BACK, LEAST, GAP, HOME = range(9)
"""Where each constant of the locate formula stands in `Nodes.terms`; HOME: what the end costs, see `nodes_of`."""


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Node 0 is the head, 1..n the files, n + 1 the end behind the last: nothing is there, or the begin of the tape.

    `ends` (n + 1 rows) and `starts` (n + 2 rows): position in bytes, wrap, seconds along the tape, half, band.
    """

    ends: Floats
    starts: Floats
    terms: Floats
    #: seconds of transfer and weight of each node; 0 for the head
    transfer: Floats
    weight: Floats


def nodes_of(
    geometry: Geometry,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    head: int,
    weights: Floats | None,
    *,
    home: bool = False,
) -> Nodes:
    """`home`: the end costs the part of the rewind that depends on where the last file ends; else nothing."""
    count = len(starts)
    model = geometry.model
    terms = np.empty(9)
    terms[HOME] = geometry.rewind_seconds_per_place / model.traverse_seconds if home else 0.0
    terms[[BASE, WRAP, BAND, HALF]] = [
        model.terms.base, model.terms.wrap_change, model.terms.band_change, model.terms.half_change
    ]  # fmt: skip
    terms[[DIRECTION, BACK, LEAST, GAP]] = [
        model.terms.direction_change, model.terms.step_back, LOCATE_SECONDS_MIN, geometry.gap_seconds_per_byte
    ]  # fmt: skip
    transfer, weight = np.zeros(count + 1), np.zeros(count + 1)
    transfer[1:] = lengths / model.native_rate
    weight[1:] = 1.0 if weights is None else weights
    return Nodes(
        ends=_rows(geometry, np.concatenate(([head], starts + lengths))),
        starts=_rows(geometry, np.concatenate(([head], starts, [0]))),
        terms=terms,
        transfer=transfer,
        weight=weight,
    )


def _rows(geometry: Geometry, positions: NDArray[np.int64]) -> Floats:
    model = geometry.model
    wrap, place = geometry.places(positions)
    rows = np.empty((len(positions), 5))
    rows[:, 0], rows[:, 1], rows[:, 2] = positions, wrap, place * model.traverse_seconds
    rows[:, 3], rows[:, 4] = place < model.terms.half_at, wrap // (model.wraps / model.bands)
    return rows
