"""Promises about the life of a volume: its states and what follows from them, and what a reclaim waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import maintenance, mounts, queues, recalls, volumes
from catalog.database import Database
from catalog.errors import BadRequest, CapstanError, NotFound, NotReclaimable, ReasonRequired, Unsafe, WrongState
from tests.store.media import make_copies, make_files, mounted


async def move(connection: AsyncConnection, vid: str, *states: str, force: bool = False) -> None:
    for state in states:
        await volumes.set_state(connection, "volume", vid, state, who="ann", reason="test", force=force)


async def state_of(connection: AsyncConnection, vid: str) -> str:
    return (await volumes.volume_at(connection, vid)).state.value


async def delete(connection: AsyncConnection, files: Sequence[int], *, days_ago: float, state: str = "deleted") -> None:
    await connection.execute(
        sa.text(
            "update file set state = 'deleted', deleted_at = capstan_now() - make_interval(secs => :seconds)"
            " where id = any(:files)"
        ),
        {"files": list(files), "seconds": days_ago * 86400},
    )
    if state == "purged":
        await connection.execute(
            sa.text("update file set state = 'purged' where id = any(:files)"), {"files": list(files)}
        )


async def backup(connection: AsyncConnection, *, days_ago: float = 0.0, verified: bool = True) -> None:
    await connection.execute(
        sa.text(
            "insert into catalog_backup (began_at, path, bytes, sha256, verified_at) select"
            " capstan_now() - make_interval(secs => :seconds), '/b', 1, '', case when :verified then capstan_now() end"
        ),
        {"seconds": days_ago * 86400, "verified": verified},
    )


async def on_tape(connection: AsyncConnection, count: int, *on: str, on_disk: bool = False) -> list[int]:
    kind = "two" if len(on) > 1 else "one"
    files = await make_files(connection, count, storage_class=kind, on_disk=on_disk)
    for number, volume in enumerate(on, 1):
        await make_copies(connection, files, volume, number=number)
    return files


async def reclaim(connection: AsyncConnection, vid: str = "E00001") -> volumes.Reclaimed:
    return await volumes.reclaim(connection, vid, who="ann", reason="test", recycle_days=7)


async def refusal(connection: AsyncConnection, vid: str = "E00001") -> CapstanError:
    with pytest.raises((NotReclaimable, WrongState)) as refused:
        await reclaim(connection, vid)
    return refused.value


async def count(connection: AsyncConnection, table: str) -> int:
    return int(await connection.scalar(sa.text(f"select count(*) from {table}")) or 0)


# ------------------------------------------------------------------ states


async def test_a_closed_volume_takes_no_writes_until_it_is_opened_again(media: Database) -> None:
    async with media.transaction() as connection:
        await make_copies(connection, await make_files(connection, 1), "E00001")
        await move(connection, "E00001", "closed")
        assert "E00001" not in (await volumes.writable_volumes(connection, ["east"]))["east"]
        assert (await volumes.volume_at(connection, "E00001")).closed_at is not None
        await move(connection, "E00001", "active")
        assert (await volumes.volume_at(connection, "E00001")).closed_at is None
        assert "E00001" in (await volumes.writable_volumes(connection, ["east"]))["east"]


async def test_closing_a_volume_ends_the_mount_that_writes_on_it_and_no_other(media: Database) -> None:
    async with media.transaction() as connection:
        epochs = {}
        for number, purpose in ((1, "archive"), (2, "recall")):
            epochs[purpose] = await mounted(connection, f"E0000{number}", f"east{number}", purpose)
            await move(connection, f"E0000{number}", "closed")
        why = await mounts.reasons_to_stop(connection, list(epochs.values()))
        assert why == {epochs["archive"]: "volume closed: test", epochs["recall"]: None}


@pytest.mark.parametrize("was", ["active", "full", "closed"])
@pytest.mark.parametrize("out", ["disabled", "suspect"])
async def test_an_enabled_volume_is_again_what_it_was(media: Database, was: str, out: str) -> None:
    async with media.transaction() as connection:
        await move(connection, "E00001", *([] if was == "active" else [was]), out, "enabled")
        assert await state_of(connection, "E00001") == was


async def test_a_disabled_volume_whose_repack_goes_on_is_enabled_to_repacking(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 1, "E00001")
        await maintenance.begin(connection, "repack", "E00001", who="ann", reason="old")
        await move(connection, "E00001", "disabled", "enabled")
        assert await state_of(connection, "E00001") == "repacking"


async def test_blank_and_repacking_are_no_words_of_an_operator(media: Database) -> None:
    async with media.transaction() as connection:
        await make_copies(connection, await make_files(connection, 1), "E00001")
        await move(connection, "E00001", "full")
        for wanted in ("blank", "repacking"):
            with pytest.raises(WrongState):
                await move(connection, "E00001", wanted)
        await volumes.create_volumes(
            connection, [volumes.NewVolume(vid="E00009", library="east", pool=None, capacity_bytes=1)]
        )
        with pytest.raises(WrongState, match="label"):
            await move(connection, "E00009", "active")


async def test_an_export_that_makes_files_unsafe_says_how_many_and_wants_force(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 3, "E00001")
        await on_tape(connection, 2, "E00001", "W00001")
        with pytest.raises(Unsafe, match="5 files are not safe any more, 3 of them without any good copy"):
            await move(connection, "E00001", "exported")
        await move(connection, "E00001", "exported", force=True)
        detail = await connection.scalar(sa.text("select detail from audit order by id desc limit 1"))
        assert detail == {"from": "active", "to": "exported", "unsafe_files": 5}


async def test_an_export_without_harm_needs_no_force_but_never_leaves_a_drive(media: Database) -> None:
    async with media.transaction() as connection:
        await mounted(connection, "E00001", "east1")
        with pytest.raises(WrongState, match="mounted"):
            await move(connection, "E00001", "exported")
        await move(connection, "E00002", "exported")
        assert await state_of(connection, "E00002") == "exported"


async def test_what_becomes_unsafe_is_written_again_or_audited(media: Database) -> None:
    async with media.transaction() as connection:
        here = await on_tape(connection, 2, "E00001", on_disk=True)
        await on_tape(connection, 2, "E00001", "W00001")
        await move(connection, "E00001", "broken")
        queued = (await connection.scalars(sa.text("select distinct file from archive order by file"))).all()
        assert list(queued) == here
        assert [one.key for one in await maintenance.listed(connection, kind="audit")] == ["two", "one"]


# ------------------------------------------------------------------ reclaim


async def test_a_reclaim_is_refused_while_a_live_file_has_a_copy_there(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 3, "E00001")
        assert "active" in str(await refusal(connection))
        await move(connection, "E00001", "full")
        assert "3 live files have copies on it" in str(await refusal(connection))


async def test_a_reclaim_is_refused_while_a_removed_file_can_still_be_restored(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 2, "E00001")
        await move(connection, "E00001", "full")
        await backup(connection)
        await delete(connection, files, days_ago=6)
        assert "2 files on it were removed less than 7" in str(await refusal(connection))
        await delete(connection, files, days_ago=6, state="purged")
        assert (await reclaim(connection)).files == 2


@pytest.mark.parametrize(("days_ago", "verified"), [(9.0, True), (7.0, False)])
async def test_a_reclaim_waits_for_a_verified_backup_that_began_after_the_last_deletion(
    media: Database, days_ago: float, verified: bool
) -> None:
    async with media.transaction() as connection:
        await delete(connection, await on_tape(connection, 1, "E00001"), days_ago=8)
        await move(connection, "E00001", "closed")
        await backup(connection, days_ago=days_ago, verified=verified)
        assert "backup" in str(await refusal(connection))
        await backup(connection, days_ago=7)
        assert (await reclaim(connection)).copies == 1


async def test_a_mounted_volume_is_not_reclaimed(media: Database) -> None:
    async with media.transaction() as connection:
        await move(connection, "E00001", "full")
        await mounted(connection, "E00001", "east1")
        assert "mounted in drive east1" in str(await refusal(connection))


async def test_a_reclaimed_volume_is_blank_with_its_generation_and_the_next_label_is_higher(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        await connection.execute(sa.text("insert into dead_extent values ('E00001', 1, 4, 100, 5, 'aborted')"))
        await delete(connection, files, days_ago=8)
        await move(connection, "E00001", "full")
        await backup(connection)
        assert await reclaim(connection) == volumes.Reclaimed(volume="E00001", copies=3, files=3)
        volume = await volumes.volume_at(connection, "E00001")
        assert (volume.state, volume.generation, volume.tape_files, volume.end_block, volume.written_bytes) == (
            "blank", 1, 0, 0, 0,
        )  # fmt: skip
        assert (volume.full_at, volume.index_block, volume.indexed_tape_files) == (None, 0, 0)
        assert [await count(connection, name) for name in ("copy", "dead_extent", "file")] == [0, 0, 0]
        assert "E00001" in (await volumes.writable_volumes(connection, ["east"]))["east"]
        assert await volumes.labelled(connection, "E00001", generation=2, end_block=2)
        again = await volumes.volume_at(connection, "E00001")
        assert (again.state, again.generation, again.labelled_at is not None) == ("active", 2, True)


async def test_a_reclaim_keeps_the_row_of_a_file_that_lies_elsewhere_too(media: Database) -> None:
    async with media.transaction() as connection:
        twice = await on_tape(connection, 1, "E00001", "W00001")
        cached = await on_tape(connection, 1, "E00001", on_disk=True)
        await delete(connection, [*twice, *cached], days_ago=8)
        await move(connection, "E00001", "full")
        await backup(connection)
        assert (await reclaim(connection)).files == 0
        assert sorted((await connection.scalars(sa.text("select id from file"))).all()) == sorted([*twice, *cached])


async def test_a_broken_copy_of_a_safe_file_is_in_nobodys_way(media: Database) -> None:
    async with media.transaction() as connection:
        files = await make_files(connection, 1, on_disk=False)
        for volume in ("E00001", "E00002"):
            await make_copies(connection, files, volume)
        await move(connection, "E00001", "full")
        await connection.execute(sa.text("update copy set broken_at = capstan_now() where volume = 'E00001'"))
        await backup(connection)
        assert (await reclaim(connection)).copies == 1
        assert await count(connection, "file") == 1


async def test_a_reclaim_needs_a_reason_and_is_audited(media: Database) -> None:
    async with media.transaction() as connection:
        await move(connection, "E00001", "full")
        with pytest.raises(ReasonRequired):
            await volumes.reclaim(connection, "E00001", who="ann", reason=" ")
        await reclaim(connection)
        said = (await connection.execute(sa.text("select action, reason from audit order by id desc limit 1"))).one()
        assert tuple(said) == ("volume reclaimed", "test")


async def test_an_empty_active_or_blank_volume_is_relabelled_but_not_one_with_files(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 1, "E00002")
        with pytest.raises(WrongState, match="not empty"):
            await volumes.relabel(connection, "E00002", who="ann", reason="test")
        made = await volumes.relabel(connection, "E00001", who="ann", reason="foreign", force=True)
        row = await maintenance.at(connection, made)
        assert (row.kind, row.key, row.options) == ("label", "E00001", {"force": True})
        [waiting] = await maintenance.volumes_waiting(connection, "east")
        assert (waiting.kind, waiting.volume, waiting.volume_state) == ("label", "E00001", "blank")
        # Until it has its label, no archive takes it: a mount to write would not force it.
        assert "E00001" not in (await volumes.writable_volumes(connection, ["east"]))["east"]


async def test_a_volume_is_forgotten_only_when_nothing_is_on_it(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 1, "E00001")
        with pytest.raises(WrongState):
            await volumes.remove(connection, "E00001", who="ann", reason="test")
        await move(connection, "E00001", "broken")
        with pytest.raises(NotReclaimable, match="1 copy"):
            await volumes.remove(connection, "E00001", who="ann", reason="test")
        await move(connection, "E00002", "broken")
        await volumes.remove(connection, "E00002", who="ann", reason="test")
        with pytest.raises(NotFound):
            await volumes.volume_at(connection, "E00002")


# ------------------------------------------------------------------ storage classes and pools


async def test_a_class_that_asks_for_more_is_audited_and_one_that_cannot_be_served_is_refused(media: Database) -> None:
    async with media.transaction() as connection:
        assert await volumes.change_storage_class(connection, "one", who="ann", reason="x", evict_degraded=True) is None
        made = await volumes.change_storage_class(connection, "one", who="ann", reason="more", copies=2)
        assert made is not None
        assert (await maintenance.at(connection, made)).key == "one"
        with pytest.raises(BadRequest):
            await volumes.change_storage_class(connection, "one", who="ann", reason="more", copies=3)
        assert [one.copies for one in await volumes.list_storage_classes(connection) if one.name == "one"] == [2]


async def clear_away(media: Database, vid: str = "E00001") -> int:
    return await volumes.clear_away(media, vid, recycle_days=7, files_max=2)


async def test_what_nobody_wants_back_is_cleared_away_in_small_steps_before_a_reclaim(media: Database) -> None:
    async with media.transaction() as connection:
        both = await on_tape(connection, 3, "E00001", "W00001")
        await delete(connection, both, days_ago=9)
        await delete(connection, await on_tape(connection, 6, "E00001"), days_ago=8, state="purged")
        await backup(connection, days_ago=1)
        await move(connection, "E00001", "closed")
    # One stays, so that what a backup must be newer than is known until the end.
    assert await clear_away(media) == 8
    assert await clear_away(media) == 0
    async with media.transaction() as connection:
        assert await count(connection, "copy where volume = 'E00001'") == 1
        assert await count(connection, "copy where volume = 'W00001'") == 3
        assert await count(connection, "file") == 4
        assert await state_of(connection, "E00001") == "closed"
        assert (await reclaim(connection)).copies == 1
        assert await state_of(connection, "E00001") == "blank"
        assert await count(connection, "file") == 3


async def test_clearing_away_that_was_broken_off_leaves_the_reclaim_as_careful_as_before(media: Database) -> None:
    async with media.transaction() as connection:
        await delete(connection, await on_tape(connection, 3, "E00001"), days_ago=20)
        await delete(connection, await on_tape(connection, 1, "E00001"), days_ago=8)
        await backup(connection, days_ago=10)
        await backup(connection, days_ago=1)
        await move(connection, "E00001", "closed")
    assert await clear_away(media) == 3
    async with media.transaction() as connection:
        await connection.execute(
            sa.text("delete from catalog_backup where began_at > capstan_now() - interval '2 days'")
        )
        assert "backup" in str(await refusal(connection))
    with pytest.raises(NotReclaimable, match="backup"):
        await clear_away(media)


@pytest.mark.parametrize("wanted", ["live", "deleted lately", "mounted"])
async def test_nothing_is_cleared_away_where_a_reclaim_would_be_refused(media: Database, wanted: str) -> None:
    async with media.transaction() as connection:
        await delete(connection, await on_tape(connection, 3, "E00001"), days_ago=20)
        await backup(connection)
        if wanted == "live":
            await on_tape(connection, 1, "E00001")
        if wanted == "deleted lately":
            await delete(connection, await on_tape(connection, 1, "E00001"), days_ago=1)
        if wanted == "mounted":
            await mounted(connection, "E00001", "east1")
        await move(connection, "E00001", "closed")
    with pytest.raises(NotReclaimable):
        await clear_away(media)
    async with media.connection() as connection:
        assert await count(connection, "copy") == 3 + (wanted in ("live", "deleted lately"))


async def test_a_copy_that_somebody_waits_for_is_left_to_the_reclaim(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        await recalls.request_recalls(connection, files[:1], owner="o", group="g")
        await delete(connection, files, days_ago=9)
        await backup(connection)
        await move(connection, "E00001", "closed")
    assert await clear_away(media) == 1
    async with media.transaction() as connection:
        await reclaim(connection)
        assert await count(connection, "demand") == 0
        assert await queues.drift(connection) == []


async def test_clearing_away_begins_without_waiting_for_a_file_that_stays(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001")
        await delete(connection, files, days_ago=9)
        await backup(connection)
        await move(connection, "E00001", "closed")
    async with media.transaction() as connection:
        await connection.execute(sa.text("select from file where id = :id for update"), {"id": files[-1]})
        async with asyncio.timeout(20):
            assert await clear_away(media) == 2
