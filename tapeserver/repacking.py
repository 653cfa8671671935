"""Long work on media carried on: repacks and audits step by step, and those begun that are due by age.

One of all tape servers does it, by lease; the rows in the catalog are all it knows, so that another goes on where it
stopped. Verifying and labelling are mounts of their own, which the planner plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import audits, fullindexes, maintenance, repacks, volumes
from catalog.audits import Limits, Step
from catalog.database import PLANNER, Database
from catalog.states import LibraryState
from tapeserver.config import Config
from tapeserver.leasedrounds import rounds_under_lease

log = structlog.get_logger(__name__)

WHO = "capstan"
LEASE = "maintenance"
#: of one piece of work in one round, so that the others have their turn
STEPS_MAX = 20
#: rows of what has ended are kept for so long
HISTORY_DAYS = 90.0

_Stepper = Callable[[AsyncConnection, int, Limits], Awaitable[Step]]


async def maintain_forever(database: Database, config: Config, closing: asyncio.Event) -> None:
    """Every tape server runs this, and the one with the lease works."""
    await rounds_under_lease(
        database, LEASE, config.name, lambda: one_round(database, config),
        lease_seconds=config.lease_seconds, round_seconds=config.maintenance_seconds, closing=closing,
    )  # fmt: skip


async def one_round(database: Database, config: Config) -> None:
    """Begin what is due, and carry everything on that is under way. Safe when two do it at once."""
    await _begin_due(database, config)
    limits = Limits(files_ahead=config.repack_files_ahead, bytes_ahead=config.repack_bytes_ahead)
    async with database.connection() as connection:
        libraries = [one.name for one in await volumes.list_libraries(connection)]
        work: list[tuple[_Stepper, int]] = [(repacks.step, id) for id in await repacks.live(connection, libraries)]
        work += [(audits.step, id) for id in await audits.live(connection)]
    for step, id in work:
        await _carry_on(database, step, id, limits)


async def _carry_on(database: Database, step: _Stepper, id: int, limits: Limits) -> None:
    for _ in range(STEPS_MAX):
        done = await database.run(lambda connection: step(connection, id, limits))
        if done.woke:
            database.wake(PLANNER)
        if not done.more:
            return


async def _begin_due(database: Database, config: Config) -> None:
    async def begin(connection: AsyncConnection) -> list[str]:
        begun = []
        if config.audit_hours > 0:
            for name in await audits.due(connection, hours=config.audit_hours):
                reason = f"not looked through for {config.audit_hours:g} hours"
                await audits.want_audit(connection, name, who=WHO, reason=reason)
                begun.append(f"audit of {name}")
        if config.verify_days > 0:
            waiting = len(await maintenance.listed(connection, kind="verify", live=True))
            up = [one.name for one in await volumes.list_libraries(connection) if one.state is LibraryState.UP]
            room = config.verify_volumes_ahead - waiting
            for vid in await maintenance.verifies_due(connection, up, days=config.verify_days, limit=room):
                reason = f"not read back for {config.verify_days:g} days"
                options = {} if config.verify_share >= 1 else {"share": config.verify_share}
                await maintenance.begin(connection, "verify", vid, who=WHO, reason=reason, options=options)
                begun.append(f"verify of {vid}")
        begun += [f"full index of {vid}" for vid in await fullindexes.carry_on(connection)]
        await maintenance.forget(connection, days=HISTORY_DAYS)
        return begun

    for one in await database.run(begin):
        log.info("maintenance begins by itself", work=one)
        database.wake(PLANNER)
