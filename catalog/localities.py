"""Where files' bytes are: on disk, on tape, both, or in trouble. One set-based look for many files, and its rules.

Reads only. What a file needs to be *safe* is derived here from the same rows as the database's file_is_safe, which
stays the one that eviction asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.model import Locality, locality
from catalog.recalls import HEARTBEAT_SECONDS_MAX
from catalog.sql import load

SQL = load("reading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    on_disk: bool
    #: copies on volumes in a good state; of them those in reach now
    copies_good: int
    copies_reachable: int
    #: copies that a recall could use now, suspect volumes included
    copies_readable: int
    copies_wanted: int

    @property
    def locality(self) -> Locality:
        return locality(on_disk=self.on_disk, copies_readable=self.copies_readable, copies_good=self.copies_good)

    @property
    def safe(self) -> bool:
        return self.copies_good >= self.copies_wanted

    @property
    def label(self) -> str:
        """The word of `tls -l`: disk, disk+tape, tape, degraded, lost.

        Degraded is a file that has fewer copies in reach than it should, and is not merely still being written.
        """
        if not self.on_disk and not self.copies_good:
            return "degraded" if self.copies_readable else "lost"
        if self.copies_reachable < self.copies_good or (not self.on_disk and not self.safe):
            return "degraded"
        if self.on_disk:
            return "disk+tape" if self.safe else "disk"
        return "tape"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    copy_id: int
    file: int
    volume: str
    generation: int
    library: str
    pool: str | None
    tape_file: int
    #: of the HDR1 label of the tape file
    first_block: int
    byte_offset: int
    length: int
    volume_state: str
    volume_reason: str
    library_state: str
    library_reason: str
    #: it lies on the label that the volume has now
    current: bool
    readable: bool
    #: read wrong in several drives; "": not found broken
    broken_why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlace:
    replica_id: int
    cache_server: str
    host: str
    root: str


async def places(connection: AsyncConnection, file_ids: Iterable[int]) -> dict[int, Places]:
    """Of each file that exists."""
    files = sorted(set(file_ids))
    if not files:
        return {}
    rows = await connection.execute(sa.text(SQL["places"]), _live(files))
    return {
        row.id: Places(
            on_disk=row.on_disk,
            copies_good=row.good,
            copies_reachable=row.reachable,
            copies_readable=row.readable,
            copies_wanted=row.wanted,
        )
        for row in rows
    }


async def copies(connection: AsyncConnection, file_ids: Iterable[int]) -> dict[int, list[Copy]]:
    """Every copy of each file, those on retired labels and broken volumes included."""
    found: dict[int, list[Copy]] = {file_id: [] for file_id in file_ids}
    if found:
        for row in await connection.execute(sa.text(SQL["copies"]), {"files": sorted(found)}):
            found[row.file].append(Copy(**row._mapping))
    return found


async def cache_places(connection: AsyncConnection, file_ids: Iterable[int]) -> dict[int, CachePlace]:
    """Of each file that is on a live cache server, one place."""
    files = sorted(set(file_ids))
    if not files:
        return {}
    found: dict[int, CachePlace] = {}
    for row in await connection.execute(sa.text(SQL["cache_places"]), _live(files)):
        place = CachePlace(replica_id=row.replica_id, cache_server=row.cache_server, host=row.host, root=row.root)
        found.setdefault(row.file, place)
    return found


def _live(files: Sequence[int]) -> dict[str, Any]:
    return {"files": list(files), "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFile:
    path: str
    file_id: int
    size: int
    first_block: int
    byte_offset: int
    on_disk: bool


async def volume_files(
    connection: AsyncConnection, vid: str, *, after: tuple[int, int], limit: int
) -> list[VolumeFile]:
    """Live files with a copy on the volume's present label, by position, behind (block, byte offset).

    A place holds one file, so the position alone says where to go on.
    """
    values = {"vid": vid, "after_block": after[0], "after_offset": after[1], "limit": limit}
    return [VolumeFile(**row._mapping) for row in await connection.execute(sa.text(SQL["volume_files"]), values)]
