"""What drives and volumes are made of: their models and media, as libraries report them and operators say.

Which drive reads and writes which medium is the tape server's (`tapeserver.compatibility`); here is what it goes by.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity, tables
from catalog.columns import NOW
from catalog.errors import NotFound
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("volumes").items()}


async def report_models(connection: AsyncConnection, library: str, models: Mapping[str, str]) -> list[str]:
    """What a library says of its drives (drive -> model, "" for nothing); the drives of which it said otherwise before.

    The caller wakes PLANNER when there are any.
    """
    if not models:
        return []
    arguments = {"library": library, "drives": list(models), "models": list(models.values())}
    return sorted((await connection.scalars(_SQL["report_models"], arguments)).all())


async def set_drive_model(connection: AsyncConnection, drive: str, model: str, *, who: str, reason: str) -> None:
    """An operator's word above the library's; "" takes it back. The caller wakes PLANNER. Raises NotFound,
    ReasonRequired."""
    reason = identity.reason_given(reason, object=f"drive {drive}")
    statement = tables.drive.update().where(tables.drive.c.name == drive).values(model=model)
    if not (await connection.execute(statement)).rowcount:
        raise NotFound(what=f"drive {drive}")
    detail = {"model": model}
    await identity.audit(connection, who=who, action="drive model", object=drive, reason=reason, detail=detail)


async def set_volume_medium(connection: AsyncConnection, vid: str, medium: str, *, who: str, reason: str) -> None:
    """As for a drive: above what its library, or its capacity, tells."""
    reason = identity.reason_given(reason, object=f"volume {vid}")
    statement = tables.volume.update().where(tables.volume.c.vid == vid).values(medium=medium, medium_since=NOW)
    if not (await connection.execute(statement)).rowcount:
        raise NotFound(what=f"volume {vid}")
    detail = {"medium": medium}
    await identity.audit(connection, who=who, action="volume medium", object=vid, reason=reason, detail=detail)
