"""What the mover finds behind the catalog's end goes into the catalog, tape file by tape file, as it comes.

The rules are `catalog.adoption`'s; whether the bytes are right is the mover's word.
"""

from __future__ import annotations

import dataclasses

from catalog import adoption, failures
from catalog.database import CACHE, EVENTS, PLANNER
from tapeserver.frames import Found
from tapeserver.mountcontext import MountContext


async def tried_elsewhere(context: MountContext) -> bool:
    """Whether what this drive cannot read behind the catalog's end is to be believed unreadable.

    That is when another drive could not read it back either; or, because no other took it, often enough this one. What
    else went wrong with a load says nothing of it.
    """
    work = context.work
    before = await context.commit(
        lambda connection: failures.evidence(connection, drive=work.drive, volume=work.volume, kinds=["readback"])
    )
    enough = context.config.read_failures_max
    return bool(before.drives_of_volume - {work.drive}) or before.mounts_of_volume >= enough


class Adopting:
    """The found tape files of one mount; `found` moves the context's work on with each."""

    def __init__(self, context: MountContext) -> None:
        self._context = context
        #: of a tape file that comes in several messages
        self._members: list[adoption.FoundCopy] = []

    async def found(self, message: Found) -> None:
        self._members += [
            adoption.FoundCopy(
                record=one.record, copy_number=one.copy_number, byte_offset=one.byte_offset, good=one.good
            )
            for one in message.members
        ]
        if message.more:
            return
        members, self._members = self._members, []
        context, work = self._context, self._context.work
        found = adoption.FoundTapeFile(
            tape_file=message.tape_file,
            first_block=message.first_block,
            blocks=message.blocks,
            kind=message.kind,
            epoch=message.epoch,
            members=members,
        )
        await context.commit(lambda connection: adoption.pass_ids(connection, found))
        adopted = await context.commit(
            lambda connection: adoption.adopt(
                connection, volume=work.volume, generation=work.generation, epoch=work.epoch, found=found
            )
        )
        context.work = dataclasses.replace(
            work,
            tape_files=message.tape_file,
            end_block=message.first_block + message.blocks,
            written_bytes=adopted.written_bytes,
            index_block=adopted.index_block,
        )
        for channel in (PLANNER, EVENTS, CACHE):
            context.database.wake(channel)
