"""Publishes what one planner expects: its picture is run forward now and then, and what has changed is written.

It works nothing out itself (`tapeserver.estimates` does), and stands in no decision's way: whoever holds the planner's
lease calls `publish` beside the decisions, as often as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import estimates, leases, volumes
from catalog.database import Database
from catalog.leases import Lease
from catalog.model import ReadingTime
from tapeserver.estimates import estimating
from tapeserver.planner import Picture, Policy

#: estimates are made at most so often, and left alone for so much longer than it took to make them
ESTIMATE_SECONDS, ESTIMATE_SHARE = 3.0, 50.0
#: but are confirmed before doors stop believing them
ESTIMATE_SECONDS_MAX = estimates.LOOK_SECONDS_MAX / 3
#: volumes that are gone through before others have the loop
PART = 200
#: a library that is not there in life takes no time of its own, and what there is, nobody knows
KIND_VIRTUAL = "virtual"

T = TypeVar("T")


class Estimating:
    """Of one library, for its planner."""

    def __init__(self, database: Database, library: str, breathe: Callable[[], Awaitable[None]] | None = None) -> None:
        self._database, self.library = database, library
        #: called between pieces of work: others have the loop there
        self._breathe = breathe or _next_turn
        self._lease: Lease | None = None
        #: how many times faster than in life; None: times are not known
        self._speed: float | None = None
        #: what stands in the catalog; None: nobody knows
        self._said: dict[str, ReadingTime] | None = None
        self._due = 0.0

    async def publish(self, picture: Picture, policy: Policy, lease: Lease) -> bool:
        """Whether anything was looked at: not before it is time. Raises CatalogUnreachable."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due and lease == self._lease:
            return False
        async with self._database.connection() as connection:
            if lease != self._lease or self._said is None:
                self._speed = await _speed(connection, self.library)
                self._said = await estimates.said(connection, self.library)
                self._lease = lease
            now = await leases.clock(connection)
        found = dict[str, ReadingTime]()
        if self._speed is not None:
            spent, began = 0.0, loop.time()
            for part in expected(picture, policy, now, self._speed):
                found |= part
                spent += loop.time() - began
                await self._breathe()
                began = loop.time()
            self._due = loop.time() + min(max(ESTIMATE_SECONDS, ESTIMATE_SHARE * spent), ESTIMATE_SECONDS_MAX)
        else:
            self._due = loop.time() + ESTIMATE_SECONDS_MAX
        await self._write(found, now, lease)
        return True

    async def _write(self, found: dict[str, ReadingTime], now: float, lease: Lease) -> None:
        said = self._said or {}
        changes, gone = dict[str, ReadingTime](), said.keys() - found.keys()
        for part in _parts(list(found)):
            changes |= estimates.changed(said, {volume: found[volume] for volume in part}, now)
            await self._breathe()
        if not found and not gone:
            return
        # Committed or not: until it is known, it is read again.
        self._said = None
        async with self._database.transaction() as connection:
            if not await leases.guard(connection, lease):
                return
            await estimates.publish(connection, self.library, changes, gone=gone)
        self._said = {volume: one for volume, one in said.items() if volume in found} | changes


def expected(picture: Picture, policy: Policy, now: float, speed: float = 1.0) -> Iterator[Mapping[str, ReadingTime]]:
    """By name, of every volume that something waits for and that can be read; in parts, between which it may change.

    A library may be `speed` times faster than life.
    """
    parts = estimating(picture, policy, now)
    found = next(parts)
    while (part := next(parts, None)) is not None:
        found = part
        yield {}
    names = picture.volumes.names
    for slots in _parts(np.flatnonzero(np.isfinite(found.begins)).tolist()):
        times = [(names[slot], found.of(slot)) for slot in slots]
        yield {
            name: ReadingTime(now + (one.begins - now) / speed, one.reading / speed, one.files, one.mounted)
            for name, one in times
        }


async def _next_turn() -> None:
    await asyncio.sleep(0)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), PART):
        yield items[first : first + PART]


async def _speed(connection: AsyncConnection, library: str) -> float | None:
    for one in await volumes.list_libraries(connection):
        if one.name == library:
            speed = one.spec.get("speed")
            if speed is None:
                return None if one.kind == KIND_VIRTUAL else 1.0
            return float(speed)
    return None
