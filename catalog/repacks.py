"""Repack: everything live on a volume is brought to disk and written again elsewhere, until nothing live is left on it.

The volume serves its users all the while: each copy counts until the one that replaces it is recorded. A step asks for
the next copies by position, so many ahead at most, and queues what has come to be written again; it holds no state but
the row's, so whoever comes carries it on. A file that cannot be read here is read from its other copy by itself; one
that cannot be read anywhere is counted, and tried again in a later pass.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, maintenancerows, repairs, volumestates
from catalog.audits import Limits, Step
from catalog.maintenancerows import SQL, Maintenance
from catalog.states import MaintenanceState, VolumeState

WHO = "capstan"
#: over what is left, before it is given up
PASSES_MAX = 3
EMPTY = "empty: it may be reclaimed"


async def live(connection: AsyncConnection, libraries: list[str]) -> list[int]:
    """Rows under way on volumes of these libraries, oldest first."""
    return list((await connection.scalars(SQL["repacks"], {"libraries": libraries})).all())


async def step(connection: AsyncConnection, id: int, limits: Limits) -> Step:
    """One step further, in the caller's transaction. Safe to run from several places: one has the row at a time."""
    row = await maintenancerows.lock(connection, id)
    if row is None:
        return Step()
    state = await volumestates.volume_state(connection, row.key)
    if state is not VolumeState.REPACKING:
        return await _interrupted(connection, row, state)
    files_ahead = bytes_ahead = queued = 0
    for one in await repairs.ahead(connection, activity(row.key), volume=row.key):
        if one.over:
            await _count(connection, row, one)
            continue
        files_ahead, bytes_ahead = files_ahead + one.files, bytes_ahead + one.bytes
        if one.ready:
            queued += await archives.enqueue_rewrites(connection, one.ready, row.key)
    row = await maintenancerows.locked(connection, id) or row
    room_files, room_bytes = limits.files_ahead - files_ahead, limits.bytes_ahead - bytes_ahead
    if room_files <= 0 or room_bytes <= 0:
        return Step(woke=queued > 0)
    cursor = dict(row.cursor)
    position = {"after_block": cursor.get("block", -1), "after_offset": cursor.get("offset", -1)}
    values = {"volume": row.key, "activity": activity(row.key), "limit": min(limits.window_files, room_files)}
    found = (await connection.execute(SQL["repack_copies"], {**values, **position})).all()
    wanted: list[int] = []
    for copy in found:
        if room_bytes <= 0:
            break
        wanted.append(copy.file)
        room_bytes -= copy.size
        cursor |= {"block": copy.first_block, "offset": copy.byte_offset}
    if wanted:
        files, seconds = list(dict.fromkeys(wanted)), limits.lifetime_seconds
        lost = await repairs.request(connection, files, activity=activity(row.key), lifetime_seconds=seconds)
        note = f"{lost} files have no copy that can be read" if lost else None
        await maintenancerows.progress(connection, id, cursor=cursor, note=note)
        return Step(more=True, woke=True)
    if files_ahead:
        return Step(woke=queued > 0)
    return await _pass_ended(connection, row)


def activity(volume: str) -> str:
    """Of the stage requests that bring its files to disk."""
    return f"repack {volume}"


async def stop(connection: AsyncConnection, row: Maintenance, *, who: str, reason: str) -> None:
    """After the row's end: nothing more is asked for, the volume is closed. What a mount has taken is still written."""
    await repairs.give_up(connection, activity(row.key))
    await archives.drop_rewrites(connection, row.key)
    if await volumestates.volume_state(connection, row.key) is VolumeState.REPACKING:
        closed = VolumeState.CLOSED.value
        await volumestates.set_state(connection, "volume", row.key, closed, who=who, reason=reason)


async def _count(connection: AsyncConnection, row: Maintenance, one: repairs.Ahead) -> None:
    present = await maintenancerows.locked(connection, row.id) or row
    failed = int(present.cursor.get("failed", 0)) + one.failed
    cursor = {**present.cursor, "failed": failed}
    await maintenancerows.progress(
        connection, row.id, cursor=cursor, done_files=one.moved, done_bytes=one.moved_bytes, errors=one.failed
    )
    await repairs.end(connection, one)


async def _pass_ended(connection: AsyncConnection, row: Maintenance) -> Step:
    left = (await connection.execute(SQL["copies_on"], {"volume": row.key, "state": "live"})).one()
    if not left.files:
        await maintenancerows.finish(connection, row, MaintenanceState.DONE, EMPTY)
        await stop(connection, row, who=WHO, reason=EMPTY)
        return Step()
    passes = int(row.cursor.get("passes", 0)) + 1
    if passes >= PASSES_MAX:
        why = f"{left.files} files could not be brought away in {passes} passes"
        await maintenancerows.finish(connection, row, MaintenanceState.FAILED, why)
        await stop(connection, row, who=WHO, reason=f"repack failed: {why}")
        return Step()
    # What failed is tried once more from the front: the reason may have been the drive's, or the cache's.
    note = f"{left.files} files are left after pass {passes}"
    await maintenancerows.progress(connection, row.id, cursor={"passes": passes}, note=note)
    return Step(more=True)


async def _interrupted(connection: AsyncConnection, row: Maintenance, state: VolumeState | None) -> Step:
    """The volume was moved under it: out of use means wait, anything else means that somebody decided otherwise."""
    if state in (VolumeState.DISABLED, VolumeState.SUSPECT):
        note = f"it waits: volume {row.key} is {state}"
        if row.note != note:
            await maintenancerows.progress(connection, row.id, cursor=row.cursor, note=note)
        return Step()
    await maintenancerows.finish(connection, row, MaintenanceState.CANCELLED, f"volume {row.key} is {state}")
    await stop(connection, row, who=WHO, reason=f"volume {row.key} is {state}")
    return Step()
