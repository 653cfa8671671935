"""Promises of the planner at work: it learns by increments, decides under its lease, and can be replayed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog import endings, failures, hardware, leases, mounts, queues, situations, volumes
from catalog.database import Database
from catalog.errors import NotFound
from tapeserver.config import Config
from tapeserver.libraryplanner import LEASE_PREFIX, PICTURE_SECONDS_MAX, LibraryPlanner
from tapeserver.planningrecord import replay
from tests.store.media import make_files, twenty_on_tape, wait_for


class At:
    """A catalog with files on tape, and the planner of `east`."""

    def __init__(self, database: Database, config: Config, files: list[int]) -> None:
        self.database, self.files = database, files
        self.planner = LibraryPlanner(database, config, "east")

    async def ask(self, files: list[int], **more: object) -> None:
        async with self.database.transaction() as connection:
            await wait_for(connection, files)
            await queues.request_recalls(connection, files, owner="ann", group="cms", **more)  # type: ignore[arg-type]  # by name

    async def work(self) -> None:
        """Until there is nothing new: take the lease, learn, decide."""
        for _ in range(3):
            await self.planner.decide()
            self.planner._surround_at = self.planner._explain_at = 0.0
            await self.planner.learn()

    async def mounted(self) -> list[tuple[str, str]]:
        async with self.database.connection() as connection:
            return [(one.volume, one.purpose) for one in await mounts.list_mounts(connection)]

    async def said(self) -> dict[str, str]:
        async with self.database.connection() as connection:
            return {one.key: one.code for one in await mounts.list_candidates(connection)}

    async def end(self, volume: str, outcome: str = "done") -> None:
        async with self.database.transaction() as connection:
            [epoch] = [one.epoch for one in await mounts.list_mounts(connection) if one.volume == volume]
            await endings.end_mount(connection, epoch, outcome)


@pytest.fixture
async def at(database: Database, tmp_path: Path) -> At:
    """Ten files on E00001, ten on E00002; both drives of `east` are attached."""
    async with database.transaction() as connection:
        files = await twenty_on_tape(connection)
    return At(database, Config(name="ts", planning_record=str(tmp_path)), files)


async def test_what_is_asked_for_is_mounted_and_the_rest_is_explained(at: At) -> None:
    await at.ask(at.files[:3])
    await at.work()
    assert await at.mounted() == [("E00001", "recall")]
    assert await at.said() == {"E00001": "mounted"}
    await at.ask(at.files[10:])
    await at.work()
    assert sorted(await at.mounted()) == [("E00001", "recall"), ("E00002", "recall")]


async def test_nothing_is_mounted_without_the_lease(at: At) -> None:
    async with at.database.transaction() as connection:
        assert await leases.acquire(connection, f"{LEASE_PREFIX}east", "another", seconds=60)
    await at.ask(at.files[:3])
    await at.work()
    assert await at.mounted() == []
    assert not at.planner.decides


async def test_a_lease_that_is_lost_between_plan_and_commit_writes_no_row(at: At) -> None:
    await at.work()
    await at.ask(at.files[:3])
    await at.planner.learn()
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update lease set number = number + 1, holder = 'another'"))
    await at.planner.decide()
    assert await at.mounted() == []


async def test_what_was_cancelled_since_the_picture_was_told_gets_no_mount(at: At) -> None:
    await at.work()
    await at.ask(at.files[:3])
    await at.planner.learn()
    async with at.database.transaction() as connection:
        await queues.drop_recalls(connection, at.files[:3])
    await at.planner.decide()
    assert await at.mounted() == []
    await at.work()
    assert await at.said() == {}


async def test_a_volume_that_is_out_of_use_since_the_last_look_is_planned_in_vain_once(at: At) -> None:
    """Else again and again until the surroundings are looked at by themselves, and others wait for the drive."""
    await at.work()
    await at.ask(at.files[:3])
    at.planner._surround_at = 0.0
    await at.planner.learn()
    at.planner._surround_at = asyncio.get_running_loop().time() + 3600
    async with at.database.transaction() as connection:
        await volumes.set_state(connection, "volume", "E00001", "disabled", who="root", reason="torn")
    at.planner.learning.clear()
    await at.planner.decide()
    assert at.planner.deciding.is_set()
    assert at.planner.learning.is_set()
    at.planner.deciding.clear()
    await at.planner.learn()
    decision = await at.planner.decide()
    assert decision is not None
    assert decision.mounts == []
    assert await at.mounted() == []


async def test_a_volume_whose_recalls_all_wait_for_a_pause_to_end_is_not_mounted_again(at: At) -> None:
    await at.ask(at.files[:1])
    await at.work()
    await at.end("E00001")
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update demand set created_at = capstan_now() + interval '1 hour'"))
    await at.work()
    assert await at.mounted() == []
    assert await at.said() == {"E00001": "backing_off"}
    await at.ask(at.files[1:2])
    await at.work()
    assert await at.mounted() == [("E00001", "recall")]


async def test_a_volume_on_which_one_file_failed_goes_to_another_drive_before_the_matrix_is_looked_at_again(
    at: At,
) -> None:
    await at.ask(at.files[:1])
    await at.work()
    async with at.database.transaction() as connection:
        [one] = await mounts.list_mounts(connection)
        await failures.record(
            connection, library="east", drive=one.drive, volume=one.volume, kind="read", epoch=one.epoch,
            why="medium error", file=at.files[0],
        )  # fmt: skip
    await at.end("E00001")
    await at.planner.decide()
    async with at.database.connection() as connection:
        [again] = await mounts.list_mounts(connection)
    assert (again.volume, again.drive != one.drive) == ("E00001", True)


async def test_a_mount_with_nothing_to_do_ends_for_another_volume_and_did_not_fail(at: At) -> None:
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update drive set heartbeat_at = null where name = 'east2'"))
    await at.ask(at.files[:1])
    await at.work()
    async with at.database.transaction() as connection:
        [one] = await mounts.list_mounts(connection)
        await queues.drop_recalls(connection, at.files[:1])
        await mounts.say_idle(connection, one.epoch, idle=True)
    await at.ask(at.files[10:11])
    await at.work()
    async with at.database.transaction() as connection:
        [why] = (await mounts.reasons_to_stop(connection, [one.epoch])).values()
        assert why is not None
        assert why.startswith(mounts.REST)
        # Somebody wants it again before its session has heard of that: it need not rest.
        await mounts.say_idle(connection, one.epoch, idle=False)
        assert await mounts.reasons_to_stop(connection, [one.epoch]) == {one.epoch: None}


async def test_an_operators_now_comes_first_and_is_over_with_the_mount(at: At) -> None:
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update drive set heartbeat_at = null where name = 'east2'"))
        await situations.hurry(connection, "E00002", who="root", reason="run starts")
        with pytest.raises(NotFound):
            await situations.hurry(connection, "E99999", who="root", reason="run starts")
    await at.ask(at.files[:10])
    await at.ask(at.files[10:11])
    await at.work()
    assert await at.mounted() == [("E00002", "recall")]
    async with at.database.connection() as connection:
        assert await situations.hurried(connection, "east") == []


async def test_a_picture_that_is_begun_anew_says_the_same(at: At) -> None:
    await at.ask(at.files[:3], cohorts={at.files[0]: 7})
    await at.work()
    await at.ask(at.files[5:12])
    await at.work()
    first = at.planner._keeper
    assert first is not None
    at.planner._forget(first)
    await at.work()
    second = at.planner._keeper
    assert second is not None
    assert second is not first
    for column in ("files", "bytes"):
        ours, others = (getattr(one.picture.volumes, column) for one in (first, second))
        names = {name: ours[slot] for slot, name in enumerate(first.picture.volumes.names) if ours[slot]}
        assert names == {name: others[slot] for slot, name in enumerate(second.picture.volumes.names) if others[slot]}


async def test_a_recorded_run_is_replayed_by_the_planner_and_decides_the_same(at: At, tmp_path: Path) -> None:
    await at.ask(at.files[:3])
    await at.work()
    await at.ask(at.files[10:])
    await at.work()
    await at.end("E00001", "read failed: no signal")
    await at.work()
    await at.planner.close()
    lines = (tmp_path / "east.jsonl").read_bytes().splitlines()
    decisions = list(replay(lines))
    assert [one.volume for found in decisions for one in found.recorded.mounts] == ["E00001", "E00002"]
    assert all(found.same for found in decisions)


async def test_a_volume_goes_only_to_a_drive_that_can_read_it_by_what_library_and_operator_say(at: At) -> None:
    async with at.database.transaction() as connection:
        reported = {"east1": "ULT3580-TD9", "east2": "ULT3580-TD9"}
        assert await hardware.report_models(connection, "east", reported) == ["east1", "east2"]
        assert await hardware.report_models(connection, "east", reported) == []
        await hardware.set_volume_medium(connection, "E00001", "LTO-7", who="root", reason="old cartridge")
    await at.ask(at.files[:1])
    await at.work()
    assert await at.mounted() == []
    assert await at.said() == {"E00001": "no_compatible_drive"}
    async with at.database.transaction() as connection:
        await hardware.set_drive_model(connection, "east2", "LTO-8", who="root", reason="the library is wrong")
    await at.work()
    async with at.database.connection() as connection:
        [one] = await mounts.list_mounts(connection)
        assert (one.volume, one.drive) == ("E00001", "east2")


async def test_a_pool_is_written_to_a_volume_that_a_drive_can_write(at: At) -> None:
    async with at.database.transaction() as connection:
        await hardware.report_models(connection, "east", {"east1": "LTO-9", "east2": "LTO-9"})
        await connection.execute(sa.text("update volume set medium = 'LTO-7' where library = 'east'"))
    pool = await write(at)
    await at.work()
    assert (await at.said())[pool] == "no_compatible_drive"
    async with at.database.transaction() as connection:
        await hardware.set_volume_medium(connection, "E00003", "LTO-8", who="root", reason="a new one")
    await at.work()
    assert await at.mounted() == [("E00003", "archive")]


async def forty_blank(at: At, *fitting: str) -> None:
    """D00000 to D00039 are there too, and no drive can write any volume but `fitting`."""
    async with at.database.transaction() as connection:
        await hardware.report_models(connection, "east", {"east1": "LTO-9", "east2": "LTO-9"})
        names = [f"D{number:05}" for number in range(40)]
        blank = [volumes.NewVolume(vid=vid, library="east", pool=None, capacity_bytes=10**10) for vid in names]
        await volumes.create_volumes(connection, blank)
        await connection.execute(sa.text("update volume set medium = 'LTO-7' where library = 'east'"))
        for vid in fitting:
            await hardware.set_volume_medium(connection, vid, "LTO-9", who="root", reason="a new one")


async def test_blank_volumes_that_no_drive_can_write_do_not_hide_the_one_that_it_can(at: At) -> None:
    await forty_blank(at, "D00039")
    await write(at)
    await at.work()
    assert await at.mounted() == [("D00039", "archive")]


async def test_a_fitting_volume_that_is_in_a_drive_hides_no_other_that_fits(at: At) -> None:
    """It may be read there for hours."""
    await forty_blank(at, "E00001", "D00039")
    await at.ask(at.files[:3])
    await at.work()
    assert await at.mounted() == [("E00001", "recall")]
    await write(at)
    await at.work()
    assert sorted(await at.mounted()) == [("D00039", "archive"), ("E00001", "recall")]


async def write(at: At, count: int = 1) -> str:
    """So many files that somebody waits for are to be written; to this pool."""
    async with at.database.transaction() as connection:
        files = await make_files(connection, count)
        await queues.enqueue_archives(connection, files)
        await queues.make_urgent(connection, files)
    return "east"


async def test_a_pool_goes_on_with_the_volume_that_has_just_come_out_of_its_drive(at: At) -> None:
    """Though nobody has looked at the pools since: else each mount that ends while more comes would begin another."""
    await write(at)
    await at.work()
    [(volume, _)] = await at.mounted()
    await at.work()
    await at.end(volume)
    await at.planner.decide()
    assert await at.mounted() == [(volume, "archive")]


async def test_a_volume_that_has_joined_a_pool_since_is_not_mounted_for_another(at: At) -> None:
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update volume set state = 'full' where library = 'east'"))
        await volumes.create_volumes(
            connection, [volumes.NewVolume(vid="B00001", library="east", pool=None, capacity_bytes=10**10)]
        )
        await volumes.create_pool(connection, name="other", library="east")
    await write(at)
    await at.planner.decide()
    await at.planner.learn()
    async with at.database.transaction() as connection:
        await connection.execute(sa.text("update volume set pool = 'other' where vid = 'B00001'"))
    await at.planner.decide()
    assert await at.mounted() == []


async def test_what_mounts_told_while_the_surroundings_were_read_is_not_forgotten_with_them(at: At) -> None:
    await at.ask(at.files[:2])
    async with at.database.transaction() as connection:
        await situations.hurry(connection, "E00001", who="root", reason="now")
    await at.planner.decide()
    await at.planner.learn()
    keeper = at.planner._keeper
    assert keeper is not None
    async with at.database.connection() as connection:
        seen = await at.planner._source.surroundings(connection, keeper, await leases.clock(connection))
    assert list(seen.hurried) == ["E00001"]
    await at.planner.decide()
    async with at.database.transaction() as connection:
        [one] = await mounts.list_mounts(connection)
        await failures.record(
            connection, library="east", drive=one.drive, volume=one.volume, kind="read", epoch=one.epoch,
            why="medium error", file=at.files[0],
        )  # fmt: skip
    await at.end("E00001")
    async with at.database.connection() as connection:
        situation = await at.planner._source.look(connection, keeper)
    keeper.see(situation)
    keeper.surround(seen)
    assert keeper.picture.hurried == set()
    assert keeper.picture.suspects == {"E00001": frozenset({one.drive})}
    async with at.database.connection() as connection:
        seen = await at.planner._source.surroundings(connection, keeper, await leases.clock(connection))
    async with at.database.transaction() as connection:
        await failures.clear(connection, volume="E00001")
        seen = await at.planner._source.surroundings(connection, keeper, await leases.clock(connection))
    keeper.surround(seen)
    assert keeper.picture.suspects == {}


async def test_a_quiet_library_is_looked_at_at_its_interval_and_not_five_times_a_second(at: At) -> None:
    await at.work()
    looks = 0
    read = at.planner._source.surroundings

    async def counted(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return await read(*arguments)  # type: ignore[arg-type]  # as it came

    at.planner._source.surroundings = counted  # type: ignore[method-assign,assignment]  # watched
    at.planner._surround_at = 0.0
    for _ in range(3):
        at.planner.learning.clear()
        await at.planner.learn()
        await asyncio.sleep(0.25)
        if not at.planner.learning.is_set():
            break
    assert looks == 1


class Knot:
    """It holds itself."""

    def __init__(self) -> None:
        self.me = self


async def test_a_picture_that_is_begun_keeps_no_garbage_for_ever(at: At) -> None:
    """What is there then is gone through no more: neither what had been dropped in cycles until then, nor what was
    live at the last picture and is not any more."""
    gc.disable()
    try:
        living, dropped = Knot(), weakref.ref(Knot())
        lived = weakref.ref(living)
        await at.work()
        assert dropped() is None
        del living
        at.planner._begun_at -= PICTURE_SECONDS_MAX + 1
        await at.work()
        assert lived() is None
    finally:
        gc.enable()
        gc.unfreeze()
