"""The volumes of a picture in columns: what waits for each in all, its state, and what serving it would cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.states import READABLE_VOLUME_STATES
from catalog.units import GB
from tapeserver.drivemodel import MODELS, DriveModel, Geometry, model_of
from tapeserver.planner.views import VolumeView

READABLE_STATES = frozenset(str(state) for state in READABLE_VOLUME_STATES)
UNKNOWN_STATE = "unknown"
#: what a medium without a model is taken for
MEDIUM_DEFAULT = "LTO-8"
#: of a mount as they are: for the rewind in the change of a volume
MOVED_BYTES_TYPICAL = 20 * GB
INITIAL_VOLUMES = 64
NEVER = np.inf
_EMPTY = {"oldest": NEVER, "newest": -NEVER, "ended": -NEVER, "written": np.inf}


#: before anything was learnt; of each mount's word; mounts in which it makes less of a difference than this say nothing
SCATTER_FIRST, LEARN_SHARE, LEARN_SECONDS_MIN = 0.5, 0.05, 20.0


class _Begun(NamedTuple):
    at: float
    together: float
    scattered: float


class Volumes:
    """One slot a volume; slots are never given back: a volume that leaves is one that nothing waits for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.views: list[VolumeView] = []
        self.files = np.zeros(INITIAL_VOLUMES)
        self.bytes = np.zeros(INITIAL_VOLUMES)
        #: cohorts that wait, and files of none: what was asked for together mostly lies together
        self.parts = np.zeros(INITIAL_VOLUMES)
        #: of the files of a part, so many beyond the first cost a locate: learnt from mounts, 0..1
        self.scatter = SCATTER_FIRST
        self._begun: dict[int, _Begun] = {}
        #: arrival of the oldest that waits, and of the newest that ever did
        self.oldest = np.full(INITIAL_VOLUMES, NEVER)
        self.newest = np.full(INITIAL_VOLUMES, -NEVER)
        self.readable = np.zeros(INITIAL_VOLUMES, dtype=bool)
        self.ended = np.full(INITIAL_VOLUMES, -NEVER)
        #: so far from its begin data lie; everywhere, when nobody knows
        self.written = np.full(INITIAL_VOLUMES, np.inf)
        #: number in `media`
        self.medium = np.zeros(INITIAL_VOLUMES, dtype=np.int64)
        self.media: list[str] = []
        self._medium_of: dict[str, int] = {}
        self._cost = np.zeros(INITIAL_VOLUMES)
        self._geometry = np.zeros(INITIAL_VOLUMES, dtype=np.int64)
        self._geometries: list[Geometry] = []
        self._geometry_of: dict[tuple[str, int], int] = {}
        self._slot_of: dict[str, int] = {}
        self._stale: set[int] = set()
        self._rank: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int | None:
        return self._slot_of.get(name)

    def slot(self, name: str) -> int:
        """Of a volume that was never heard of before too; that one cannot be read until its view is set."""
        found = self._slot_of.get(name)
        return self._new(VolumeView(name=name, state=UNKNOWN_STATE)) if found is None else found

    def set_view(self, view: VolumeView) -> None:
        slot = self._slot_of.get(view.name)
        if slot is None:
            slot = self._new(view)
        self.views[slot] = view
        self.readable[slot] = view.state in READABLE_STATES
        self.written[slot] = np.inf if view.written_bytes is None else view.written_bytes
        self._geometry[slot] = self._geometry_number(view)
        self.medium[slot] = self._medium_number(view)
        self._stale.add(slot)

    def change(self, slot: int, files: int, size: int, parts: int) -> None:
        """More or less waits."""
        self.files[slot] += files
        self.bytes[slot] += size
        self.parts[slot] += parts
        self._stale.add(slot)

    def came(self, slot: int, at: float) -> None:
        if at > self.newest[slot]:
            self.newest[slot] = at
        if at < self.oldest[slot]:
            self.oldest[slot] = at

    def wanted(self) -> Iterator[int]:
        """Slots of the volumes with anything waiting."""
        return iter(np.flatnonzero(self.files[: len(self)] > 0).tolist())

    def geometry(self, slot: int) -> Geometry:
        return self._geometries[int(self._geometry[slot])]

    def by_geometry(self, slots: NDArray[np.int64]) -> Iterator[tuple[Geometry, NDArray[np.bool_]]]:
        """Which of these are of each geometry."""
        numbers = self._geometry[slots]
        for number in np.unique(numbers).tolist():
            yield self._geometries[number], numbers == number

    def costs(self) -> NDArray[np.float64]:
        """Seconds to change to each volume and to read all that waits there."""
        if self._stale:
            slots = np.fromiter(self._stale, dtype=np.int64, count=len(self._stale))
            numbers = self._geometry[slots]
            for number, geometry in enumerate(self._geometries):
                some = slots[numbers == number] if len(self._geometries) > 1 else slots
                passes = geometry.pass_seconds_many(self._locates(some), self.bytes[some])
                self._cost[some] = change_seconds(geometry) + passes
            self._stale.clear()
        return self._cost[: len(self)]

    def _locates(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Files, but that of those which lie together only the first is searched for."""
        parts, files = self.parts[slots], self.files[slots]
        searched: NDArray[np.float64] = parts + self.scatter * np.maximum(files - parts, 0)
        return searched

    def begin(self, slot: int, at: float) -> None:
        """A mount to read begins; how long it takes will tell how the files lie that were asked for together.

        Safe to repeat: what waited at the first word counts.
        """
        if slot in self._begun:
            return
        geometry, size = self.geometry(slot), self.bytes[slot]
        ready = geometry.ready_seconds()
        together = ready + geometry.pass_seconds(self.parts[slot], size)
        scattered = ready + geometry.pass_seconds(self.files[slot], size)
        self._begun[slot] = _Begun(at, together, scattered)

    def end(self, slot: int, read_at: float | None) -> None:
        """The mount has ended, and was through with reading at `read_at`; None: its time says nothing."""
        begun = self._begun.pop(slot, None)
        if begun is None or read_at is None or begun.scattered - begun.together < LEARN_SECONDS_MIN:
            return
        seen = (read_at - begun.at - begun.together) / (begun.scattered - begun.together)
        # Late arrivals and cancelled files make single mounts say anything.
        self.scatter += LEARN_SHARE * (min(max(seen, 0.0), 1.0) - self.scatter)

    def unload_seconds(self, slot: int) -> float:
        """Of a mount like others."""
        geometry = self.geometry(slot)
        return geometry.unload_seconds(MOVED_BYTES_TYPICAL, geometry.wrap_bytes / 2)

    def rank(self) -> NDArray[np.int64]:
        """Place of each in the order of names, by which equals are decided."""
        if self._rank is None or len(self._rank) != len(self):
            self._rank = np.empty(len(self), dtype=np.int64)
            self._rank[np.argsort(np.array(self.names))] = np.arange(len(self))
        return self._rank

    def _new(self, view: VolumeView) -> int:
        slot = len(self.names)
        if slot == len(self.files):
            self._grow()
        self._slot_of[view.name] = slot
        self.names.append(view.name)
        self.views.append(view)
        self._geometry[slot] = self._geometry_number(view)
        self.medium[slot] = self._medium_number(view)
        return slot

    def _medium_number(self, view: VolumeView) -> int:
        number = self._medium_of.get(view.medium)
        if number is None:
            number = self._medium_of[view.medium] = len(self.media)
            self.media.append(view.medium)
        return number

    def _geometry_number(self, view: VolumeView) -> int:
        model = _model(view.medium)
        capacity = _rounded(view.capacity_bytes or model.capacity_bytes)
        number = self._geometry_of.get((model.name, capacity))
        if number is None:
            number = self._geometry_of[model.name, capacity] = len(self._geometries)
            self._geometries.append(Geometry(model, capacity))
        return number

    def _grow(self) -> None:
        for name in (
            "files",
            "bytes",
            "parts",
            "oldest",
            "newest",
            "readable",
            "ended",
            "written",
            "medium",
            "_cost",
            "_geometry",
        ):
            column = getattr(self, name)
            added = np.full_like(column, _EMPTY.get(name, 0))
            setattr(self, name, np.concatenate([column, added]))


@lru_cache(maxsize=256)
def _model(medium: str) -> DriveModel:
    try:
        return model_of(medium)
    except ValueError:
        return MODELS[MEDIUM_DEFAULT]


def _rounded(capacity_bytes: int) -> int:
    """To two figures: cartridges of nearly one size are one geometry."""
    digits = max(len(str(capacity_bytes)) - 2, 0)
    return max(1, round(capacity_bytes, -digits))


def change_seconds(geometry: Geometry) -> float:
    """Of a mount like others: the head stands half way along the tape when it ends.

    A pass that ends nearer to the begin, because others want the drive, has gone as much further to get there.
    """
    return geometry.change_seconds(MOVED_BYTES_TYPICAL, geometry.wrap_bytes / 2)
