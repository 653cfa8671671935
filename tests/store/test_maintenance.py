"""Promises of long work on media: it goes on from its row wherever it stopped, runs ahead in bounds, and ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import audits, maintenance, queues, repacks, stage_items, volumes
from catalog.audits import Limits
from catalog.database import Database
from catalog.errors import BadRequest, NotFound, WrongState
from catalog.maintenance import Maintenance
from catalog.states import MaintenanceState
from tests.store.media import drop_replicas, make_copies, make_files, mounted, two_libraries

LIMITS = Limits(files_ahead=4, bytes_ahead=10**9, window_files=3)


@pytest.fixture
async def media(database: Database) -> Database:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now() + interval '1 hour'"))
    return database


async def run(connection: AsyncConnection, statement: str, **values: object) -> None:
    await connection.execute(sa.text(statement), values)


async def numbers(connection: AsyncConnection, statement: str, **values: object) -> list[int]:
    return list((await connection.scalars(sa.text(statement), values)).all())


async def on_tape(connection: AsyncConnection, count: int, volume: str) -> list[int]:
    files = await make_files(connection, count, on_disk=False)
    await make_copies(connection, files, volume)
    return files


async def begin(connection: AsyncConnection, kind: str, key: str, **options: object) -> int:
    return await maintenance.begin(connection, kind, key, who="ann", reason="test", options=options)


async def recalled(connection: AsyncConnection) -> list[int]:
    return await numbers(connection, "select file from recall order by file")


async def arrive(connection: AsyncConnection, files: Sequence[int]) -> None:
    """As the end of a recall: the replica is there, the recall is not, the item is completed and pinned."""
    await run(
        connection,
        "insert into replica (id, file, cache_server, size, origin) select 1000000 + f, f, 'cache', 100, 'recall'"
        " from unnest(cast(:files as bigint[])) f on conflict do nothing",
        files=list(files),
    )

    await queues.finish_recalls(connection, files)
    await stage_items.complete_items(connection, list(files))


async def rewritten(connection: AsyncConnection, files: Sequence[int], *, old: str, new: str) -> None:
    """As the commit of a rewrite: the copy is on the other volume, not on the old one, and the archive is gone."""
    await run(connection, "delete from copy where file = any(:files) and volume = :old", files=list(files), old=old)
    await make_copies(connection, files, new)
    await run(connection, "delete from archive where file = any(:files)", files=list(files))


async def step(connection: AsyncConnection, id: int, limits: Limits = LIMITS) -> None:
    """As long as there is more to do at once."""
    row = await maintenance.at(connection, id)
    one = repacks.step if row.kind == "repack" else audits.step
    while (await one(connection, id, limits)).more:
        pass


async def row_of(connection: AsyncConnection, id: int) -> Maintenance:
    return await maintenance.at(connection, id)


async def volume_state(connection: AsyncConnection, vid: str) -> tuple[str, str]:
    volume = await volumes.volume_at(connection, vid)
    return volume.state.value, volume.reason


# ------------------------------------------------------------------ rows


async def test_one_piece_of_work_of_a_kind_is_under_way_on_a_volume(media: Database) -> None:
    async with media.transaction() as connection:
        first = await begin(connection, "verify", "E00001")
        with pytest.raises(WrongState):
            await begin(connection, "verify", "E00001")
        await maintenance.cancel(connection, first, who="ann", reason="no")
        assert await begin(connection, "verify", "E00001") != first
        with pytest.raises(NotFound):
            await begin(connection, "verify", "E99999")
        with pytest.raises(BadRequest):
            await begin(connection, "verify", "E00002", share=1.5)
        with pytest.raises(BadRequest):
            await begin(connection, "repack", "E00002", share=0.5)
        with pytest.raises(NotFound):
            await begin(connection, "audit", "three")


async def test_a_suspect_volume_is_not_repacked_because_that_would_trust_it(media: Database) -> None:
    async with media.transaction() as connection:
        await volumes.set_state(connection, "volume", "E00001", "suspect", who="ann", reason="odd")
        with pytest.raises(WrongState):
            await begin(connection, "repack", "E00001")


# ------------------------------------------------------------------ verify


async def test_a_verify_goes_by_position_and_on_from_its_cursor(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 5, "E00001")
        row = await row_of(connection, await begin(connection, "verify", "E00001"))
        assert (row.files, row.bytes) == (5, 500)
        first = await maintenance.copies_to_verify(connection, row, after=(-1, -1), limit=3)
        assert [one.file_id for one in first] == files[:3]
        after = (first[-1].first_block, first[-1].byte_offset)
        rest = await maintenance.copies_to_verify(connection, row, after=after, limit=3)
        assert [one.file_id for one in rest] == files[3:]


async def test_a_sample_is_the_same_in_every_look_and_another_one_in_the_next_verify(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 400, "E00001")
        samples = []
        for _ in range(2):
            row = await row_of(connection, await begin(connection, "verify", "E00001", share=0.25))
            looks = [await maintenance.copies_to_verify(connection, row, after=(-1, -1), limit=1000) for _ in range(2)]
            assert looks[0] == looks[1]
            samples.append({one.file_id for one in looks[0]})
            await maintenance.cancel(connection, row.id, who="ann", reason="enough")
        assert samples[0] != samples[1]
        assert all(60 < len(one) < 140 for one in samples)


async def test_broken_copies_and_purged_files_are_not_verified_removed_ones_are(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        await run(connection, "update copy set broken_at = capstan_now() where file = :f", f=files[0])
        await run(
            connection, "update file set state = 'deleted', deleted_at = capstan_now() where id <> :f", f=files[0]
        )
        await run(connection, "update file set state = 'purged' where id = :f", f=files[1])
        row = await row_of(connection, await begin(connection, "verify", "E00001"))
        found = await maintenance.copies_to_verify(connection, row, after=(-1, -1), limit=9)
        assert [one.file_id for one in found] == files[2:]


async def test_a_volume_is_due_by_age_and_not_again_after_it_was_tried(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 1, "E00001")
        await on_tape(connection, 1, "E00002")
        await run(
            connection, "update volume set labelled_at = capstan_now() - interval '400 days' where vid <> 'E00003'"
        )
        await run(connection, "update volume set verified_at = capstan_now() - interval '5 days' where vid = 'E00002'")

        async def due() -> list[str]:
            return await maintenance.verifies_due(connection, ["east", "west"], days=365, limit=9)

        assert await due() == ["E00001"]
        row = await row_of(connection, await begin(connection, "verify", "E00001"))
        assert await due() == []
        await maintenance.verify_ended(connection, row, MaintenanceState.DONE, "fine")
        assert await due() == []
        assert (await volumes.volume_at(connection, "E00001")).verified_at is not None


async def test_a_sampled_verify_does_not_count_as_having_read_all(media: Database) -> None:
    async with media.transaction() as connection:
        row = await row_of(connection, await begin(connection, "verify", "E00001", share=0.5))
        await maintenance.verify_ended(connection, row, MaintenanceState.DONE, "fine")
        assert (await volumes.volume_at(connection, "E00001")).verified_at is None


# ------------------------------------------------------------------ repack


async def test_a_repack_asks_for_so_many_files_ahead_by_position_and_no_more(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 10, "E00001")
        made = await begin(connection, "repack", "E00001")
        assert (await volume_state(connection, "E00001"))[0] == "repacking"
        await step(connection, made)
        assert await recalled(connection) == files[:4]
        await step(connection, made)
        assert await recalled(connection) == files[:4]
        said = (await connection.execute(sa.text("select distinct owner, origin, priority from stage_request"))).all()
        assert [tuple(one) for one in said] == [("capstan", "repair", 10)]


async def test_what_a_repack_has_brought_is_pinned_and_queued_to_be_written_again(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 6, "E00001")
        made = await begin(connection, "repack", "E00001")
        await step(connection, made)
        await arrive(connection, files[:2])
        await step(connection, made)
        assert await numbers(connection, "select file from archive order by file") == files[:2]
        assert await numbers(connection, "select file from pin order by file") == files[:2]
        # Two are still on their way from tape, two on their way to it: that is as many as may be.
        assert await recalled(connection) == files[2:4]


async def test_a_repack_takes_what_is_on_disk_already_without_a_recall(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 2)
        await make_copies(connection, files, "E00001")
        made = await begin(connection, "repack", "E00001")
        await step(connection, made)
        assert await recalled(connection) == []
        assert await numbers(connection, "select file from archive order by file") == files


async def test_a_repack_is_done_when_nothing_live_is_left_and_leaves_a_closed_volume_and_no_pin(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 6, "E00001")
        made = await begin(connection, "repack", "E00001")
        await run(connection, "update file set state = 'deleted', deleted_at = capstan_now() where id = :f", f=files[5])
        for _ in range(4):
            await step(connection, made)
            await arrive(connection, await recalled(connection))
            await step(connection, made)
            await rewritten(
                connection, await numbers(connection, "select file from archive"), old="E00001", new="E00002"
            )
        await step(connection, made)
        row = await row_of(connection, made)
        assert (row.state, row.done_files, row.done_bytes, row.errors) == ("done", 5, 500, 0)
        assert await volume_state(connection, "E00001") == ("closed", "empty: it may be reclaimed")
        assert await numbers(
            connection, "select (select count(*) from pin) + (select count(*) from stage_request)"
        ) == [0]


async def test_a_file_removed_while_its_volume_is_repacked_holds_nothing_up(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 1, "E00001")
        made = await begin(connection, "repack", "E00001")
        await step(connection, made)
        await arrive(connection, files)
        await run(connection, "update file set state = 'deleted', deleted_at = capstan_now()")
        await step(connection, made)
        assert (await row_of(connection, made)).state == "done"


async def test_a_cancelled_repack_closes_its_volume_and_wants_nothing_more(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 3, "E00001")
        made = await begin(connection, "repack", "E00001")
        await step(connection, made)
        await maintenance.cancel(connection, made, who="ann", reason="changed my mind")
        assert (await volume_state(connection, "E00001"))[0] == "closed"
        assert await recalled(connection) == []
        assert (await row_of(connection, made)).state == "cancelled"


async def test_what_a_cancelled_repack_had_queued_is_not_written_unless_a_mount_has_it(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        made = await begin(connection, "repack", "E00001")
        await step(connection, made)
        await arrive(connection, files)
        await step(connection, made)
        new = await make_files(connection, 1)
        await queues.enqueue_archives(connection, new)
        epoch = await mounted(connection, "E00002", "east1", "archive")
        [taken] = await queues.claim_archives(connection, "east", epoch, 1, 10**9)
        assert taken.file.file_id in files
        await maintenance.cancel(connection, made, who="ann", reason="changed my mind")
        assert await numbers(connection, "select file from archive order by id") == [taken.file.file_id, *new]
        assert await queues.drift(connection) == []


async def test_a_repack_waits_while_its_volume_is_disabled_and_ends_when_it_was_opened(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 3, "E00001")
        made = await begin(connection, "repack", "E00001")
        await volumes.set_state(connection, "volume", "E00001", "disabled", who="ann", reason="dusty")
        await step(connection, made)
        row = await row_of(connection, made)
        assert (row.state, row.note) == ("running", "it waits: volume E00001 is disabled")
        await volumes.set_state(connection, "volume", "E00001", "active", who="ann", reason="never mind")
        await step(connection, made)
        assert (await row_of(connection, made)).state == "cancelled"
        assert (await volume_state(connection, "E00001"))[0] == "active"


async def test_files_that_cannot_be_brought_are_counted_and_the_repack_fails_in_the_end(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 2, "E00001")
        made = await begin(connection, "repack", "E00001")

        for _ in range(repacks.PASSES_MAX + 1):
            await step(connection, made)
            wanted = await recalled(connection)
            await queues.drop_recalls(connection, wanted)
            await stage_items.fail_items(connection, [(file, "copy_damaged", "unreadable") for file in wanted])
        row = await row_of(connection, made)
        assert (row.state, row.errors) == ("failed", len(files) * repacks.PASSES_MAX)
        assert (await volume_state(connection, "E00001"))[0] == "closed"


# ------------------------------------------------------------------ audit


async def test_a_class_that_asks_for_more_gets_it_from_disk_at_once_and_from_tape_by_recalls(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 6)
        await make_copies(connection, files, "E00001")
        await drop_replicas(connection, files[2:])
        made = await volumes.change_storage_class(connection, "one", who="ann", reason="more", copies=2)
        assert made is not None
        await step(connection, made, Limits(files_ahead=3, bytes_ahead=10**9, window_files=2))
        assert await numbers(connection, "select file from archive order by file") == files[:2]
        assert await recalled(connection) == files[2:5]
        for _ in range(3):
            await arrive(connection, await recalled(connection))
            await step(connection, made)
        row = await row_of(connection, made)
        assert (row.state, row.files, row.errors) == ("done", 6, 0)
        assert await numbers(connection, "select count(*) from stage_request") == [0]


async def test_an_audit_of_a_rare_class_passes_a_bounded_number_of_files_in_a_step(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 30)
        await make_copies(connection, files, "E00001")
        rare = [files[0], files[11], files[29]]
        await run(connection, "update file set storage_class = 'two' where id = any(:rare)", rare=rare)
        made = await begin(connection, "audit", "two")
        limits, cursors = Limits(files_ahead=9, bytes_ahead=10**9, window_files=5, passed_files=4), []
        while (await audits.step(connection, made, limits)).more:
            cursors.append((await row_of(connection, made)).cursor["after"])
        assert cursors == [*files[3::4], files[29]]
        assert await numbers(connection, "select distinct file from archive order by file") == rare
        row = await row_of(connection, made)
        assert (row.state, row.files, row.errors) == ("done", 3, 0)


async def test_an_audit_says_how_many_files_it_has_looked_at_however_often_a_window_was_cut(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 6, "E00001")
        made = await volumes.change_storage_class(connection, "one", who="ann", reason="more", copies=2)
        assert made is not None
        for _ in range(8):
            await step(connection, made, Limits(files_ahead=1, bytes_ahead=10**9, window_files=5))
            await arrive(connection, await recalled(connection))
        row = await row_of(connection, made)
        assert (row.state, row.note) == ("done", "6 files looked at, 6 lacked copies, 0 could not be repaired")


async def test_an_audit_counts_files_of_which_nothing_is_left(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 2, "E00001")
        await make_files(connection, 1, on_disk=False)
        made = await begin(connection, "audit", "one")
        await step(connection, made)
        row = await row_of(connection, made)
        assert (row.state, row.files, row.errors) == ("done", 1, 1)
        assert row.note == "3 files looked at, 1 lacked copies, 1 could not be repaired"


async def test_an_audit_wanted_again_while_under_way_goes_over_everything_once_more(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        made = await begin(connection, "audit", "one")
        await audits.step(connection, made, LIMITS)
        # Behind its back a volume is lost, and what is on it lies on disk.
        await run(
            connection,
            "insert into replica (id, file, cache_server, size, origin) values (1, :f, 'cache', 100, 'put')",
            f=files[0],
        )
        await run(connection, "update copy set broken_at = capstan_now() where file = :f", f=files[0])
        assert await audits.want_audit(connection, "one", who="ann", reason="again") == made
        await step(connection, made)
        assert await numbers(connection, "select file from archive") == files[:1]
        assert (await row_of(connection, made)).state == "done"


async def test_classes_are_audited_by_age_but_not_in_a_new_catalog(media: Database) -> None:
    async with media.transaction() as connection:
        assert await audits.due(connection, hours=24) == []
        await run(connection, "update catalog_identity set created_at = capstan_now() - interval '2 days'")
        assert await audits.due(connection, hours=24) == ["one", "two"]
        await begin(connection, "audit", "one")
        assert await audits.due(connection, hours=24) == ["two"]


async def test_what_ended_long_ago_is_forgotten(media: Database) -> None:
    async with media.transaction() as connection:
        made = await begin(connection, "audit", "one")
        await step(connection, made)
        assert await maintenance.forget(connection, days=1) == 0
        await run(connection, "update maintenance set changed_at = capstan_now() - interval '2 days'")
        assert await maintenance.forget(connection, days=1) == 1
