"""Cache space promised to a transfer before it starts. The reservation's id becomes the replica's, and names the file.

Reserved and used space together never exceed a server's capacity: one guarded UPDATE decides. What a transfer makes
of its reservation is in `puts` and `replicas`; what is freed when there is none left is the cache server's evictor's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.database import CACHE, Database
from catalog.errors import NoSpace, WrongState
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("replicas").items()}
#: a cache server that has been silent longer does not count as live
HEARTBEAT_SECONDS_MAX = 15.0
RETRY_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    id: int
    cache_server: str
    url: str
    bytes: int
    #: of a recall: the file that will arrive
    file_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A reservation as its cache server sees it."""

    id: int
    bytes: int
    kind: str
    file_id: int | None
    epoch: int | None


async def reserve(
    connection: AsyncConnection,
    *,
    bytes: int,
    kind: Literal["put", "recall"],
    path: str | None = None,
    file: int | None = None,
    epoch: int | None = None,
    lifetime_seconds: float,
    server: str | None = None,
) -> Reservation:
    """Space for one file on the emptiest live server (or on `server`).

    Raises NoSpace. Its transaction is lost then, so the caller calls `report_refusal` afterwards: the evictor frees
    space for what was refused.
    """
    chosen = await _choose(connection, bytes, server)
    if chosen is None:
        raise NoSpace(bytes=bytes, why=await _why_no_space(connection, bytes), retry_after_seconds=RETRY_AFTER_SECONDS)
    id = await connection.scalar(
        _SQL["reserve"],
        {
            "server": chosen[0],
            "bytes": bytes,
            "kind": kind,
            "file": file,
            "epoch": epoch,
            "path": path,
            "lifetime_seconds": lifetime_seconds,
        },
    )
    return Reservation(id=int(id), cache_server=chosen[0], url=chosen[1], bytes=bytes, file_id=file)


async def reserve_recalls(
    connection: AsyncConnection,
    files: Sequence[tuple[int, int]],
    epoch: int,
    lifetime_seconds: float,
) -> list[Reservation]:
    """Space for (file id, size) in this order, all on one server: the longest prefix that fits there, maybe none.

    When not all fit, what is missing is noted for the evictor; wake CACHE after the commit.
    """
    if not files:
        return []
    # The server with room for the first one; without any, there is nothing to do but to ask for space.
    chosen = await _choose(connection, files[0][1], None)
    given = []
    if chosen is not None:
        rows = await connection.execute(
            _SQL["reserve_recalls"],
            {
                "server": chosen[0],
                "epoch": epoch,
                "files": [file for file, _ in files],
                "sizes": [size for _, size in files],
                "lifetime_seconds": lifetime_seconds,
            },
        )
        given = sorted(rows.all(), key=lambda row: int(row.id))
    if len(given) < len(files):
        await want_space(connection, bytes=files[len(given)][1], server=None)
    return [
        Reservation(id=row.id, cache_server=chosen[0], url=chosen[1], bytes=row.bytes, file_id=row.file)
        for row in given
        if chosen is not None
    ]


async def want_space(connection: AsyncConnection, *, bytes: int, server: str | None = None) -> None:
    """Note for the evictor that so many bytes were refused. The caller wakes CACHE after the commit."""
    await connection.execute(
        _SQL["want_space"],
        {"bytes": bytes, "server": server, "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX},
    )


async def report_refusal(database: Database, refusal: NoSpace) -> None:
    """After the transaction in which NoSpace was raised: ask the evictor for that much, and wake it."""
    async with database.transaction() as connection:
        await want_space(connection, bytes=int(refusal.arguments["bytes"]))
    database.wake(CACHE)


async def extend_reservation(
    connection: AsyncConnection, ids: Collection[int], *, lifetime_seconds: float
) -> frozenset[int]:
    """Keep them for so long from now on (never shorter than before); those that still exist."""
    if not ids:
        return frozenset()
    rows = await connection.execute(_SQL["extend"], {"ids": sorted(ids), "lifetime_seconds": lifetime_seconds})
    return frozenset(rows.scalars())


async def grow_reservation(connection: AsyncConnection, id: int, *, bytes: int) -> int:
    """Add `bytes`, for a transfer of unknown length; the size of the whole. Raises NoSpace, WrongState (it is gone)."""
    grown = await connection.scalar(_SQL["grow"], {"id": id, "bytes": bytes})
    if grown is not None:
        return int(grown)
    if await connection.scalar(sa.text("SELECT 1 FROM reservation WHERE id = :id"), {"id": id}) is None:
        raise WrongState(object=f"reservation {id}", state="gone", action="a transfer into it")
    raise NoSpace(bytes=bytes, why="the file grew beyond what was left", retry_after_seconds=RETRY_AFTER_SECONDS)


async def release_reservation(connection: AsyncConnection, ids: Collection[int]) -> list[int]:
    """Give the space back; the ids of those that were still reservations: nothing was made of them, nor will be.

    Waits for a commit that uses one at this moment, and then leaves that one out. Safe to repeat.
    """
    if not ids:
        return []
    await connection.execute(_SQL["lock_servers_of_reservations"], {"ids": sorted(ids)})
    return sorted((await connection.execute(_SQL["release"], {"ids": sorted(ids)})).scalars())


async def expired_reservations(connection: AsyncConnection, server: str, *, limit: int) -> list[int]:
    return list((await connection.execute(_SQL["expired_reservations"], {"server": server, "limit": limit})).scalars())


async def reservations_of(
    connection: AsyncConnection, server: str, *, epoch: int | None = None, ids: Collection[int] | None = None
) -> list[Promised]:
    """The reservations on a server: of one mount, of these ids, or all."""
    rows = await connection.execute(
        _SQL["reservations_of"],
        {"server": server, "epoch": epoch, "ids": None if ids is None else sorted(ids)},
    )
    return [Promised(id=row.id, bytes=row.bytes, kind=row.kind, file_id=row.file, epoch=row.epoch) for row in rows]


async def _choose(connection: AsyncConnection, bytes: int, server: str | None) -> tuple[str, str] | None:
    row = (
        await connection.execute(
            _SQL["choose_server"],
            {"bytes": bytes, "server": server, "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX},
        )
    ).one_or_none()
    return None if row is None else (row.name, row.url)


async def _why_no_space(connection: AsyncConnection, bytes: int) -> str:
    largest = await connection.scalar(
        sa.text(
            "SELECT max(capacity_bytes) FROM cache_server WHERE state = 'up'"
            " AND heartbeat_at > capstan_now() - make_interval(secs => :seconds)"
        ),
        {"seconds": HEARTBEAT_SECONDS_MAX},
    )
    if largest is None:
        return "none is up"
    return "all is in use" if bytes <= largest else f"the largest holds {largest}"
