"""Media: libraries, drives, pools, volumes and storage classes; what there is and who may change its state.

Every change of state goes through `set_state`: checked against the machine, with a reason, audited, and with all that
follows from it in the same transaction. Nothing here moves a cartridge.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, endings, events, identity, mounts, recalls, tables
from catalog.errors import BadRequest, NotFound, UnknownStorageClass
from catalog.sql import load
from catalog.states import GOOD_VOLUME_STATES, DriveState, LibraryState, VolumeState, advance

_SQL = {name: sa.text(statement) for name, statement in load("volumes").items()}
#: a drive that no tape server has reported for longer is not attached, unless the tape servers are told otherwise
DRIVE_HEARTBEAT_SECONDS_MAX = 30.0
_GONE = frozenset({VolumeState.BROKEN, VolumeState.EXPORTED})
_STOPPED = frozenset({VolumeState.DISABLED, VolumeState.SUSPECT, *_GONE})


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
    capacity_bytes: int
    written_bytes: int
    block_size: int
    tape_files: int
    end_block: int
    end_verified: bool
    full_at: datetime | None


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
    libraries = (
        await connection.scalars(sa.select(tables.pool.c.library).where(tables.pool.c.name.in_(list(pools))))
    ).all()
    if len(libraries) != len(set(pools)) or len(set(libraries)) < copies:
        raise BadRequest(
            why=f"storage class {name} wants {copies} copies, each in a library of its own, in known pools"
        )
    await connection.execute(
        insert(tables.storage_class)
        .values(name=name, copies=copies, pools=list(pools), evict_degraded=evict_degraded, is_default=is_default)
        .on_conflict_do_nothing()
    )


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


async def largest_volume_bytes(connection: AsyncConnection, storage_class: str) -> int:
    """Nominal capacity of the largest volume that a file of this class may go to whole, in each of its pools.

    0 when a class has no volumes at all. Raises UnknownStorageClass.
    """
    pools = await connection.scalar(
        sa.select(tables.storage_class.c.pools).where(tables.storage_class.c.name == storage_class)
    )
    if pools is None:
        known = [one.name for one in await list_storage_classes(connection)]
        raise UnknownStorageClass(name=storage_class, known=", ".join(known))
    volume = tables.volume
    query = sa.select(sa.func.max(volume.c.capacity_bytes)).where(volume.c.pool.in_(pools))
    return int(await connection.scalar(query) or 0)


async def writable_volumes(
    connection: AsyncConnection, pools: Sequence[str], *, limit: int = 16
) -> dict[str, list[str]]:
    """pool -> volumes that are not mounted and may take its archives, best first, at most `limit` each."""
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


async def set_state(connection: AsyncConnection, kind: str, name: str, wanted: str, *, who: str, reason: str) -> bool:
    """Move a library, drive or volume to `wanted`, with all that follows from it; False when it was there already.

    A volume may also be "enabled": back from disabled or suspect to what it was. Mounts concerned are asked to stop.
    The caller wakes PLANNER and SESSIONS. Raises NotFound, WrongState, ReasonRequired, BadRequest.
    """
    if kind not in ("library", "drive", "volume"):
        raise BadRequest(why=f"{kind!r} has no state that can be set")
    reason = identity.reason_given(reason, object=f"{kind} {name}")
    row = (await connection.execute(_SQL[f"lock_{kind}"], {"name": name})).one_or_none()
    if row is None:
        raise NotFound(what=f"{kind} {name}")
    target = _target(kind, wanted, row)
    if target == row.state:
        return False
    advance(kind, _state_of(kind, row.state), _state_of(kind, target), object=f"{kind} {name}")
    arguments = {"name": name, "state": target, "reason": "" if _is_good(kind, target) else reason, "who": who}
    await connection.execute(_SQL[f"move_{kind}"], arguments)
    if kind == "volume":
        await _volume_moved(connection, name, VolumeState(row.state), VolumeState(target), reason)
    elif target != "up":
        await mounts.want_stop(connection, f"{kind} {target}: {reason}", **{kind: name})
    detail = {"from": row.state, "to": target}
    await identity.audit(connection, who=who, action=f"{kind} {target}", object=name, reason=reason, detail=detail)
    await events.emit(connection, f"{kind}.state", name, {**detail, "reason": reason, "who": who})
    return True


async def _volume_moved(
    connection: AsyncConnection, name: str, present: VolumeState, target: VolumeState, reason: str
) -> None:
    if target in _STOPPED:
        await mounts.want_stop(connection, f"volume {target}: {reason}", volume=name)
    if target in _GONE:
        await endings.copies_gone(connection, name)
    elif present in _GONE:
        await recalls.offer_volume(connection, name)
    if present in GOOD_VOLUME_STATES and target not in GOOD_VOLUME_STATES:
        # In this very transaction its files are no longer safe; those still on disk are written again.
        await archives.repair_copies_of(connection, name)


def _target(kind: str, wanted: str, row: sa.Row[Any]) -> str:
    states = {"library": LibraryState, "drive": DriveState, "volume": VolumeState}[kind]
    if kind == "volume" and wanted == "enabled":
        if row.state not in (VolumeState.DISABLED, VolumeState.SUSPECT):
            return str(row.state)
        if row.generation == 0:
            return VolumeState.BLANK.value
        return (VolumeState.FULL if row.full_at is not None else VolumeState.ACTIVE).value
    if wanted not in list(states):
        known = ", ".join([*states, *(["enabled"] if kind == "volume" else [])])
        raise BadRequest(why=f"{wanted!r} is not a state of a {kind}; known are {known}")
    return wanted


def _state_of(kind: str, state: str) -> LibraryState | DriveState | VolumeState:
    if kind == "library":
        return LibraryState(state)
    return DriveState(state) if kind == "drive" else VolumeState(state)


def _is_good(kind: str, state: str) -> bool:
    return state in ("up", "active", "blank")


def _select(table: sa.Table, shape: Any) -> sa.Select[Any]:
    return sa.select(*(table.c[name] for name in shape.__dataclass_fields__))
