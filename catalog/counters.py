"""How much waits, per volume and per pool: counters that are exact and never hot.

Who changes a queue inserts delta rows in his own transaction (the statements of `sql/queues.sql` do so); the
planner folds them here. Truth is folded + deltas. Nothing counts queue rows but `drift`, the reconciler.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.reservations import HEARTBEAT_SECONDS_MAX
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}
#: any number; it must only differ from the other advisory locks of the catalog
FOLD_LOCK = 0x0CA9_57A4_0001


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for one volume (recalls) or one pool (archives)."""

    kind: str
    #: the volume of a recall's demand, the pool of an archive
    key: str
    files: int
    bytes: int
    urgent: int
    #: of the oldest that may be served now; None when all of it waits for a back-off to end, or for a live cache server
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A counter that does not say what is there: said minus there."""

    kind: str
    key: str
    owner: str
    files: int
    bytes: int
    urgent: int


async def fold_deltas(connection: AsyncConnection, limit: int = 20_000) -> int:
    """Add up to `limit` deltas, oldest first, into the counters; how many. 0 also when another is folding now."""
    locked = await connection.scalar(sa.text("select pg_try_advisory_xact_lock(:lock)"), {"lock": FOLD_LOCK})
    if not locked:
        return 0
    folded = int(await connection.scalar(_SQL["deltas_fold"], {"limit": limit}) or 0)
    if folded:
        await connection.execute(_SQL["counters_clear_empty"])
    return folded


async def backlog(connection: AsyncConnection) -> list[Backlog]:
    """What waits now, every volume and pool with anything, in the order of their names."""
    rows = await connection.execute(_SQL["backlog"], {"heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX})
    return [
        Backlog(
            kind=row.kind,
            key=row.key,
            files=row.files,
            bytes=row.bytes,
            urgent=row.urgent,
            # A back-off lies in the future: not eligible yet.
            oldest_seconds=None if row.oldest_seconds is None or row.oldest_seconds < 0 else row.oldest_seconds,
        )
        for row in rows
    ]


async def drift(connection: AsyncConnection) -> list[Drift]:
    """Every counter that is not exact. Reads the whole queues: for the reconciler, at long intervals, and for tests."""
    rows = await connection.execute(_SQL["drift"])
    return [
        Drift(
            kind=row.kind,
            key=row.key,
            owner=row.owner,
            files=int(row.files),
            bytes=int(row.bytes),
            urgent=int(row.urgent),
        )
        for row in rows
    ]
