"""Which drives of a picture may have which of its volumes, as far as their kinds are known. Pure.

Most libraries have drives and media that all fit each other: then nothing here costs anything. What fits what is
`tapeserver.compatibility`'s to say; who gets which drive, `deciding`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tapeserver.compatibility import can
from tapeserver.planner.picture import Picture
from tapeserver.planner.scoring import Booleans

#: purposes of mounts that write; the others only read
WRITING = frozenset({"archive", "label"})


def doing(purpose: str) -> str:
    return "write" if purpose in WRITING else "read"


class Fits:
    """Of one picture as it is now."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._media = picture.volumes.media
        #: how many drives there are of each model, and how many of these work
        self._there = Counter(drive.model for drive in picture.drives.values())
        self._working = Counter(drive.model for drive in picture.drives.values() if drive.works)
        #: all drives read and write all media, as far as anybody knows
        self.all = all(can("write", model, medium) for model in self._there for medium in self._media)

    def drive(self, name: str, volume: str, purpose: str) -> bool:
        """Whether this drive can do that with this volume."""
        if self.all:
            return True
        return can(doing(purpose), self._model(name), self.medium(volume))

    def medium(self, volume: str) -> str:
        slot = self._picture.volumes.find(volume)
        # Nothing is known of what was never heard of.
        return "" if slot is None else self._media[int(self._picture.volumes.medium[slot])]

    def best(self, names: Sequence[str], volume: str, purpose: str) -> list[str]:
        """Those that can, first the ones that can do least else: the others are wanted for what these cannot."""
        if self.all:
            return list(names)
        able = [name for name in names if self.drive(name, volume, purpose)]
        return sorted(able, key=lambda name: self._breadth(name, purpose))

    def readable(self) -> Booleans | None:
        """By slot: whether any drive that works can read it; None: all can be."""
        if self.all:
            return None
        some = [any(can("read", model, medium) for model in self._working) for medium in self._media]
        mask: Booleans = np.array(some, dtype=bool)[self._picture.volumes.medium[: len(self._picture.volumes)]]
        return mask

    def parts(self, which: Booleans) -> Iterator[tuple[str, Booleans]]:
        """The volumes by medium; all as one ("") where that makes no difference."""
        if self.all:
            yield "", which
            return
        media = self._picture.volumes.medium[: len(which)]
        for number, medium in enumerate(self._media):
            some = which & (media == number)
            if some.any():
                yield medium, some

    def models(self, names: Iterable[str]) -> Counter[str]:
        """How many there are of each model."""
        return Counter(self._model(name) for name in names)

    def any_of(self, models: Iterable[str], medium: str) -> bool:
        """Whether a drive of any of these models can read it."""
        return any(can("read", model, medium) for model in models)

    def why_none(self, volume: str, purpose: str) -> tuple[str, dict[str, Any]] | None:
        """Code and arguments, when no drive of the library that works can do that with this volume; None: one can."""
        if self.all:
            return None
        medium, does = self.medium(volume), doing(purpose)
        # That no drive works at all says more, and is said of all alike.
        if not self._working or any(can(does, model, medium) for model in self._working):
            return None
        arguments = {"library": self._picture.library, "medium": medium, "doing": does}
        able = any(can(does, model, medium) for model in self._there)
        return ("compatible_drives_down" if able else "no_compatible_drive"), arguments

    def why_not_now(self, volume: str, purpose: str) -> tuple[str, dict[str, Any]] | None:
        """As `why_none`, of a volume that waits only for a drive; None: for any drive, or for none that works."""
        if self.all:
            return None
        medium, does = self.medium(volume), doing(purpose)
        able = sum(count for model, count in self._working.items() if can(does, model, medium))
        if able == self._working.total():
            return None
        return "no_free_compatible_drive", {"medium": medium, "doing": does, "drives": able}

    def without(self, wishes: Iterable[tuple[str, str]], drives: Iterable[str]) -> list[tuple[str, str]]:
        """Of these (volume, purpose), in their order, those that are left when each drive serves the first it can."""
        left = list(wishes)
        for name in drives:
            self.take(left, name)
        return left

    def take(self, left: list[tuple[str, str]], drive: str) -> bool:
        """Take the first out that this drive could serve; False when there is none."""
        for place, (volume, purpose) in enumerate(left):
            if self.drive(drive, volume, purpose):
                del left[place]
                return True
        return False

    def _model(self, name: str) -> str:
        found = self._picture.drives.get(name)
        return "" if found is None else found.model

    def _breadth(self, name: str, purpose: str) -> int:
        return sum(can(doing(purpose), self._model(name), medium) for medium in self._media)
