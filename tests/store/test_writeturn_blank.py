"""Promises of a write turn on a volume that the catalog takes for blank while its tape is ahead of it.

So it is after a restore from a backup that is older than the volume's label: what is found behind that label counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from catalog import mounts, queues, volumes
from catalog.database import Database
from catalog.model import FileRecord
from tapeserver.config import Config
from tapeserver.frames import Found, FoundMember, Loaded
from tapeserver.mountcontext import MountContext
from tapeserver.writeturn import WriteTurn
from tests.store.media import make_files, mounted, two_libraries


@dataclass
class Link:
    """The mover's end, which hears and says nothing."""

    sent: list[Any] = field(default_factory=list)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def blank_turn(database: Database, *, files: int) -> tuple[WriteTurn, list[int]]:
    async with database.transaction() as connection:
        await two_libraries(connection)
        ids = await make_files(connection, files)
        await queues.enqueue_archives(connection, ids)
        blank = volumes.NewVolume(vid="E00009", library="east", pool="east", capacity_bytes=10**10)
        await volumes.create_volumes(connection, [blank])
        epoch = await mounted(connection, "E00009", "east1", "archive")
        work = await mounts.work_of(connection, epoch)
        assert work is not None
    context = MountContext(
        database=database,
        config=Config(name="ts"),
        link=Link(),  # type: ignore[arg-type]  # of the mover's link it uses `send` alone
        work=work,
        bell=asyncio.Event(),
        closing=asyncio.Event(),
    )
    return WriteTurn(context, seconds_min=0.0), ids


def member(file: int) -> FoundMember:
    record = FileRecord(
        file_id=file, path=f"/exp/{file}", size=100, adler32="00000001", mtime_ns=5, mode=0o640, owner="ann", group="g",
        storage_class="one",
    )  # fmt: skip
    return FoundMember(record=record, copy_number=1, byte_offset=512, good=True)


async def test_copies_found_behind_a_label_that_the_catalog_lacks_count(database: Database) -> None:
    turn, files = await blank_turn(database, files=2)
    assert turn.load_fields().generation == 1
    for number, file in enumerate(files, 1):
        at = 2 + 10 * (number - 1)
        await turn.found(
            Found(tape_file=number, first_block=at, blocks=10, kind="D", epoch=5, members=[member(file)], more=False)
        )
    await turn.found(Found(tape_file=3, first_block=22, blocks=10, kind="I", epoch=5, members=[], more=False))
    await turn.loaded(Loaded(tape_files=3, end_block=32, remaining_bytes=10**9, dead=[]))
    async with database.connection() as connection:
        volume = (await connection.execute(sa.text("select * from volume where vid = 'E00009'"))).one()
        good = (await connection.scalars(sa.text("select file from good_copy order by file"))).all()
        archives = await connection.scalar(sa.text("select count(*) from archive"))
    assert (volume.state, volume.generation, volume.tape_files, volume.end_block) == ("active", 1, 3, 32)
    assert (volume.index_block, volume.indexed_tape_files, volume.end_verified) == (22, 3, True)
    assert volume.written_bytes > 0
    assert (list(good), archives) == (files, 0)
    work = turn.context.work
    assert (work.generation, work.tape_files, work.end_block, work.index_block) == (1, 3, 32, 22)
    assert (work.written_bytes, work.volume_state) == (volume.written_bytes, "active")


async def test_a_blank_volume_begins_empty_with_its_new_generation(database: Database) -> None:
    turn, _ = await blank_turn(database, files=1)
    await turn.loaded(Loaded(tape_files=0, end_block=2, remaining_bytes=10**9, dead=[]))
    async with database.connection() as connection:
        volume = (await connection.execute(sa.text("select * from volume where vid = 'E00009'"))).one()
    assert (volume.state, volume.generation, volume.tape_files, volume.end_block) == ("active", 1, 0, 2)
    assert (turn.context.work.generation, turn.context.work.volume_state) == (1, "active")
