"""Promises of the queues: late binding, claims that exclude each other, ends that leave nobody waiting."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, queues, volumes
from catalog.database import Database
from catalog.errors import StaleEpoch
from catalog.queues import Answer, Written
from tests.store.media import claim_first, drop_replicas, make_copies, make_files, mounted, wait_for


async def on_tape(connection: AsyncConnection, count: int, *on: str) -> list[int]:
    files = await make_files(connection, count, storage_class="two" if len(on) > 1 else "one", on_disk=False)
    for number, volume in enumerate(on, 1):
        await make_copies(connection, files, volume, number=number)
    return files


async def request(connection: AsyncConnection, files: list[int]) -> dict[int, queues.RecallAnswer]:
    await wait_for(connection, files)
    return await queues.request_recalls(connection, files, owner="ann", group="g")


async def demand(connection: AsyncConnection) -> dict[str, int]:
    return {one.key: one.files for one in await queues.backlog(connection) if one.kind == "recall"}


async def item_states(connection: AsyncConnection) -> list[str]:
    return list(
        (await connection.scalars(sa.text("select distinct coalesce(error_code, state) from stage_item"))).all()
    )


async def test_a_recall_wants_every_copy_until_a_mount_claims_it(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001", "W00001")
        answers = await request(connection, files)
        assert {answer.answer for answer in answers.values()} == {Answer.QUEUED}
        assert await demand(connection) == {"E00001": 3, "W00001": 3}
        epoch = await mounted(connection, "E00001", "east1")
        claimed = await claim_first(connection, "E00001", epoch, 2)
        assert [one.file_id for one in claimed] == files[:2]
        assert [one.place.first_block for one in claimed] == sorted(one.place.first_block for one in claimed)
        assert await demand(connection) == {"E00001": 1, "W00001": 1}
        assert await queues.drift(connection) == []


async def test_late_arrivals_ahead_of_the_head_come_first_and_the_rest_after_the_end(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 6, "E00001")
        await request(connection, files[1:4])
        epoch = await mounted(connection, "E00001", "east1")
        [first] = await claim_first(connection, "E00001", epoch, 1)
        await request(connection, [files[0], files[5]])
        behind = (first.place.first_block, first.place.byte_offset)
        ahead = await claim_first(connection, "E00001", epoch, 10, after=behind)
        assert [one.file_id for one in ahead] == [files[2], files[3], files[5]]
        rest = await claim_first(connection, "E00001", epoch, 10)
        assert [one.file_id for one in rest] == [files[0]]


async def test_many_who_ask_for_one_file_share_one_recall(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001")
        await request(connection, files)
        await request(connection, files)
        assert await demand(connection) == {"E00001": 1}


async def test_a_file_on_disk_needs_no_recall_and_one_without_copy_says_so(media: Database) -> None:
    async with media.transaction() as connection:
        on_disk = await make_files(connection, 1)
        nowhere = await make_files(connection, 1, on_disk=False)
        answers = await queues.request_recalls(connection, on_disk + nowhere + [999_999], owner="ann", group="g")
        assert answers[on_disk[0]].answer is Answer.ON_DISK
        assert answers[nowhere[0]].no_copy
        assert answers[nowhere[0]].error
        assert answers[999_999].no_copy


async def test_a_recall_waits_for_a_library_that_is_down_and_a_disabled_volume(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001")
        await volumes.set_state(connection, "library", "east", "down", who="ann", reason="robot")
        await volumes.set_state(connection, "volume", "E00001", "disabled", who="ann", reason="sticky")
        answers = await request(connection, files)
        assert answers[files[0]].answer is Answer.QUEUED


async def test_two_mounts_with_the_two_copies_of_the_same_files_never_read_one_twice(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 200, "E00001", "W00001")
        await request(connection, files)
        east = await mounted(connection, "E00001", "east1")
        west = await mounted(connection, "W00001", "west1")

    async def claim_all(volume: str, epoch: int) -> list[int]:
        taken: list[int] = []
        while True:
            async with media.transaction() as connection:
                claimed = await claim_first(connection, volume, epoch, 7)
            if not claimed:
                return taken
            taken += [one.file_id for one in claimed]

    by_east, by_west = await asyncio.gather(claim_all("E00001", east), claim_all("W00001", west))
    assert sorted(by_east + by_west) == files
    async with media.connection() as connection:
        assert await queues.drift(connection) == []
        assert await demand(connection) == {}


async def test_the_end_of_a_mount_gives_back_what_it_had_and_nothing_can_be_claimed_under_it(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 4, "E00001", "W00001")
        await request(connection, files)
        archived = await make_files(connection, 3)
        await queues.enqueue_archives(connection, archived)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        await claim_first(connection, "E00001", epoch, 10)
        assert len(await queues.claim_archives(connection, "east", epoch, 10, 10**9)) == 3
        assert await demand(connection) == {}
        assert await endings.end_mount(connection, epoch, "drive lost")
        assert not await endings.end_mount(connection, epoch, "again")
        assert await demand(connection) == {"E00001": 4, "W00001": 4}
        assert {one.key: one.files for one in await queues.backlog(connection) if one.kind == "archive"} == {"east": 3}
        assert await queues.drift(connection) == []
        with pytest.raises(StaleEpoch):
            await claim_first(connection, "E00001", epoch, 10)
        history = (await connection.execute(sa.text("select outcome from mount_history"))).scalars().all()
        assert history == ["drive lost"]


async def test_cancelling_ends_a_recall_only_when_nobody_waits_any_more(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 2, "E00001")
        first = await wait_for(connection, files)
        await request(connection, files[:1])
        await queues.request_recalls(connection, files, owner="ann", group="g")
        await connection.execute(sa.text("update stage_item set state = 'cancelled' where request = :r"), {"r": first})
        await queues.abandon_recalls(connection, files)
        assert await demand(connection) == {"E00001": 1}
        assert await queues.drift(connection) == []


async def test_an_abandoned_recall_that_a_mount_had_ends_with_it(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001")
        await request(connection, files)
        epoch = await mounted(connection, "E00001", "east1")
        await claim_first(connection, "E00001", epoch, 10)
        await connection.execute(sa.text("update stage_item set state = 'cancelled'"))
        await queues.abandon_recalls(connection, files)
        await endings.end_mount(connection, epoch, "done")
        assert await connection.scalar(sa.text("select count(*) from recall")) == 0
        assert await queues.drift(connection) == []


async def test_a_failed_read_goes_to_the_other_copy_at_once_and_to_the_same_one_after_a_pause(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001", "W00001")
        await request(connection, files)
        epoch = await mounted(connection, "E00001", "east1")
        await claim_first(connection, "E00001", epoch, 10)
        failure = endings.RecallFailure(file_id=files[0], code="medium_error", text="block 7")
        gone = await endings.fail_recalls(
            connection, epoch, [failure], volume="E00001", attempts_max=3, backoff_seconds=60
        )
        assert gone == []
        assert await claim_first(connection, "E00001", epoch, 10) == []
        ages = {one.key: one.oldest_seconds for one in await queues.backlog(connection)}
        assert ages["E00001"] is None
        assert ages["W00001"] is not None
        west = await mounted(connection, "W00001", "west1")
        assert len(await claim_first(connection, "W00001", west, 10)) == 1
        assert await queues.drift(connection) == []


async def test_the_user_hears_of_a_failure_after_the_last_attempt_only(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001")
        await request(connection, files)
        epoch = await mounted(connection, "E00001", "east1")
        failure = endings.RecallFailure(file_id=files[0], code="medium_error", text="block 7")
        for last in (False, True):
            assert len(await claim_first(connection, "E00001", epoch, 10)) == 1
            given_up = await endings.fail_recalls(
                connection, epoch, [failure], volume="E00001", attempts_max=2, backoff_seconds=60
            )
            assert given_up == (files if last else [])
            await queues.retry_held(connection)
        assert await item_states(connection) == ["medium_error"]
        assert await queues.drift(connection) == []


async def test_archives_go_to_one_pool_per_copy_never_two_in_a_library(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 5, storage_class="two")
        assert await queues.enqueue_archives(connection, files) == 10
        assert await queues.enqueue_archives(connection, files) == 0
        assert {one.key: one.files for one in await queues.backlog(connection)} == {"east": 5, "west": 5}


async def test_a_new_file_avoids_a_library_that_is_down(media: Database) -> None:
    async with media.transaction() as connection:
        await volumes.set_state(connection, "library", "east", "down", who="ann", reason="robot")
        await queues.enqueue_archives(connection, await make_files(connection, 2))
        assert {one.key: one.files for one in await queues.backlog(connection)} == {"west": 2}


async def test_written_archives_become_copies_once_and_the_file_is_safe_with_the_last(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2, storage_class="two")
        await queues.enqueue_archives(connection, files)
        for drive, volume, pool, safe in (("east1", "E00001", "east", False), ("west1", "W00001", "west", True)):
            epoch = await mounted(connection, volume, drive, "archive")
            claimed = await queues.claim_archives(connection, pool, epoch, 10, 10**9)
            written = [
                Written(archive_id=one.archive_id, tape_file=n, first_block=2 + n * 10, byte_offset=512, length=100)
                for n, one in enumerate(claimed, 1)
            ]
            for _ in range(2):  # the outcome of a commit may be unknown: it is repeated
                told = await queues.commit_written(
                    connection, epoch, written, tape_files=2, end_block=30, written_bytes=1000
                )
            volume_now = await volumes.volume_at(connection, volume)
            assert (volume_now.tape_files, volume_now.end_block, volume_now.written_bytes) == (2, 30, 1000)
            assert told == []
            assert bool(await connection.scalar(sa.text("select file_is_safe(:f)"), {"f": files[0]})) is safe
        assert await connection.scalar(sa.text("select count(*) from copy")) == 4
        assert await connection.scalar(sa.text("select count(*) from archive")) == 0
        assert await connection.scalar(sa.text("select count(*) from event where kind = 'file.safe'")) == 2
        assert await queues.drift(connection) == []


async def test_nothing_is_recorded_under_a_mount_that_is_over(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        await queues.enqueue_archives(connection, files)
        epoch = await mounted(connection, "E00001", "east1", "archive")
        [one] = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
        await endings.end_mount(connection, epoch, "lost")
        written = Written(archive_id=one.archive_id, tape_file=1, first_block=2, byte_offset=512, length=100)
        with pytest.raises(StaleEpoch):
            await queues.commit_written(connection, epoch, [written], tape_files=1, end_block=9, written_bytes=9)


async def test_an_archive_tried_too_often_is_held_until_an_operator_retries(media: Database) -> None:
    async with media.transaction() as connection:
        await queues.enqueue_archives(connection, await make_files(connection, 1))
        epoch = await mounted(connection, "E00001", "east1", "archive")
        for attempt in (1, 2):
            [one] = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
            held = await queues.fail_archives(
                connection, [one.archive_id], epoch, why="write error", attempts_max=2, backoff_seconds=0.0
            )
            assert bool(held) is (attempt == 2)
        assert await queues.claim_archives(connection, "east", epoch, 10, 10**9) == []
        assert await queues.drift(connection) == []
        assert await queues.retry_held(connection) == 1
        assert len(await queues.claim_archives(connection, "east", epoch, 10, 10**9)) == 1


async def test_a_claim_takes_no_more_than_the_mount_can_and_at_least_one(media: Database) -> None:
    async with media.transaction() as connection:
        await queues.enqueue_archives(connection, await make_files(connection, 5, size=100))
        epoch = await mounted(connection, "E00001", "east1", "archive")
        assert len(await queues.claim_archives(connection, "east", epoch, 10, 250)) == 2
        assert len(await queues.claim_archives(connection, "east", epoch, 10, 1)) == 1
        assert len(await queues.claim_archives(connection, "east", epoch, 1, 10**9)) == 1


async def test_archives_move_to_the_next_pool_when_their_library_stays_away_and_do_not_move_back(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        single = await make_files(connection, 3)
        double = await make_files(connection, 2, storage_class="two")
        await queues.enqueue_archives(connection, single + double)
        await volumes.set_state(connection, "library", "east", "down", who="ann", reason="robot")
        assert await queues.fail_over_archives(connection, failover_after_seconds=600) == 0
        assert await queues.fail_over_archives(connection, failover_after_seconds=0) == 3
        # The second copies of the others are in west already: never two in one library.
        assert {one.key: one.files for one in await queues.backlog(connection)} == {"east": 2, "west": 5}
        await volumes.set_state(connection, "library", "east", "up", who="ann", reason="mended")
        assert await queues.fail_over_archives(connection, failover_after_seconds=0) == 0
        assert await queues.drift(connection) == []


async def test_files_of_a_broken_volume_are_written_again_from_disk_and_recalls_look_elsewhere(media: Database) -> None:
    async with media.transaction() as connection:
        both = await on_tape(connection, 2, "E00001", "W00001")
        only_east = await on_tape(connection, 2, "E00001")
        on_disk = await make_files(connection, 2)
        await make_copies(connection, on_disk, "E00001")
        await request(connection, both + only_east)
        await volumes.set_state(connection, "volume", "E00001", "broken", who="ann", reason="snapped")
        backlog = {(one.kind, one.key): one.files for one in await queues.backlog(connection)}
        assert backlog == {("recall", "W00001"): 2, ("archive", "east"): 2}
        failed = sa.text("select file from stage_item where state = 'failed' order by file")
        assert list((await connection.scalars(failed)).all()) == only_east
        assert await queues.drift(connection) == []


async def test_somebody_who_waits_makes_the_pool_urgent(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 3)
        await queues.enqueue_archives(connection, files)
        await queues.make_urgent(connection, files[:1])
        await queues.make_urgent(connection, files[:1])
        assert [one.urgent for one in await queues.backlog(connection)] == [1]
        await queues.drop_archives(connection, files[:1])
        assert [(one.files, one.urgent) for one in await queues.backlog(connection)] == [(2, 0)]
        assert await queues.drift(connection) == []


async def test_a_recalled_file_whose_replica_went_is_asked_for_again(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1)
        await make_copies(connection, files, "E00001")
        assert (await request(connection, files))[files[0]].answer is Answer.ON_DISK
        await drop_replicas(connection, files)
        assert (await request(connection, files))[files[0]].answer is Answer.QUEUED


async def test_what_somebody_waits_for_is_written_before_an_older_backlog(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 5)
        for file in files:
            await queues.enqueue_archives(connection, [file])
        await queues.make_urgent(connection, [files[4], files[2]])
        epoch = await mounted(connection, "E00001", "east1", "archive")
        first = await queues.claim_archives(connection, "east", epoch, 3, 10**9)
        assert [one.file.file_id for one in first] == [files[2], files[4], files[0]]
        # The age of a pool is that of its oldest, whichever kind it is.
        await queues.make_urgent(connection, [files[3]])
        [left] = await queues.backlog(connection)
        assert (left.files, left.urgent) == (2, 1)
        oldest = await connection.scalar(
            sa.text("select extract(epoch from capstan_now() - created_at) from archive where file = :f"),
            {"f": files[1]},
        )
        assert left.oldest_seconds == pytest.approx(float(oldest), abs=0.5)
        assert await queues.drift(connection) == []


async def test_an_urgent_archive_is_found_by_the_index_behind_a_large_backlog(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 5000)
        await queues.enqueue_archives(connection, files)
        await queues.make_urgent(connection, files[-1:])
        await connection.execute(sa.text("analyze archive"))
        steps = await connection.scalars(
            sa.text(
                "explain select id from archive where pool = 'east' and state = 'queued' "
                "order by urgent desc, created_at, id limit 10"
            )
        )
        assert "archive_pool" in " ".join(steps.all())
        epoch = await mounted(connection, "E00001", "east1", "archive")
        [one] = await queues.claim_archives(connection, "east", epoch, 1, 10**9)
        assert one.file.file_id == files[-1]
