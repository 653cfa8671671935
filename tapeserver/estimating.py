"""Publishes what one planner expects: its picture is run forward now and then, and what has changed is written.

It works nothing out itself (`tapeserver.estimates` does), and stands in no decision's way: whoever holds the planner's
lease calls `publish` beside the decisions, as often as it likes.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import estimates, leases, volumes
from catalog.database import Database
from catalog.leases import Lease
from catalog.model import ReadingTime
from tapeserver.estimates import estimate
from tapeserver.planner import Picture, Policy

#: estimates are made at most so often, and left alone for so much longer than it took to make them
ESTIMATE_SECONDS, ESTIMATE_SHARE = 3.0, 50.0
#: but are confirmed before doors stop believing them
ESTIMATE_SECONDS_MAX = estimates.LOOK_SECONDS_MAX / 3
#: a library that is not there in life takes no time of its own, and what there is, nobody knows
KIND_VIRTUAL = "virtual"


class Estimating:
    """Of one library, for its planner."""

    def __init__(self, database: Database, library: str) -> None:
        self._database, self.library = database, library
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
        began = loop.time()
        found = {} if self._speed is None else expected(picture, policy, now, self._speed)
        rest = max(ESTIMATE_SECONDS, ESTIMATE_SHARE * (loop.time() - began))
        self._due = loop.time() + min(rest, ESTIMATE_SECONDS_MAX)
        await self._write(found, now, lease)
        return True

    async def _write(self, found: dict[str, ReadingTime], now: float, lease: Lease) -> None:
        said = self._said or {}
        changes, gone = estimates.changed(said, found, now), said.keys() - found.keys()
        if not found and not gone:
            return
        # Committed or not: until it is known, it is read again.
        self._said = None
        async with self._database.transaction() as connection:
            if not await leases.guard(connection, lease):
                return
            await estimates.publish(connection, self.library, changes, gone=gone)
        self._said = {volume: one for volume, one in said.items() if volume in found} | changes


def expected(picture: Picture, policy: Policy, now: float, speed: float = 1.0) -> dict[str, ReadingTime]:
    """By name, of every volume that something waits for and that can be read; a library may be faster than life."""
    found = estimate(picture, policy, now)
    names = picture.volumes.names
    return {
        names[slot]: ReadingTime(now + (one.begins - now) / speed, one.reading / speed, one.files, one.mounted)
        for slot in picture.volumes.wanted()
        if (one := found.of(slot)).begins < float("inf")
    }


async def _speed(connection: AsyncConnection, library: str) -> float | None:
    for one in await volumes.list_libraries(connection):
        if one.name == library:
            speed = one.spec.get("speed")
            if speed is None:
                return None if one.kind == KIND_VIRTUAL else 1.0
            return float(speed)
    return None
