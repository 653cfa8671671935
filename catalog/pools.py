"""Pools as operators see and set them: the library, how many volumes are filled at once, what is in them.

Which volume of a pool is written next is the planner's; a pool is made by `volumes.create_pool`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity, tables
from catalog.errors import BadRequest, NotFound

VOLUMES_OPEN_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    name: str
    library: str
    #: filled at once; None: the tape server's default
    volumes_open_max: int | None
    volumes: int
    capacity_bytes: int
    written_bytes: int


async def listed(connection: AsyncConnection) -> list[Pool]:
    """All pools by name, with the sums of their volumes."""
    pool, volume = tables.pool, tables.volume
    total = sa.func.coalesce(sa.func.sum(volume.c.capacity_bytes), 0).cast(sa.BigInteger)
    written = sa.func.coalesce(sa.func.sum(volume.c.written_bytes), 0).cast(sa.BigInteger)
    query = (
        sa.select(
            pool.c.name,
            pool.c.library,
            pool.c.volumes_open_max,
            sa.func.count(volume.c.vid).label("volumes"),
            total.label("capacity_bytes"),
            written.label("written_bytes"),
        )
        .outerjoin_from(pool, volume, volume.c.pool == pool.c.name)
        .group_by(pool.c.name)
        .order_by(pool.c.name)
    )
    return [Pool(**row) for row in (await connection.execute(query)).mappings()]


async def change(
    connection: AsyncConnection, name: str, *, volumes_open_max: int | None, who: str, reason: str
) -> None:
    """How many of its volumes are filled at once; None: the default. The caller wakes PLANNER.

    Raises NotFound, BadRequest, ReasonRequired.
    """
    reason = identity.reason_given(reason, object=f"pool {name}")
    if volumes_open_max is not None and not 1 <= volumes_open_max <= VOLUMES_OPEN_MAX:
        raise BadRequest(why=f"a pool fills 1 to {VOLUMES_OPEN_MAX} volumes at once, not {volumes_open_max}")
    pool = tables.pool
    values = {"volumes_open_max": volumes_open_max}
    changed = await connection.execute(pool.update().where(pool.c.name == name).values(values))
    if not changed.rowcount:
        raise NotFound(what=f"pool {name}")
    await identity.audit(connection, who=who, action="pool changed", object=name, reason=reason, detail=values)
