"""Media: libraries, drives, pools, volumes and storage classes; what there is and who may change its state.

The states of media and what follows from a change of them are in `catalog.volumestates`, giving up what is on a volume
in `catalog.reclaiming`, both offered here too. Nothing here moves a cartridge.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import audits, identity, tables
from catalog.columns import NOW
from catalog.errors import BadRequest, NotFound, UnknownStorageClass
from catalog.reclaiming import Reclaimed as Reclaimed
from catalog.reclaiming import clear_away as clear_away
from catalog.reclaiming import reclaim as reclaim
from catalog.reclaiming import relabel as relabel
from catalog.reclaiming import remove as remove
from catalog.sql import load
from catalog.states import DriveState, LibraryState, VolumeState
from catalog.volumestates import distrust as distrust
from catalog.volumestates import set_state as set_state

_SQL = {name: sa.text(statement) for name, statement in load("volumes").items()}
#: a drive that no tape server has reported for longer is not attached, unless the tape servers are told otherwise
DRIVE_HEARTBEAT_SECONDS_MAX = 30.0
COPIES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    name: str
    kind: str
    spec: dict[str, Any]
    state: LibraryState
    reason: str
    changed_by: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    name: str
    library: str
    state: DriveState
    reason: str
    changed_by: str
    since: datetime
    #: what an operator says that it is; "": as reported
    model: str
    #: what its library says; "": nothing
    reported_model: str
    tapeserver: str | None
    #: a live tape server has reported it lately
    attached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    vid: str
    library: str
    pool: str | None
    state: VolumeState
    reason: str
    changed_by: str
    since: datetime
    generation: int
    #: what an operator says that it is; "": as its library, or its capacity, tells
    medium: str
    capacity_bytes: int
    written_bytes: int
    block_size: int
    tape_files: int
    end_block: int
    end_verified: bool
    index_block: int
    indexed_tape_files: int
    full_at: datetime | None
    closed_at: datetime | None
    labelled_at: datetime | None
    written_at: datetime | None
    read_at: datetime | None
    verified_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    name: str
    copies: int
    pools: list[str]
    evict_degraded: bool
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVolume:
    vid: str
    library: str
    pool: str | None
    capacity_bytes: int
    block_size: int = 262144
    #: 0: blank; 1 and more: labelled already with this generation, empty, its next tape file at `end_block`
    generation: int = 0
    end_block: int = 0


# ------------------------------------------------------------------ what there is


async def create_library(connection: AsyncConnection, *, name: str, kind: str, spec: Mapping[str, Any]) -> None:
    """Add a library, or give a known one a new spec (its directory or device may have moved)."""
    statement = insert(tables.library).values(name=name, kind=kind, spec=dict(spec))
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"kind": kind, "spec": dict(spec)})
    )


async def create_drive(connection: AsyncConnection, *, name: str, library: str) -> None:
    """Add a drive; a known one stays as it is."""
    await connection.execute(insert(tables.drive).values(name=name, library=library).on_conflict_do_nothing())


async def create_pool(connection: AsyncConnection, *, name: str, library: str) -> None:
    """Add a pool; a known one stays as it is."""
    await connection.execute(insert(tables.pool).values(name=name, library=library).on_conflict_do_nothing())


async def create_volumes(connection: AsyncConnection, volumes: Sequence[NewVolume]) -> int:
    """Add volumes, blank or freshly labelled ones; known ones stay as they are. How many are new."""
    if not volumes:
        return 0
    values = [
        {
            "vid": one.vid,
            "library": one.library,
            "pool": one.pool,
            "capacity_bytes": one.capacity_bytes,
            "block_size": one.block_size,
            "generation": one.generation,
            "end_block": one.end_block,
            "state": (VolumeState.ACTIVE if one.generation else VolumeState.BLANK).value,
        }
        for one in volumes
    ]
    return (await connection.execute(insert(tables.volume).values(values).on_conflict_do_nothing())).rowcount


async def create_storage_class(
    connection: AsyncConnection,
    *,
    name: str,
    copies: int,
    pools: Sequence[str],
    evict_degraded: bool = False,
    is_default: bool = False,
) -> None:
    """Add a storage class; a known one stays as it is. Raises BadRequest when its pools cannot hold its copies."""
    await _check_pools(connection, name, copies, pools)
    await connection.execute(
        insert(tables.storage_class)
        .values(name=name, copies=copies, pools=list(pools), evict_degraded=evict_degraded, is_default=is_default)
        .on_conflict_do_nothing()
    )


async def change_storage_class(
    connection: AsyncConnection,
    name: str,
    *,
    who: str,
    reason: str,
    copies: int | None = None,
    pools: Sequence[str] | None = None,
    evict_degraded: bool | None = None,
) -> int | None:
    """Change what a class asks for; None leaves it. When copies or pools change, an audit makes what is missing of the
    files it has: its id. Copies that are more than wanted stay. Raises UnknownStorageClass, BadRequest, ReasonRequired.
    """
    reason = identity.reason_given(reason, object=f"storage class {name}")
    present = next((one for one in await list_storage_classes(connection) if one.name == name), None)
    if present is None:
        raise await _unknown_class(connection, name)
    copies = present.copies if copies is None else copies
    pools = list(present.pools if pools is None else pools)
    await _check_pools(connection, name, copies, pools)
    values = {
        "copies": copies,
        "pools": pools,
        "evict_degraded": present.evict_degraded if evict_degraded is None else evict_degraded,
    }
    await connection.execute(tables.storage_class.update().where(tables.storage_class.c.name == name).values(values))
    await identity.audit(connection, who=who, action="storage class changed", object=name, reason=reason, detail=values)
    if (copies, pools) == (present.copies, present.pools):
        return None
    return await audits.want_audit(connection, name, who=who, reason=reason)


async def list_libraries(connection: AsyncConnection) -> list[Library]:
    rows = (await connection.execute(_select(tables.library, Library).order_by(tables.library.c.name))).mappings()
    return [Library(**{**row, "state": LibraryState(row["state"])}) for row in rows]


async def list_drives(
    connection: AsyncConnection,
    *,
    library: str | None = None,
    silence_seconds_max: float = DRIVE_HEARTBEAT_SECONDS_MAX,
) -> list[Drive]:
    """By name; one whose holder has been silent for longer is not attached."""
    drive = tables.drive
    silence = sa.func.make_interval(0, 0, 0, 0, 0, 0, silence_seconds_max)
    attached = sa.func.coalesce(drive.c.heartbeat_at > sa.func.capstan_now() - silence, False)
    names = [name for name in Drive.__dataclass_fields__ if name != "attached"]
    query = sa.select(*(drive.c[name] for name in names), attached.label("attached")).order_by(drive.c.name)
    if library is not None:
        query = query.where(drive.c.library == library)
    rows = (await connection.execute(query)).mappings()
    return [Drive(**{**row, "state": DriveState(row["state"])}) for row in rows]


async def list_pools(connection: AsyncConnection) -> list[tuple[str, str]]:
    """(pool, library), by name."""
    pool = tables.pool
    rows = await connection.execute(sa.select(pool.c.name, pool.c.library).order_by(pool.c.name))
    return [(row.name, row.library) for row in rows]


async def list_volumes(
    connection: AsyncConnection,
    *,
    library: str | None = None,
    pool: str | None = None,
    vids: Collection[str] | None = None,
    after: str = "",
    limit: int = 10_000,
) -> list[Volume]:
    """Volumes by name, behind `after`, at most `limit`."""
    volume = tables.volume
    query = _select(volume, Volume).where(volume.c.vid > after).order_by(volume.c.vid).limit(limit)
    if library is not None:
        query = query.where(volume.c.library == library)
    if pool is not None:
        query = query.where(volume.c.pool == pool)
    if vids is not None:
        query = query.where(volume.c.vid.in_(list(vids)))
    rows = (await connection.execute(query)).mappings()
    return [Volume(**{**row, "state": VolumeState(row["state"])}) for row in rows]


async def volume_at(connection: AsyncConnection, vid: str) -> Volume:
    """Raises NotFound."""
    found = await list_volumes(connection, vids=[vid])
    if not found:
        raise NotFound(what=f"volume {vid}")
    return found[0]


async def list_storage_classes(connection: AsyncConnection) -> list[StorageClass]:
    query = _select(tables.storage_class, StorageClass).order_by(tables.storage_class.c.name)
    return [StorageClass(**row) for row in (await connection.execute(query)).mappings()]


async def writable_volumes(
    connection: AsyncConnection, pools: Sequence[str], *, limit: int = 16
) -> dict[str, list[str]]:
    """pool -> volumes that may take its archives, mounted ones too, best first, at most `limit` each."""
    rows = await connection.execute(_SQL["writable"], {"pools": list(pools), "limit": limit})
    found: dict[str, list[str]] = {pool: [] for pool in pools}
    for row in rows:
        found[row.for_pool].append(row.vid)
    return found


# ------------------------------------------------------------------ what changes


async def hold_drive(
    connection: AsyncConnection,
    drive: str,
    tapeserver: str,
    *,
    silence_seconds_max: float = DRIVE_HEARTBEAT_SECONDS_MAX,
) -> bool:
    """Whether the drive is this tape server's now: its own already, nobody's, or of one that has fallen silent."""
    holder = await connection.scalar(sa.select(tables.drive.c.tapeserver).where(tables.drive.c.name == drive))
    if holder == tapeserver:
        return True
    arguments = {"drive": drive, "tapeserver": tapeserver, "seconds_max": silence_seconds_max}
    return await connection.scalar(_SQL["hold_drive"], arguments) is not None


async def attach_drives(connection: AsyncConnection, drives: Sequence[str], tapeserver: str) -> None:
    """A tape server's heartbeat for the drives that it can use now; those that another holds are left alone."""
    await connection.execute(_SQL["attach_drives"], {"drives": sorted(drives), "tapeserver": tapeserver})


async def labelled(
    connection: AsyncConnection, volume: str, *, generation: int, end_block: int, pool: str | None = None
) -> bool:
    """A label of this generation was written and flushed; False when the volume is not one that may be labelled."""
    arguments = {"volume": volume, "generation": generation, "end_block": end_block, "pool": pool}
    return await connection.scalar(_SQL["labelled"], arguments) is not None


async def was_read(connection: AsyncConnection, volume: str) -> None:
    """Something on it has been read in this mount, for users or to verify it."""
    await connection.execute(tables.volume.update().where(tables.volume.c.vid == volume).values(read_at=NOW))


async def _check_pools(connection: AsyncConnection, name: str, copies: int, pools: Sequence[str]) -> None:
    libraries = (
        await connection.scalars(sa.select(tables.pool.c.library).where(tables.pool.c.name.in_(list(pools))))
    ).all()
    if not 1 <= copies <= COPIES_MAX or len(libraries) != len(set(pools)) or len(set(libraries)) < copies:
        raise BadRequest(
            why=f"storage class {name} wants {copies} copies, each in a library of its own, in known pools"
        )


async def _unknown_class(connection: AsyncConnection, name: str) -> UnknownStorageClass:
    known = [one.name for one in await list_storage_classes(connection)]
    return UnknownStorageClass(name=name, known=", ".join(known))


def _select(table: sa.Table, shape: Any) -> sa.Select[Any]:
    return sa.select(*(table.c[name] for name in shape.__dataclass_fields__))
