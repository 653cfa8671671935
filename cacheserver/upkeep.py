"""What a cache server does without being asked: it says that it lives, keeps promises alive, and makes room.

Which replicas go is the evictor's (pure) and the catalog's to say; this module asks them, unlinks, and reports.
Nothing here may stop a transfer: whatever fails is logged and tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from cacheserver.evictable import Evictable
from cacheserver.evictor import Usage, bytes_to_free, victims
from cacheserver.service import Service
from catalog import replicas
from catalog.attempts import attempt
from catalog.cacheservers import server_named
from catalog.database import CACHE, EVENTS, PLANNER, SESSIONS
from catalog.wakeups import Wakeups

log = structlog.get_logger(__name__)
#: replicas looked at, and unlinked, in one transaction
BATCH = 1_000
#: after work that failed
RETRY_SECONDS = 0.5
#: a sweep ends after so many batches and begins anew, so that other work of the loop gets its turn
BATCHES_MAX = 100


class Upkeep:
    def __init__(self, service: Service) -> None:
        self._service = service
        self.evictable = Evictable(service)
        self._extended_at = 0.0
        #: for tests and `/healthz`: how often a whole sweep was done
        self.sweeps = 0
        self._sweeping = asyncio.Lock()

    # ---------------------------------------------------------------- loops

    async def beat_for_ever(self) -> None:
        await self._for_ever("heartbeat", self.beat, lambda: asyncio.sleep(self._service.config.heartbeat_seconds))

    async def sweep_for_ever(self) -> None:
        async with self._service.database.listen([CACHE]) as wakeups:
            await self._for_ever("sweep", self.sweep, lambda: self._until_wanted(wakeups))

    async def _until_wanted(self, wakeups: Wakeups) -> None:
        waits = [
            asyncio.create_task(wakeups.wait(CACHE, self._service.config.sweep_seconds)),
            asyncio.create_task(self._service.trouble.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _for_ever(
        self, name: str, work: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            if not await attempt(name, work):
                await asyncio.sleep(RETRY_SECONDS)
            await pause()

    # ---------------------------------------------------------------- heartbeat

    async def beat(self) -> None:
        """Say that it lives, learn the catalog's time, and keep the reservations of transfers under way."""
        service, asked_at = self._service, time.monotonic()
        if not await service.look_at_root():
            # Silent, this server is no longer live, and nobody is sent to it.
            return
        async with service.database.transaction() as connection:
            evictable_bytes = self.evictable.bytes
            heartbeat = await replicas.heartbeat_server(connection, service.name, evictable_bytes=evictable_bytes)
        if heartbeat is None:
            log.error("the catalog does not know this cache server any more", name=service.name)
            return
        service.set_clock(heartbeat.now_epoch_seconds, asked_at=asked_at)
        if time.monotonic() - self._extended_at > service.config.reservation_seconds / 4:
            async with service.database.transaction() as connection:
                kept = set(service.active)
                for epoch in list(service.bulk_streams):
                    found = await replicas.reservations_of(connection, service.name, epoch=epoch)
                    kept |= {one.id for one in found}
                await replicas.extend_reservation(connection, kept, lifetime_seconds=service.config.reservation_seconds)
            self._extended_at = time.monotonic()

    # ---------------------------------------------------------------- room

    async def sweep(self) -> None:
        """Report what is absent, unlink what may go, free what is wanted, end what has run out."""
        async with self._sweeping:
            await self._report_absent()
            await self._unlink_evicting()
            await self._make_room()
            await self._end_expired()
            self.sweeps += 1

    async def _report_absent(self) -> None:
        self._service.trouble.clear()
        while self._service.absent:
            replica_id = self._service.absent.pop()
            if self._service.store.size_of(replica_id) is None:
                await report_absent(self._service, replica_id)

    async def _make_room(self) -> None:
        service = self._service
        async with service.database.transaction() as connection:
            wanted = await replicas.take_wanted(connection, service.name)
            server = await server_named(connection, service.name)
        if server is None:
            return
        missing = bytes_to_free(
            Usage(
                capacity_bytes=server.capacity_bytes,
                used_bytes=server.used_bytes,
                reserved_bytes=server.reserved_bytes,
                wanted_bytes=wanted,
                high=server.high,
                low=server.low,
            )
        )
        for _ in range(BATCHES_MAX):
            if missing <= 0:
                break
            async with service.database.transaction() as connection:
                candidates = await replicas.eviction_candidates(connection, service.name, limit=BATCH)
                chosen = victims(candidates, missing)
                if not chosen:
                    break
                eviction = await replicas.evict(connection, replica_ids=chosen)
            if not eviction.evicted:
                break
            missing -= sum(one.size for one in eviction.evicted)
            await self._unlink_evicting()
        if missing > 0:
            log.info("less room than wanted", missing_bytes=missing, wanted_bytes=wanted)

    async def _unlink_evicting(self) -> None:
        """Also what a removed file left, and what an earlier run decided."""
        service = self._service
        for _ in range(BATCHES_MAX):
            async with service.database.connection() as connection:
                ids = await replicas.evicting(connection, service.name, limit=BATCH)
            if not ids:
                return
            await service.on_disk(_unlink, service, ids)
            async with service.database.transaction() as connection:
                gone = await replicas.forget_evicted(connection, ids)
            self.evictable.gone(gone)
            service.unverified.difference_update(ids)
            service.metrics.evicted_files.inc(len(ids))
            log.info("replicas evicted", files=len(ids))
            for channel in (PLANNER, SESSIONS, EVENTS):
                service.database.wake(channel)

    async def _end_expired(self) -> None:
        """Reservations that nobody has used in time, with what was left of their transfers; and pins that are over."""
        service = self._service
        async with service.database.transaction() as connection:
            await replicas.expire_pins(connection, limit=BATCH)
            found = set(await replicas.expired_reservations(connection, service.name, limit=BATCH)) - service.active
            # What was committed since they were read is not among these: its bytes are a replica's.
            expired = await replicas.abandon(connection, found)
        if not expired:
            return
        # The bytes go first: a stop in between leaves a reservation that is looked at again, no bytes that none counts.
        service.forget_arrivals(expired)
        await service.on_disk(_unlink, service, sorted(expired))
        async with service.database.transaction() as connection:
            ended = await replicas.release_reservation(connection, expired)
        log.info("reservations ended", count=len(ended))
        service.database.wake(PLANNER)
        service.database.wake(SESSIONS)


async def report_absent(service: Service, replica_id: int) -> None:
    """Tell the catalog that the disk lacks this replica; lost ones are counted and logged loudly.

    Not while the root is away, and not what is there when it is asked between two looks at the root.
    """
    if not await service.look_at_root() or service.store.size_of(replica_id) is not None:
        return
    if not await service.look_at_root():
        return
    async with service.database.transaction() as connection:
        lost = await replicas.mark_absent(connection, replica_id, f"not on the disk of {service.name}")
    service.unverified.discard(replica_id)
    if lost:
        service.metrics.lost_files.inc()
        log.error("a file is LOST: its only bytes are gone", replica=replica_id)
    service.database.wake(EVENTS)
    service.database.wake(PLANNER)


def _unlink(service: Service, ids: list[int]) -> None:
    for replica_id in ids:
        service.store.remove(replica_id)
        service.store.remove_quarantined(replica_id)
