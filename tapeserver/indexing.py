"""An index of the mounted volume: from the catalog to the mover, and back into the catalog when it lies on tape.

A volume is valid without its last index, so nothing that fails here fails a mount; the next index tells of what this
one would have told. When there should be one is the write turn's to say.
"""

from __future__ import annotations

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import recalls, tapeindex
from catalog.written import record_end
from tapeserver.frames import IndexPart, IndexWritten
from tapeserver.indexformat import BadIndex, Builder, IndexHead, member_name
from tapeserver.mountcontext import MountContext

log = structlog.get_logger(__name__)


async def due_index(context: MountContext, *, full: bool = False) -> list[IndexPart]:
    """The index that this mount should write now, in parts; none when nothing on the volume is new.

    Built before the first part is sent: half an index helps nobody. Raises CatalogUnreachable.
    """
    epoch = context.work.epoch

    async def read(connection: AsyncConnection) -> tuple[tapeindex.Range, list[bytes]] | None:
        await tapeindex.one_snapshot(connection)
        what = await tapeindex.due(connection, epoch, full=full)
        if what is None:
            return None
        builder = Builder(_head(what))
        pieces: list[bytes] = []
        async for page in tapeindex.entries(connection, what):
            pieces += builder.add(page)
        pieces += builder.finish(await tapeindex.dead(connection, what))
        return what, pieces

    try:
        found = await context.commit(read)
    except BadIndex as error:
        log.error("no index can be made", epoch=epoch, volume=context.work.volume, why=str(error))
        return []
    if found is None:
        return []
    what, pieces = found
    name = member_name(what.volume, what.generation, what.last_tape_file + 1)
    last = len(pieces) - 1
    return [IndexPart(name=name, data=data, last=number == last) for number, data in enumerate(pieces)]


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
