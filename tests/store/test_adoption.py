"""Promises of adoption: what is whole on the tape and unknown is recorded once, or is dead, and never half."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import queues, restoring
from catalog.adoption import Adopted, FoundCopy, FoundTapeFile, adopt, pass_ids
from catalog.database import Database
from catalog.errors import StaleEpoch
from catalog.model import FileRecord
from catalog.queues import Written
from tests.store.media import make_copies, make_files, mounted
from tests.waiting import somebody_waits

UNKNOWN = 50_000


def member(file: int, *, number: int = 1, good: bool = True, **changed: Any) -> FoundCopy:
    record = FileRecord(
        file_id=file, path=f"/exp/run/{file}", size=100, adler32="00000001", mtime_ns=5, mode=0o640, owner="ann",
        group="g", storage_class="one",
    )  # fmt: skip
    return FoundCopy(record=replace(record, **changed), copy_number=number, byte_offset=512 * file, good=good)


def tape_file(*members: FoundCopy, kind: str = "D") -> FoundTapeFile:
    return FoundTapeFile(tape_file=1, first_block=2, blocks=12, kind=kind, epoch=7, members=list(members))


async def found(connection: AsyncConnection, epoch: int, *members: FoundCopy, kind: str = "D") -> Adopted:
    return await adopted(connection, epoch, tape_file(*members, kind=kind))


async def adopted(connection: AsyncConnection, epoch: int, one: FoundTapeFile) -> Adopted:
    await pass_ids(connection, one)
    return await adopt(connection, volume="E00001", generation=1, epoch=epoch, found=one)


async def state(connection: AsyncConnection) -> tuple[int, int, int, tuple[int, int]]:
    """Copies, archives, dead extents on E00001, and its end."""
    row = (
        await connection.execute(
            sa.text(
                "select (select count(*) from copy where volume = 'E00001') as copies, "
                "(select count(*) from archive) as archives, (select count(*) from dead_extent) as dead, "
                "tape_files, end_block from volume where vid = 'E00001'"
            )
        )
    ).one()
    return row.copies, row.archives, row.dead, (row.tape_files, row.end_block)


async def test_copies_that_a_crash_left_unrecorded_are_recorded_and_their_archives_done(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 3)
        await queues.enqueue_archives(connection, files)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(connection, epoch, *(member(file) for file in files))
        assert (adopted.copies, adopted.made, adopted.safe) == (3, 0, files)
        assert await state(connection) == (3, 0, 0, (1, 14))
        assert await connection.scalar(sa.text("select count(*) from event where kind = 'file.safe'")) == 3
        assert await connection.scalar(sa.text("select distinct epoch from copy")) == 7
        assert await queues.drift(connection) == []


async def test_adopting_again_after_an_unknown_outcome_changes_nothing(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        first = await found(connection, epoch, member(files[0]))
        again = await found(connection, epoch, member(files[0]))
        assert again.written_bytes == first.written_bytes > 0
        assert await state(connection) == (1, 0, 0, (1, 14))


async def test_a_file_that_a_restored_catalog_lacks_comes_back_with_its_id_and_name(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(connection, epoch, member(UNKNOWN), member(UNKNOWN + 1, path="/top", storage_class="?"))
        assert (adopted.copies, adopted.made) == (2, 2)
        rows = await connection.execute(
            sa.text("select id, state, node_path(node) as path, storage_class, mode from file order by id")
        )
        assert rows.all() == [
            (UNKNOWN, "live", f"/exp/run/{UNKNOWN}", "one", 0o640),
            (UNKNOWN + 1, "live", "/top", "one", 0o640),
        ]
        # No later file gets an id that stands on a tape.
        assert (await make_files(connection, 1))[0] > UNKNOWN + 1


async def test_of_two_files_of_one_name_the_younger_has_it_and_the_other_is_in_the_recycle_bin(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await found(connection, epoch, member(UNKNOWN, path="/exp/f"), member(UNKNOWN + 1, path="/exp/f"))
        rows = await connection.execute(sa.text("select id, state, deleted_path from file order by id"))
        assert rows.all() == [(UNKNOWN, "deleted", "/exp/f"), (UNKNOWN + 1, "live", None)]


async def test_a_file_whose_name_is_taken_or_whose_way_is_blocked_goes_to_the_recycle_bin(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await found(connection, epoch, member(UNKNOWN, path="/a"))
        later = replace(tape_file(member(UNKNOWN + 1, path="/a"), member(UNKNOWN + 2, path="/a/b")), tape_file=2)
        await adopted(connection, epoch, replace(later, first_block=14))
        rows = await connection.execute(sa.text("select id, state from file order by id"))
        assert rows.all() == [(UNKNOWN, "live"), (UNKNOWN + 1, "deleted"), (UNKNOWN + 2, "deleted")]
        assert (await state(connection))[0] == 3


async def test_what_is_another_file_or_purged_or_damaged_is_dead(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        await queues.enqueue_archives(connection, files)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(
            connection, epoch, member(files[0], adler32="00000002"), member(files[1], good=False), member(9, good=False)
        )
        assert (adopted.copies, adopted.made) == (0, 0)
        assert await state(connection) == (0, 2, 1, (1, 14))


async def test_a_copy_of_a_removed_file_is_recorded_for_the_recycle_bin(media: Database) -> None:
    async with media.transaction() as connection:
        [file] = await make_files(connection, 1)
        await connection.execute(
            sa.text("update file set state = 'deleted', deleted_at = now(), node = null where id = :f"), {"f": file}
        )
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(connection, epoch, member(file))
        assert (adopted.copies, adopted.safe) == (1, [])


async def test_a_copy_that_counts_elsewhere_already_makes_this_one_surplus(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        await make_copies(connection, files, "E00002")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(connection, epoch, *(member(file) for file in files))
        assert adopted.copies == 0
        assert await state(connection) == (0, 0, 1, (1, 14))


async def test_of_a_bundle_only_what_is_needed_is_recorded_and_it_is_not_dead(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        await make_copies(connection, files[:1], "E00002")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert (await found(connection, epoch, *(member(file) for file in files))).copies == 1
        assert await state(connection) == (1, 0, 0, (1, 14))


async def test_what_another_mount_has_claimed_is_his_and_this_copy_surplus(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        await queues.enqueue_archives(connection, files)
        other = await mounted(connection, "E00002", "east2", "archive")
        [claimed] = await queues.claim_archives(connection, "east", other, 1, 10**9)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert (await found(connection, epoch, *(member(file) for file in files))).copies == 1
        assert await state(connection) == (1, 1, 0, (1, 14))
        written = Written(archive_id=claimed.archive_id, tape_file=1, first_block=2, byte_offset=512, length=100)
        assert await queues.commit_written(connection, other, [written], tape_files=1, end_block=14, written_bytes=1)
        assert await connection.scalar(sa.text("select max(n) from (select count(*) n from copy group by file) t")) == 1
        assert await queues.drift(connection) == []


async def test_a_commit_of_the_other_mount_at_the_same_time_is_waited_for_and_seen(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        await queues.enqueue_archives(connection, files)
        other = await mounted(connection, "E00002", "east2", "archive")
        [claimed] = await queues.claim_archives(connection, "east", other, 1, 10**9)
        epoch = await mounted(connection, "E00001", "east1", "archive")
    written = Written(archive_id=claimed.archive_id, tape_file=1, first_block=2, byte_offset=512, length=100)

    async def adopting() -> Adopted:
        async with media.transaction() as connection:
            return await found(connection, epoch, member(files[0]))

    async with media.transaction() as connection:
        await queues.commit_written(connection, other, [written], tape_files=1, end_block=14, written_bytes=1)
        task = asyncio.create_task(adopting())
        await somebody_waits(media)
    assert (await task).copies == 0
    async with media.connection() as connection:
        assert await state(connection) == (0, 0, 1, (1, 14))


async def test_an_index_moves_the_chain_and_other_kinds_are_dead(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert (await found(connection, epoch, kind="I")).index_block == 2
        row = sa.text("select index_block, indexed_tape_files, tape_files from volume where vid = 'E00001'")
        assert (await connection.execute(row)).one() == (2, 1, 1)
        journal = replace(tape_file(kind="J"), tape_file=2, first_block=14)
        await adopt(connection, volume="E00001", generation=1, epoch=epoch, found=journal)
        assert await state(connection) == (0, 0, 1, (2, 26))
        assert (await connection.execute(row)).one() == (2, 1, 2)


async def test_files_of_a_volume_that_was_taken_out_of_use_meanwhile_are_written_again(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await connection.execute(sa.text("update volume set state = 'suspect' where vid = 'E00001'"))
        assert (await found(connection, epoch, member(files[0]))).safe == []
        assert await state(connection) == (1, 1, 0, (1, 14))


async def test_a_mount_that_is_over_adopts_nothing(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        await mounted(connection, "E00001", "east1", "archive")
        with pytest.raises(StaleEpoch):
            await found(connection, 999, member(files[0]))
        assert await state(connection) == (0, 0, 0, (0, 2))


async def test_what_was_removed_in_this_life_does_not_come_back_with_its_bytes(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        [file] = await make_files(connection, 1)
        await connection.execute(sa.text("delete from replica"))
        await connection.execute(sa.text("delete from archive"))
        await connection.execute(sa.text("delete from file where id = :id"), {"id": file})
        adopted = await found(connection, epoch, member(file))
        assert (adopted.copies, adopted.made) == (0, 0)
        assert (await state(connection))[2] == 1, "its extent is dead"


async def test_what_a_lost_life_stored_comes_back_though_its_id_is_below_those_of_this_life(media: Database) -> None:
    async with media.transaction() as connection:
        await make_files(connection, 3)
        last = int(await connection.scalar(sa.text("select pg_sequence_last_value('file_id_seq')")) or 0)
        await restoring.begin_new_life(connection, source="x.dump")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        adopted = await found(connection, epoch, member(last + 1))
        assert (adopted.copies, adopted.made) == (1, 1)


async def test_nobody_is_given_an_id_that_stands_on_a_tape_while_ids_are_passed(media: Database) -> None:
    first = tape_file(member(UNKNOWN))

    async def put() -> list[int]:
        async with media.transaction() as connection:
            return await make_files(connection, 1)

    async with media.transaction() as connection:
        await pass_ids(connection, first)
        putting = asyncio.create_task(put())
        await somebody_waits(media)
    assert await putting == [UNKNOWN + 1]
    async with media.transaction() as connection:
        # Never backwards, and nothing is held up when there is nothing to pass.
        await pass_ids(connection, tape_file(member(UNKNOWN - 1)))
        assert (
            await connection.scalar(sa.text("select count(*) from pg_locks where mode = 'ShareRowExclusiveLock'")) == 0
        )
        assert await make_files(connection, 1) == [UNKNOWN + 2]


async def test_ids_that_were_passed_in_vain_are_not_passed_at_all(media: Database) -> None:
    with pytest.raises(RuntimeError):
        async with media.transaction() as connection:
            await pass_ids(connection, tape_file(member(UNKNOWN)))
            raise RuntimeError
    async with media.transaction() as connection:
        assert await connection.scalar(sa.text("select count(*) from lost_life")) == 0
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert (await found(connection, epoch, member(UNKNOWN))).made == 1
        assert await make_files(connection, 1) == [UNKNOWN + 1]


async def test_what_was_aborted_before_an_adopted_tape_file_is_dead_with_it_and_needs_no_later_word(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await found(connection, epoch, member(files[0]))
        behind = replace(tape_file(member(files[1])), tape_file=4, first_block=40)
        for _ in range(2):
            await adopted(connection, epoch, behind)
        rows = await connection.execute(sa.text("select tape_file, first_block, blocks from dead_extent"))
        assert rows.all() == [(2, 14, 26)]
        assert await state(connection) == (2, 0, 1, (4, 52))
