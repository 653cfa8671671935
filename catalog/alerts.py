"""Alerts: what libraries and drives say of themselves, kept until an operator has seen to it.

What is said again while it is open is the same alert. Nothing here asks a device; nothing is decided by an alert: a
drive that wants cleaning goes on working until it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events, identity, tables
from catalog.errors import NotFound

_alert = tables.alert
_RAISE = sa.text(
    "insert into alert (library, drive, volume, code, severity, text) "
    "values (:library, :drive, :volume, :code, :severity, :text) on conflict do nothing returning id"
)
_CLEAR = sa.text(
    "update alert set cleared_at = capstan_now(), cleared_by = :who where id = :id and cleared_at is null "
    "returning library, code"
)
_FORGET = sa.text(
    "delete from alert where id in (select id from alert "
    "where cleared_at < capstan_now() - make_interval(secs => :keep_seconds) limit :limit)"
)
_TEXT_LENGTH_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAlert:
    id: int
    at: datetime
    library: str
    drive: str | None
    volume: str | None
    code: str
    severity: str
    text: str


async def raise_alert(
    connection: AsyncConnection,
    *,
    library: str,
    code: str,
    severity: str,
    text: str,
    drive: str | None = None,
    volume: str | None = None,
) -> int | None:
    """Keep an alert (severity info, warning or critical); its id, None when the same one is open already."""
    arguments = {
        "library": library,
        "drive": drive,
        "volume": volume,
        "code": code,
        "severity": severity,
        "text": text[:_TEXT_LENGTH_MAX],
    }
    found: int | None = await connection.scalar(_RAISE, arguments)
    if found is not None:
        await events.emit(connection, "alert.raised", drive or volume or library, arguments | {"id": found})
    return found


async def open_alerts(
    connection: AsyncConnection,
    library: str | None = None,
    *,
    drive: str | None = None,
    volume: str | None = None,
    limit: int = 1000,
) -> list[OpenAlert]:
    """Alerts that nobody has cleared, the newest first, at most `limit`."""
    query = sa.select(*(_alert.c[name] for name in OpenAlert.__dataclass_fields__)).where(_alert.c.cleared_at.is_(None))
    for column, wanted in ((_alert.c.library, library), (_alert.c.drive, drive), (_alert.c.volume, volume)):
        if wanted is not None:
            query = query.where(column == wanted)
    rows = await connection.execute(query.order_by(_alert.c.id.desc()).limit(limit))
    return [OpenAlert(**row) for row in rows.mappings()]


async def forget(connection: AsyncConnection, *, keep_seconds: float = 90 * 86_400.0, limit: int = 100_000) -> int:
    """Alerts that were cleared so long ago go; how many."""
    return (await connection.execute(_FORGET, {"keep_seconds": keep_seconds, "limit": limit})).rowcount


async def clear_alert(connection: AsyncConnection, id: int, who: str) -> None:
    """An operator has seen to it; what is said again from now on is a new alert. Raises NotFound (also when closed)."""
    row = (await connection.execute(_CLEAR, {"id": id, "who": who})).one_or_none()
    if row is None:
        raise NotFound(what=f"open alert {id}")
    await identity.audit(
        connection, who=who, action="alert cleared", object=row.library, reason=row.code, detail={"id": id}
    )
