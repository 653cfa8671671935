"""The search for missing copies: files of a storage class with fewer good copies than it wants, and their repair.

What is on disk is written again at once; what has another copy on tape is recalled first, so many ahead at most, and
written when it arrives. Goes over the files of a class by id, a window per step, and may stop and go on anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, maintenancerows, repairs, tables
from catalog.maintenancerows import SQL, Maintenance
from catalog.states import MaintenanceState

WHO = "capstan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a piece of work runs ahead of the queues."""

    files_ahead: int
    bytes_ahead: int
    #: looked at in one step
    window_files: int = 1000
    #: passed over in one step, of whatever class: a class may have few files among many
    passed_files: int = 10_000
    #: what has come stays on disk so long, should it not be written sooner
    lifetime_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step did: whether there may be more to do at once, and whether queues changed."""

    more: bool = False
    woke: bool = False


async def want_audit(connection: AsyncConnection, storage_class: str, *, who: str, reason: str) -> int:
    """Have this class looked through, once more if that is under way; the row."""
    found = await connection.scalar(SQL["begin_or_again"], {"key": storage_class, "who": who, "reason": reason})
    assert found is not None
    return int(found)


async def want_audits_of(connection: AsyncConnection, volume: str, *, reason: str) -> None:
    """The copies on `volume` count no more: look through the classes of its files."""
    for name in (await connection.scalars(SQL["classes_on"], {"volume": volume})).all():
        await want_audit(connection, name, who=WHO, reason=reason[:500])


async def class_exists(connection: AsyncConnection, storage_class: str) -> bool:
    table = tables.storage_class
    return await connection.scalar(sa.select(table.c.name).where(table.c.name == storage_class)) is not None


def activity(storage_class: str) -> str:
    """Of the stage requests that bring its files to disk."""
    return f"audit {storage_class}"


async def live(connection: AsyncConnection) -> list[int]:
    """Rows under way, oldest first."""
    return list((await connection.scalars(SQL["audits"])).all())


async def due(connection: AsyncConnection, *, hours: float) -> list[str]:
    """Storage classes that have not been looked through for so long."""
    return list((await connection.scalars(SQL["audits_due"], {"seconds": hours * 3600})).all())


async def step(connection: AsyncConnection, id: int, limits: Limits) -> Step:
    """One window further, in the caller's transaction. Safe to run from several places: one has the row at a time."""
    row = await maintenancerows.lock(connection, id)
    if row is None:
        return Step()
    under_way = await _under_way(connection, row)
    if under_way.files >= limits.files_ahead or under_way.bytes >= limits.bytes_ahead:
        return Step()
    after = int(row.cursor.get("after", 0))
    window = {"class": row.key, "after": after, "limit": limits.window_files, "passed": limits.passed_files}
    found = (await connection.execute(SQL["audit_window"], window)).all()
    if not found or found[0].last is None:
        return await _at_the_end(connection, row, under_way.requests)
    lacking = [one for one in found if one.file is not None and one.lacking]
    # A file may be in no library that is not full of it already: then nothing is queued, and it is found again.
    queued = await archives.enqueue_archives(connection, [one.file for one in lacking if one.on_disk])
    wanted: list[int] = []
    room_files, room_bytes = limits.files_ahead - under_way.files, limits.bytes_ahead - under_way.bytes
    last = int(found[0].last)
    for one in lacking:
        if one.on_disk or not one.on_tape:
            continue
        if room_files <= 0 or room_bytes <= 0:
            # The window ends before it: the next one begins with it.
            last = one.file - 1
            break
        wanted.append(one.file)
        room_files, room_bytes = room_files - 1, room_bytes - one.size
    lost = sum(not one.on_disk and not one.on_tape for one in lacking if one.file <= last)
    cut = {"class": row.key, "after": after, "last": last}
    looked_at = found[0].seen if last == found[0].last else await connection.scalar(SQL["audit_seen"], cut)
    seen = int(row.cursor.get("seen", 0)) + int(looked_at)
    await repairs.request(connection, wanted, activity=activity(row.key), lifetime_seconds=limits.lifetime_seconds)
    await maintenancerows.progress(
        connection,
        row.id,
        cursor={"after": last, "seen": seen},
        files=sum(one.file <= last for one in lacking),
        bytes=sum(one.size for one in lacking if one.file <= last),
        done_files=len(wanted) + sum(one.on_disk for one in lacking if one.file <= last),
        errors=lost,
        note=f"{seen} files looked at",
    )
    return Step(more=True, woke=bool(queued or wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    requests: int
    files: int
    bytes: int


async def _under_way(connection: AsyncConnection, row: Maintenance) -> _UnderWay:
    requests = files = size = failed = 0
    for one in await repairs.ahead(connection, activity(row.key)):
        if one.items_live == 0:
            # On disk: the archives were queued in the transaction of the arrival, and unsafe files are not evicted.
            failed += one.failed
            await repairs.end(connection, one)
            continue
        requests, files, size = requests + 1, files + one.files, size + one.bytes
    if failed:
        await maintenancerows.progress(connection, row.id, cursor=row.cursor, errors=failed)
    return _UnderWay(requests=requests, files=files, bytes=size)


async def _at_the_end(connection: AsyncConnection, row: Maintenance, requests: int) -> Step:
    if requests:
        return Step()
    seen = int(row.cursor.get("seen", 0))
    if row.options.get("again"):
        await connection.execute(SQL["restart"], {"id": row.id})
        return Step(more=True)
    note = f"{seen} files looked at, {row.files} lacked copies, {row.errors} could not be repaired"
    await maintenancerows.finish(connection, row, MaintenanceState.DONE, note)
    return Step()
