"""Waits on conditions, with an end: what tests do instead of sleeping for luck. Not a test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy as sa

from catalog.database import Database

T = TypeVar("T")
POLL_SECONDS = 0.02
_WAITS = sa.text(
    "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)


async def eventually(check: Callable[[], Awaitable[T]], *, seconds: float = 20.0) -> T:
    """The first true answer of `check`; AssertionError when there is none in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        answer = await check()
        if answer:
            return answer
        assert asyncio.get_running_loop().time() < deadline, f"not true within {seconds} s; last it was {answer!r}"
        await asyncio.sleep(POLL_SECONDS)


async def somebody_waits(database: Database) -> None:
    """Returns when a transaction of this database waits for a lock."""
    async with database.connection() as looking:
        await eventually(lambda: looking.scalar(_WAITS))
