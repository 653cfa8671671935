"""Promises of collocation: what will be read together is claimed together, and stays on the volume where it began."""

from __future__ import annotations

from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import queues, volumes
from catalog.database import Database
from catalog.queues import ClaimedArchive, Written
from tests.store.media import make_files, mounted


async def queued(connection: AsyncConnection, keys: str) -> list[int]:
    """A file for each letter, in this order, that is to lie with its likes; their ids."""
    files = []
    for key in keys:
        [file] = await make_files(connection, 1)
        await connection.execute(sa.text("update file set collocation = :k where id = :f"), {"k": key, "f": file})
        await queues.enqueue_archives(connection, [file])
        files.append(file)
    return files


def keys(claimed: list[ClaimedArchive]) -> str:
    return "".join(one.collocation.removeprefix("hint:") for one in claimed)


async def record(connection: AsyncConnection, epoch: int, claimed: list[ClaimedArchive]) -> None:
    written = [
        Written(archive_id=one.archive_id, tape_file=number, first_block=10 * number, byte_offset=512, length=100)
        for number, one in enumerate(claimed, 1)
    ]
    await queues.commit_written(connection, epoch, written, tape_files=100, end_block=5000, written_bytes=1)


async def test_a_claim_takes_the_group_of_the_oldest_then_the_next_oldest_group(media: Database) -> None:
    async with media.transaction() as connection:
        await queued(connection, "abcabcabc")
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert keys(await queues.claim_archives(connection, "east", epoch, 5, 10**9)) == "aaabb"
        # The rest of a group comes before the next one.
        claimed = await queues.claim_archives(connection, "east", epoch, 5, 10**9, going_on="hint:b")
        assert keys(claimed) == "bccc"
        assert await queues.drift(connection) == []


async def test_what_somebody_waits_for_comes_before_all_groups(media: Database) -> None:
    async with media.transaction() as connection:
        files = await queued(connection, "aabbcc")
        await queues.make_urgent(connection, [files[5], files[3]])
        epoch = await mounted(connection, "E00001", "east1", "archive")
        claimed = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
        assert [one.file.file_id for one in claimed][:2] == [files[3], files[5]]
        assert [one.urgent for one in claimed] == [True, True, False, False, False, False]
        assert keys(claimed[2:]) == "aabc"


async def test_without_a_hint_files_lie_with_their_directory(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 6)
        root = await connection.scalar(sa.text("select id from node where parent is null"))
        for number, file in enumerate(files):
            parent = await connection.scalar(
                sa.text(
                    "insert into node (parent, name, kind) values (:r, :n, 'directory') "
                    "on conflict (parent, name) do update set name = excluded.name returning id"
                ),
                {"r": root, "n": f"d{number % 2}"},
            )
            await connection.execute(
                sa.text(
                    "with n as (insert into node (parent, name, kind) values (:p, :n, 'file') returning id) "
                    "update file set node = n.id from n where file.id = :f"
                ),
                {"p": parent, "n": f"f{number}", "f": file},
            )
        for file in files:
            await queues.enqueue_archives(connection, [file])
        epoch = await mounted(connection, "E00001", "east1", "archive")
        claimed = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
        assert [one.file.file_id for one in claimed] == files[::2] + files[1::2]
        assert len([key for key, _ in groupby(one.collocation for one in claimed)]) == 2


async def test_a_group_is_left_to_the_mounted_volume_on_which_it_began_but_not_for_ever(media: Database) -> None:
    async with media.transaction() as connection:
        first = await mounted(connection, "E00001", "east1", "archive")
        await queued(connection, "a")
        await record(connection, first, await queues.claim_archives(connection, "east", first, 10, 10**9))
        second = await mounted(connection, "E00002", "east2", "archive")
        await queued(connection, "aab")
        assert keys(await queues.claim_archives(connection, "east", second, 10, 10**9)) == "b"
        assert keys(await queues.claim_archives(connection, "east", second, 10, 10**9, home_seconds=0)) == "aa"


async def test_a_group_whose_volume_is_full_or_not_mounted_goes_to_any_other(media: Database) -> None:
    async with media.transaction() as connection:
        first = await mounted(connection, "E00001", "east1", "archive")
        await queued(connection, "a")
        await record(connection, first, await queues.claim_archives(connection, "east", first, 10, 10**9))
        await volumes.set_state(connection, "volume", "E00001", "full", who="ann", reason="it is full")
        second = await mounted(connection, "E00002", "east2", "archive")
        await queued(connection, "aa")
        assert keys(await queues.claim_archives(connection, "east", second, 1, 10**9)) == "a"
        # What was full takes nothing more, whatever is asked.
        assert await queues.claim_archives(connection, "east", first, 10, 10**9) == []


async def test_the_home_of_a_group_moves_with_it_and_is_forgotten_by_age(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await queued(connection, "aab")
        await record(connection, epoch, await queues.claim_archives(connection, "east", epoch, 10, 10**9))
        homes = sa.text("select key, volume from collocation order by key")
        assert (await connection.execute(homes)).all() == [("hint:a", "E00001"), ("hint:b", "E00001")]
        await connection.execute(sa.text("update collocation set at = at - interval '2 days' where key = 'hint:b'"))
        assert await queues.forget_homes(connection, seconds=86400) == 1
        assert (await connection.execute(homes)).all() == [("hint:a", "E00001")]


async def test_a_claim_of_many_groups_uses_the_indexes(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 5000)
        await connection.execute(sa.text("update file set collocation = 'k' || (id % 500)"))
        await queues.enqueue_archives(connection, files)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        claimed = await queues.claim_archives(connection, "east", epoch, 1000, 10**9)
        assert len(claimed) == 1000
        assert len([key for key, _ in groupby(one.collocation for one in claimed)]) == 100
