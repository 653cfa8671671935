"""The full index that a full or closed volume lacks, because no mount was there to write it when it was closed.

It is wanted once for each time that the volume is closed, as a row of maintenance; a mount of such a volume writes it
by itself. Without it the volume is as valid as before: a rebuild reads its labels. Nothing here touches a tape.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import maintenancerows
from catalog.maintenancerows import SQL
from catalog.states import MaintenanceState, VolumeState

WHO = "capstan"
REASON = "it was closed without a mount that could write its full index"
REASON_NO_ROOM = "it takes nothing more"
NOTE_LENGTH_MAX = 500
#: mounts that tried, after which it is given up
STARTS_MAX = 2
#: begun at once, so that a restored catalog does not queue a whole library
BEGUN_MAX = 20
#: out of use for now; the index is still wanted when it comes back
_WAIT = frozenset({VolumeState.DISABLED.value, VolumeState.SUSPECT.value})
_ENDED = frozenset({VolumeState.FULL.value, VolumeState.CLOSED.value})


async def carry_on(connection: AsyncConnection) -> list[str]:
    """End what was written, given up or is wanted no more; begin what is missing: those volumes. Safe to repeat."""
    live = 0
    for one in await connection.execute(SQL["indexes_live"]):
        row = await maintenancerows.lock(connection, one.id)
        if row is None:
            continue
        if one.written:
            await maintenancerows.finish(connection, row, MaintenanceState.DONE, "its indexes tell of all of it")
        elif one.state not in _ENDED | _WAIT and (one.end_verified or one.state != VolumeState.ACTIVE):
            await maintenancerows.finish(
                connection, row, MaintenanceState.CANCELLED, f"volume {one.vid} is {one.state}"
            )
        elif one.starts >= STARTS_MAX and not one.mounted:
            why = f"{one.starts} mounts did not bring it"
            await maintenancerows.finish(connection, row, MaintenanceState.FAILED, why)
        else:
            live += 1
    due = (await connection.scalars(SQL["indexes_due"], {"limit": max(0, BEGUN_MAX - live)})).all()
    return [
        vid for vid in due
        if await maintenancerows.insert(connection, "index", vid, who=WHO, reason=REASON) is not None
    ]  # fmt: skip


async def started(connection: AsyncConnection, volume: str) -> None:
    """A mount of this volume, which takes nothing more, is about to write what index is missing."""
    await connection.execute(SQL["index_start"], {"volume": volume})


async def missing(connection: AsyncConnection, volume: str, why: str) -> None:
    """It cannot be written, also by another mount: that is on record, and nobody tries again until the next closing."""
    id = await maintenancerows.insert(connection, "index", volume, who=WHO, reason=REASON_NO_ROOM)
    if id is None:
        id = await connection.scalar(SQL["index_live"], {"volume": volume})
    row = None if id is None else await maintenancerows.locked(connection, id)
    if row is not None:
        note = f"{why}; its session indexes tell of what is on it"
        await maintenancerows.finish(connection, row, MaintenanceState.FAILED, note[:NOTE_LENGTH_MAX])
