"""The index at the end of a mount: page by page to the mover, and when the full one has no room, the shorter one."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from catalog import fullindexes, maintenance, mounts, tapeindex
from catalog.database import Database
from catalog.maintenance import Maintenance
from catalog.states import MaintenanceState
from catalog.written import record_end
from tapeserver import indexing
from tapeserver.config import Config
from tapeserver.format import indexes
from tapeserver.format.indexes import IndexEntry
from tapeserver.frames import IndexFailed, IndexPart, IndexWritten
from tapeserver.mountcontext import MountContext
from tapeserver.writeturn import WriteTurn
from tests.store.media import make_copies, make_files, mounted, two_libraries


@dataclass
class Link:
    """A mover that has room for indexes with at most so many entries."""

    entries_max: int
    #: what it says of those that it has no room for
    code: str = "volume_full"
    parts: list[IndexPart] = field(default_factory=list)
    indexes: list[tuple[str, int]] = field(default_factory=list)
    answers: deque[Any] = field(default_factory=deque)

    async def send(self, message: Any) -> None:
        if not isinstance(message, IndexPart):
            return
        self.parts.append(message)
        if not message.last:
            return
        begin = max(number for number, part in enumerate(self.parts) if part.first)
        head, entries = indexes.parse(part.data for part in self.parts[begin:])
        count = sum(isinstance(one, IndexEntry) for one in entries)
        self.indexes.append((head.kind, count))
        self.answers.append(
            IndexFailed(code=self.code, text="no room")
            if count > self.entries_max
            else IndexWritten(index_block=700, tape_files=head.last_tape_file + 1, end_block=710, written_bytes=9)
        )

    async def receive(self, timeout_seconds: float) -> Any:
        return self.answers.popleft() if self.answers else None

    def received(self) -> None:
        return None

    phase, phase_seconds = "idle", 0.0


async def closed_turn(database: Database, link: Link, *, indexed: bool) -> WriteTurn:
    """On a full volume with five copies; of three of them an earlier index tells, if it is there."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, 5)
        await make_copies(connection, files[:3], "E00001")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        end = {"written_bytes": 1, "tape_files": 4, "end_block": 60}
        await record_end(connection, epoch, "E00001", index_block=50 if indexed else None, **end)  # type: ignore[arg-type]  # three integers
        await make_copies(connection, files[3:], "E00001")
        await record_end(connection, epoch, "E00001", tape_files=6, end_block=600, written_bytes=2)
        await connection.execute(sa.text("update volume set state = 'full', full_at = now() where vid = 'E00001'"))
        work = await mounts.work_of(connection, epoch)
        assert work is not None
    context = MountContext(
        database=database,
        config=Config(name="ts", index_seconds_max=5.0),
        link=link,  # type: ignore[arg-type]  # of the mover's link it uses little
        work=work,
        bell=asyncio.Event(),
        closing=asyncio.Event(),
    )
    return WriteTurn(context, seconds_min=0.0)


async def index_rows(database: Database) -> list[Maintenance]:
    async with database.connection() as connection:
        return await maintenance.listed(connection, kind="index")


async def test_a_full_index_without_room_gives_way_to_the_shorter_one_and_is_said_to_be_missing(
    database: Database,
) -> None:
    link = Link(entries_max=2)
    turn = await closed_turn(database, link, indexed=True)
    await turn.finish()
    assert link.indexes == [("full", 5), ("session", 2)]
    async with database.transaction() as connection:
        volume = (await connection.execute(sa.text("select * from volume where vid = 'E00001'"))).one()
        assert (volume.index_block, volume.indexed_tape_files, volume.tape_files) == (700, 7, 7)
        assert await fullindexes.carry_on(connection) == [], "no mount is wasted on it again"
    [row] = await index_rows(database)
    assert (row.state, row.note.startswith("no room")) == (MaintenanceState.FAILED, True)


async def test_a_mount_that_was_made_for_the_full_index_ends_it_as_failed_when_there_is_no_room(
    database: Database,
) -> None:
    link = Link(entries_max=0)
    turn = await closed_turn(database, link, indexed=False)
    async with database.transaction() as connection:
        await connection.execute(
            sa.text("insert into maintenance (kind, key, who, reason) values ('index', 'E00001', 'capstan', 'test')")
        )
    await turn.finish()
    assert link.indexes == [("full", 5)], "nothing shorter would tell of less"
    assert [row.state for row in await index_rows(database)] == [MaintenanceState.FAILED]


@pytest.mark.parametrize(
    ("code", "tried"), [("write_error", ["full"]), ("hardware_error", ["full"]), ("index_refused", ["full", "session"])]
)
async def test_an_index_that_failed_for_want_of_anything_but_room_is_not_given_up_for_good(
    database: Database, code: str, tried: list[str]
) -> None:
    """The drive's fault comes behind the word on the index, and may not have been heard yet."""
    link = Link(entries_max=2, code=code)
    await (await closed_turn(database, link, indexed=True)).finish()
    assert [kind for kind, _ in link.indexes] == tried
    assert await index_rows(database) == []


async def test_a_full_index_that_has_room_is_the_only_one(database: Database) -> None:
    link = Link(entries_max=5)
    await (await closed_turn(database, link, indexed=True)).finish()
    assert link.indexes == [("full", 5)]
    assert await index_rows(database) == []


async def test_the_pieces_of_an_index_go_to_the_mover_while_the_catalog_is_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapeindex, "PAGE_ENTRIES", 50)
    link = Link(entries_max=1000)
    turn = await closed_turn(database, link, indexed=True)
    async with database.transaction() as connection:
        # Long paths that cannot be squeezed much, so that there are several pieces.
        files = await make_files(connection, 400)
        await connection.execute(
            sa.text(
                "update file set stored_path = (select string_agg('/' || md5(f.id * 100 + n || ''), '') "
                "from generate_series(1, 60) n) from file f where f.id = file.id"
            )
        )
        await make_copies(connection, files, "E00001")
        end = {"tape_files": 500, "end_block": 9000, "written_bytes": 3}
        await record_end(connection, turn.context.work.epoch, "E00001", **end)  # type: ignore[arg-type]  # three integers
    gone_at: list[int] = []
    real = tapeindex.entries

    async def entries(connection: Any, what: tapeindex.Range) -> Any:
        async for page in real(connection, what):
            gone_at.append(len(link.parts))
            yield page

    monkeypatch.setattr(indexing.tapeindex, "entries", entries)
    assert await indexing.send_index(turn.context) is not None
    assert gone_at == sorted(gone_at)
    assert gone_at[-1] > 0, "nobody holds all of it"
    assert [part.first for part in link.parts] == [True] + [False] * (len(link.parts) - 1)
    assert [part.last for part in link.parts] == [False] * (len(link.parts) - 1) + [True]
