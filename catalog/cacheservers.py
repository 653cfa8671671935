"""Cache servers as the catalog knows them: who is live, what they hold, and the numbers that guard their space."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.errors import Refused
from catalog.reservations import HEARTBEAT_SECONDS_MAX
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("replicas").items()}


class WrongRoot(Refused):
    """The catalog knows cache server {name} with another disk ({known}); this one is {found}."""

    code = "wrong_root"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheServer:
    name: str
    url: str
    root_id: str
    host: str
    root: str
    state: str
    reason: str
    capacity_bytes: int
    #: of replicas
    used_bytes: int
    #: promised to transfers; with `used_bytes` never more than the capacity
    reserved_bytes: int
    #: parts of the capacity: above `high` the evictor begins, at `low` it ends
    high: float
    low: float
    #: of `used_bytes` what could go when it last looked at all it has; None: it does not know
    evictable_bytes: int | None
    #: up, and heard of within HEARTBEAT_SECONDS_MAX
    live: bool

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes - self.reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    #: seconds since 1970 by the catalog's clock
    now_epoch_seconds: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictablePage:
    """Some replicas of a server, looked at together."""

    #: where the next page begins; None: there was nothing left
    last: int | None
    #: of those that could go, or are going
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """By how much the guarded number was wrong; zero, always."""

    taken_bytes: int


async def register_server(
    connection: AsyncConnection,
    *,
    name: str,
    url: str,
    root_id: str,
    host: str,
    root: str,
    capacity_bytes: int,
    high: float,
    low: float,
) -> None:
    """Make the server known, or renew what is known of it. Raises WrongRoot when it was known with another disk."""
    values = {
        "name": name,
        "url": url,
        "root_id": root_id,
        "host": host,
        "root": root,
        "capacity_bytes": capacity_bytes,
        "high": high,
        "low": low,
    }
    if await connection.scalar(_SQL["register_server"], values) is None:
        known = await server_named(connection, name)
        raise WrongRoot(name=name, known=known.root_id if known else "?", found=root_id)


async def heartbeat_server(
    connection: AsyncConnection, name: str, *, evictable_bytes: int | None = None
) -> Heartbeat | None:
    """Say that it lives, and how much could go; None when the catalog does not know it (any more)."""
    arguments = {"name": name, "evictable_bytes": evictable_bytes}
    row = (await connection.execute(_SQL["heartbeat_server"], arguments)).one_or_none()
    return None if row is None else Heartbeat(now_epoch_seconds=row.now, state=row.state)


async def server_named(connection: AsyncConnection, name: str) -> CacheServer | None:
    return next((server for server in await servers(connection) if server.name == name), None)


async def live_servers(connection: AsyncConnection) -> list[CacheServer]:
    return [server for server in await servers(connection) if server.live]


async def servers(connection: AsyncConnection) -> list[CacheServer]:
    """Every cache server, by name."""
    table = tables.cache_server
    fresh = table.c.heartbeat_at > sa.func.capstan_now() - sa.func.make_interval(
        0, 0, 0, 0, 0, 0, HEARTBEAT_SECONDS_MAX
    )
    reserved = (
        sa.select(sa.func.coalesce(sa.func.sum(tables.reservation.c.bytes), 0))
        .where(tables.reservation.c.cache_server == table.c.name)
        .scalar_subquery()
    )
    columns = (table, fresh.label("fresh"), sa.cast(reserved, sa.BigInteger).label("reserved_bytes"))
    rows = await connection.execute(sa.select(*columns).order_by(table.c.name))
    return [
        CacheServer(
            name=row.name,
            url=row.url,
            root_id=row.root_id,
            host=row.host,
            root=row.root,
            state=row.state,
            reason=row.reason,
            capacity_bytes=row.capacity_bytes,
            used_bytes=row.taken_bytes - row.reserved_bytes,
            reserved_bytes=row.reserved_bytes,
            high=row.high_watermark,
            low=row.low_watermark,
            evictable_bytes=row.evictable_bytes,
            live=row.state == "up" and row.fresh,
        )
        for row in rows
    ]


async def evictable_page(connection: AsyncConnection, server: str, *, after: int, limit: int) -> EvictablePage:
    """Of the server's replicas with ids above `after`, at most `limit`: how many bytes the evictor could take."""
    arguments = {"server": server, "after": after, "limit": limit}
    row = (await connection.execute(_SQL["evictable_page"], arguments)).one()
    return EvictablePage(last=row.last, bytes=row.bytes)


async def take_wanted(connection: AsyncConnection, server: str) -> int:
    """The largest wish for space that was refused since the last call, in bytes; it is cleared."""
    return int(await connection.scalar(_SQL["take_wanted"], {"server": server}) or 0)


async def recount(connection: AsyncConnection, server: str) -> Drift:
    """Set the taken space to what the rows say; the difference it found."""
    await connection.execute(_SQL["lock_server"], {"server": server})
    return Drift(taken_bytes=int(await connection.scalar(_SQL["recount"], {"server": server}) or 0))
