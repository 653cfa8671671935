"""One volume or drive as an operator looks at it: what is on it, what failed with it, what is done, what it needs.

Reads only, and in bounded time: of what lies on a volume so much is counted and no more.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import alerts, failures, maintenance, mounts, reclaiming, volumes
from catalog.errors import NotFound
from catalog.reading import SQL, Row, row_of

#: copies of a volume that are looked at; a second or two
COPIES_COUNTED_MAX = 1_000_000
MAINTENANCE_SHOWN_MAX = 10


async def volume_view(connection: AsyncConnection, vid: str, *, recycle_days: float, needs_backup: bool) -> Row:
    """Everything about one volume. Raises NotFound."""
    volume = await volumes.volume_at(connection, vid)
    values = {"vid": vid, "limit": COPIES_COUNTED_MAX}
    holds = (await connection.execute(sa.text(SQL["volume_contents"]), values)).one()
    extents = (await connection.execute(sa.text(SQL["dead_extents"]), {"vid": vid})).one()
    complete = holds.counted < COPIES_COUNTED_MAX
    contents = {**holds._mapping, "complete": complete, "dead_extents": extents.extents}
    # What is written and neither live nor in the recycle bin: purged files, broken-off tape files, labels and indexes.
    known = holds.live_bytes + holds.deleted_bytes
    contents["dead_bytes"] = max(extents.bytes, volume.written_bytes - known) if complete else extents.bytes
    mounted = [one for one in await mounts.list_mounts(connection) if one.volume == vid]
    return {
        **row_of(volume),
        "fill": volume.written_bytes / volume.capacity_bytes if volume.capacity_bytes else 0.0,
        "contents": contents,
        "mount": row_of(mounted[0]) if mounted else None,
        "failures": [row_of(one) for one in await failures.matrix(connection, volume=vid)],
        "alerts": [row_of(one) for one in await alerts.open_alerts(connection, volume=vid)],
        "maintenance": [
            row_of(one) for one in await maintenance.listed(connection, key=vid, limit=MAINTENANCE_SHOWN_MAX)
        ],
        "reclaim": (
            await _reclaim(connection, vid, recycle_days=recycle_days, needs_backup=needs_backup)
            if complete
            else f"At least {holds.live_files:,} live files have copies on it."
        ),
    }


async def _reclaim(connection: AsyncConnection, vid: str, *, recycle_days: float, needs_backup: bool) -> str:
    why = await reclaiming.in_the_way(connection, vid, recycle_days=recycle_days, needs_backup=needs_backup)
    return why or "Nothing is in the way of a reclaim."


async def drive_view(connection: AsyncConnection, name: str) -> Row:
    """Everything about one drive. Raises NotFound."""
    drive = next((one for one in await volumes.list_drives(connection) if one.name == name), None)
    if drive is None:
        raise NotFound(what=f"drive {name}")
    mounted: list[Any] = [one for one in await mounts.list_mounts(connection) if one.drive == name]
    return {
        **row_of(drive),
        "mount": row_of(mounted[0]) if mounted else None,
        "failures": [row_of(one) for one in await failures.matrix(connection, drive=name)],
        "alerts": [row_of(one) for one in await alerts.open_alerts(connection, drive=name)],
    }
