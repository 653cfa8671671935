"""The order of a session's promises: flush GOOD (the mover has said Written), commit, and only then Committed.

A mover that is told "committed" forgets the batch, and the page cache hides a wrong order from kill -9: so the order
is traced, and what was promised is looked for over another connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, mounts, queues
from catalog.database import Database
from catalog.errors import CatalogUnreachable, StaleEpoch
from tapeserver.config import Config
from tapeserver.frames import Committed, Flush, Progress, Write, Written, WrittenItem
from tapeserver.mountcontext import MountContext
from tapeserver.writeturn import WriteTurn
from tests.store.media import make_files, mounted, two_libraries


@dataclass
class Link:
    """The mover's end. At each message to it the catalog is asked, from outside, what is recorded."""

    database: Database
    trace: list[tuple[str, int]] = field(default_factory=list)

    async def send(self, message: Any) -> None:
        async with self.database.connection() as connection:
            copies = await connection.scalar(sa.text("select count(*) from copy"))
        self.trace.append((type(message).__name__, copies))


@dataclass
class Session:
    turn: WriteTurn
    link: Link
    epoch: int
    written: Written


@pytest.fixture
async def session(database: Database) -> Session:
    """A mount that writes, whose mover has two archives; `written` is what it will report behind its flush."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, 2)
        await queues.enqueue_archives(connection, files)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        work = await mounts.work_of(connection, epoch)
        assert work is not None
    link = Link(database)
    context = MountContext(
        database=database,
        config=Config(name="ts", bundle_seconds=0.0),
        link=link,  # type: ignore[arg-type]  # of the mover's link it uses `send` alone
        work=work,
        bell=asyncio.Event(),
        closing=asyncio.Event(),
    )
    turn = WriteTurn(context, seconds_min=0.0)
    await turn.top_up()
    items = [
        WrittenItem(archive_id=id, tape_file=number, first_block=10 * number, byte_offset=0, length=100)
        for number, id in enumerate(sorted(turn._out.archive_ids), 1)
    ]
    written = Written(batch=7, items=items, tape_files=2, end_block=30, written_bytes=200)
    return Session(turn=turn, link=link, epoch=epoch, written=written)


async def test_the_mover_is_told_only_when_everybody_can_see_the_copies(session: Session) -> None:
    assert session.link.trace == [(Write.__name__, 0)]
    await session.turn.handle(session.written)
    assert session.link.trace == [(Write.__name__, 0), (Committed.__name__, 2)]


async def test_a_commit_that_fails_tells_the_mover_nothing(
    session: Session, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the catalog refused")

    monkeypatch.setattr(mounts, "add_progress", refuse)  # the last statement before the commit
    with pytest.raises(RuntimeError):
        await session.turn.handle(session.written)
    assert [step for step, _ in session.link.trace] == [Write.__name__]
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from copy")) == 0


async def test_a_report_that_comes_after_the_end_of_its_mount_is_neither_recorded_nor_confirmed(
    session: Session, database: Database
) -> None:
    async with database.transaction() as connection:
        assert await endings.end_mount(connection, session.epoch, "the mover was silent")
    with pytest.raises(StaleEpoch):
        await session.turn.handle(session.written)
    assert [step for step, _ in session.link.trace] == [Write.__name__]
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from copy")) == 0
        assert await connection.scalar(sa.text("select count(*) from archive where state = 'queued'")) == 2


def answer_is_lost(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """The next commit is made, and nobody hears of it."""
    real = database.transaction
    lost = [True]

    @asynccontextmanager
    async def transaction() -> AsyncIterator[AsyncConnection]:
        async with real() as connection:
            yield connection
        if lost:
            lost.clear()
            raise CatalogUnreachable(why="the answer of a commit is lost")

    monkeypatch.setattr(database, "transaction", transaction)


async def test_a_commit_whose_answer_was_lost_counts_once(
    session: Session, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_is_lost(monkeypatch, database)
    await session.turn.handle(session.written)
    assert session.link.trace == [(Write.__name__, 0), (Committed.__name__, 2)]
    async with database.connection() as connection:
        counted = (await connection.execute(sa.text("select files, bytes from mount"))).one()
        assert tuple(counted) == (2, 200)


async def test_what_was_claimed_by_a_commit_whose_answer_was_lost_is_claimed_again(
    session: Session, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction() as connection:
        await queues.enqueue_archives(connection, await make_files(connection, 3))
    before = set(session.turn._out.archive_ids)
    session.turn._supply._more = True
    answer_is_lost(monkeypatch, database)
    await session.turn.top_up()
    assert len(set(session.turn._out.archive_ids) - before) == 3
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from archive where state = 'claimed'")) == 5
        assert await queues.drift(connection) == []


async def test_one_flush_follows_what_somebody_waits_for_and_another_when_somebody_begins_to(
    database: Database, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapeserver.hurrying.HURRY_SECONDS", 0.0)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(session.link, "send", send)
    async with database.transaction() as connection:
        new = await make_files(connection, 3)
        await queues.enqueue_archives(connection, new[:2], urgent=True)
        await queues.enqueue_archives(connection, new[2:])
    session.turn._supply._more = True
    await session.turn.top_up()
    [write] = sent
    urgent = [item for item in write.items if item.record.file_id in new[:2]]
    # They share a tape file, which is flushed; the third waits for nobody.
    assert [item.flush for item in urgent] == [True, True]
    assert not any(item.flush for item in write.items if item.record.file_id == new[2])
    await session.turn.top_up()
    assert len(sent) == 1
    async with database.transaction() as connection:
        await queues.make_urgent(connection, new[2:])
    await session.turn.top_up()
    assert len(sent) == 1, "the mover has not begun it"
    session.turn.heard(Progress(file_id=new[2], bytes=1, block=5))
    session.turn._out._ahead.clear()
    await session.turn.top_up()
    assert isinstance(sent[-1], Flush)


async def test_small_files_for_an_idle_mover_wait_until_somebody_waits_for_one_of_them(
    database: Database, session: Session
) -> None:
    await session.turn.handle(session.written)
    turn, gathering = session.turn, session.turn._supply.gathering
    gathering._seconds = 3600.0
    async with database.transaction() as connection:
        new = await make_files(connection, 3)
        await queues.enqueue_archives(connection, new)
    turn._supply._more = True
    await turn.top_up()
    assert (len(gathering), turn.outstanding(), turn.waiting()) == (3, 0, True)
    async with database.transaction() as connection:
        await queues.make_urgent(connection, new[1:2])
    turn._supply._more = True
    await turn.top_up()
    assert [out.size for out in turn._out._out.values()] == [100]
    assert len(gathering) == 2
    await turn.give_back()
    assert not turn.waiting()
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from archive where state = 'queued'")) == 3
        assert await queues.drift(connection) == []
