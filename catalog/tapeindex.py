"""What the next index of a volume says: the committed truth of a range of its tape files, in pages.

Reads only. How it becomes bytes is `tapeserver.format.indexes`'s matter; that it lies on tape is recorded by
`written.record_end`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.indexentry import IndexDead, IndexEntry
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("tapeindex").items()}
_PAGE = _SQL["page"].columns(digests=JSONB)
PAGE_ENTRIES = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What an index is about: all tape files from the first to the last one, both inclusive."""

    volume: str
    generation: int
    pool: str
    catalog_id: str
    block_size: int
    #: the whole volume
    full: bool
    first_tape_file: int
    last_tape_file: int
    #: HDR1 of the index before; 0: none
    previous_index: int
    entries: int
    #: nothing of it stands before this block
    from_block: int


async def one_snapshot(connection: AsyncConnection) -> None:
    """Everything that this transaction reads is of one instant. Must come first in it."""
    await connection.execute(sa.text("set transaction isolation level repeatable read, read only"))


async def may_write(connection: AsyncConnection, epoch: int) -> bool:
    """Whether anything on the volume of this mount is in no index, and the volume may be written on."""
    row = (await connection.execute(_SQL["about"], {"epoch": epoch})).one_or_none()
    return row is not None and bool(row.may_write) and row.tape_files > row.indexed_tape_files


async def due(connection: AsyncConnection, epoch: int, *, full: bool | None = None) -> Range | None:
    """What the mount of this epoch should write an index of now; None when nothing is new, or the volume is not to be
    written on. Without a word on `full` it is the full index for a volume that takes nothing more.
    """
    row = (await connection.execute(_SQL["about"], {"epoch": epoch})).one_or_none()
    if row is None or not row.may_write or row.tape_files <= row.indexed_tape_files:
        return None
    full = row.state != "active" if full is None else full
    first = 1 if full else row.indexed_tape_files + 1
    from_block = 0 if full else row.index_block
    arguments = {
        "volume": row.volume,
        "generation": row.generation,
        "from_block": from_block,
        "first_tape_file": first,
        "last_tape_file": row.tape_files,
    }
    return Range(
        volume=row.volume,
        generation=row.generation,
        pool=row.pool or "",
        catalog_id=row.catalog_id,
        block_size=row.block_size,
        full=full,
        first_tape_file=first,
        last_tape_file=row.tape_files,
        previous_index=row.index_block,
        entries=int(await connection.scalar(_SQL["count"], arguments) or 0),
        from_block=from_block,
    )


async def entries(connection: AsyncConnection, what: Range) -> AsyncIterator[list[IndexEntry]]:
    """The copies in this range, by position, in pages."""
    after = (what.from_block, -1, 0)
    while True:
        arguments = {
            "volume": what.volume,
            "generation": what.generation,
            "first_tape_file": what.first_tape_file,
            "last_tape_file": what.last_tape_file,
            "after_block": after[0],
            "after_offset": after[1],
            "after_file": after[2],
            "limit": PAGE_ENTRIES,
        }
        rows = (await connection.execute(_PAGE, arguments)).all()
        if rows:
            yield [_entry(row) for row in rows]
        if len(rows) < PAGE_ENTRIES:
            return
        after = (rows[-1].first_block, rows[-1].byte_offset, rows[-1].file_id)


async def dead(connection: AsyncConnection, what: Range) -> list[IndexDead]:
    """The dead tape files in this range; the first extent of each."""
    arguments = {
        "volume": what.volume,
        "generation": what.generation,
        "first_tape_file": what.first_tape_file,
        "last_tape_file": what.last_tape_file,
    }
    found: dict[int, IndexDead] = {}
    for row in await connection.execute(_SQL["dead"], arguments):
        extent = IndexDead(tape_file=row.tape_file, first_block=row.first_block, blocks=row.blocks, why=row.why)
        found.setdefault(row.tape_file, extent)
    return list(found.values())


def _entry(row: sa.Row[tuple[object, ...]]) -> IndexEntry:
    return IndexEntry(
        tape_file=row.tape_file,
        first_block=row.first_block,
        offset=row.byte_offset,
        file_id=row.file_id,
        copy_number=row.copy_number,
        size=row.size,
        adler32=row.adler32,
        digests=dict(row.digests),
        path=row.stored_path,
        mtime_ns=row.mtime_ns,
        mode=row.mode,
        owner=row.owner,
        group=row.grp,
        storage_class=row.storage_class,
        collocation=row.collocation,
        node=row.node,
        parent=row.parent,
        created=row.created,
        epoch=row.epoch,
    )
