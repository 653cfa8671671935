"""What planners publish of their volumes, and what files and requests are told from it."""

from __future__ import annotations

import pytest

from catalog import estimates, leases, staging, volumes
from catalog.database import Database
from catalog.leases import Lease
from catalog.model import Principal, ReadingTime
from catalog.units import show_about
from tapeserver.config import Config
from tapeserver.estimating import Estimating, expected
from tapeserver.libraryplanner import LibraryPlanner
from tapeserver.planner import DriveView, Picture, Policy, Share, VolumeView
from tests.catalog_world import World

ANN = Share("ann", "users")
GB = 10**9


async def told(database: Database, **times: ReadingTime) -> None:
    """Publish these, their times being seconds from now."""
    async with database.transaction() as connection:
        now = await leases.clock(connection)
        later = {vid: ReadingTime(now + t.begins, t.reading, t.files, t.mounted) for vid, t in times.items()}
        for library, first in (("east", "E"), ("west", "W")):
            mine = {vid: one for vid, one in later.items() if vid.startswith(first)}
            if mine:
                await estimates.publish(connection, library, mine, gone=())


async def site(database: Database, **files: tuple[str, ...]) -> tuple[dict[str, int], Principal]:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        made = {name: await world.file(f"/d/{name}", volumes=vids) for name, vids in files.items()}
        return made, await world.principal()


async def asked(database: Database, principal: Principal, *names: str) -> int:
    async with database.transaction() as connection:
        request = await staging.create_request(connection, principal, {f"/d/{name}": 60.0 for name in names})
        await staging.resolve_chunk(connection, request)
        return request


async def test_a_file_is_expected_from_the_copy_that_is_there_first(database: Database) -> None:
    files, ann = await site(database, both=("E00001", "W00001"), one=("E00001",))
    await asked(database, ann, "both", "one")
    await told(database, E00001=ReadingTime(600, 100, 1), W00001=ReadingTime(60, 100, 1))
    async with database.connection() as connection:
        found = await estimates.of_files(connection, files.values())
    assert found[files["both"]].seconds == pytest.approx(160, abs=5)
    assert found[files["one"]].seconds == pytest.approx(700, abs=5)


async def test_a_request_is_expected_with_its_last_file_and_not_at_all_while_one_is_unknown(database: Database) -> None:
    _, ann = await site(database, a=("E00001",), b=("E00002",), c=("W00002",))
    request, other = await asked(database, ann, "a", "b"), await asked(database, ann, "a", "c")
    await told(database, E00001=ReadingTime(60, 10, 1), E00002=ReadingTime(500, 10, 1))
    async with database.connection() as connection:
        assert await estimates.of_request(connection, request) == pytest.approx(510, abs=5)
        assert await estimates.of_request(connection, other) is None
        assert await estimates.of_request(connection, 10**9) is None


async def test_what_no_planner_has_looked_at_lately_is_not_told(database: Database) -> None:
    files, ann = await site(database, a=("E00001",))
    request = await asked(database, ann, "a")
    await told(database, E00001=ReadingTime(60, 10, 1))
    async with database.transaction() as connection:
        assert set(await estimates.of_volumes(connection)) == {"E00001"}
        await World(connection).run("update estimate_look set at = at - interval '40 seconds'")
        assert await estimates.of_volumes(connection, ["E00001"]) == {}
        assert await estimates.of_request(connection, request) is None
        assert (await estimates.of_files(connection, files.values()))[files["a"]].seconds is None


async def test_of_what_a_mount_has_taken_it_is_only_told_that_it_is_being_read(database: Database) -> None:
    files, ann = await site(database, a=("E00001",))
    await asked(database, ann, "a")
    await told(database, E00001=ReadingTime(60, 10, 1))
    async with database.transaction() as connection:
        await World(connection).run("update recall set state = 'claimed'")
        assert await estimates.of_files(connection, files.values()) == {
            files["a"]: estimates.Expectation("claimed", None)
        }


def test_only_what_has_moved_by_more_than_a_tenth_is_written_anew() -> None:
    before = {"A": ReadingTime(1000, 100, 5), "B": ReadingTime(1000, 100, 5), "C": ReadingTime(1000, 100, 5)}
    found = {"A": ReadingTime(1050, 100, 5), "B": ReadingTime(1200, 100, 5), "C": ReadingTime(1000, 100, 5, True)}
    assert set(estimates.changed(before, found, 0.0)) == {"B", "C"}
    assert set(estimates.changed({}, found, 0.0)) == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("usual", "wait", "again"), [(5, None, 5), (5, 2, 2), (5, 30, 5), (5, 300, 30), (5, 86400, 60), (1, 0, 1)]
)
def test_who_asks_again_loses_a_small_part_of_the_wait(usual: float, wait: float | None, again: float) -> None:
    assert estimates.again_after(usual, wait) == again


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "a few seconds"), (8, "about 10 s"), (44, "about 40 s"), (58, "about 1 min"), (700, "about 12 min"),
     (5400, "about 90 min"), (7000, "about 2 h"), (100_000, "about 28 h"), (400_000, "about 5 days")],
)  # fmt: skip
def test_what_is_expected_is_shown_with_no_more_figures_than_anybody_can_know(seconds: float, shown: str) -> None:
    assert show_about(seconds) == shown


def picture(*vids: str) -> Picture:
    made = Picture("east")
    made.cache_room_bytes = 2**60
    made.set_drives([DriveView(name="east-1", up=True, attached=True)])
    for vid in vids:
        made.set_volume(VolumeView(name=vid, state="active", medium="LTO-9", capacity_bytes=18000 * GB))
        made.want(vid, ANN, 0, 10, 10 * GB, 0.0)
    return made


async def lease_of(database: Database, holder: str = "t1") -> Lease:
    async with database.transaction() as connection:
        held = await leases.acquire(connection, "planner:east", holder, seconds=60)
    assert held is not None
    return held


async def real(database: Database) -> None:
    """Libraries whose drives take their time."""
    async with database.transaction() as connection:
        await World(connection).run("""update library set spec = '{"speed": 1}'""")


async def test_a_planner_publishes_what_waits_and_takes_back_what_does_not_any_more(database: Database) -> None:
    await site(database)
    await real(database)
    lease, estimating = await lease_of(database), Estimating(database, "east")
    both = picture("E00001", "E00002", "NEVER1")
    assert await estimating.publish(both, Policy(), lease)
    assert not await estimating.publish(both, Policy(), lease), "not before it is time"
    async with database.connection() as connection:
        first = await estimates.of_volumes(connection)
    assert set(first) == {"E00001", "E00002"}
    assert 0 < min(one.begins for one in first.values()) < 100 < max(one.begins for one in first.values())
    # Another planner goes on with what this one has left.
    assert await Estimating(database, "east").publish(picture("E00002"), Policy(), lease)
    async with database.connection() as connection:
        assert set(await estimates.of_volumes(connection)) == {"E00002"}


async def test_a_planner_without_its_lease_publishes_nothing(database: Database) -> None:
    await site(database)
    await real(database)
    lease = await lease_of(database)
    async with database.transaction() as connection:
        await leases.release(connection, lease)
    await lease_of(database, "t2")
    await Estimating(database, "east").publish(picture("E00001"), Policy(), lease)
    async with database.connection() as connection:
        assert await estimates.of_volumes(connection) == {}


async def test_of_a_library_that_takes_no_time_nothing_is_expected(database: Database) -> None:
    await site(database)
    lease = await lease_of(database)
    assert await Estimating(database, "east").publish(picture("E00001"), Policy(), lease)
    async with database.connection() as connection:
        assert await estimates.of_volumes(connection) == {}
        assert [one.kind for one in await volumes.list_libraries(connection)] == ["virtual", "virtual"]


def test_a_library_that_is_faster_than_life_is_waited_for_accordingly() -> None:
    slow, fast = (
        {vid: one for part in expected(picture("E00001"), Policy(), 1000.0, speed) for vid, one in part.items()}[
            "E00001"
        ]
        for speed in (1.0, 100.0)
    )
    assert fast.begins - 1000 == pytest.approx((slow.begins - 1000) / 100)
    assert fast.reading == pytest.approx(slow.reading / 100)


async def test_the_planner_at_work_tells_who_waits(database: Database) -> None:
    _, ann = await site(database, a=("E00001",), b=("E00002",))
    await real(database)
    async with database.transaction() as connection:
        await World(connection).run("update drive set heartbeat_at = capstan_now(), tapeserver = 't1'")
    first, second = await asked(database, ann, "a"), await asked(database, ann, "b")
    planner = LibraryPlanner(database, Config(name="t1"), "east")
    try:
        for work in (planner.decide, planner.learn, planner.decide, planner.learn):
            await work()
        async with database.connection() as connection:
            waits = [await estimates.of_request(connection, request) for request in (first, second)]
    finally:
        await planner.close()
    known = [wait for wait in waits if wait is not None]
    assert len(known) == 2
    # One drive: who comes second waits for the change too.
    assert min(known) + 30 < max(known) < 1000
