"""The rows of long work on media: begun once, moved on from their cursor by whoever comes, ended once.

What the work is, is not known here: see `catalog.maintenance` for volumes, `catalog.repacks` and `catalog.audits`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events, tables
from catalog.sql import load
from catalog.states import MaintenanceState

SQL = {name: sa.text(statement) for name, statement in load("maintenance").items()}
_table = tables.maintenance
_LIVE = (MaintenanceState.QUEUED.value, MaintenanceState.RUNNING.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    id: int
    #: verify, repack, audit or label
    kind: str
    #: a volume; of an audit a storage class
    key: str
    state: MaintenanceState
    who: str
    reason: str
    options: dict[str, Any]
    cursor: dict[str, Any]
    #: what there was to do when it began; of an audit what it found lacking
    files: int
    bytes: int
    done_files: int
    done_bytes: int
    errors: int
    note: str
    created_at: datetime
    changed_at: datetime

    @property
    def live(self) -> bool:
        return self.state in _LIVE


async def insert(
    connection: AsyncConnection,
    kind: str,
    key: str,
    *,
    who: str,
    reason: str,
    options: Mapping[str, Any] | None = None,
) -> int | None:
    """The id of a new row; None when one of this kind and key is live already."""
    values = {"kind": kind, "key": key, "who": who, "reason": reason, "options": json.dumps(dict(options or {}))}
    found: int | None = await connection.scalar(SQL["begin"], values)
    return found


async def lock(connection: AsyncConnection, id: int) -> Maintenance | None:
    """The live row, this transaction's until it ends; None when it is over or another has it."""
    row = (await connection.execute(SQL["lock"], {"id": id})).mappings().one_or_none()
    return None if row is None else _read(row)


async def locked(connection: AsyncConnection, id: int) -> Maintenance | None:
    """The row in whatever state, after whoever has it now."""
    row = (await connection.execute(SQL["lock_waiting"], {"id": id})).mappings().one_or_none()
    return None if row is None else _read(row)


async def progress(
    connection: AsyncConnection,
    id: int,
    *,
    cursor: Mapping[str, Any],
    files: int = 0,
    bytes: int = 0,
    done_files: int = 0,
    done_bytes: int = 0,
    errors: int = 0,
    note: str | None = None,
) -> bool:
    """Move it on; the numbers are added. False when it is over."""
    values = {
        "id": id, "cursor": json.dumps(dict(cursor)), "files": files, "bytes": bytes, "done_files": done_files,
        "done_bytes": done_bytes, "errors": errors, "note": note,
    }  # fmt: skip
    return await connection.scalar(SQL["progress"], values) is not None


async def finish(connection: AsyncConnection, row: Maintenance, state: MaintenanceState, note: str) -> bool:
    """End it, and tell so; False when it was over already."""
    if state is not MaintenanceState.CANCELLED:
        await connection.execute(SQL["start"], {"id": row.id})
    if await connection.scalar(SQL["finish"], {"id": row.id, "state": state.value, "note": note}) is None:
        return False
    data = {"kind": row.kind, "state": state.value, "note": note}
    await events.emit(connection, "maintenance.ended", row.key, data)
    return True


async def listed(
    connection: AsyncConnection,
    *,
    kind: str | None = None,
    key: str | None = None,
    live: bool = False,
    limit: int = 1000,
) -> list[Maintenance]:
    """The newest first, at most `limit`."""
    query = sa.select(_table).order_by(_table.c.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(_table.c.kind == kind)
    if key is not None:
        query = query.where(_table.c.key == key)
    if live:
        query = query.where(_table.c.state.in_(_LIVE))
    return [_read(row) for row in (await connection.execute(query)).mappings()]


async def forget(connection: AsyncConnection, *, days: float, limit: int = 10_000) -> int:
    """Rows of what ended so long ago go; how many."""
    return (await connection.execute(SQL["forget"], {"seconds": days * 86400, "limit": limit})).rowcount


def _read(row: sa.RowMapping) -> Maintenance:
    return Maintenance(**{**row, "state": MaintenanceState(row["state"])})
