"""The items of stage requests, as seen from a file: what its arrival, its failure or its start means to all who wait.

The queues call this; requests themselves (made, resolved, cancelled) are in staging.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events
from catalog.sql import load

SQL = load("staging")


async def lock_requests(connection: AsyncConnection, file_ids: Sequence[int]) -> bool:
    """Hold the requests that wait for these files; whether there are any.

    Requests are locked before recalls everywhere: who ends recalls and then their items calls this first, or it may
    meet a cancel in a deadlock.
    """
    return bool((await connection.execute(sa.text(SQL["lock_requests_of"]), {"files": list(file_ids)})).all())


async def complete_items(connection: AsyncConnection, file_ids: Sequence[int]) -> int:
    """The files are on disk: all live items of them are completed and pinned for their requests; their number.

    In the transaction that makes the replica, so that no eviction comes between.
    """
    return await _end(connection, "complete_items", file_ids, {"files": list(file_ids)})


async def fail_items(connection: AsyncConnection, failures: Sequence[tuple[int, str, str]]) -> int:
    """(file id, stable error code, sentence): all live items of these files fail with it; their number."""
    values = {
        "files": [file_id for file_id, _, _ in failures],
        "codes": [code for _, code, _ in failures],
        "errors": [error for _, _, error in failures],
    }
    return await _end(connection, "fail_items", [file_id for file_id, _, _ in failures], values)


async def start_items(connection: AsyncConnection, file_ids: Sequence[int]) -> None:
    """A mount has taken the recalls of these files. Items that were resolved before are started already."""
    await connection.execute(sa.text(SQL["start_items"]), {"files": list(file_ids)})


async def count_down(connection: AsyncConnection, request_id: int, ended: int) -> None:
    """Some of the request's items became terminal; with the last one it ends. The caller holds the request's row."""
    row = (await connection.execute(sa.text(SQL["count_down"]), {"id": request_id, "ended": ended})).one_or_none()
    if row is not None and row.state == "ended":
        await events.emit(connection, "request.ended", str(request_id), {"owner": row.owner})


async def _end(connection: AsyncConnection, statement: str, files: Sequence[int], values: dict[str, object]) -> int:
    if not files or not await lock_requests(connection, files):
        return 0
    rows = (await connection.execute(sa.text(SQL[statement]), values)).all()
    for row in rows:
        await count_down(connection, row.request, row.ended)
    return sum(row.ended for row in rows)
