"""A lease as its holder keeps it: taken, renewed in time, and believed in no longer than is safe.

By the holder's own monotonic clock, with a margin. What is done under it says so with `leases.guard`.
"""

from __future__ import annotations

import asyncio

import structlog

from catalog import leases
from catalog.database import Database
from catalog.leases import Lease

log = structlog.get_logger(__name__)

#: a holder stops believing in its lease this part of it before the end
LEASE_MARGIN = 0.3


class HeldLease:
    """A lease as its holder sees it: by his own monotonic clock, counted from before the renewal was sent."""

    def __init__(self, database: Database, name: str, holder: str, *, seconds: float) -> None:
        self._database, self._name, self._holder, self._seconds = database, name, holder, seconds
        self._lease: Lease | None = None
        self._sure_until = 0.0
        #: of holding: two at once would take the lease from each other
        self._holding = asyncio.Lock()

    async def held(self) -> Lease | None:
        """As `hold`, but not renewed while it may be acted upon: for who cannot wait, and has another renew it in time.
        A renewal waits for all that is being written under the lease, and for the disk."""
        return self._lease if self.sure else await self.hold()

    async def hold(self) -> Lease | None:
        """The lease, taken or renewed when it is time; None when another has it. Raises CatalogUnreachable."""
        async with self._holding:
            return await self._hold()

    async def _hold(self) -> Lease | None:
        now = asyncio.get_running_loop().time()
        if self._lease is not None and now < self._sure_until - self._seconds / 2:
            return self._lease
        async with self._database.transaction() as connection:
            held = self._lease
            if held is None or not await leases.renew(connection, held, seconds=self._seconds):
                held = await leases.acquire(connection, self._name, self._holder, seconds=self._seconds)
        # Not before the commit: one that was lost on its way has prolonged nothing.
        if held is not None:
            self._sure_until = now + self._seconds * (1 - LEASE_MARGIN)
            if held != self._lease:
                log.info("lease taken", lease=self._name, number=held.number)
        self._lease = held
        return held

    @property
    def sure(self) -> bool:
        """Whether it may still be acted upon."""
        return self._lease is not None and asyncio.get_running_loop().time() < self._sure_until

    async def release(self) -> None:
        if self._lease is not None:
            async with self._database.transaction() as connection:
                await leases.release(connection, self._lease)
            self._lease = None
