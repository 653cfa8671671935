"""How long a tape drive takes: load, unload, rewind, locate, transfer, marks, flush. Pure: arithmetic over constants.

The planner's costs and estimates, the order of reads, the simulator and the virtual library's life-like delays all ask
here. It plans nothing and knows no catalog: positions are bytes from the begin of the tape as written. What a real
drive scatters around these means (about a tenth, lognormal) is not in it.

Sources of the constants: [S] read in a published source (data sheets of the makers, the density tables of mt(1)),
[X] computed from such figures here, [M] from memory, to be checked against the drive at hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catalog.units import GB, MB, TB

Floats = NDArray[np.float64]

LOCATE_SECONDS_MIN = 2.0
"""The locate formula is a regression and becomes negative in places: anything but the contiguous block costs this."""


@dataclass(frozen=True, slots=True)
class LocateTerms:
    """Seconds that a locate costs besides the way: a regression over LTO-7 drives, published with the CERN Tape
    Archive [S]. `half` is a gain: a locate across the middle of the tape is faster than its parts."""

    base: float = 4.29
    wrap_change: float = 6.69
    band_change: float = 3.2
    half_change: float = -6.04
    direction_change: float = 5.22
    step_back: float = 11.32
    #: where the halves meet, as a part of the way: LPOS runs 2696..171097, and they meet at LPOS (max - min) / 2 [S]
    half_at: float = ((171097 - 2696) / 2 - 2696) / (171097 - 2696)


#: one track along the tape: a locate is a start, the way and a stop
_LINEAR = LocateTerms(base=4.0, wrap_change=0, band_change=0, half_change=0, direction_change=0, step_back=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveModel:
    """A kind of drive with its medium. Seconds, bytes, metres, bytes per second."""

    name: str
    native_rate: float
    #: below this rate of the host the drive stops and sets back: it no longer streams
    minimum_rate: float
    capacity_bytes: int
    length_metres: float
    search_metres_per_second: float
    wraps: int
    bands: int
    load_seconds: float
    #: of a medium that was never loaded before; LTO-9 and later measure it first
    first_load_seconds: float
    #: without the rewind that is in it
    unload_seconds: float
    rewind_average_seconds: float
    #: (bytes moved below which it holds, rewinds' worth of time that an unload takes)
    unload_rewinds: tuple[tuple[float, int], ...] = ((inf, 1),)
    #: old volume to its slot, new one from its slot to the drive
    robot_seconds: float = 13.0
    #: a synchronised flush with the set-back behind it: 2 to 4 s [M]
    flush_seconds: float = 3.0
    #: a buffered tape mark while streaming: the block of format it fills [M]
    mark_seconds: float = 0.01
    terms: LocateTerms = field(default_factory=LocateTerms)
    #: the drive tells the best order itself (Recommended Access Order)
    recommends_order: bool = False

    @property
    def traverse_seconds(self) -> float:
        """From one end of the tape to the other at search speed."""
        return self.length_metres / self.search_metres_per_second


_LTO9_UNLOAD = ((5 * GB, 1), (50 * GB, 2), (inf, 3))
"""LTO-9 rewinds longer the more was moved: 55, 110 or 165 s on average, one, two or three rewinds' worth [S]."""

_LTO7 = DriveModel(
    name="LTO-7",
    native_rate=300 * MB,  # [S] full and half height
    minimum_rate=100 * MB,  # [M]
    capacity_bytes=6 * TB,  # [S]
    length_metres=960,  # [S]
    search_metres_per_second=9.2,  # [X] from 56 s on average and the length
    wraps=112,  # [S]
    bands=4,  # [S]
    load_seconds=15,  # [S]
    first_load_seconds=15,  # [S]
    unload_seconds=20,  # [S]
    rewind_average_seconds=60,  # [S]
)

_LTO8 = DriveModel(
    name="LTO-8",
    native_rate=360 * MB,  # [S]
    minimum_rate=112 * MB,  # [M]
    capacity_bytes=12 * TB,  # [S]
    length_metres=960,  # [S]
    search_metres_per_second=9.2,  # [X]
    wraps=208,  # [S]
    bands=4,  # [S]
    load_seconds=15,  # [S]
    first_load_seconds=15,  # [S]
    unload_seconds=24,  # [S]
    rewind_average_seconds=59,  # [S]
)

# Half-height drives ("HH") move the same medium: what is not named is as in the full-height one.
_LTO8_HH = replace(_LTO8, name="LTO-8-HH", native_rate=300 * MB)  # [S]

_LTO9 = DriveModel(
    name="LTO-9",
    native_rate=400 * MB,  # [S]
    minimum_rate=180 * MB,  # [M]
    capacity_bytes=18 * TB,  # [S]
    length_metres=1035,  # [S]
    search_metres_per_second=12.7,  # [X] from 45 s on average and the length
    wraps=280,  # [S] 8,960 tracks, 32 at once
    bands=4,  # [S]
    load_seconds=17,  # [S]
    first_load_seconds=3600,  # [S] 40 to 120 minutes
    unload_seconds=30,  # [S]
    rewind_average_seconds=55,  # [S]
    unload_rewinds=_LTO9_UNLOAD,
    recommends_order=True,  # [S]
)

_LTO9_HH = replace(
    _LTO9,
    name="LTO-9-HH",
    native_rate=300 * MB,  # [S]
    search_metres_per_second=8.5,  # [X] from 65 s on average and the length
    load_seconds=16,  # [S]
    unload_seconds=56,  # [S]
    rewind_average_seconds=62,  # [S]
)

_LTO10 = DriveModel(
    name="LTO-10",
    native_rate=400 * MB,  # [S]
    minimum_rate=180 * MB,  # [M] taken from LTO-9
    capacity_bytes=30 * TB,  # [S]
    length_metres=1035,  # [S]
    search_metres_per_second=8.5,  # [X] from 65 s on average and the length
    wraps=472,  # [M] 15,104 tracks, 32 at once
    bands=4,  # [S]
    load_seconds=12,  # [S]
    first_load_seconds=12,  # [M] the measuring at the first load is gone
    unload_seconds=27,  # [S]
    rewind_average_seconds=62,  # [S]
    recommends_order=True,  # [M]
)

_TS1160 = DriveModel(
    name="TS1160",
    native_rate=400 * MB,  # [M]
    minimum_rate=112 * MB,  # [M]
    capacity_bytes=20 * TB,  # [M] on a JE medium
    length_metres=1163,  # [M]
    search_metres_per_second=12.4,  # [M]
    wraps=272,  # [M] 8,704 tracks, 32 at once
    bands=4,  # [M]
    load_seconds=13,  # [M]
    first_load_seconds=13,  # [M]
    unload_seconds=24,  # [M]
    rewind_average_seconds=51,  # [X] from length and speed, with start and stop
    recommends_order=True,  # [S]
)

_TS1170 = replace(
    _TS1160,
    name="TS1170",
    capacity_bytes=50 * TB,  # [M] on a JF medium
    length_metres=1337,  # [M]
    wraps=592,  # [M] 18,944 tracks, 32 at once
    rewind_average_seconds=58,  # [X] from length and speed, with start and stop
)

_HELICAL = DriveModel(
    name="helical",  # of the class of a Redwood SD-3
    native_rate=11 * MB,  # [M]
    minimum_rate=6 * MB,  # [M]
    capacity_bytes=50 * GB,  # [M]
    length_metres=366,  # [M]
    search_metres_per_second=3.7,  # [X] from 53 s on average [M] and the length
    wraps=1,  # [S] helical scan: one track along the tape
    bands=1,  # [S]
    load_seconds=17,  # [M]
    first_load_seconds=17,  # [M]
    unload_seconds=20,  # [M]
    rewind_average_seconds=53,  # [M]
    flush_seconds=4.0,  # [M]
    terms=_LINEAR,
)

MODELS: Mapping[str, DriveModel] = MappingProxyType(
    {model.name: model for model in (_LTO7, _LTO8, _LTO8_HH, _LTO9, _LTO9_HH, _LTO10, _TS1160, _TS1170, _HELICAL)}
)


def model_of(medium: str) -> DriveModel:
    """The model of `medium` ("LTO-9", case does not matter). Raises ValueError, which names the nearest known one."""
    wanted = medium.strip().upper()
    for name, model in MODELS.items():
        if name.upper() == wanted:
            return model
    near = difflib.get_close_matches(wanted, [name.upper() for name in MODELS], n=1, cutoff=0.0)
    nearest = next(name for name in MODELS if name.upper() == near[0])
    raise ValueError(f"there is no model of a drive for {medium!r}; the nearest is {nearest!r}")


class Geometry:
    """A volume of a medium: from positions in bytes to seconds.

    A volume of another capacity (a small virtual cartridge) is the same tape written less densely: its bytes spread
    over all wraps, so that the formulas keep their shape. Positions outside the volume count as its nearest end.
    """

    def __init__(self, model: DriveModel, capacity_bytes: int | None = None) -> None:
        if capacity_bytes is not None and capacity_bytes <= 0:
            raise ValueError(f"a volume has a capacity above 0, not {capacity_bytes} bytes")
        self.model = model
        self.capacity_bytes = model.capacity_bytes if capacity_bytes is None else capacity_bytes
        self.wrap_bytes = self.capacity_bytes / model.wraps
        #: seconds to read across one byte of a gap, at the density of this volume
        self.gap_seconds_per_byte = model.capacity_bytes / self.capacity_bytes / model.native_rate

    def places(self, positions: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
        """(wrap, place along the tape as a part of its length, 0..1) of each position; odd wraps run backward."""
        position = np.clip(np.asarray(positions, dtype=np.float64), 0, self.capacity_bytes)
        wrap = np.minimum(np.floor(position / self.wrap_bytes), self.model.wraps - 1)
        within = position / self.wrap_bytes - wrap
        number = wrap.astype(np.int64)
        return number, np.where(number % 2 == 1, 1 - within, within)

    def place(self, position: float) -> tuple[int, float]:
        """As `places`, of one position."""
        inside = min(max(position, 0), self.capacity_bytes) / self.wrap_bytes
        wrap = min(int(inside), self.model.wraps - 1)
        within = inside - wrap
        return wrap, 1 - within if wrap % 2 else within

    def locate_seconds(self, from_byte: float, to_byte: float) -> float:
        """From the block at `from_byte`, where the head stands, to the one at `to_byte`; 0 when they are the same."""
        if from_byte == to_byte:
            return 0.0
        model, terms = self.model, self.model.terms
        from_wrap, from_place = self.place(from_byte)
        to_wrap, to_place = self.place(to_byte)
        seconds = terms.base + model.traverse_seconds * abs(to_place - from_place)
        if (from_place < terms.half_at) != (to_place < terms.half_at):
            seconds += terms.half_change
        if from_wrap == to_wrap:
            if to_byte < from_byte:
                return max(LOCATE_SECONDS_MIN, seconds + terms.step_back)
            # Reading across a small gap is cheaper than stopping and searching.
            return min((to_byte - from_byte) * self.gap_seconds_per_byte, max(LOCATE_SECONDS_MIN, seconds))
        wraps_per_band = model.wraps / model.bands
        seconds += terms.wrap_change
        seconds += terms.band_change * (from_wrap // wraps_per_band != to_wrap // wraps_per_band)
        seconds += terms.direction_change * (from_wrap % 2 != to_wrap % 2)
        return max(LOCATE_SECONDS_MIN, seconds)

    def locate_many(self, from_bytes: ArrayLike, to_bytes: ArrayLike) -> Floats:
        """As `locate_seconds`, pair by pair; the arrays are broadcast against each other."""
        model, terms = self.model, self.model.terms
        start, target = np.asarray(from_bytes, dtype=np.float64), np.asarray(to_bytes, dtype=np.float64)
        from_wrap, from_place = self.places(start)
        to_wrap, to_place = self.places(target)
        wraps_per_band = model.wraps / model.bands
        seconds: Floats = terms.base + model.traverse_seconds * np.abs(to_place - from_place)
        seconds += terms.half_change * ((from_place < terms.half_at) != (to_place < terms.half_at))
        same, ahead = from_wrap == to_wrap, target - start
        seconds += terms.wrap_change * ~same
        seconds += terms.band_change * (from_wrap // wraps_per_band != to_wrap // wraps_per_band)
        seconds += terms.direction_change * (from_wrap % 2 != to_wrap % 2)
        seconds += terms.step_back * (same & (ahead < 0))
        np.maximum(seconds, LOCATE_SECONDS_MIN, out=seconds)
        through = np.where(same & (ahead >= 0), ahead * self.gap_seconds_per_byte, np.inf)
        np.minimum(seconds, through, out=seconds)
        seconds[ahead == 0] = 0.0
        return seconds

    def locate_matrix(self, ends: ArrayLike, starts: ArrayLike) -> Floats:
        """Seconds from each of `ends` (rows) to each of `starts` (columns)."""
        return self.locate_many(np.asarray(ends)[:, None], np.asarray(starts)[None, :])

    def transfer_seconds(self, length_bytes: float) -> float:
        return length_bytes / self.model.native_rate

    def rewind_seconds(self, from_byte: float) -> float:
        """To the begin of the tape: 2 + (2 x average - 2) x place."""
        if from_byte <= 0:
            return 0.0
        return 2 + self.rewind_seconds_per_place * self.place(from_byte)[1]

    @property
    def rewind_seconds_per_place(self) -> float:
        """What a rewind takes longer from the far end of the tape than from near its begin."""
        return 2 * self.model.rewind_average_seconds - 2

    def unload_seconds(self, moved_bytes: float, from_byte: float) -> float:
        """Rewind and unload after a mount that moved `moved_bytes`; LTO-9 takes longer the more was moved."""
        rewinds = next(count for below, count in self.model.unload_rewinds if moved_bytes < below)
        further = (rewinds - 1) * self.model.rewind_average_seconds
        return self.rewind_seconds(from_byte) + further + self.model.unload_seconds

    def load_seconds(self, first: bool = False) -> float:
        """From the medium in the drive's mouth until it is ready; `first`: it was never loaded before."""
        return self.model.first_load_seconds if first else self.model.load_seconds

    def ready_seconds(self) -> float:
        """Robot and load: until a volume in its slot can be used in an empty drive."""
        return self.model.robot_seconds + self.load_seconds()

    def change_seconds(self, moved_bytes: float, from_byte: float) -> float:
        """What it costs to have another volume ready in the drive: unload with its rewind, robot, load."""
        return self.unload_seconds(moved_bytes, from_byte) + self.ready_seconds()

    def pass_seconds(self, files: float, length_bytes: float, span_bytes: float | None = None) -> float:
        """What reading `files` files with `length_bytes` in all takes in a good order, from the begin of the tape.

        The files are taken to lie at random on the first `span_bytes` of the volume (None: on all of it). A closed
        form, fitted to the orders that `tapeserver.ordering` finds.
        """
        return float(self.pass_seconds_many(files, length_bytes, span_bytes))

    def pass_seconds_many(
        self, files: ArrayLike, length_bytes: ArrayLike, span_bytes: ArrayLike | None = None
    ) -> Floats:
        """As `pass_seconds`, over arrays that are broadcast against each other."""
        count = np.asarray(files, dtype=np.float64)
        length = np.asarray(length_bytes, dtype=np.float64)
        span = np.asarray(self.capacity_bytes if span_bytes is None else span_bytes, dtype=np.float64)
        return length / self.model.native_rate + count * self._locate_mean(np.maximum(count, 1), length, span)

    def _locate_mean(self, files: Floats, length: Floats, span: Floats) -> Floats:
        """Seconds of locate per file in a good order of `files` files.

        Few files lie far apart, and the way to the next shrinks with their number; many lie so close that gaps are
        read through. Fitted to 670 mean costs of orders found for LTO-7, LTO-9 and TS1170, 1 to 4,096 files of 10 MB to
        3 GB on 0.3 % to all of a volume: half of them within 5 %, nine in ten within 13 %, all within 27 %. Orders in
        which the way home counts are longer by about as much as their rewind is shorter than that of half a wrap.
        """
        model = self.model
        wraps = np.clip(span / self.wrap_bytes, 0, model.wraps)
        gap = np.maximum(span - length, 0) / files * self.gap_seconds_per_byte
        if model.wraps == 1:
            far = model.terms.base + model.traverse_seconds * wraps / (files + 1)
        else:
            way = 0.5517 * model.traverse_seconds * np.minimum(wraps, 1) / files**0.6815
            far = 4.792 + way + 3.031 * np.minimum(wraps, 2)
        # Between the two both occur: neither is paid in full.
        both: Floats = np.maximum(gap, 1e-9) / (1 + (np.maximum(gap, 1e-9) / far) ** 1.57) ** (1 / 1.57)
        return both
