"""Cache space promised to a transfer before it starts. The reservation's id becomes the replica's, and names the file.

Space is charged once, when it is reserved: one guarded UPDATE decides, and a reservation that becomes a replica of its
size changes the server's row no more. What a transfer makes of its reservation is in `puts` and `replicas`; what is
freed when there is no space left is the cache server's evictor's.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
#: recalls go to others so long after a mover could not give a server a file; that it cannot is noted at most so often
UNREACHED_SECONDS, UNREACHED_AGAIN_SECONDS = 300.0, 5.0
#: drawn at once; those that a process has not used when it ends are never used
IDS_DRAWN = 256
#: a server that was filled by others while it was chosen is chosen anew so often
_CHOICES_MAX = 3


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


class DrawnIds:
    """Ids for reservations, drawn in blocks that are on disk before the first is handed out.

    A reservation whose commit is not waited for may be lost in a crash of the catalog, and with it the number that the
    sequence had come to: the same id would be given to somebody else while its first owner still holds a signed URL.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._drawn: deque[int] = deque()
        self._lock = asyncio.Lock()

    async def next(self) -> int:
        async with self._lock:
            if not self._drawn:
                async with self._database.transaction() as connection:
                    drawn = (await connection.execute(_SQL["draw_ids"], {"number": IDS_DRAWN})).scalars().all()
                self._drawn.extend(drawn)
            return self._drawn.popleft()


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
    id: int | None = None,
) -> Reservation:
    """Space for one file on the emptiest live server (or on `server`).

    With an `id` from `DrawnIds` the commit does not wait for the disk: a crash of the catalog may take the reservation
    back, as its expiry would, and who wanted to use it is refused. Only for transactions that promise nothing else.
    Raises NoSpace. Its transaction is lost then, so the caller calls `report_refusal` afterwards: the evictor frees
    space for what was refused.
    """
    wanted = {
        "id": id,
        "server": server,
        "bytes": bytes,
        "kind": kind,
        "file": file,
        "epoch": epoch,
        "path": path,
        "lifetime_seconds": lifetime_seconds,
        "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX,
    }
    for _ in range(_CHOICES_MAX):
        row = (await connection.execute(_SQL["reserve"], wanted)).one_or_none()
        if row is not None:
            break
    else:
        raise NoSpace(bytes=bytes, why=await _why_no_space(connection, bytes), retry_after_seconds=RETRY_AFTER_SECONDS)
    return Reservation(id=row.id, cache_server=row.name, url=row.url, bytes=bytes, file_id=file)


async def reserve_recalls(
    connection: AsyncConnection,
    files: Sequence[tuple[int, int]],
    epoch: int,
    lifetime_seconds: float,
) -> list[Reservation]:
    """Space for (file id, size) in this order, all on one server: the longest prefix that fits there, maybe none.

    The emptiest, but one that movers could not reach lately (`unreached`) only when no other has room for the first.
    When not all fit, what is missing is noted for the evictor; wake CACHE after the commit.
    """
    if not files:
        return []
    # The server with room for the first one; without any, there is nothing to do but to ask for space.
    first = {
        "bytes": files[0][1],
        "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX,
        "unreached_seconds": UNREACHED_SECONDS,
    }
    chosen = (await connection.execute(_SQL["choose_server"], first)).one_or_none()
    given = []
    if chosen is not None:
        rows = await connection.execute(
            _SQL["reserve_recalls"],
            {
                "server": chosen.name,
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
        Reservation(id=row.id, cache_server=chosen.name, url=chosen.url, bytes=row.bytes, file_id=row.file)
        for row in given
        if chosen is not None
    ]


async def unreached(connection: AsyncConnection, server: str) -> bool:
    """A mover could not give it a file, though its heartbeat is fresh; whether that is news.

    Recalls go elsewhere for UNREACHED_SECONDS, or until it starts anew. In a transaction of its own: others that hold
    what recalls lock wait for this row.
    """
    arguments = {"server": server, "again_seconds": UNREACHED_AGAIN_SECONDS}
    return (await connection.execute(_SQL["unreached"], arguments)).rowcount > 0


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

    Only when no bytes can be on the disk for them; see `abandon`. Waits for a commit that uses one at this moment, and
    then leaves that one out. Safe to repeat.
    """
    if not ids:
        return []
    await connection.execute(_SQL["lock_servers_of_reservations"], {"ids": sorted(ids)})
    return sorted((await connection.execute(_SQL["release"], {"ids": sorted(ids)})).scalars())


async def abandon(connection: AsyncConnection, ids: Collection[int]) -> frozenset[int]:
    """Nothing comes of these any more, but bytes may lie on the disk: they run out, and their cache server ends them.

    The ids of those that were still reservations: of the others something was made, or they are gone. For everybody;
    only the cache server itself releases them then, when it has removed the bytes, so that no byte stays on a disk
    without anybody counting it. Wake CACHE after the commit. Safe to repeat.
    """
    if not ids:
        return frozenset()
    return frozenset((await connection.execute(_SQL["abandon"], {"ids": sorted(ids)})).scalars())


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
