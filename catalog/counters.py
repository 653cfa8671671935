"""How much waits, per volume and per pool: counters that are exact and never hot.

Who changes a queue inserts delta rows in his own transaction (the statements of `sql/queues.sql` do so); the
planner of a library folds them here, and learns from them. Truth is folded + deltas. Nothing counts queue rows but
`drift`, the reconciler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.reservations import HEARTBEAT_SECONDS_MAX
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}
#: any number below 2^31; it must only differ from the other advisory locks of the catalog that have two keys
FOLD_LOCK = 0x0CA9_57A4


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
class Change:
    """What has come to a counter, or gone from it (below zero); or all that it says."""

    kind: str
    #: as in `Backlog`
    key: str
    owner: str
    group: str
    activity: str
    priority: int
    #: what is of use only together has the same; 0: alone
    cohort: int
    #: deltas that make up this change
    deltas: int
    files: int
    bytes: int
    urgent: int
    #: the sum of the times at which the recalls were asked for, in whole seconds since 1970
    asked: int
    #: what has come, without what has gone: the change says the difference
    came_files: int
    came_bytes: int
    came_asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A counter that does not say what is there: said minus there."""

    kind: str
    key: str
    owner: str
    cohort: int
    files: int
    bytes: int
    urgent: int
    asked: int


async def lock_folds(connection: AsyncConnection, library: str) -> bool:
    """Nobody folds deltas of this library until the transaction ends; False when somebody is doing it now."""
    locks = {"lock": FOLD_LOCK, "library": library}
    taken = await connection.scalar(sa.text("select pg_try_advisory_xact_lock(:lock, hashtext(:library))"), locks)
    return bool(taken)


async def fold_deltas(connection: AsyncConnection, library: str, limit: int = 20_000) -> list[Change] | None:
    """Add up to `limit` deltas of the library, oldest first, into the counters; what they came to, a row a counter.

    None when another is folding them now. Who keeps a picture of the counters adds what he is given once the
    transaction has committed, and begins anew with `counters` when he cannot know whether it has.
    """
    if not await lock_folds(connection, library):
        return None
    folded = _changes(await connection.execute(_SQL["deltas_fold"], {"limit": limit, "library": library}))
    if any(one.files < one.came_files for one in folded):
        await connection.execute(_SQL["counters_clear_empty"])
    return folded


async def counters(
    connection: AsyncConnection, library: str, *, after: Change | None = None, limit: int = 10_000_000
) -> list[Change]:
    """What is folded of one library, in the order of keys; `after`: the last one of the page before."""
    key = ("", "", "", "", "", -32768, 0) if after is None else _key(after)
    names = ("kind", "key", "owner", "grp", "activity", "priority", "cohort")
    arguments = {"library": library, "limit": limit, **dict(zip(names, key, strict=True))}
    return _changes(await connection.execute(_SQL["counters"], arguments))


def _key(one: Change) -> tuple[str, str, str, str, str, int, int]:
    return one.kind, one.key, one.owner, one.group, one.activity, one.priority, one.cohort


def _changes(rows: Iterable[sa.Row[tuple[object, ...]]]) -> list[Change]:
    return [
        Change(
            kind=row.kind,
            key=row.key,
            owner=row.owner,
            group=row.grp,
            activity=row.activity,
            priority=row.priority,
            cohort=row.cohort,
            deltas=row.deltas,
            files=row.files,
            bytes=row.bytes,
            urgent=row.urgent,
            asked=row.asked,
            came_files=row.came_files,
            came_bytes=row.came_bytes,
            came_asked=row.came_asked,
        )
        for row in rows
    ]


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
            cohort=row.cohort,
            files=int(row.files),
            bytes=int(row.bytes),
            urgent=int(row.urgent),
            asked=int(row.asked),
        )
        for row in rows
    ]
