"""Pins: leases on a file's replica, with an owner (`job:7`, `request:3`) and an expiry by the catalog's clock.

A pinned replica is never evicted. A file may be pinned before it is on disk, so that no moment is left between its
arrival and the pin; bringing it there is staging's work.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.sql import load
from catalog.states import FileState

_SQL = {name: sa.text(statement) for name, statement in load("replicas").items()}


async def pin(connection: AsyncConnection, *, owner: str, files: Collection[int], lifetime_seconds: float) -> list[int]:
    """Pin those of `files` that exist; the ids of those on disk now, in order. A repeat prolongs, never shortens.

    Who is answered here finds the replica in place until the pin ends: see `lock_pinned` and `lock_victims`. The others
    have to be staged, and are kept from their arrival on.
    """
    if not files:
        return []
    wanted = sorted(set(files))
    present = list((await connection.execute(_SQL["lock_pinned"], {"files": wanted})).scalars())
    file = tables.file
    listed = file.c.id == sa.any_(sa.literal(wanted, sa.ARRAY(sa.BigInteger)))
    existing = sa.select(file.c.id).where(listed, file.c.state == FileState.LIVE.value)
    values = {
        "files": sorted((await connection.scalars(existing)).all()),
        "owner": owner,
        "lifetime_seconds": lifetime_seconds,
    }
    await connection.execute(_SQL["pin"], values)
    return present


async def unpin(connection: AsyncConnection, *, owner: str, files: Collection[int] | None = None) -> int:
    """Drop the owner's pins, of all files or of these; how many. Safe to repeat. The caller wakes CACHE."""
    values = {"owner": owner, "files": None if files is None else sorted(set(files))}
    return len((await connection.execute(_SQL["unpin"], values)).all())


async def renew(
    connection: AsyncConnection, *, owner: str, lifetime_seconds: float, files: Collection[int] | None = None
) -> list[int]:
    """Prolong the owner's live pins; their files. What is missing from the answer has to be staged again."""
    values = {
        "owner": owner,
        "lifetime_seconds": lifetime_seconds,
        "files": None if files is None else sorted(set(files)),
    }
    return sorted((await connection.execute(_SQL["renew"], values)).scalars())


async def expire_pins(connection: AsyncConnection, *, limit: int) -> int:
    """Delete pins that are over (they count for nothing already); how many."""
    return (await connection.execute(_SQL["expire_pins"], {"limit": limit})).rowcount
