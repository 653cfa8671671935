"""Who has used the drives: mounts, drives' time, files and bytes, by user, group and day. Recorded and added up.

A mount is parted among those it served by the bytes that it moved for each, so that all sums come out right: a mount
for two counts half for each. What served nobody (labels, verifies, mounts that failed) is Capstan's own. Nothing here
decides whose turn it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.errors import BadRequest
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("usage").items()}
KEYS = ("user", "group", "day")
ROWS_MAX = 10_000
DAYS_MAX = 3660
DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used under one key; the parts of the key that were not asked for are None."""

    day: date | None
    owner: str | None
    group: str | None
    #: parts of mounts, in mounts
    mounts: float
    drive_seconds: float
    files_read: int
    bytes_read: int
    files_written: int
    bytes_written: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Of one library, for the planner's fair share; below zero when a part was first taken for another's."""

    group: str
    owner: str
    mounts: float
    drive_seconds: float


async def count_read(connection: AsyncConnection, epoch: int, files: Collection[int]) -> None:
    """This mount has read these files, and for whom: its progress, too. Before their recalls end; it is fenced."""
    if files:
        await connection.execute(_SQL["read"], {"epoch": epoch, "files": sorted(files)})


async def usage_of(
    connection: AsyncConnection,
    *,
    since_seconds: float,
    by: str = "user",
    owner: str | None = None,
    groups: Sequence[str] | None = None,
) -> list[Used]:
    """What was used in the last so many seconds, in whole days (UTC), the newest day or the most drive time first.

    `by`: user (with his group), group or day. Only of `owner`, only of `groups`. Raises BadRequest.
    """
    if by not in KEYS:
        raise BadRequest(why=f"usage by {by[:40]!r} is not kept; known are {', '.join(KEYS)}")
    if not 0 <= since_seconds <= DAYS_MAX * DAY_SECONDS:
        raise BadRequest(why=f"usage is told of the last 0 to {DAYS_MAX} days")
    arguments = {
        "days": int(since_seconds // DAY_SECONDS),
        "by": by,
        "owner": owner,
        "groups": None if groups is None else list(groups),
        "limit": ROWS_MAX,
    }
    rows = (await connection.execute(_SQL["report"], arguments)).mappings()
    return [Used(**{("group" if key == "grp" else key): value for key, value in row.items()}) for row in rows]


async def decayed(connection: AsyncConnection, library: str, half_life_seconds: float) -> list[Charge]:
    """All that still counts now (the catalog's clock), live mounts included; what is one half-life old counts half."""
    rows = await connection.execute(_SQL["decayed"], {"library": library, "half_life": half_life_seconds})
    return [_charge(row._mapping) for row in rows]


class Meter:
    """The charges of one library as they come: what still counts at first, then what has come since the last look.

    Live mounts count as they go on, not only when they end. Reads only, a few rows for each user of two days; a planner
    that begins anew begins with a new meter.
    """

    def __init__(self, library: str, *, half_life_seconds: float) -> None:
        self._library = library
        self._half_life_seconds = half_life_seconds
        self._seen: dict[tuple[date | None, str, str], tuple[float, float]] | None = None

    async def charges(self, connection: AsyncConnection) -> list[Charge]:
        """To be given to the picture at the present time. One that is asked for in one transaction with others' changes
        sees them all or none."""
        rows = (await connection.execute(_SQL["totals"], {"library": self._library})).all()
        totals = {(row.day, row.grp, row.owner): (row.mounts, row.drive_seconds) for row in rows}
        seen, self._seen = self._seen, totals
        if seen is None:
            return await decayed(connection, self._library, self._half_life_seconds)
        changes: dict[tuple[str, str], list[float]] = {}
        # A day that is no longer looked at has not become less; a live mount that is over has.
        for key in {*totals, *(key for key in seen if key[0] is None)}:
            before, after = seen.get(key, (0.0, 0.0)), totals.get(key, (0.0, 0.0))
            change = changes.setdefault(key[1:], [0.0, 0.0])
            change[0] += after[0] - before[0]
            change[1] += after[1] - before[1]
        return [
            Charge(group=group, owner=owner, mounts=mounts, drive_seconds=seconds)
            for (group, owner), (mounts, seconds) in sorted(changes.items())
            if mounts or seconds
        ]


def _charge(row: sa.RowMapping) -> Charge:
    return Charge(group=row["grp"], owner=row["owner"], mounts=row["mounts"], drive_seconds=row["drive_seconds"])
