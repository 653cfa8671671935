"""Promises of mounts, leases and media: one mount per drive and volume, one decider, changes with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, leases, mounts, volumes
from catalog.database import Database
from catalog.errors import BadRequest, NotFound, ReasonRequired, WrongState
from catalog.leases import Lease
from catalog.mounts import Candidate
from catalog.states import MountState, VolumeState
from tapeserver.outcomes import FRUITLESS, end_kind
from tests.store.media import mounted, planned
from tests.waiting import somebody_waits

SetClock = Callable[[datetime | None], Awaitable[None]]


async def test_a_drive_and_a_volume_are_in_one_mount_at_most_however_many_plan_at_once(media: Database) -> None:
    async def plan(drive: str, volume: str) -> int | None:
        async with media.transaction() as connection:
            return await planned(connection, volume, drive)

    pairs = [(drive, volume) for drive in ("east1", "east2") for volume in ("E00001", "E00002", "E00003")]
    epochs = await asyncio.gather(*(plan(*pair) for pair in pairs))
    assert 1 <= len([epoch for epoch in epochs if epoch]) <= 2
    async with media.connection() as connection:
        live = await mounts.list_mounts(connection)
    assert len({one.drive for one in live}) == len({one.volume for one in live}) == len(live)


async def test_no_mount_across_libraries_or_in_a_drive_that_is_down(media: Database) -> None:
    async with media.transaction() as connection:
        assert await planned(connection, "W00001", "east1") is None
        await volumes.set_state(connection, "drive", "east1", "down", who="ann", reason="dirty")
        assert await planned(connection, "E00001", "east1") is None


async def test_one_session_takes_a_mount_and_its_steps_are_those_of_the_table(media: Database) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1")
        work = await mounts.take(connection, epoch, "ts1")
        assert work is not None
        assert (work.generation, work.end_block, work.library) == (1, 2, "east")
        assert await mounts.take(connection, epoch, "ts2") is None
        assert await mounts.advance(connection, epoch, MountState.RUNNING)
        assert await mounts.advance(connection, epoch, MountState.UNLOADING)
    with pytest.raises(sa.exc.DBAPIError, match="may not move"):
        async with media.transaction() as connection:
            await mounts.advance(connection, epoch, MountState.RUNNING)


@pytest.mark.parametrize(
    ("kind", "name", "state"),
    [("drive", "east1", "down"), ("library", "east", "down"), ("volume", "E00001", "disabled")],
)
async def test_what_an_operator_takes_out_of_use_stops_its_mount_with_his_words(
    media: Database, kind: str, name: str, state: str
) -> None:
    async with media.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east1")
        other = await mounted(connection, "W00001", "west1")
        assert await volumes.set_state(connection, kind, name, state, who="ann", reason="smoke")
        assert not await volumes.set_state(connection, kind, name, state, who="ann", reason="smoke again")
        reasons = await mounts.reasons_to_stop(connection, [epoch, other])
        assert "smoke" in (reasons[epoch] or "")
        assert reasons[other] is None
        audited = (
            await connection.execute(sa.text("select who, reason from audit where object = :n"), {"n": name})
        ).all()
        assert [tuple(row) for row in audited] == [("ann", "smoke")]


async def test_a_change_needs_a_reason_an_object_and_an_allowed_step(media: Database) -> None:
    async with media.transaction() as connection:
        with pytest.raises(ReasonRequired):
            await volumes.set_state(connection, "drive", "east1", "down", who="ann", reason=" ")
        with pytest.raises(NotFound):
            await volumes.set_state(connection, "drive", "nowhere", "down", who="ann", reason="x")
        with pytest.raises(WrongState):
            await volumes.set_state(connection, "volume", "E00001", "blank", who="ann", reason="x")
        with pytest.raises(BadRequest):
            await volumes.set_state(connection, "volume", "E00001", "purple", who="ann", reason="x")


async def test_an_enabled_volume_is_again_what_it_was(media: Database) -> None:
    async with media.transaction() as connection:
        await volumes.set_state(connection, "volume", "E00001", "full", who="capstan", reason="it is full")
        for volume, state in (("E00001", VolumeState.FULL), ("E00002", VolumeState.ACTIVE)):
            await volumes.set_state(connection, "volume", volume, "disabled", who="ann", reason="look")
            await volumes.set_state(connection, "volume", volume, "enabled", who="ann", reason="fine")
            assert (await volumes.volume_at(connection, volume)).state is state


async def test_archives_go_to_the_fullest_volume_that_has_room_whether_it_is_in_a_drive_or_not(media: Database) -> None:
    async with media.transaction() as connection:
        await connection.execute(sa.text("update volume set written_bytes = 5 where vid = 'E00002'"))
        await connection.execute(sa.text("update volume set written_bytes = 9 where vid = 'E00003'"))
        assert (await volumes.writable_volumes(connection, ["east"]))["east"] == ["E00003", "E00002", "E00001"]
        await mounted(connection, "E00003", "east1")
        await volumes.set_state(connection, "volume", "E00002", "full", who="ann", reason="x")
        assert (await volumes.writable_volumes(connection, ["east"]))["east"] == ["E00003", "E00001"]


async def test_drives_are_wanted_while_anything_of_the_library_waits_for_nothing_else(media: Database) -> None:
    async with media.transaction() as connection:
        waits = Candidate(kind="volume", key="E00001", code="no_free_drive", arguments={"library": "east", "drives": 2})
        collects = Candidate(kind="pool", key="east", code="collecting", arguments={})
        await mounts.write_candidates(connection, "east", [collects], gone=None)
        assert not await mounts.drives_wanted(connection, "east")
        await mounts.write_candidates(connection, "east", [waits], gone=[])
        assert await mounts.drives_wanted(connection, "east")
        assert not await mounts.drives_wanted(connection, "west")


async def test_candidates_are_written_on_change_only_and_go_with_their_demand(media: Database) -> None:
    one = Candidate(kind="volume", key="E00001", code="ready", arguments={"drive": "east1"})
    two = Candidate(kind="pool", key="east", code="collecting", arguments={"wanted_files": 3})
    async with media.transaction() as connection:
        assert await mounts.write_candidates(connection, "east", [one, two], gone=None) == 2
        assert await mounts.write_candidates(connection, "east", [two, one], gone=None) == 0
        assert await mounts.write_candidates(connection, "west", [], gone=None) == 0
        assert await mounts.list_candidates(connection) == [two, one]
        assert await mounts.write_candidates(connection, "east", [one], gone=None) == 1
        assert await mounts.list_candidates(connection) == [one]
        assert await mounts.write_candidates(connection, "east", [two], gone=[("volume", "E00001")]) == 2
        assert await mounts.list_candidates(connection) == [two]


async def test_a_volume_rests_after_a_failed_mount_but_not_after_one_that_somebody_stopped(media: Database) -> None:
    async with media.transaction() as connection:
        for volume, outcome in (("E00001", "done"), ("E00002", "the mover died"), ("E00003", "stopped: drive down")):
            epoch = await mounted(connection, volume, "east1")
            await endings.end_mount(connection, epoch, outcome)
        ends = await mounts.recent_ends(connection)
        assert {volume: end.outcome for volume, end in ends.items()} == {
            "E00001": "done", "E00002": "the mover died", "E00003": "stopped: drive down"
        }  # fmt: skip
        assert {end_kind(ends[volume].outcome) for volume in ("E00001", "E00003")} == {"well"}
        assert end_kind(ends["E00002"].outcome) == "failed"


async def mount_that_ended(
    connection: AsyncConnection, drive: str, volume: str, outcome: str, *, files: int = 0
) -> None:
    epoch = await mounted(connection, volume, drive)
    await mounts.add_progress(connection, epoch, files=files, bytes=files)
    await endings.end_mount(connection, epoch, outcome)


async def test_mounts_that_brought_nothing_are_counted_since_the_last_one_that_did(media: Database) -> None:
    async with media.transaction() as connection:
        for outcome, files in (("read failed: x", 0), ("done", 3), ("read failed: x", 0), ("no cache space", 0)):
            await mount_that_ended(connection, "east1", "E00001", outcome, files=files)
        await mount_that_ended(connection, "east2", "E00002", "the mover died")
        ends = await mounts.recent_ends(connection, fruitless=FRUITLESS)
        assert (ends["E00001"].fruitless, ends["E00001"].outcome) == (2, "no cache space")
        assert (ends["E00002"].fruitless, ends["E00002"].drive) == (0, "east2")


async def test_a_lease_has_one_holder_by_the_databases_clock(media: Database, set_clock: SetClock) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    await set_clock(start)
    async with media.transaction() as connection:
        first = await leases.acquire(connection, "planner:east", "ts1", seconds=10)
        assert first is not None
        assert await leases.acquire(connection, "planner:east", "ts2", seconds=10) is None
        assert await leases.guard(connection, first)
    await set_clock(start + timedelta(seconds=11))
    async with media.transaction() as connection:
        assert not await leases.guard(connection, first)
        second = await leases.acquire(connection, "planner:east", "ts2", seconds=10)
        assert second is not None
        assert second.number > first.number
        assert not await leases.renew(connection, first, seconds=10)
        assert await leases.holders(connection, "planner:") == {"planner:east": "ts2"}
        await leases.release(connection, second)
        assert await leases.holders(connection, "planner:") == {"planner:east": None}
        assert await leases.acquire(connection, "planner:east", "ts1", seconds=10) is not None


async def test_a_lease_is_renewed_beside_what_is_written_under_it_and_neither_waits(media: Database) -> None:
    async with media.transaction() as connection:
        lease = await leases.acquire(connection, "planner:east", "ts1", seconds=60)
    assert lease is not None
    async with asyncio.timeout(20), media.transaction() as writing, media.transaction() as renewing:
        assert await leases.guard(writing, lease)
        assert await leases.renew(renewing, lease, seconds=60)
        async with media.transaction() as another:
            assert await leases.guard(another, lease)


@pytest.mark.parametrize("holder", ["ts1", "ts2"])
async def test_a_lease_is_not_taken_before_what_is_written_under_it_is_committed(media: Database, holder: str) -> None:
    async with media.transaction() as connection:
        lease = await leases.acquire(connection, "planner:east", "ts1", seconds=60)
    assert lease is not None

    async def take() -> Lease | None:
        async with media.transaction() as taking:
            return await leases.acquire(taking, "planner:east", holder, seconds=60)

    async with media.transaction() as writing:
        assert await leases.guard(writing, lease)
        async with media.transaction() as connection:
            # A renewal moves the row, and its lock with it; then the lease is over.
            assert await leases.renew(connection, lease, seconds=60)
        async with media.transaction() as connection:
            await leases.release(connection, lease)
        taken = asyncio.create_task(take())
        await somebody_waits(media)
        assert not taken.done()
    after = await taken
    assert after is not None
    assert after.number > lease.number
    async with media.transaction() as connection:
        assert not await leases.guard(connection, lease)


async def test_who_stands_by_for_a_lease_writes_nothing_and_is_in_nobodys_way(media: Database) -> None:
    """He asks with each wake-up: else each would be a commit, for which a renewal waits."""
    async with media.transaction() as connection:
        lease = await leases.acquire(connection, "planner:east", "ts1", seconds=60)
    assert lease is not None
    async with asyncio.timeout(20), media.transaction() as standing_by, media.transaction() as renewing:
        assert await leases.acquire(standing_by, "planner:east", "ts2", seconds=60) is None
        written = await standing_by.scalar(sa.text("select pg_current_xact_id_if_assigned() is not null"))
        assert not written
        assert await leases.renew(renewing, lease, seconds=60)


async def test_a_restarted_holder_need_not_wait_and_its_former_self_is_out(media: Database) -> None:
    async with media.transaction() as connection:
        before = await leases.acquire(connection, "planner:east", "ts1", seconds=10)
        after = await leases.acquire(connection, "planner:east", "ts1", seconds=10)
        assert before is not None
        assert after is not None
        assert not await leases.guard(connection, before)
        assert await leases.guard(connection, after)


async def test_a_drive_has_one_holder_until_it_is_silent(media: Database) -> None:
    async with media.transaction() as connection:
        assert await volumes.hold_drive(connection, "east1", "ts1")
        assert not await volumes.hold_drive(connection, "east1", "ts2")
        await volumes.attach_drives(connection, ["east1"], "ts2")
        await connection.execute(sa.text("update drive set heartbeat_at = heartbeat_at - interval '31 s'"))
        assert await volumes.hold_drive(connection, "east1", "ts2")
        assert not await volumes.hold_drive(connection, "east1", "ts1")
        [drive] = [one for one in await volumes.list_drives(connection) if one.name == "east1"]
        assert (drive.tapeserver, drive.attached) == ("ts2", True)
