"""When will what waits for a pool be safe on tape? Pure: a pool's turn among the others, and what writing to it takes.

Who comes when is `tapeserver.estimates`'s to run forward; here is what it has to know of pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from catalog.model import WritingTime
from tapeserver.drivemodel import MODELS, Geometry
from tapeserver.pace import IN_LIFE, Pace
from tapeserver.planner.fits import Fits
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import ArchiveNeed
from tapeserver.planner.volumes import MEDIUM_DEFAULT, UNKNOWN_STATE
from tapeserver.planner.wishes import Wish, judge_archive

#: a turn comes so much later than by what waits now, for what arrives meanwhile and comes first (measured in the
#: simulation at eight tenths of the drives' time, `python -m bench --only simulator`)
LATER_ARRIVALS = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTurn:
    """A pool that is to be written to, when its turn comes."""

    need: ArchiveNeed
    #: who comes first, as of the volumes that are to be read
    key: float
    #: not before this
    worth_at: float
    #: so many volumes at once, each of which takes so long to mount with its end found, to write, and to change
    volumes: int
    medium: str
    load_seconds: float
    writing_seconds: float
    change_seconds: float
    #: of what gave way: when it was begun
    begins: float | None = None

    @property
    def seconds(self) -> float:
        """Of drives."""
        return self.volumes * (self.change_seconds + self.writing_seconds)


class Pools:
    """Those that nothing is written to yet."""

    def __init__(
        self,
        picture: Picture,
        policy: Policy,
        fits: Fits,
        needs: Mapping[str, ArchiveNeed],
        free_at: Mapping[str, float],
        pace: Pace = IN_LIFE,
    ) -> None:
        """`free_at`: of pools of which a volume is in a drive, when it is out of it."""
        self._picture, self._policy, self._fits = picture, policy, fits
        self._left, self._free_at, self._pace = dict(needs), free_at, pace
        self._again: list[PoolTurn] = []

    def __len__(self) -> int:
        return len(self._left) + len(self._again)

    def turns(self, at: float, drain_seconds: float) -> list[PoolTurn]:
        """Each as the planner would judge it at that time, or when it will have collected. What cannot be written then
        is forgotten."""
        judged = {pool: self._turn(need, at, drain_seconds) for pool, need in sorted(self._left.items())}
        self._left = {pool: need for pool, need in self._left.items() if judged[pool] is not None}
        return [*(turn for turn in judged.values() if turn is not None), *self._again]

    def taken(self, turns: Iterable[PoolTurn]) -> None:
        for turn in turns:
            if turn in self._again:
                self._again.remove(turn)
            else:
                self._left.pop(turn.need.pool)

    def come_again(self, turns: Iterable[PoolTurn]) -> None:
        """These gave way."""
        self._again += turns

    def media(self) -> set[str]:
        """Of the volumes that are to be written to, as far as they are known."""
        volumes = {need.writable[0] if need.writable else "" for need in self._left.values()}
        return {self._fits.medium(volume) for volume in volumes} | {one.medium for one in self._again}

    def seconds(self) -> float:
        """That drives are wanted for, about."""
        left = [need for need in self._left.values() if _worth_at(need, self._policy) is not None]
        return sum(
            self._pace.writing_seconds(geometry_to_write(self._picture, ""), need.files, need.bytes) for need in left
        )

    def _turn(self, need: ArchiveNeed, at: float, drain_seconds: float) -> PoolTurn | None:
        picture, policy, pace = self._picture, self._policy, self._pace
        worth_at = _worth_at(need, policy)
        if worth_at is None:
            return None
        # A moment later, so that no last digit of the time says otherwise.
        judged = judge_archive(need, picture, policy, max(at, worth_at + 1.0), drain_seconds, self._fits)
        wishes = [one for one in judged if isinstance(one, Wish)]
        if not wishes and need.pool not in self._free_at:
            return None
        volume = wishes[0].volume if wishes else ""
        if not wishes:
            # Its volume is in a drive, and nobody knows who will come first when it is out.
            worth_at = max(worth_at, self._free_at[need.pool])
        geometry = geometry_to_write(picture, volume)
        number, written = max(1, len(wishes)), _written_bytes(picture, volume, geometry)
        seconds = pace.writing_seconds(geometry, need.files, need.bytes) / number
        further = int(need.bytes / number / max(geometry.capacity_bytes - written, geometry.capacity_bytes / 10))
        ready, to_end = pace.ready_seconds(geometry), pace.end_seconds(geometry, written)
        change = ready + pace.unload_seconds(geometry, need.bytes / number, written)
        return PoolTurn(
            need=need,
            key=max((wish.key for wish in wishes), default=0.0),
            worth_at=worth_at,
            volumes=number,
            medium=self._fits.medium(volume),
            load_seconds=ready + to_end,
            writing_seconds=seconds + further * change,
            change_seconds=change + to_end,
        )


def _worth_at(need: ArchiveNeed, policy: Policy) -> float | None:
    """When it is worth a mount at the latest; None: nothing that waits can be written."""
    if need.oldest_at is None:
        return None
    enough = need.bytes >= policy.collecting_bytes or need.files >= policy.collecting_files
    if need.urgent or enough:
        return -np.inf
    at, quiet = need.oldest_at + policy.collecting_age_seconds, policy.collecting_quiet_seconds
    return min(at, need.newest_at + quiet) if quiet and need.newest_at is not None else at


def writing_time(need: ArchiveNeed | None, begins: float, in_hand: float, writing: float) -> WritingTime:
    if need is None or need.oldest_at is None:
        return WritingTime(begins, in_hand)
    newest = None if need.newest_at is None else max(need.newest_at, need.oldest_at)
    return WritingTime(begins, in_hand, writing, need.files, need.urgent, need.oldest_at, newest)


def geometry_to_write(picture: Picture, volume: str) -> Geometry:
    """Of a volume that nothing is read from, little is known: it is taken to be like the others of its library."""
    volumes, slot = picture.volumes, picture.volumes.find(volume)
    known = (number for number, view in enumerate(volumes.views) if view.state != UNKNOWN_STATE)
    if slot is None or volumes.views[slot].state == UNKNOWN_STATE:
        slot = next(known, slot)
    return Geometry(MODELS[MEDIUM_DEFAULT]) if slot is None else volumes.geometry(slot)


def _written_bytes(picture: Picture, volume: str, geometry: Geometry) -> float:
    slot = picture.volumes.find(volume)
    written = None if slot is None else picture.volumes.views[slot].written_bytes
    # Half of it, and half way along the tape: the middle of the bytes lies at one end of it.
    return geometry.wrap_bytes * (geometry.model.wraps // 2 + 0.5) if written is None else written
