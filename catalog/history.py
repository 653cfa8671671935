"""What a site was asked for, as far as the catalog still knows: recalls that were wanted and files that were put.

For a trace of the simulator: read in pages, so that a year of it needs no more memory than a day, and by nobody in a
hurry. Nothing here knows what a trace looks like. Of a request that failed or was cancelled nothing is told, nor of
files that were on disk when they were asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("history").items()}

REQUESTS_PAGE, ITEMS_PAGE, FILES_PAGE = 1000, 10_000, 10_000
#: of one request's files so many are told at a time
FILES_TOLD_MAX = 100_000
#: cohorts that others name are numbered from here on; requests never get so far
COHORTS_FROM = 1 << 61


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Files on tape that somebody asked for at once; what has the same cohort is of use only together."""

    #: seconds since 1970, here and below
    at: float
    owner: str
    group: str
    activity: str
    priority: int
    cohort: int
    #: volume, position in bytes from the begin of the tape, bytes
    files: list[tuple[str, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """One copy of a file that was to be written."""

    at: float
    pool: str
    bytes: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVolume:
    vid: str
    pool: str | None
    capacity_bytes: int
    #: when the history begins
    written_bytes: int
    #: as its library names it
    medium: str | None


@dataclass(slots=True)
class History:
    """Since so many seconds ago; of one library, or of all."""

    connection: AsyncConnection
    seconds: float
    library: str | None = None
    #: files that were wanted of which no copy is known any more
    without_copy: int = 0
    _requests: dict[int, Any] = field(default_factory=dict)

    async def wanted(self) -> AsyncIterator[Wanted]:
        """By the number of their requests, which is nearly the order of time."""
        first = await self.connection.scalar(_SQL["first_request"], {"seconds": self.seconds})
        after = None if first is None else int(first) - 1
        while after is not None:
            values = {"after": after, "limit": REQUESTS_PAGE}
            rows = (await self.connection.execute(_SQL["requests"], values)).all()
            if not rows:
                return
            self._requests = {row.id: row for row in rows}
            async for told in self._of_page(after, rows[-1].id):
                yield told
            after = int(rows[-1].id)

    async def _of_page(self, after: int, last: int) -> AsyncIterator[Wanted]:
        request, number = after, 2**31 - 1
        present, count = dict[int, list[tuple[str, int, int]]](), 0
        while True:
            values = {
                "request": request, "number": number, "last": last, "library": self.library, "limit": ITEMS_PAGE,
            }  # fmt: skip
            rows = (await self.connection.execute(_SQL["wanted"], values)).all()
            for row in rows:
                if row.request != request or count >= FILES_TOLD_MAX:
                    for told in self._told(request, present):
                        yield told
                    present, count = {}, 0
                request, number = row.request, row.number
                if row.volume is None:
                    # In another library, or nowhere any more.
                    self.without_copy += 1
                    continue
                present.setdefault(row.cohort, []).append((row.volume, int(row.position), int(row.length)))
                count += 1
            if len(rows) < ITEMS_PAGE:
                break
        for told in self._told(request, present):
            yield told

    def _told(self, request: int, present: dict[int, list[tuple[str, int, int]]]) -> list[Wanted]:
        row = self._requests.get(request)
        if row is None:
            # Capstan's own.
            return []
        return [
            Wanted(
                at=row.at,
                owner=row.owner,
                group=row.grp,
                activity=row.activity,
                priority=row.priority,
                cohort=_cohort(cohort, request),
                files=files,
            )
            for cohort, files in present.items()
        ]

    async def put(self) -> AsyncIterator[Put]:
        """By the number of the files."""
        first = await self.connection.scalar(_SQL["first_file"], {"seconds": self.seconds})
        after = None if first is None else int(first) - 1
        while after is not None:
            values = {"after": after, "library": self.library, "limit": FILES_PAGE}
            rows = (await self.connection.execute(_SQL["archived"], values)).all()
            for row in rows:
                if row.pool is None:
                    continue
                yield Put(at=row.at, pool=row.pool, bytes=int(row.bytes), owner=row.owner, group=row.grp)
            after = rows[-1].last if rows else None

    async def volumes(self, vids: Collection[str] = (), *, pools: Collection[str] = ()) -> list[KnownVolume]:
        """These, and those of the pools that could be written to."""
        values = {"volumes": sorted(vids), "pools": sorted(pools), "seconds": self.seconds}
        return [KnownVolume(**row._mapping) for row in await self.connection.execute(_SQL["volumes"], values)]


def _cohort(cohort: int, request: int) -> int:
    """A number above 0: a cohort that somebody named, that of a request, or the request's other files."""
    return COHORTS_FROM + (-cohort >> 2) if cohort < 0 else cohort or request
