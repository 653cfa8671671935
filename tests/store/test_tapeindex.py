"""Promises of what goes into an index: the committed truth of a range of tape files, page by page, by position."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from catalog import tapeindex
from catalog.database import Database
from catalog.written import DeadExtent, record_end
from tests.store.media import make_copies, make_files, mounted, two_libraries


async def test_an_index_tells_of_what_the_last_one_did_not_and_a_full_one_of_everything(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapeindex, "PAGE_ENTRIES", 2)
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, 8)
        await make_copies(connection, files[:3], "E00001")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        # The index is tape file 4, a dead one number 5; the others follow.
        end = {"written_bytes": 1, "dead": []}
        await record_end(connection, epoch, "E00001", tape_files=4, end_block=60, index_block=50, **end)
        assert await tapeindex.due(connection, epoch) is None
        assert not await tapeindex.may_write(connection, epoch)
        dead = DeadExtent(tape_file=5, first_block=60, blocks=10, why="aborted")
        await record_end(connection, epoch, "E00001", tape_files=5, end_block=70, **{**end, "dead": [dead]})
        await make_copies(connection, files[3:], "E00001")
        await connection.execute(sa.text("update copy set broken_at = now() where file = :f"), {"f": files[7]})
    for full in (False, True):
        async with database.transaction() as connection:
            await tapeindex.one_snapshot(connection)
            what = await tapeindex.due(connection, epoch, full=full)
            assert what is not None
            pages = [page async for page in tapeindex.entries(connection, what)]
            found = [one.file_id for page in pages for one in page]
            assert (found == files[:7]) if full else (found == files[3:7])
            assert what.entries == len(found)
            assert (what.first_tape_file, what.last_tape_file) == ((1, 10) if full else (5, 10))
            assert what.previous_index == 50
            assert [one.tape_file for one in await tapeindex.dead(connection, what)] == [5]
            assert all(len(page) <= 2 for page in pages)


async def test_a_closed_volume_gets_a_full_index_and_one_that_is_out_of_use_none(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await make_copies(connection, await make_files(connection, 2), "E00001")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await connection.execute(sa.text("update volume set state = 'closed' where vid = 'E00001'"))
        what = await tapeindex.due(connection, epoch)
        assert what is not None
        assert what.full
        await connection.execute(sa.text("update volume set state = 'disabled' where vid = 'E00001'"))
        assert await tapeindex.due(connection, epoch) is None
