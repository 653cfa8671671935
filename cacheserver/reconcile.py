"""Disk against catalog: at the start, and every hour. Nothing unknown is adopted, nothing unsafe is forgotten.

* a file without a row: its transfer was never answered for: removed with its reservation, if that is still there to
  say so, else put aside in quarantine/
* a row without a file: the row goes when the file is safe, else it is LOST, loudly
* after an unclean stop recalled replicas are checksummed before use: here in the background, or at their first GET
* after a restore of the catalog from a backup all replicas are: the root remembers which life it was compared with
* while the root does not show its identity nothing is compared: a disk that is not mounted has lost nothing
* the number that guards the space is counted anew; a difference is a fault of ours and is shown

The order matters: the disk is listed first and the rows are read later, so that whatever is younger than the listing
is looked at twice before anything is done about it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection

import structlog

from cacheserver.checksums import adler32_of
from cacheserver.service import Service
from cacheserver.upkeep import report_absent
from catalog import events, replicas
from catalog.attempts import attempt
from catalog.errors import Unavailable
from catalog.replicas import Catalogued

log = structlog.get_logger(__name__)
PAGE = 5_000
#: between looks whether the catalog was restored
INCARNATION_SECONDS = 10.0


async def reconcile(service: Service, *, at_start: bool, was_clean: bool = True) -> None:
    """One whole comparison. `at_start`: nothing is under way yet, so whatever is in incoming/ is worth nothing."""
    if not await service.look_at_root():
        raise Unavailable(what=f"the disk of {service.name}", why=f"{service.store.root} does not show its identity")
    incarnation, is_new_life = await _incarnation(service)
    if at_start:
        await _drop_leftovers(service)
    present = await service.on_disk(lambda: dict(service.store.listing()))
    unknown = set(present)
    after = 0
    while True:
        async with service.database.connection() as connection:
            page = await replicas.catalogued(connection, service.name, after=after, limit=PAGE)
        if not page:
            break
        after = page[-1].id
        on_disk = [row for row in page if row.state == "on_disk"]
        doubtful = {row.id for row in on_disk if is_new_life or (not was_clean and row.origin == "recall")}
        async with service.database.transaction() as connection:
            await replicas.doubt(connection, doubtful)
        service.unverified |= doubtful | {row.id for row in on_disk if at_start and not row.checked}
        for row in page:
            await _compare(service, row, present.get(row.id))
        unknown.difference_update(row.id for row in page)
    await _clear_unknown(service, unknown)
    async with service.database.transaction() as connection:
        drift = await replicas.recount(connection, service.name)
    if drift.taken_bytes:
        service.metrics.drift_bytes.inc(abs(drift.taken_bytes))
        log.error("space was counted wrongly", taken_bytes=drift.taken_bytes)
    service.metrics.unverified.set(len(service.unverified))
    if incarnation != await service.on_disk(service.store.incarnation) and await service.look_at_root():
        await service.on_disk(service.store.remember_incarnation, incarnation)
    log.info("disk and catalog compared", files=len(present), unknown=len(unknown), unverified=len(service.unverified))


async def reconcile_for_ever(service: Service) -> None:
    """Every hour, and soon after the catalog was restored under a server that goes on."""
    next_at = time.monotonic() + service.config.reconcile_seconds

    async def compare() -> None:
        nonlocal next_at
        if time.monotonic() >= next_at or (await _incarnation(service))[1]:
            next_at = time.monotonic() + service.config.reconcile_seconds
            await reconcile(service, at_start=False)
            await verify_all(service)

    while True:
        await asyncio.sleep(min(service.config.reconcile_seconds, INCARNATION_SECONDS))
        await attempt("compare disk and catalog", compare)


async def verify_all(service: Service) -> None:
    """Checksum what an unclean stop made doubtful, in the background; a GET that comes first checks by itself."""
    while service.unverified or service.verified:
        if not await service.look_at_root():
            raise Unavailable(what=f"the disk of {service.name}", why="its root is away")
        done = set(service.verified)
        async with service.database.transaction() as connection:
            await replicas.mark_checked(connection, done)
        service.verified -= done
        async with service.database.connection() as connection:
            page = await replicas.replicas_by_id(connection, service.name, sorted(service.unverified)[:100])
        known = {row.id for row in page if row.state == "on_disk"}
        service.unverified.difference_update(id for id in sorted(service.unverified)[:100] if id not in known)
        for row in page:
            if row.id in service.unverified and row.id in known:
                await verify(service, row)
        service.metrics.unverified.set(len(service.unverified))


async def verify(service: Service, row: Catalogued) -> None:
    try:
        found = await service.on_disk(_adler32, service, row.id)
    except FileNotFoundError:
        await report_absent(service, row.id)
        return
    if found != row.adler32:
        await put_aside(service, row.id, f"adler32 is {found}, not {row.adler32}, after an unclean stop")
        service.unverified.discard(row.id)
    service.is_verified(row.id)
    service.metrics.verified_files.inc()


async def put_aside(service: Service, replica_id: int, why: str) -> None:
    """Quarantine a catalogued replica: the row first, so that nobody is sent to it any more."""
    async with service.database.transaction() as connection:
        await replicas.quarantine(connection, replica_id, why)
    await service.on_disk(service.store.put_aside, replica_id)
    service.metrics.quarantined_files.labels("damaged").inc()
    log.error("a replica is damaged", replica=replica_id, why=why)


async def _incarnation(service: Service) -> tuple[str, bool]:
    """The catalog's, and whether the root was last compared with another one."""
    async with service.database.connection() as connection:
        present = (await events.present(connection)).incarnation
    seen = await service.on_disk(service.store.incarnation)
    return present, seen is not None and seen != present


async def _compare(service: Service, row: Catalogued, size: int | None) -> None:
    if size is None:
        # Perhaps younger than the listing.
        size = service.store.size_of(row.id)
    match row.state:
        case "on_disk" if size is None:
            await report_absent(service, row.id)
        case "on_disk" if size != row.size:
            await put_aside(service, row.id, f"it has {size} bytes, not {row.size}")
        case "quarantined" if size is not None:
            await service.on_disk(service.store.put_aside, row.id)
        case "lost" if size == row.size and await service.on_disk(_adler32, service, row.id) == row.adler32:
            async with service.database.transaction() as connection:
                await replicas.found_again(connection, row.id)
            log.warning("a lost file is back", replica=row.id)


async def _drop_leftovers(service: Service) -> None:
    """incoming/ after a stop, with the reservations that it was for."""
    leftovers = await service.on_disk(service.store.leftovers)
    if not leftovers:
        return
    async with service.database.transaction() as connection:
        await replicas.release_reservation(connection, {id for id, _ in leftovers})
    for _, path in leftovers:
        await service.on_disk(service.store.disk.unlink, path)
    log.info("unfinished transfers dropped", files=len(leftovers))


async def _clear_unknown(service: Service, unknown: Collection[int]) -> None:
    """Files that no row spoke of a moment ago: asked for again, now that the listing is old."""
    pages = sorted(unknown)
    for start in range(0, len(pages), PAGE):
        ids = pages[start : start + PAGE]
        async with service.database.connection() as connection:
            promised = {one.id: one for one in await replicas.reservations_of(connection, service.name, ids=ids)}
            rows = await replicas.replicas_by_id(connection, service.name, ids)
        left = set(ids) - {row.id for row in rows} - service.active
        # A mover's arrival waits for its session's commit; it ends with its reservation.
        left -= {one.id for one in promised.values() if one.kind == "recall"}
        # A PUT that was published and not committed: its client was never told that it is stored. The next sweep
        # removes its bytes, and then its reservation.
        async with service.database.transaction() as connection:
            await replicas.abandon(connection, left & promised.keys())
        left -= promised.keys()
        async with service.database.connection() as connection:
            left -= {row.id for row in await replicas.replicas_by_id(connection, service.name, left)}
        for replica_id in sorted(left):
            if service.store.size_of(replica_id) is not None:
                await service.on_disk(service.store.put_aside, replica_id)
                service.metrics.quarantined_files.labels("unknown").inc()
                log.warning("an unknown file was put aside", replica=replica_id)


def _adler32(service: Service, replica_id: int) -> str:
    descriptor = service.store.open(replica_id)
    try:
        return adler32_of(descriptor)
    finally:
        os.close(descriptor)
