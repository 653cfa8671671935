"""Promises of the suspect matrix: what counts and for how long, which copies it condemns, what follows from that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, failures, queues, volumes
from catalog.database import Database
from catalog.failures import READING, WRITING, Kind
from catalog.mounts import MountWork
from tapeserver.adopting import tried_elsewhere
from tapeserver.blame import Blame
from tapeserver.config import Config
from tapeserver.mountcontext import MountContext
from tests.store.media import claim_first, drop_replicas, make_copies, make_files, mounted, wait_for

WHY = "medium_error: block 7"


async def failed(
    connection: AsyncConnection,
    drive: str,
    volume: str,
    *,
    kind: Kind = "read",
    file: int | None = None,
    epoch: int = 1,
    lifetime_seconds: float = 3600.0,
) -> None:
    await failures.record(
        connection, library="east", drive=drive, volume=volume, kind=kind, epoch=epoch, why=WHY, file=file,
        lifetime_seconds=lifetime_seconds,
    )  # fmt: skip


async def evidence(connection: AsyncConnection, drive: str = "east1", volume: str = "E00001") -> failures.Evidence:
    return await failures.evidence(connection, drive=drive, volume=volume, kinds=READING)


async def with_copies(
    connection: AsyncConnection, count: int, *, west: bool = True, on_disk: bool = False
) -> list[int]:
    files = await make_files(connection, count, storage_class="two" if west else "one")
    await make_copies(connection, files, "E00001")
    if west:
        await make_copies(connection, files, "W00001", number=2)
    if not on_disk:
        await drop_replicas(connection, files)
    return files


async def wanted(connection: AsyncConnection, files: Sequence[int]) -> None:
    await wait_for(connection, files)
    await queues.request_recalls(connection, files, owner="o", group="g")


async def heartbeats(connection: AsyncConnection) -> None:
    await connection.execute(sa.text("update drive set tapeserver = 'ts', heartbeat_at = capstan_now()"))


async def fail_in(connection: AsyncConnection, drive: str, files: Sequence[int], volume: str = "E00001") -> list[int]:
    """A mount of `volume` in `drive` takes these, and cannot read them; what was given up."""
    epoch = await mounted(connection, volume, drive)
    await queues.retry_recalls(connection)
    assert len(await claim_first(connection, volume, epoch, 100)) == len(files)
    told = [endings.RecallFailure(file_id=file, code="medium_error", text="block 7") for file in files]
    given_up = await endings.fail_recalls(connection, epoch, told, volume=volume, attempts_max=3, backoff_seconds=60)
    await endings.end_mount(connection, epoch, "done")
    assert await queues.drift(connection) == []
    return given_up


async def broken(connection: AsyncConnection) -> list[tuple[int, str]]:
    rows = await connection.execute(sa.text("select file, volume from copy where broken_at is not null order by 1, 2"))
    return [(row.file, row.volume) for row in rows]


async def demanded(connection: AsyncConnection) -> list[str]:
    return list((await connection.scalars(sa.text("select distinct volume from demand order by 1"))).all())


# ---------------------------------------------------------------- the matrix


async def test_a_failure_counts_until_it_expires(media: Database, set_clock) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001", lifetime_seconds=3600)
        assert (await evidence(connection)).mounts_of_volume == 1
        assert [one.drive for one in await failures.suspect_pairs(connection, "east")] == ["east1"]
    await set_clock(datetime.now(UTC) + timedelta(hours=2))
    async with media.transaction() as connection:
        assert (await evidence(connection)).mounts_of_volume == 0
        assert await failures.suspect_pairs(connection, "east") == []
        assert await failures.matrix(connection) == []


async def test_evidence_is_of_the_drive_whatever_failed_and_of_the_volume_what_was_asked(media: Database) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001", epoch=1)
        await failed(connection, "east2", "E00001", kind="write", epoch=2)
        await failed(connection, "east1", "E00002", kind="write", epoch=3)
        found = await evidence(connection)
        assert found.volumes_in_drive == {"E00001", "E00002"}
        assert (found.drives_of_volume, found.mounts_of_volume) == ({"east1"}, 1)


async def test_a_mount_that_went_well_takes_back_its_pair_and_no_other_and_reading_says_nothing_of_writing(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        for drive in ("east1", "east2"):
            await failed(connection, drive, "E00001")
            await failed(connection, drive, "E00001", kind="write")
        await failures.take_back(connection, drive="east1", volume="E00001", kinds=READING)
        [first, second] = await failures.matrix(connection, volume="E00001")
        assert (first.drive, first.kinds, second.drive, second.kinds) == (
            "east1",
            ["write"],
            "east2",
            ["read", "write"],
        )
        await failures.take_back(connection, drive="east1", volume="E00001", kinds=WRITING)
        assert [one.drive for one in await failures.matrix(connection, volume="E00001")] == ["east2"]


async def test_only_what_another_drive_could_not_read_back_either_is_believed_unreadable(media: Database) -> None:
    work = cast(MountWork, SimpleNamespace(drive="east1", volume="E00001", library="east", epoch=9))
    config = Config(name="ts")

    async def commit(function: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        async with media.transaction() as connection:
            return await function(connection)

    context = cast(MountContext, SimpleNamespace(work=work, config=config, commit=commit))
    async with media.transaction() as connection:
        # It did not even get as far.
        await failed(connection, "east2", "E00001", kind="load")
        await failed(connection, "east2", "E00001", kind="read")
        await failed(connection, "east1", "E00001", kind="readback", epoch=2)
    assert not await tried_elsewhere(context)
    async with media.transaction() as connection:
        await failed(connection, "east2", "E00001", kind="readback", epoch=3)
    # A recall that goes well in that drive reads something else.
    elsewhere = cast(MountWork, SimpleNamespace(drive="east2", volume="E00001"))
    await Blame(media, config).mount_went_well(elsewhere, read=True, wrote=False)
    assert await tried_elsewhere(context)
    await Blame(media, config).mount_went_well(elsewhere, read=False, wrote=True)
    assert not await tried_elsewhere(context)
    async with media.transaction() as connection:
        for epoch in range(4, 3 + config.read_failures_max):
            await failed(connection, "east1", "E00001", kind="readback", epoch=epoch)
    assert await tried_elsewhere(context)


async def test_an_operator_clears_a_drive_or_a_volume(media: Database) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001")
        await failed(connection, "east2", "E00002")
        assert await failures.clear(connection, drive="east1") == 1
        assert await failures.clear(connection, volume="E00002") == 1
        assert await failures.matrix(connection) == []
        with pytest.raises(ValueError, match="name a drive"):
            await failures.clear(connection)


async def test_a_single_file_is_no_evidence_against_its_volume_nor_against_the_drive_until_another_drive_reads_it(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001", file=7)
        found = await evidence(connection)
        assert (found.volumes_in_drive, found.drives_of_volume) == (frozenset(), frozenset())
        assert [one.volume for one in await failures.suspect_pairs(connection, "east")] == ["E00001"]
        assert await failures.suspected_files(connection, "E00001") == {7}
        assert await failures.acquit_copies(connection, drive="east2", volume="E00001", files=[7, 8]) == ["east1"]
        found = await evidence(connection)
        assert (found.volumes_in_drive, found.drives_of_volume) == ({"E00001"}, frozenset())
        assert await failures.suspected_files(connection, "E00001") == set()


async def test_a_copy_that_the_same_drive_reads_well_later_is_forgotten(media: Database) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001", file=7)
        assert await failures.acquit_copies(connection, drive="east1", volume="E00001", files=[7]) == []
        assert await failures.matrix(connection) == []


# ---------------------------------------------------------------- copies


async def test_a_copy_that_fails_in_two_drives_is_broken_and_counts_no_more(media: Database) -> None:
    async with media.transaction() as connection:
        await heartbeats(connection)
        files = await with_copies(connection, 1)
        await wanted(connection, files)
        assert await fail_in(connection, "east1", files) == []
        assert await broken(connection) == []
        assert await demanded(connection) == ["E00001", "W00001"]
        assert await fail_in(connection, "east2", files) == []
        assert await broken(connection) == [(files[0], "E00001")]
        assert await demanded(connection) == ["W00001"]
        assert await connection.scalar(sa.text("select file_is_safe(:f)"), {"f": files[0]}) is False
        assert await failures.matrix(connection) == [], "the copy was it, not the drives"


async def test_with_one_drive_to_ask_a_copy_is_broken_after_as_many_attempts_as_are_allowed(media: Database) -> None:
    async with media.transaction() as connection:
        await heartbeats(connection)
        await connection.execute(sa.text("update drive set state = 'down' where name = 'east2'"))
        files = await with_copies(connection, 1, west=False)
        await wanted(connection, files)
        for attempt in (1, 2, 3):
            assert await fail_in(connection, "east1", files) == (files if attempt == 3 else [])
        assert await broken(connection) == [(files[0], "E00001")]
        assert await connection.scalar(sa.text("select error_code from stage_item")) == "medium_error"
        assert WHY in await connection.scalar(sa.text("select error from stage_item"))


async def test_with_another_drive_to_ask_one_drive_is_believed_only_after_twice_as_many(media: Database) -> None:
    async with media.transaction() as connection:
        await heartbeats(connection)
        files = await with_copies(connection, 1, west=False)
        await wanted(connection, files)
        for attempt in range(1, 7):
            assert await fail_in(connection, "east1", files) == (files if attempt == 6 else [])


async def test_a_recall_is_not_given_up_while_another_copy_waits_for_its_library(media: Database) -> None:
    async with media.transaction() as connection:
        await connection.execute(sa.text("update library set state = 'down' where name = 'west'"))
        files = await with_copies(connection, 2)
        await wanted(connection, files)
        for _ in range(3):
            assert await fail_in(connection, "east1", files) == []
        assert await broken(connection) == [(file, "E00001") for file in files]
        assert await connection.scalar(sa.text("select count(*) from recall where state = 'queued'")) == 2
        assert await demanded(connection) == ["W00001"]
        assert await connection.scalar(sa.text("select count(*) from stage_item where state = 'failed'")) == 0


async def test_a_drive_that_gives_up_over_a_file_says_nothing_of_its_copy(media: Database) -> None:
    async with media.transaction() as connection:
        files = await with_copies(connection, 1, west=False)
        await wanted(connection, files)
        epoch = await mounted(connection, "E00001", "east1")
        for _ in range(9):
            await queues.retry_recalls(connection)
            assert len(await claim_first(connection, "E00001", epoch, 9)) == 1
            told = [endings.RecallFailure(file_id=files[0], code="hardware_error", text="dead", of_copy=False)]
            assert not await endings.fail_recalls(
                connection, epoch, told, volume="E00001", attempts_max=2, backoff_seconds=1
            )
        assert await failures.matrix(connection) == []
        assert await broken(connection) == []


async def test_a_broken_copy_is_written_again_from_disk_at_once(media: Database) -> None:
    async with media.transaction() as connection:
        files = await with_copies(connection, 2, on_disk=True)
        found = await failures.break_copies(connection, "E00001", [(files[0], WHY)])
        assert (found.files, found.given_up) == ([files[0]], [])
        rows = (await connection.execute(sa.text("select file, copy_number, pool from archive"))).all()
        assert [tuple(row) for row in rows] == [(files[0], 1, "east")]
        assert (await failures.break_copies(connection, "E00001", [(files[0], "again")])).files == []
        assert await connection.scalar(sa.text("select broken_why from copy where broken_at is not null")) == WHY
        assert await queues.drift(connection) == []


async def test_a_broken_copy_whose_bytes_are_only_on_another_tape_is_recalled_for_repair_once(media: Database) -> None:
    async with media.transaction() as connection:
        files = await with_copies(connection, 3)
        await failures.break_copies(connection, "E00001", [(file, WHY) for file in files[:2]])
        assert await failures.request_repairs(connection, files) == 0, "they are under way"
        rows = await connection.scalars(
            sa.text("select i.file from stage_item i join stage_request r on r.id = i.request and r.origin = 'repair'")
        )
        assert sorted(rows.all()) == files[:2]
        assert await demanded(connection) == ["W00001"]
        assert await queues.drift(connection) == []


async def test_the_last_copy_ends_the_recall_when_it_breaks_and_whoever_waits_is_told(media: Database) -> None:
    async with media.transaction() as connection:
        files = await with_copies(connection, 1, west=False)
        await wanted(connection, files)
        found = await failures.break_copies(connection, "E00001", [(files[0], WHY)])
        assert found.given_up == files
        assert await connection.scalar(sa.text("select error_code from stage_item")) == "lost"
        answers = await queues.request_recalls(connection, files, owner="o", group="g")
        assert answers[files[0]].no_copy
        assert await connection.scalar(sa.text("select count(*) from recall")) == 0
        assert await queues.drift(connection) == []


async def test_a_copy_that_was_good_after_all_is_mended_and_asked_again(media: Database) -> None:
    async with media.transaction() as connection:
        files = await with_copies(connection, 2)
        await wanted(connection, files)
        await failures.break_copies(connection, "E00001", [(file, WHY) for file in files])
        assert await demanded(connection) == ["W00001"]
        assert await failures.mend_copies(connection, "E00001", [files[0]]) == [files[0]]
        assert await broken(connection) == [(files[1], "E00001")]
        assert await demanded(connection) == ["E00001", "W00001"]
        assert await queues.drift(connection) == []


# ---------------------------------------------------------------- what follows


async def test_a_drive_that_spoils_files_which_others_read_well_goes_down_although_no_mount_failed(
    media: Database,
) -> None:
    async with media.transaction() as connection:
        for number in (1, 2, 3):
            await failed(connection, "east1", f"E0000{number}", file=number)
            await failures.acquit_copies(connection, drive="east2", volume=f"E0000{number}", files=[number])
    work = cast(MountWork, SimpleNamespace(volume="E00003", drive="east2"))
    await Blame(media, Config()).copies_read_elsewhere(work, ["east1"])
    async with media.connection() as connection:
        drives = {one.name: one for one in await volumes.list_drives(connection, library="east")}
        assert drives["east1"].state == "down"
        assert "E00001, E00002, E00003" in drives["east1"].reason
        assert drives["east2"].state == "up"
        assert await failures.matrix(connection) == [], "the evidence is used up"


async def test_what_has_long_ceased_to_count_is_forgotten_and_repairs_that_are_over_too(media: Database) -> None:
    async with media.transaction() as connection:
        await failed(connection, "east1", "E00001", lifetime_seconds=-100)
        await failed(connection, "east2", "E00001")
        files = await with_copies(connection, 1)
        await failures.break_copies(connection, "E00001", [(files[0], WHY)])
        assert await failures.forget(connection, keep_seconds=1000) == 0
        await connection.execute(sa.text("update stage_item set state = 'failed'"))
        await connection.execute(sa.text("update stage_request set items_live = 0, state = 'ended'"))
        assert await failures.forget(connection, keep_seconds=10) == 1
        assert await connection.scalar(sa.text("select count(*) from stage_request")) == 0
        assert await connection.scalar(sa.text("select count(*) from failure")) == 1
