"""What a reading turn claims: each file once, all that is claimed handed over, in the order of its list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, queues, replicas
from catalog.database import Database
from catalog.errors import CatalogUnreachable, Retry
from tapeserver.config import Config
from tapeserver.frames import Arrange, Arranged, Read, ReadDone, ReadFailed
from tapeserver.mountcontext import MountContext
from tapeserver.mover.bulkhttp import CacheStreamBroken
from tapeserver.readturn import ReadTurn
from tests.store.media import drop_replicas, make_copies, make_files, mounted, two_libraries, wait_for

PROMISED = "select count(*) from reservation where expires_at > capstan_now()"


@dataclass
class Link:
    """The mover's end: which files it was given, in their order, and what it was asked."""

    files: list[int] = field(default_factory=list)
    questions: list[Arrange] = field(default_factory=list)

    async def send(self, message: Any) -> None:
        if isinstance(message, Read):
            self.files += [item.file_id for item in message.items]
        elif isinstance(message, Arrange):
            self.questions.append(message)


@dataclass
class Reading:
    turn: ReadTurn
    link: Link
    files: list[int]


@pytest.fixture
async def reading(database: Database) -> Reading:
    """A mount of a volume of which four files are wanted."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now()"))
        files = await make_files(connection, 4)
        await make_copies(connection, files, "E00001")
        await drop_replicas(connection, files)
        await wait_for(connection, files)
        await queues.request_recalls(connection, files, owner="o", group="g")
        epoch = await mounted(connection, "E00001", "east1")
        work = await mounts.work_of(connection, epoch)
        assert work is not None
    link = Link()
    context = MountContext(
        database=database,
        config=Config(name="ts"),
        link=link,  # type: ignore[arg-type]  # of the mover's link it uses `send` alone
        work=work,
        bell=asyncio.Event(),
        closing=asyncio.Event(),
    )
    return Reading(turn=ReadTurn(context, seconds_max=None), link=link, files=files)


def claim_goes_wrong(monkeypatch: pytest.MonkeyPatch, database: Database, *, is_made: bool) -> None:
    """The first commit of a claim fails; or it is made, and nobody hears of it."""
    reserve, begin = replicas.reserve_recalls, database.transaction
    claims = 0

    async def reserve_recalls(*arguments: Any, **more: Any) -> Any:
        nonlocal claims
        claims += 1
        return await reserve(*arguments, **more)

    @asynccontextmanager
    async def transaction() -> AsyncIterator[AsyncConnection]:
        before = claims
        async with begin() as connection:
            yield connection
            if (before, claims, is_made) == (0, 1, False):
                raise CatalogUnreachable(why="the connection is lost")
        if (before, claims) == (0, 1):
            raise CatalogUnreachable(why="the answer of a commit is lost")

    monkeypatch.setattr(replicas, "reserve_recalls", reserve_recalls)
    monkeypatch.setattr(database, "transaction", transaction)


@pytest.mark.parametrize("is_made", [True, False])
async def test_a_claim_that_is_repeated_gives_the_mover_every_file_once_and_in_order(
    database: Database, reading: Reading, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    claim_goes_wrong(monkeypatch, database, is_made=is_made)
    await reading.turn.top_up()
    assert reading.link.files == reading.files
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from recall where state = 'claimed'")) == 4
        assert await connection.scalar(sa.text(PROMISED)) == 4
        assert await queues.drift(connection) == []
    await reading.turn.give_back()
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from recall where state = 'queued'")) == 4
        assert await connection.scalar(sa.text(PROMISED)) == 0


async def test_what_the_cache_has_no_space_for_stays_where_it_is_in_the_order(
    database: Database, reading: Reading
) -> None:
    turn, files = reading.turn, reading.files
    async with database.transaction() as connection:
        await connection.execute(sa.text("update cache_server set capacity_bytes = 150"))
        # At the end of the tape, where a head that had gone on without them would be by now.
        more = await make_files(connection, 2)
        await make_copies(connection, more, "E00001")
        await drop_replicas(connection, more)
        await wait_for(connection, more)
    await turn.top_up()
    assert reading.link.files == files[:1]
    async with database.transaction() as connection:
        await queues.request_recalls(connection, more, owner="o", group="g")
        await connection.execute(sa.text("update cache_server set capacity_bytes = 10^9"))
    turn._look_at = 0.0
    await turn.top_up()
    assert reading.link.files == files + more


async def test_behind_a_cache_server_that_is_not_reached_the_mount_goes_on_with_another(
    database: Database, reading: Reading
) -> None:
    turn, files = reading.turn, reading.files
    turn.context.config = Config(name="ts", recalls_files_max=2)
    async with database.transaction() as connection:
        await connection.execute(
            sa.text(
                "insert into cache_server (name, url, root_id, host, root, capacity_bytes)"
                " values ('far', 'http://127.0.0.1:1', 'far', 'h', '/r', 2 * 10^9)"
            )
        )
    await turn.top_up()
    given = {file: space for file, (_, space, _) in turn._out.items()}
    assert {space.cache_server for space in given.values()} == {"far"}
    broken = ReadFailed(
        file_id=files[0],
        reservation_id=given[files[0]].id,
        code=CacheStreamBroken.code,
        text="no answer",
        retry=Retry.LATER.value,
    )
    await turn.handle(broken)
    await turn.handle(ReadDone(files=[(files[1], given[files[1]].id)]))
    await turn.top_up()
    assert {space.cache_server for _, space, _ in turn._out.values()} == {"cache"}
    assert turn.problem is None


async def test_a_drive_is_asked_for_its_order_of_what_is_new_and_not_again_for_what_is_left_of_it(
    database: Database, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still while it thinks."""
    monkeypatch.setattr("tapeserver.readturn.LIST_SECONDS", 0.0)
    monkeypatch.setattr("tapeserver.readturn.LIST_SHARE", 0.0)

    async def more_wanted(count: int) -> None:
        async with database.transaction() as connection:
            files = await make_files(connection, count)
            await make_copies(connection, files, "E00001")
            await drop_replicas(connection, files)
            await wait_for(connection, files)
            # Far apart.
            far = "update copy set first_block = first_block * 100000 where first_block < 10000"
            await connection.execute(sa.text(far))
            await queues.request_recalls(connection, files, owner="o", group="g")

    await more_wanted(8)
    context = reading.turn.context
    context.work = replace(context.work, library_spec={**context.work.library_spec, "medium": "LTO-9"})
    context.config = Config(name="ts", recalls_files_max=2)
    turn = ReadTurn(context, seconds_max=None)
    drives_wanted, asked = mounts.drives_wanted, list[str]()

    async def counted(connection: AsyncConnection, library: str) -> bool:
        asked.append(library)
        return await drives_wanted(connection, library)

    monkeypatch.setattr(mounts, "drives_wanted", counted)
    for answers in range(3):
        await turn.top_up()
        if answers == 0:
            [question] = reading.link.questions
            order = list(range(len(question.segments)))[::-1]
            await turn.handle(Arranged(number=question.number, order=order))
        turn._out.clear()
    assert len(reading.link.questions) == 1
    # Nor does the mount ask who else wants the drive, when there is nothing to put in order.
    assert len(asked) == 1
    await more_wanted(1)
    await turn.top_up()
    assert len(reading.link.questions) == len(asked) == 2
