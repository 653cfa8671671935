"""The loop that resolves stage requests: paths become files, files on disk are pinned, others get their recall.

A chunk of each waiting request in turn, so that one of a million files does not hold up one of ten. Any number of
doors run it; a request is in one chunk at a time. It also looks, slowly, for items whose recall has gone, and for
rows of purged files that nobody needs.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import recycle, staging
from catalog.database import EVENTS, PLANNER, QUEUES, Database
from catalog.errors import CapstanError

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
RECONCILE_SECONDS = 5.0
FORGET_SECONDS = 60.0
_PAUSE_AFTER_ERROR_SECONDS = 1.0


async def resolve_forever(database: Database) -> None:
    """Until cancelled. Errors are logged and tried again."""
    progress: dict[int, int] = {}
    loop = asyncio.get_running_loop()
    reconciled_at = forgot_at = loop.time()
    behind = 0
    async with database.listen([PLANNER, QUEUES]) as wakeups:
        while True:
            try:
                worked = await resolve_round(database, progress)
                if loop.time() - reconciled_at > RECONCILE_SECONDS or behind:
                    behind = await reconcile(database, behind)
                    reconciled_at = loop.time()
                if loop.time() - forgot_at > FORGET_SECONDS:
                    await database.run(recycle.forget)
                    forgot_at = loop.time()
            except Exception as error:
                # The loop must outlive any error: requests would be stuck without it.
                log.warning("resolving failed", why=str(error), exc_info=not isinstance(error, CapstanError))
                await asyncio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                continue
            if not worked:
                await wakeups.wait([PLANNER, QUEUES], POLL_SECONDS)


async def resolve_round(database: Database, progress: dict[int, int]) -> bool:
    """One chunk of each unresolved request; whether there was any. `progress`: request -> item to go on behind."""
    after, worked, seen = 0, False, set()
    while True:
        found = await database.run(partial(_resolve_next, after=after, progress=progress))
        if found is None:
            break
        after, following = found
        seen.add(after)
        worked = True
        if following is None:
            progress.pop(after, None)
        else:
            progress[after] = following
        database.wake(QUEUES)
        database.wake(EVENTS)
    for request_id in progress.keys() - seen:
        del progress[request_id]
    return worked


async def reconcile(database: Database, after: int) -> int:
    """One window of the slow look; where to go on, 0 at the end."""
    following = await database.run(partial(staging.reconcile, after=after))
    return following or 0


async def _resolve_next(
    connection: AsyncConnection, after: int, progress: dict[int, int]
) -> tuple[int, int | None] | None:
    request_id = await staging.next_unresolved(connection, after)
    if request_id is None:
        return None
    return request_id, await staging.resolve_chunk(connection, request_id, after=progress.get(request_id, 0))
