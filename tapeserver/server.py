"""The tape server as a process: database, door, movers, planning and housekeeping, all in one task group.

Puts the parts together and ends them in order; each part knows its own work. On `stop` the sessions are asked to stop,
and after `shutdown_seconds` whatever still runs is cancelled: the catalog and the tapes allow that at any instant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from catalog import volumes
from catalog.database import SESSIONS, Database
from catalog.errors import BadConfig, CatalogUnreachable
from client.serving import listen, url_at
from tapeserver.backing_up import backup_forever
from tapeserver.config import Config
from tapeserver.door import DoorContext, make_app, resolve_forever
from tapeserver.drives import DriveLoop
from tapeserver.heartbeat import Heartbeat
from tapeserver.housekeeping import Housekeeping
from tapeserver.journaling import journal_forever
from tapeserver.planning import PLANNING_CHANNELS, PlanningLoop
from tapeserver.repacking import maintain_forever

log = structlog.get_logger(__name__)

RING_SECONDS_MAX = 5.0
CATALOG_WAIT_SECONDS = 60.0


async def serve(config: Config, *, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Run until `stop` is set; `ready` is called with the door's port. Raises BadConfig, CatalogUnreachable."""
    closing = asyncio.Event()
    async with Database(
        config.database_url,
        connections_max=config.database_connections_max,
        application_name=config.name,
        # What this one holds locked must be free when another may take its drives.
        idle_in_transaction_seconds_max=config.drive_silence_seconds,
    ) as database:
        drives = [DriveLoop(database, config, name, closing=closing) for name in await _drive_names(database, config)]
        planning = PlanningLoop(database, config, closing=closing)
        context = DoorContext(
            database=database,
            name=config.name,
            site_name=config.site_name,
            get_pin_seconds=config.get_pin_seconds,
            stage_priority_max=config.stage_priority_max,
            recycle_days=config.recycle_days,
            reclaim_needs_backup=config.reclaim_needs_backup,
            movers=lambda: {loop.drive: loop.mover_answers for loop in drives},
        )
        listener = await listen(make_app(context), host=config.host, port=config.port)
        try:
            housekeeping = Housekeeping(database, config, drives, lambda: planning.planned_libraries, closing=closing)
            heartbeat = Heartbeat(
                database,
                config,
                drives,
                lambda: planning.planned_libraries,
                url=url_at(config.host, listener.port),
                closing=closing,
            )
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(loop.run(), name=f"drive-{loop.drive}") for loop in drives]
                loops.append(group.create_task(planning.run(), name="planning"))
                loops.append(group.create_task(housekeeping.run(), name="housekeeping"))
                loops.append(group.create_task(heartbeat.run(), name="heartbeat"))
                loops.append(group.create_task(journal_forever(database, config, closing), name="journal"))
                loops.append(group.create_task(maintain_forever(database, config, closing), name="maintenance"))
                loops.append(group.create_task(backup_forever(database, config, closing), name="backup"))
                helpers = [
                    group.create_task(resolve_forever(database), name="resolver"),
                    group.create_task(_ring(database, drives, planning), name="bells"),
                ]
                ready(listener.port)
                log.info(
                    "tape server ready", name=config.name, port=listener.port, drives=[one.drive for one in drives]
                )
                await stop.wait()
                await _end(config, closing, drives, planning, loops, helpers)
        finally:
            await listener.close()
    log.info("tape server ended", name=config.name)


async def _end(
    config: Config,
    closing: asyncio.Event,
    drives: Sequence[DriveLoop],
    planning: PlanningLoop,
    loops: Sequence[asyncio.Task[None]],
    helpers: Sequence[asyncio.Task[None]],
) -> None:
    closing.set()
    for loop in drives:
        loop.bell.set()
    planning.bell.set()
    _, late = await asyncio.wait(loops, timeout=config.shutdown_seconds)
    for task in (*late, *helpers):
        # Crash-safe anyway: what was not committed is queued again by whoever comes next.
        task.cancel()
    for task in (*late, *helpers):
        with suppress(asyncio.CancelledError):
            await task


async def _drive_names(database: Database, config: Config) -> list[str]:
    """The drives of this host. Waits for the catalog a while: it may be starting too."""
    deadline = asyncio.get_running_loop().time() + CATALOG_WAIT_SECONDS
    while True:
        try:
            async with database.connection() as connection:
                known = {one.name: one.library for one in await volumes.list_drives(connection)}
            break
        except CatalogUnreachable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
    if config.drives is None:
        return sorted(known)
    for drive in config.drives:
        if known.get(drive.name) != drive.library:
            raise BadConfig(source="tapeserver.drives", why=f"library {drive.library} has no drive {drive.name}")
    return sorted(drive.name for drive in config.drives)


async def _ring(database: Database, drives: Sequence[DriveLoop], planning: PlanningLoop) -> None:
    """One listener for all: a wake-up rings every loop, which then looks for itself."""
    channels = [*PLANNING_CHANNELS, SESSIONS]
    async with database.listen(channels) as wakeups:
        while True:
            planning.heard(await wakeups.wait(channels, RING_SECONDS_MAX))
            for loop in drives:
                loop.bell.set()
