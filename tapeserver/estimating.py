"""Publishes what one planner expects: its picture is run forward now and then, and what has changed is written.

It works nothing out itself (`tapeserver.estimates` does), and stands in no decision's way: whoever holds the planner's
lease calls `publish` beside the decisions, as often as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import estimates, leases, volumes
from catalog.database import Database
from catalog.leases import Lease
from catalog.model import InHand, ReadingTime, WritingTime
from tapeserver.estimates import NOTHING_IN_HAND, estimating
from tapeserver.pace import IN_LIFE, Pace
from tapeserver.planner import Picture, Policy

#: estimates are made at most so often, and left alone for so much longer than it took to make them
ESTIMATE_SECONDS, ESTIMATE_SHARE = 3.0, 50.0
#: but are confirmed before doors stop believing them
ESTIMATE_SECONDS_MAX = estimates.LOOK_SECONDS_MAX / 3
#: with nothing left to write a mover waits so long for more before it flushes, unless told otherwise; a library that is
#: faster than life does not shorten that
FLUSH_IDLE_SECONDS = 5.0
#: volumes that are gone through before others have the loop
PART = 200
KIND_VIRTUAL = "virtual"

T = TypeVar("T")


class Estimating:
    """Of one library, for its planner."""

    def __init__(self, database: Database, library: str, breathe: Callable[[], Awaitable[None]] | None = None) -> None:
        self._database, self.library = database, library
        #: called between pieces of work: others have the loop there
        self._breathe = breathe or _next_turn
        self._lease: Lease | None = None
        self._pace = IN_LIFE
        #: what stands in the catalog; None: nobody knows
        self._said: dict[str, ReadingTime] | None = None
        #: whether anything is said of pools; None: nobody knows
        self._said_of_pools: bool | None = None
        self._due = 0.0

    async def publish(self, picture: Picture, policy: Policy, lease: Lease) -> bool:
        """Whether anything was looked at: not before it is time. Raises CatalogUnreachable."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due and lease == self._lease:
            return False
        mounted = {mount.epoch: mount.volume for mount in picture.mounts.values()}
        async with self._database.connection() as connection:
            if lease != self._lease or self._said is None:
                self._pace = await _pace(connection, self.library)
                self._said = await estimates.said(connection, self.library)
                self._lease, self._said_of_pools = lease, None
            now = await leases.clock(connection)
            claimed = await estimates.in_hand(connection, mounted)
        volumes, pools = dict[str, ReadingTime](), dict[str, WritingTime]()
        spent, began = 0.0, loop.time()
        hands = {mounted[epoch]: hand for epoch, hand in claimed.items()}
        for part in expected(picture, policy, now, self._pace, hands):
            volumes |= part.volumes
            pools |= part.pools
            spent += loop.time() - began
            await self._breathe()
            began = loop.time()
        self._due = loop.time() + min(max(ESTIMATE_SECONDS, ESTIMATE_SHARE * spent), ESTIMATE_SECONDS_MAX)
        await self._write(volumes, pools, now, lease)
        return True

    async def _write(
        self, found: dict[str, ReadingTime], pools: dict[str, WritingTime], now: float, lease: Lease
    ) -> None:
        said = self._said or {}
        changes, gone = dict[str, ReadingTime](), said.keys() - found.keys()
        for part in _parts(list(found)):
            changes |= estimates.changed(said, {volume: found[volume] for volume in part}, now)
            await self._breathe()
        if not found and not gone and not pools and self._said_of_pools is False:
            return
        # Committed or not: until it is known, it is read again.
        self._said = None
        async with self._database.transaction() as connection:
            if not await leases.guard(connection, lease):
                return
            await estimates.publish(connection, self.library, changes, gone=gone)
            if pools or self._said_of_pools is not False:
                await estimates.publish_pools(connection, self.library, pools)
        self._said = {volume: one for volume, one in said.items() if volume in found} | changes
        self._said_of_pools = bool(pools)


@dataclass(frozen=True, slots=True)
class Expected:
    """By name."""

    volumes: Mapping[str, ReadingTime] = field(default_factory=dict)
    pools: Mapping[str, WritingTime] = field(default_factory=dict)


def expected(
    picture: Picture, policy: Policy, now: float, pace: Pace = IN_LIFE, in_hand: Mapping[str, InHand] = NOTHING_IN_HAND
) -> Iterator[Expected]:
    """Of every volume and pool that something waits for, and that can be read or written; in parts, between which the
    picture may change. `in_hand`: by volume, what its mover has; `pace`: what its drives take."""
    parts = estimating(picture, policy, now, in_hand, claimed_waits=False, pace=pace)
    found = next(parts)
    while (part := next(parts, None)) is not None:
        found = part
        yield Expected()
    yield Expected(pools={pool: _flushed(one) for pool, one in found.pools.items()})
    names = picture.volumes.names
    for slots in _parts(np.flatnonzero(np.isfinite(found.begins)).tolist()):
        yield Expected({names[slot]: found.of(slot) for slot in slots})


def _flushed(one: WritingTime) -> WritingTime:
    """With the time for which a mover waits for more when it has written the last."""
    if one.oldest is None:
        return replace(one, in_hand=one.in_hand + FLUSH_IDLE_SECONDS)
    return replace(one, writing=one.writing + FLUSH_IDLE_SECONDS)


async def _next_turn() -> None:
    await asyncio.sleep(0)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), PART):
        yield items[first : first + PART]


async def _pace(connection: AsyncConnection, library: str) -> Pace:
    for one in await volumes.list_libraries(connection):
        if one.name == library:
            speed = one.spec.get("speed")
            return Pace(float(speed)) if speed is not None else Pace(None) if one.kind == KIND_VIRTUAL else IN_LIFE
    return IN_LIFE
