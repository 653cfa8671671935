"""Leases: who may decide about what, by the database's clock.

The row says until when; how long a holder believes in it is the holder's business: by his own monotonic clock, counted
from before he sent the renewal, with a margin (`tapeserver.heldlease`).
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("leases").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    name: str
    holder: str
    #: grows with every new holding
    number: int


async def acquire(connection: AsyncConnection, name: str, holder: str, *, seconds: float) -> Lease | None:
    """Take the lease if it is free, expired, or this holder's own; None when another has it."""
    number = await connection.scalar(_SQL["acquire"], {"name": name, "holder": holder, "seconds": seconds})
    return None if number is None else Lease(name=name, holder=holder, number=number)


async def renew(connection: AsyncConnection, lease: Lease, *, seconds: float) -> bool:
    """Hold it for `seconds` from now on; False when it is somebody else's by now."""
    return await connection.scalar(_SQL["renew"], {**_key(lease), "seconds": seconds}) is not None


async def release(connection: AsyncConnection, lease: Lease) -> None:
    """Let another have it at once. Safe to repeat."""
    await connection.execute(_SQL["release"], _key(lease))


async def guard(connection: AsyncConnection, lease: Lease) -> bool:
    """Whether it is held now; if so nobody can take it before this transaction ends."""
    return await connection.scalar(_SQL["guard"], _key(lease)) is not None


async def holders(connection: AsyncConnection, prefix: str) -> dict[str, str | None]:
    """name -> holder, or None when it has expired, of all leases whose names begin with `prefix`."""
    lease = tables.lease
    live = sa.case((lease.c.expires_at > sa.func.capstan_now(), lease.c.holder))
    rows = await connection.execute(
        sa.select(lease.c.name, live.label("holder")).where(lease.c.name.startswith(prefix))
    )
    return {row.name: row.holder for row in rows}


async def clock(connection: AsyncConnection) -> float:
    """The one clock: seconds since 1970 by the database."""
    return float(await connection.scalar(sa.text("select extract(epoch from capstan_now())")) or 0.0)


def _key(lease: Lease) -> dict[str, object]:
    return {"name": lease.name, "holder": lease.holder, "number": lease.number}
