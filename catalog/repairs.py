"""Recalls on Capstan's own behalf: what a repack or an audit wants on disk, through the queues that users' files take.

Each is a stage request of the owner `capstan`, origin `repair`, of low priority; a file that users wait for too is
still read once. Its pins keep what has come until it is written. What is wanted, and how much of it at once, is the
caller's to say; of its requests it is told what is still under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import recalls, staging
from catalog.maintenancerows import SQL
from catalog.recalls import NO_COPY_TEXT, Answer
from catalog.sql import load
from catalog.stage_items import count_down

OWNER = "capstan"
#: below everybody's; the planner serves what only this priority wants when nothing else waits
PRIORITY = 10
_RESOLVED = sa.text(load("staging")["mark_resolved"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """One request, and what of it is under way."""

    request: int
    #: items that have not ended
    items_live: int
    files: int
    bytes: int
    failed: int
    #: on disk, and gone from the volume that is repacked
    moved: int
    moved_bytes: int
    #: on disk, and not queued to be written yet
    ready: list[int]

    @property
    def over(self) -> bool:
        return self.items_live == 0 and self.files == 0


async def request(
    connection: AsyncConnection, files: Sequence[int], *, activity: str, lifetime_seconds: float
) -> int | None:
    """Have these files brought to disk and kept there for so long; how many cannot be. The caller wakes PLANNER."""
    if not files:
        return 0
    values = {"activity": activity, "priority": PRIORITY, "items": len(files)}
    made = await connection.scalar(SQL["repair_insert"], values)
    assert made is not None
    items = {"request": made, "files": list(files), "lifetime_seconds": lifetime_seconds}
    await connection.execute(SQL["repair_items"], items)
    await connection.execute(_RESOLVED, {"id": made})
    answers = await recalls.request_recalls(
        connection, files, owner=OWNER, group=OWNER, activity=activity, priority=PRIORITY
    )
    on_disk = [file for file in files if answers[file].answer is Answer.ON_DISK]
    lost = [file for file in files if answers[file].answer is Answer.NO_COPY]
    if on_disk:
        await connection.execute(SQL["repair_on_disk"], {"request": made, "files": on_disk})
    if lost:
        await connection.execute(SQL["repair_failed"], {"request": made, "files": lost, "error": NO_COPY_TEXT})
    if on_disk or lost:
        await count_down(connection, made, len(on_disk) + len(lost))
    return len(lost)


async def ahead(connection: AsyncConnection, activity: str, *, volume: str | None = None) -> list[Ahead]:
    """The requests of this activity, oldest first. With `volume` a file is under way until its copy there is gone."""
    rows = await connection.execute(SQL["repair_ahead"], {"activity": activity, "volume": volume})
    return [
        Ahead(
            request=row.id,
            items_live=row.items_live,
            files=row.files,
            bytes=row.bytes,
            failed=row.failed,
            moved=row.moved,
            moved_bytes=row.moved_bytes,
            ready=sorted(set(row.ready)),
        )
        for row in rows
    ]


async def give_up(connection: AsyncConnection, activity: str) -> None:
    """Nobody wants these any more: requests, pins and recalls that only they wait for go."""
    for one in await ahead(connection, activity):
        await staging.delete(connection, one.request)


async def end(connection: AsyncConnection, one: Ahead) -> None:
    """The request has served; its pins go."""
    await staging.delete(connection, one.request)
