"""Giving up what is on a volume: reclaim, relabel, and a volume that leaves for good.

Refused while anything that somebody may want back lies on it: a live file, a file removed lately, or one that a backup
of this catalog still believes to be there. What is given up is gone with one commit, before which `clear_away` may have
taken most of it in small ones; the cartridge is overwritten only by the next label, whose generation is higher. Nothing
here writes on a tape.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, events, identity, maintenance, maintenancerows, tables
from catalog.database import Database
from catalog.errors import NotFound, NotReclaimable, WrongState
from catalog.maintenancerows import SQL
from catalog.states import VolumeState
from catalog.units import show_seconds

#: of a removed file, when nobody says otherwise
RECYCLE_DAYS = 30.0
#: rows of files deleted by one statement
FORGOTTEN_AT_ONCE = 10_000
_RECLAIMABLE = frozenset({VolumeState.FULL, VolumeState.CLOSED, VolumeState.REPACKING, VolumeState.DISABLED})
#: what may be relabelled as well, when nothing is on it
_EMPTY = frozenset({VolumeState.BLANK, VolumeState.ACTIVE})


UNVERIFIED = (
    "the catalog was restored or rebuilt, and nobody has looked since where the data on it ends; "
    "an idle drive does that by itself once the volume is closed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimed:
    volume: str
    #: copies that are gone
    copies: int
    #: files of which nothing is left anywhere
    files: int


async def reclaim(
    connection: AsyncConnection,
    vid: str,
    *,
    who: str,
    reason: str,
    recycle_days: float = RECYCLE_DAYS,
    needs_backup: bool = True,
) -> Reclaimed:
    """Make a full, closed, repacked or disabled volume blank again; what lay on it is nobody's any more.

    The caller wakes PLANNER. Raises NotFound, WrongState, NotReclaimable (what is in the way, and how much of it),
    ReasonRequired.
    """
    return await _empty(connection, vid, _RECLAIMABLE, "a reclaim", who, reason, recycle_days, needs_backup)


async def clear_away(
    database: Database,
    vid: str,
    *,
    recycle_days: float = RECYCLE_DAYS,
    needs_backup: bool = True,
    files_max: int = FORGOTTEN_AT_ONCE,
) -> int:
    """Forget what nobody may want back of a volume that is about to be reclaimed or relabelled, in transactions of so
    many files, so that the reclaim itself is a short one; how many copies went.

    Asks what a reclaim asks before it begins, and what it takes, a reclaim would. May be broken off at any time, and
    begun again. Raises as `reclaim`.
    """

    async def begin(connection: AsyncConnection) -> sa.Row[Any] | None:
        if (await _lock(connection, vid)).state in _EMPTY:
            return None
        # Each step locks its own files and asks again who may want them back: all of them at once would stop everybody.
        await _reclaimable(connection, vid, _RECLAIMABLE, "a reclaim", recycle_days, needs_backup, hold_files=False)
        return (await connection.execute(SQL["last_to_leave"], {"volume": vid})).one_or_none()

    last = await database.run(begin)
    if last is None or last.deleted_at is None:
        return 0
    chosen = {"recycle_seconds": recycle_days * 86400, "last_at": last.deleted_at, "last_id": last.id}
    after = {"generation": -1, "first_block": -1, "byte_offset": -1, "file": -1}

    async def step(connection: AsyncConnection) -> tuple[int, sa.Row[Any] | None]:
        await _lock_allowed(connection, vid, _RECLAIMABLE, "a reclaim")
        found = (await connection.execute(SQL["reclaim_window"], {"volume": vid, "limit": files_max, **after})).all()
        wanted = {"files": sorted({one.file for one in found}), **chosen}
        files = list((await connection.scalars(SQL["lock_given_up"], wanted)).all())
        gone = (await connection.execute(SQL["drop_copies"], {"volume": vid, "files": files})).rowcount
        await connection.execute(SQL["forget_files"], {"files": files})
        return gone, found[-1] if len(found) == files_max else None

    gone = 0
    while True:
        dropped, position = await database.run(step)
        gone += dropped
        if position is None:
            return gone
        after = {name: getattr(position, name) for name in after}


async def in_the_way(
    connection: AsyncConnection, vid: str, *, recycle_days: float = RECYCLE_DAYS, needs_backup: bool = True
) -> str | None:
    """Why a reclaim would be refused at this moment, as a sentence; None: it would not be. Locks nothing."""
    volume = tables.volume
    row = (
        await connection.execute(
            sa.select(volume.c.state, volume.c.end_verified, tables.mount.c.drive)
            .outerjoin_from(volume, tables.mount, tables.mount.c.volume == volume.c.vid)
            .where(volume.c.vid == vid)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(what=f"volume {vid}")
    if row.state not in _RECLAIMABLE:
        return str(WrongState(object=f"volume {vid}", state=row.state, action="a reclaim"))
    if row.drive is not None:
        return str(NotReclaimable(volume=vid, why=f"it is mounted in drive {row.drive}"))
    if not row.end_verified:
        return str(NotReclaimable(volume=vid, why=UNVERIFIED))
    wanted = {"volume": vid, "recycle_seconds": recycle_days * 86400}
    found = (await connection.execute(SQL["in_the_way"], wanted)).one()
    try:
        await _refuse(connection, vid, found, recycle_days, needs_backup)
    except NotReclaimable as refusal:
        return str(refusal)
    return None


async def relabel(
    connection: AsyncConnection,
    vid: str,
    *,
    who: str,
    reason: str,
    force: bool = False,
    recycle_days: float = RECYCLE_DAYS,
    needs_backup: bool = True,
) -> int:
    """As `reclaim`, also of an active volume that is empty or a blank one; and it is labelled at once, not when it is
    written next. The id of that maintenance.

    With `force` the label is written whatever is on the cartridge; without, only over nothing or an older label of its
    own. It forces nothing else. Raises as `reclaim` does.
    """
    allowed = _RECLAIMABLE | _EMPTY
    await _empty(connection, vid, allowed, "a relabel", who, reason, recycle_days, needs_backup)
    options: dict[str, Any] = {"force": True} if force else {}
    made = await maintenancerows.insert(connection, "label", vid, who=who, reason=reason.strip(), options=options)
    if made is None:
        raise WrongState(object=f"label of {vid}", state="under way", action="another one")
    detail = {"id": made, **options}
    await identity.audit(connection, who=who, action="relabel wanted", object=vid, reason=reason, detail=detail)
    return made


async def remove(connection: AsyncConnection, vid: str, *, who: str, reason: str) -> None:
    """Forget a volume that nothing is on: a blank one, or a broken or exported one without any copy.

    Raises NotFound, WrongState, NotReclaimable, ReasonRequired.
    """
    reason = identity.reason_given(reason, object=f"volume {vid}")
    row = await _lock(connection, vid)
    state = VolumeState(row.state)
    if state not in (VolumeState.BLANK, VolumeState.BROKEN, VolumeState.EXPORTED):
        raise WrongState(object=f"volume {vid}", state=state, action="a removal")
    copies = await connection.scalar(
        sa.select(sa.func.count()).select_from(tables.copy).where(tables.copy.c.volume == vid)
    )
    if copies:
        raise NotReclaimable(volume=vid, why=f"the catalog has {_count(copies, 'copy', 'copies')} on it")
    await maintenance.cancel_of_volume(connection, vid, "the volume was removed")
    await connection.execute(SQL["reclaim"], {"volume": vid})
    await connection.execute(SQL["remove"], {"volume": vid})
    detail = {"library": row.library, "generation": row.generation, "capacity_bytes": row.capacity_bytes}
    await identity.audit(connection, who=who, action="volume removed", object=vid, reason=reason, detail=detail)
    await events.emit(connection, "volume.state", vid, {"from": state.value, "to": None, "reason": reason, "who": who})


async def _empty(
    connection: AsyncConnection,
    vid: str,
    allowed: frozenset[VolumeState],
    action: str,
    who: str,
    reason: str,
    recycle_days: float,
    needs_backup: bool,
) -> Reclaimed:
    reason = identity.reason_given(reason, object=f"volume {vid}")
    row, found = await _reclaimable(connection, vid, allowed, action, recycle_days, needs_backup)
    state = VolumeState(row.state)
    # Nothing should be wanted from it any more; what is, is told so.
    await endings.copies_gone(connection, vid)
    await maintenance.cancel_of_volume(connection, vid, f"{action} of the volume")
    files = list((await connection.scalars(SQL["reclaim"], {"volume": vid})).all())
    gone = 0
    for first in range(0, len(files), FORGOTTEN_AT_ONCE):
        some = {"files": files[first : first + FORGOTTEN_AT_ONCE]}
        gone += (await connection.execute(SQL["forget_files"], some)).rowcount
    if state is VolumeState.ACTIVE:
        # An empty one has nothing to give up, but the machine knows the way to blank only from what is closed.
        closed = tables.volume.update().where(tables.volume.c.vid == vid).values(state=VolumeState.CLOSED.value)
        await connection.execute(closed)
    await connection.execute(SQL["empty_volume"], {"volume": vid, "who": who})
    detail = {"from": state.value, "to": "blank", "copies": found.copies, "files": gone, "generation": row.generation}
    await identity.audit(connection, who=who, action="volume reclaimed", object=vid, reason=reason, detail=detail)
    await events.emit(connection, "volume.state", vid, {**detail, "reason": reason, "who": who})
    return Reclaimed(volume=vid, copies=found.copies, files=gone)


async def _reclaimable(
    connection: AsyncConnection,
    vid: str,
    allowed: frozenset[VolumeState],
    action: str,
    recycle_days: float,
    needs_backup: bool,
    *,
    hold_files: bool = True,
) -> tuple[sa.Row[Any], sa.Row[Any]]:
    """The volume's row, locked, and what is on it, when nothing is in the way. Raises as `reclaim`.

    With `hold_files` this stays so until the transaction ends.
    """
    row = await _lock_allowed(connection, vid, allowed, action)
    if not row.end_verified:
        raise NotReclaimable(volume=vid, why=UNVERIFIED)
    if hold_files:
        await connection.execute(SQL["lock_files_on"], {"volume": vid})
    wanted = {"volume": vid, "recycle_seconds": recycle_days * 86400}
    found = (await connection.execute(SQL["in_the_way"], wanted)).one()
    if row.state == VolumeState.ACTIVE and found.copies:
        raise WrongState(object=f"volume {vid}", state="active and not empty", action=action)
    await _refuse(connection, vid, found, recycle_days, needs_backup)
    return row, found


async def _lock_allowed(
    connection: AsyncConnection, vid: str, allowed: frozenset[VolumeState], action: str
) -> sa.Row[Any]:
    row = await _lock(connection, vid)
    if row.state not in allowed:
        raise WrongState(object=f"volume {vid}", state=row.state, action=action)
    return row


async def _lock(connection: AsyncConnection, vid: str) -> sa.Row[Any]:
    """The volume's row, without any mount. Raises NotFound, NotReclaimable."""
    row = (await connection.execute(SQL["lock_volume"], {"volume": vid})).one_or_none()
    if row is None:
        raise NotFound(what=f"volume {vid}")
    drive = await connection.scalar(sa.select(tables.mount.c.drive).where(tables.mount.c.volume == vid))
    if drive is not None:
        raise NotReclaimable(volume=vid, why=f"it is mounted in drive {drive}")
    return row


async def _refuse(
    connection: AsyncConnection, vid: str, found: sa.Row[Any], recycle_days: float, needs_backup: bool
) -> None:
    if found.live:
        why = f"{_count(found.live, 'live file has its copy', 'live files have copies')} on it; repack it first"
        raise NotReclaimable(volume=vid, why=why)
    if found.recent:
        removed = _count(found.recent, "file on it was", "files on it were")
        why = (
            f"{removed} removed less than {show_seconds(recycle_days * 86400)} ago and can still be restored; "
            "purge them or wait"
        )
        raise NotReclaimable(volume=vid, why=why)
    changed_at: datetime | None = found.changed_at
    if not needs_backup or changed_at is None:
        return
    if not await connection.scalar(SQL["backup_since"], {"since": changed_at}):
        at = f"{changed_at:%Y-%m-%d %H:%M:%S} UTC"
        why = f"no verified backup of the catalog began after the last file left it ({at})"
        raise NotReclaimable(volume=vid, why=why)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
