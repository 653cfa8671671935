"""Replicas: a file's data on a cache server. Arrival, use, eviction, loss. All change of their state is here.

Servers are in `cacheservers`, space in `reservations`, leases in `pins`; their names are offered here too, because
callers mean one thing by them: the disk. This module asks no disk; the cache server does what is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, events, identity, queues, stage_items, usage
from catalog.cacheservers import (
    CacheServer,
    WrongRoot,
    heartbeat_server,
    live_servers,
    recount,
    register_server,
    servers,
    take_wanted,
)
from catalog.pins import expire_pins, pin, renew, unpin
from catalog.reservations import (
    HEARTBEAT_SECONDS_MAX,
    DrawnIds,
    Promised,
    Reservation,
    abandon,
    expired_reservations,
    extend_reservation,
    grow_reservation,
    release_reservation,
    report_refusal,
    reservations_of,
    reserve,
    reserve_recalls,
    unreached,
    want_space,
)
from catalog.sql import load

__all__ = [
    "HEARTBEAT_SECONDS_MAX",
    "CacheServer",
    "Candidate",
    "Catalogued",
    "DrawnIds",
    "Evicted",
    "Eviction",
    "Promised",
    "Recalled",
    "ReplicaPlace",
    "Reservation",
    "WrongRoot",
    "abandon",
    "catalogued",
    "commit_recalled",
    "doubt",
    "evict",
    "evicting",
    "eviction_candidates",
    "expire_pins",
    "expired_reservations",
    "extend_reservation",
    "forget_evicted",
    "found_again",
    "grow_reservation",
    "heartbeat_server",
    "live_servers",
    "mark_absent",
    "mark_checked",
    "path_in_root",
    "pin",
    "quarantine",
    "recount",
    "register_server",
    "release_reservation",
    "renew",
    "replica_for_read",
    "replicas_by_id",
    "report_refusal",
    "reservations_of",
    "reserve",
    "reserve_recalls",
    "servers",
    "take_wanted",
    "unpin",
    "unreached",
    "want_space",
]  # fmt: skip

_SQL = {name: sa.text(statement) for name, statement in load("replicas").items()}
EVICT_LIMIT = 10_000


def path_in_root(replica_id: int) -> str:
    """Where a replica's bytes are below its cache server's root; two levels of 256 directories, evenly filled.

    Ids that follow each other share a directory: a new one for each small file would cost more than the file.
    """
    return f"replicas/{replica_id >> 16 & 0xFF:02x}/{replica_id >> 8 & 0xFF:02x}/{replica_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlace:
    replica_id: int
    file_id: int
    size: int
    cache_server: str
    url: str
    host: str
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    reservation_id: int
    file_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogued:
    """A replica's row with what its bytes must be."""

    id: int
    file_id: int
    state: str
    size: int
    origin: str
    adler32: str
    #: false: to be checksummed before use
    checked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica that may go, by what was known when it was read; `evict` asks again."""

    id: int
    size: int
    last_used_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    id: int
    file_id: int
    cache_server: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    evicted: list[Evicted]
    #: (file id, why it stays)
    kept: list[tuple[int, str]]


async def replica_for_read(connection: AsyncConnection, file_id: int) -> ReplicaPlace | None:
    """A replica on a live cache server, or None. Its age starts anew, written at most once a minute."""
    row = (
        await connection.execute(
            _SQL["replica_for_read"], {"file": file_id, "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}
        )
    ).one_or_none()
    if row is None:
        return None
    if row.touch:
        await connection.execute(_SQL["touch"], {"id": row.id})
    return ReplicaPlace(
        replica_id=row.id,
        file_id=row.file,
        size=row.size,
        cache_server=row.cache_server,
        url=row.url,
        host=row.host,
        root=row.root,
    )


async def commit_recalled(
    connection: AsyncConnection, arrivals: Sequence[Recalled], *, epoch: int | None = None
) -> list[int]:
    """Acknowledged arrivals become replicas; recalls end, waiters are told and pinned; the file ids that arrived.

    `epoch`: the mount that read them; its progress is counted, and its drive's time charged to who asked for them.

    One set-based step. An arrival whose reservation is gone (released with its mount, or expired) is not in the
    answer: its recall stays as it is. The caller has fenced its epoch, and wakes PLANNER and EVENTS after the commit.
    """
    if not arrivals:
        return []
    ids = [arrival.reservation_id for arrival in sorted(arrivals, key=lambda arrival: arrival.reservation_id)]
    files = [arrival.file_id for arrival in sorted(arrivals, key=lambda arrival: arrival.reservation_id)]
    states = (await connection.execute(_SQL["lock_files_of_arrivals"], {"files": sorted(files)})).all()
    await connection.execute(_SQL["lock_servers_of_reservations"], {"ids": ids})
    await connection.execute(_SQL["drop_lost"], {"ids": ids})
    arrived = list((await connection.execute(_SQL["arrive"], {"ids": ids, "files": files})).scalars())
    deleted = {row.id for row in states if row.state != "live"}
    if deleted:
        await connection.execute(_SQL["evict_arrivals_of_deleted"], {"ids": ids, "files": sorted(deleted)})
    if arrived:
        # Before the recalls, or a cancel, which holds its request, would meet this in a deadlock.
        await stage_items.lock_requests(connection, arrived)
        if epoch is not None:
            await usage.count_read(connection, epoch, arrived)
        await queues.finish_recalls(connection, arrived)
        await stage_items.complete_items(connection, [file for file in arrived if file not in deleted])
        await archives.repair_arrivals(connection, [file for file in arrived if file not in deleted])
        await events.emit_many(
            connection, [("file.on_disk", str(file), {"file_id": file}) for file in arrived if file not in deleted]
        )
    return arrived


async def eviction_candidates(connection: AsyncConnection, server: str, *, limit: int) -> list[Candidate]:
    """Replicas that could go now, the longest unused first."""
    rows = await connection.execute(_SQL["eviction_candidates"], {"server": server, "limit": limit})
    return [Candidate(id=row.id, size=row.size, last_used_at=row.last_used_at) for row in rows]


async def evict(
    connection: AsyncConnection,
    *,
    server: str | None = None,
    replica_ids: Collection[int] | None = None,
    file_ids: Collection[int] | None = None,
    limit: int = EVICT_LIMIT,
    why: str = "evicted",
) -> Eviction:
    """Let go of the chosen replicas that are safe, unpinned and not asked for; the others stay, with the reason.

    They are EVICTING from the commit on; their cache servers unlink them (wake CACHE) and then `forget_evicted`.
    """
    chosen = {
        "server": server,
        "ids": None if replica_ids is None else sorted(set(replica_ids)),
        "files": None if file_ids is None else sorted(set(file_ids)),
        "limit": limit,
    }
    locked = list((await connection.execute(_SQL["lock_victims"], chosen)).scalars())
    rows = (await connection.execute(_SQL["evict"], {"ids": locked, "why": why})).all() if locked else []
    evicted = [Evicted(id=row.id, file_id=row.file, cache_server=row.cache_server, size=row.size) for row in rows]
    kept = await connection.execute(_SQL["why_kept"], chosen)
    return Eviction(evicted=evicted, kept=[(row.file, row.why) for row in kept])


async def evicting(connection: AsyncConnection, server: str, *, limit: int) -> list[int]:
    """Replica ids that the server has to unlink."""
    return list((await connection.execute(_SQL["evicting"], {"server": server, "limit": limit})).scalars())


async def forget_evicted(connection: AsyncConnection, replica_ids: Collection[int]) -> dict[int, int]:
    """Their bytes are unlinked: the rows go, the space is free. Those that went, with their bytes."""
    if not replica_ids:
        return {}
    ids = {"ids": sorted(replica_ids)}
    await connection.execute(_SQL["lock_servers_of_replicas"], ids)
    return {row.id: row.size for row in await connection.execute(_SQL["forget_evicted"], ids)}


async def mark_absent(connection: AsyncConnection, replica_id: int, why: str) -> bool:
    """The disk does not have this replica. True when that lost the file's only bytes: LOST, an event and an audit line.

    When the file is safe, or removed, only the row goes, and the file can be recalled.
    """
    # Locked before it is asked whether the file is safe: what makes it unsafe meanwhile is seen, or waits for us.
    await connection.execute(_SQL["lock_servers_of_replicas"], {"ids": [replica_id]})
    if await connection.scalar(_SQL["lock_absent"], {"id": replica_id}) is None:
        return False
    row = (await connection.execute(_SQL["absent"], {"id": replica_id})).one()
    if row.safe or row.file_state != "live" or row.state == "evicting":
        await connection.execute(_SQL["drop_absent"], {"id": replica_id})
        await events.emit(connection, "replica.gone", str(row.file), {"file_id": row.file, "why": why})
        return False
    if await connection.scalar(_SQL["mark_lost"], {"id": replica_id, "why": why}) is None:
        return False
    await _alarm(connection, "replica.lost", row.file, row.stored_path, row.cache_server, replica_id, why)
    return True


async def doubt(connection: AsyncConnection, replica_ids: Collection[int]) -> None:
    """Their bytes may not be what they were: no process is told their path before they were checksummed."""
    if replica_ids:
        await connection.execute(_SQL["doubt"], {"ids": sorted(replica_ids)})


async def mark_checked(connection: AsyncConnection, replica_ids: Collection[int]) -> None:
    """Their bytes were compared with the catalog's checksum, and fit."""
    if replica_ids:
        await connection.execute(_SQL["mark_checked"], {"ids": sorted(replica_ids)})


async def found_again(connection: AsyncConnection, replica_id: int) -> bool:
    """The bytes of a LOST replica are there after all, and were checked."""
    return await connection.scalar(_SQL["found_again"], {"id": replica_id}) is not None


async def quarantine(connection: AsyncConnection, replica_id: int, why: str) -> bool:
    """Never serve these bytes again: they differ from the catalog's checksum. Wake CACHE: they are put aside."""
    row = (await connection.execute(_SQL["quarantine"], {"id": replica_id, "why": why})).one_or_none()
    if row is None:
        return False
    path = await connection.scalar(sa.text("SELECT stored_path FROM file WHERE id = :id"), {"id": row.file})
    await _alarm(connection, "replica.quarantined", row.file, str(path), row.cache_server, replica_id, why)
    return True


async def catalogued(connection: AsyncConnection, server: str, *, after: int, limit: int) -> list[Catalogued]:
    """The server's replicas in all states, in pages by id."""
    return await _catalogued(connection, "catalogued", {"server": server, "after": after, "limit": limit})


async def replicas_by_id(connection: AsyncConnection, server: str, ids: Collection[int]) -> list[Catalogued]:
    """Those of these replicas that the server has a row of."""
    return await _catalogued(connection, "replicas_by_id", {"server": server, "ids": sorted(set(ids))})


async def _catalogued(connection: AsyncConnection, name: str, values: dict[str, object]) -> list[Catalogued]:
    return [
        Catalogued(
            id=row.id,
            file_id=row.file,
            state=row.state,
            size=row.size,
            origin=row.origin,
            adler32=row.adler32,
            checked=row.checked,
        )
        for row in await connection.execute(_SQL[name], values)
    ]


async def _alarm(
    connection: AsyncConnection, kind: str, file: int, path: str, server: str, replica_id: int, why: str
) -> None:
    detail = {"file_id": file, "replica_id": replica_id, "cache_server": server, "why": why}
    await events.emit(connection, kind, path, detail)
    await identity.audit(connection, who=f"cacheserver:{server}", action=kind, object=path, reason=why, detail=detail)
