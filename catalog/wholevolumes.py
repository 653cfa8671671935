"""The live files of a volume in pages, for who wants all of it on disk; and how much of it is of use. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("wholevolumes").items()}
PAGE_FILES = 10_000
#: by as many files, from the begin of the volume on, its use is judged
USE_FILES_MAX = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    path: str
    size: int
    first_block: int
    byte_offset: int
    on_disk: bool
    #: a recall of it waits or is under way
    wanted: bool


async def page_of(
    connection: AsyncConnection, vid: str, *, after: tuple[int, int], limit: int = PAGE_FILES
) -> list[StoredFile]:
    """Live files with a copy on the volume's present label that is not broken, by position, behind (block, offset)."""
    values = {"vid": vid, "after_block": after[0], "after_offset": after[1], "limit": limit}
    return [StoredFile(**row._mapping) for row in await connection.execute(_SQL["page"], values)]


async def part_of_use(connection: AsyncConnection, vid: str) -> float:
    """The part of its live files that is wanted now or was brought to disk lately and is still there, 0 to 1."""
    row = (await connection.execute(_SQL["use"], {"vid": vid, "limit": USE_FILES_MAX})).one()
    return row.of_use / row.files if row.files else 0.0
