"""The state of the whole, for people and monitors: queues, requests, components, the oldest file not yet safe.

Reads only, from rows that exist anyway; nothing here counts a queue. What one object waits for is in explanations.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import candidates, counters, estimates, leases, mounts, replicas, tables, volumes
from catalog.model import ReadingTime, WritingTime
from catalog.sql import load

SQL = load("reading")
#: a server that has said nothing for longer does not count as running
SERVER_HEARTBEAT_SECONDS_MAX = 15.0
PLANNER_LEASE_PREFIX = "planner:"
REQUESTS_MAX = 1_000

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    kind: str
    name: str
    url: str
    host: str
    pid: int
    live: bool


async def oldest_unsafe_seconds(connection: AsyncConnection) -> float | None:
    """The age of the oldest copy that is required and not on tape; None when all files are safe."""
    seconds = await connection.scalar(sa.text(SQL["oldest_unsafe"]))
    return None if seconds is None else max(0.0, float(seconds))


async def queue_view(connection: AsyncConnection) -> dict[str, Any]:
    """What waits per pool and volume and why, what is mounted, the drives, the requests under way."""
    said = {(one.kind, one.key): one for one in await mounts.list_candidates(connection)}
    backlog = await counters.backlog(connection)
    oldest = await oldest_unsafe_seconds(connection)
    expected, safe = await estimates.of_volumes(connection), await estimates.of_pools(connection)
    archives = [_waiting(one, "pool", said) for one in backlog if one.kind == "archive"]
    recalls = [_waiting(one, "volume", said) for one in backlog if one.kind == "recall"]
    return {
        "archives": [row | _expected(safe.get(row["pool"])) for row in archives],
        "recalls": [row | _expected(expected.get(row["volume"])) for row in recalls],
        "mounts": [_mount(one) for one in await mounts.list_mounts(connection)],
        "drives": [row_of(one) for one in await volumes.list_drives(connection)],
        "requests": await requests(connection, live_only=True, limit=100),
        "oldest_unsafe_seconds": oldest,
    }


async def requests(
    connection: AsyncConnection, *, owner: str | None = None, live_only: bool = False, limit: int = REQUESTS_MAX
) -> list[Row]:
    """Stage requests, the newest first; of one owner, or all."""
    table = tables.stage_request
    columns = [column for column in table.c if column is not table.c.forgotten_at]
    statement = sa.select(*columns).where(table.c.forgotten_at.is_(None))
    statement = statement.order_by(table.c.id.desc()).limit(min(limit, REQUESTS_MAX))
    if owner is not None:
        statement = statement.where(table.c.owner == owner)
    if live_only:
        statement = statement.where(table.c.items_live > 0)
    return [row_of(row._mapping) for row in await connection.execute(statement)]


async def item_states(connection: AsyncConnection, request_id: int) -> dict[str, int]:
    """state -> number of items of one request."""
    rows = await connection.execute(sa.text(SQL["item_states"]), {"request": request_id})
    return {row.state: row.items for row in rows}


async def servers(connection: AsyncConnection, kind: str | None = None) -> list[Server]:
    """Registered servers, those that are live first."""
    table = tables.server
    fresh = table.c.heartbeat_at > sa.func.capstan_now() - sa.text("make_interval(secs => :seconds)")
    columns = (table.c.kind, table.c.name, table.c.url, table.c.host, table.c.pid)
    statement = sa.select(*columns, fresh.label("live")).order_by(sa.text("live DESC"), table.c.kind, table.c.name)
    if kind is not None:
        statement = statement.where(table.c.kind == kind)
    rows = await connection.execute(statement, {"seconds": SERVER_HEARTBEAT_SECONDS_MAX})
    return [Server(**row._mapping) for row in rows]


async def register_server(
    connection: AsyncConnection, *, kind: str, name: str, url: str, host: str, pid: int, detail: Mapping[str, Any]
) -> None:
    """A server's heartbeat, by the database's clock. A new pid is a new start."""
    await connection.execute(
        sa.text(SQL["register_server"]).bindparams(sa.bindparam("detail", type_=tables.server.c.detail.type)),
        {"kind": kind, "name": name, "url": url, "host": host, "pid": pid, "detail": dict(detail)},
    )


async def components(connection: AsyncConnection) -> dict[str, Any]:
    """What the catalog knows of each component; whether a job server answers is the door's to try."""
    planners = await leases.holders(connection, PLANNER_LEASE_PREFIX)
    libraries = await volumes.list_libraries(connection)
    drives = await volumes.list_drives(connection)
    caches = await replicas.servers(connection)
    led = {one.name: planners.get(f"{PLANNER_LEASE_PREFIX}{one.name}") is not None for one in libraries}
    wanted = [one for one in drives if one.state == "up"]
    return {
        "planner": {"ok": all(led.values()), "libraries": led},
        "cache": {
            "ok": any(one.live for one in caches),
            "servers": {one.name: one.live for one in caches},
        },
        "movers": {"ok": all(one.attached for one in wanted), "drives": {one.name: one.attached for one in wanted}},
    }


def row_of(found: Any) -> Row:
    """A dataclass or mapping of the catalog as JSON-able values."""
    values = found if isinstance(found, Mapping) else asdict(found)
    return {str(name): _plain(value) for name, value in values.items()}


def _waiting(one: counters.Backlog, name: str, said: Mapping[tuple[str, str], mounts.Candidate]) -> Row:
    candidate = said.get((name, one.key))
    return {
        name: one.key,
        "files": one.files,
        "bytes": one.bytes,
        "urgent": one.urgent,
        "oldest_seconds": one.oldest_seconds,
        "code": candidate.code if candidate else "",
        "why": candidates.render(candidate.code, candidate.arguments) if candidate else "",
    }


def _expected(one: ReadingTime | WritingTime | None) -> Row:
    """Seconds until the first may come, and until all that waits is read, or written; None: not known."""
    if one is None or (isinstance(one, WritingTime) and one.oldest is None):
        return {"begins_seconds": None, "expected_seconds": None}
    return {"begins_seconds": max(0.0, one.begins), "expected_seconds": max(0.0, one.ends)}


def _mount(one: mounts.Mount) -> Row:
    return {**row_of(one), "why": candidates.render(one.reason_code, one.reason_arguments)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inner) for inner in value]
    return value
