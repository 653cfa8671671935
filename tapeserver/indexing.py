"""An index of the mounted volume: from the catalog to the mover, and back into the catalog when it lies on tape.

Page by page, so that nothing here holds a whole index: the mover keeps it in a file until it has all of it. A volume is
valid without its last index, so nothing that fails here fails a mount; the next index tells of what this one would have
told. When there should be one is the write turn's to say.
"""

from __future__ import annotations

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import fullindexes, recalls, tapeindex
from catalog.written import record_end
from tapeserver.format.indexes import BadIndex, Builder, IndexHead, member_name
from tapeserver.frames import IndexPart, IndexWritten
from tapeserver.mountcontext import MountContext

log = structlog.get_logger(__name__)


async def send_index(context: MountContext, *, full: bool | None = None) -> tapeindex.Range | None:
    """Give the mover the index that this mount should write now, page by page; what it tells of.

    None when nothing on the volume is new, or no index can be made of it; half an index helps nobody, and the mover
    forgets it. `full` as in `tapeindex.due`. Raises CatalogUnreachable, MoverGone.
    """
    epoch = context.work.epoch

    async def send(connection: AsyncConnection) -> tapeindex.Range | None:
        await tapeindex.one_snapshot(connection)
        what = await tapeindex.due(connection, epoch, full=full)
        if what is None:
            return None
        parts = _Parts(context, member_name(what.volume, what.generation, what.last_tape_file + 1))
        builder = Builder(_head(what))
        async for page in tapeindex.entries(connection, what):
            for piece in builder.add(page):
                await parts.send(piece)
        *pieces, last = builder.finish(await tapeindex.dead(connection, what))
        for piece in pieces:
            await parts.send(piece)
        await parts.send(last, last=True)
        return what

    try:
        return await context.commit(send)
    except BadIndex as error:
        log.error("no index can be made", epoch=epoch, volume=context.work.volume, why=str(error))
        return None


class _Parts:
    """One index on its way to the mover."""

    def __init__(self, context: MountContext, name: str) -> None:
        self._context, self._name = context, name
        self._first = True

    async def send(self, data: bytes, *, last: bool = False) -> None:
        await self._context.link.send(IndexPart(name=self._name, data=data, first=self._first, last=last))
        self._first = False


async def record_missing(context: MountContext, why: str) -> None:
    """The full index of this volume will not be there; what tells of it instead is its session indexes."""
    work = context.work

    async def record(connection: AsyncConnection) -> None:
        await recalls.fence(connection, work.epoch)
        await fullindexes.missing(connection, work.volume, why)

    await context.commit(record)
    log.warning("full index not written", epoch=work.epoch, volume=work.volume, why=why)


async def record_index(context: MountContext, message: IndexWritten) -> int:
    """The index lies behind a good flush: the volume's end and its indexes move together; its bytes in all now."""
    work = context.work
    total = work.written_bytes + message.written_bytes

    async def record(connection: AsyncConnection) -> None:
        volume = await recalls.fence(connection, work.epoch)
        await record_end(
            connection,
            work.epoch,
            volume,
            tape_files=message.tape_files,
            end_block=message.end_block,
            written_bytes=total,
            index_block=message.index_block,
        )

    await context.commit(record)
    log.info("index written", epoch=work.epoch, volume=work.volume, tape_file=message.tape_files)
    return total


def _head(what: tapeindex.Range) -> IndexHead:
    return IndexHead(
        volume=what.volume,
        generation=what.generation,
        catalog_id=what.catalog_id,
        pool=what.pool,
        kind="full" if what.full else "session",
        first_tape_file=what.first_tape_file,
        last_tape_file=what.last_tape_file,
        previous_index=what.previous_index,
        entries=what.entries,
        block_size=what.block_size,
    )
