"""What planners publish of their volumes, and what files and requests are told from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog import estimates, leases, queues, staging, volumes
from catalog.database import Database
from catalog.leases import Lease
from catalog.model import InHand, Principal, ReadingTime, WritingTime
from catalog.units import show_about
from tapeserver.config import Config
from tapeserver.estimating import Estimating, expected
from tapeserver.libraryplanner import LibraryPlanner
from tapeserver.pace import Pace
from tapeserver.planner import DriveView, Picture, Policy, Share, VolumeView
from tapeserver.planner.views import ArchiveNeed
from tests.catalog_world import World

ANN = Share("ann", "users")
GB = 10**9


async def told(database: Database, **times: ReadingTime) -> None:
    """Publish these, their times being seconds from now."""
    async with database.transaction() as connection:
        now = await leases.clock(connection)
        later = {vid: replace(t, begins=now + t.begins) for vid, t in times.items()}
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


async def test_what_a_mount_has_in_hand_is_expected_before_what_still_waits(database: Database) -> None:
    files, ann = await site(database, a=("E00001", "W00001"), b=("E00001",), c=("E00001",))
    request, alone = await asked(database, ann, "a", "b"), await asked(database, ann, "a")
    async with database.transaction() as connection:
        world = World(connection)
        await world.run("update recall set state = 'claimed', volume = 'E00001' where file = :f", f=files["a"])
        await world.run("delete from demand where file = :f", f=files["a"])
    async with database.connection() as connection:
        # Nothing is known of it yet: it is being read, and that is all.
        assert (await estimates.of_files(connection, [files["a"]]))[files["a"]] == estimates.Expectation(
            "claimed", None
        )
        assert await estimates.of_request(connection, alone) is None
    await told(database, E00001=ReadingTime(0, 600, 1, True, 40, 3), W00001=ReadingTime(5, 5, 1))
    async with database.connection() as connection:
        found = await estimates.of_files(connection, files.values())
        assert found[files["a"]].seconds == pytest.approx(40 * 2 / 3, abs=3)
        assert found[files["b"]].seconds == pytest.approx(640, abs=3)
        assert await estimates.of_request(connection, alone) == pytest.approx(40 * 2 / 3, abs=3)
        assert await estimates.of_request(connection, request) == pytest.approx(640, abs=3)


async def test_what_mounts_have_in_hand_is_counted_by_mount(database: Database) -> None:
    _, ann = await site(database, a=("E00001",), b=("E00001",))
    await asked(database, ann, "a", "b")
    async with database.transaction() as connection:
        world = World(connection)
        put = await world.file("/d/new", size=70, on_disk=True)
        await queues.enqueue_archives(connection, [put])
        await world.run("update recall set state = 'claimed', epoch = 7")
        await world.run("update archive set state = 'claimed', epoch = 8")
        assert await estimates.in_hand(connection, [7, 8, 9]) == {
            7: InHand(files_read=2, bytes_read=20),
            8: InHand(files_written=1, bytes_written=70),
        }
        assert await estimates.in_hand(connection, []) == {}


async def test_a_file_is_safe_with_the_last_of_its_copies(database: Database) -> None:
    await site(database)
    async with database.transaction() as connection:
        world = World(connection)
        two, one = [await world.file(f"/d/{c}", on_disk=True, storage_class=c) for c in ("two", "one")]
        await queues.enqueue_archives(connection, [two, one])
        now = await leases.clock(connection)
        east = WritingTime(now + 60, 0, 30, files=2, oldest=now - 10, newest=now)
        west = WritingTime(now + 600, 0, 30, files=1, oldest=now - 10, newest=now)
        await estimates.publish(connection, "east", {}, gone=())
        await estimates.publish_pools(connection, "east", {"east": east})
        found = await estimates.of_archives(connection, [two, one])
        assert found[one] == {1: pytest.approx(90, abs=3)}
        assert found[two] == {1: pytest.approx(90, abs=3), 2: None}
        assert estimates.last_of(found[two]) is None, "nobody looks at the other library"
        await estimates.publish(connection, "west", {}, gone=())
        await estimates.publish_pools(connection, "west", {"west": west})
        found = await estimates.of_archives(connection, [two, one])
        assert estimates.last_of(found[two]) == pytest.approx(630, abs=3)
        # One that has failed is tried again after a pause; one that a mount has is nearly there.
        await world.run("update archive set not_before = capstan_now() + interval '1 hour' where file = :f", f=one)
        await world.run("update archive set state = 'claimed' where file = :f", f=two)
        found = await estimates.of_archives(connection, [two, one])
        assert estimates.last_of(found[one]) == pytest.approx(3600, abs=3)
        # Nothing is expected of a pool that its planner says nothing of any more.
        await estimates.publish_pools(connection, "west", {})
        assert set(await estimates.of_pools(connection)) == {"east"}


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


async def test_of_a_library_that_is_only_files_a_mount_is_expected_in_seconds(database: Database) -> None:
    await site(database)
    lease = await lease_of(database)
    assert await Estimating(database, "east").publish(picture("E00001"), Policy(), lease)
    async with database.connection() as connection:
        assert [one.kind for one in await volumes.list_libraries(connection)] == ["virtual", "virtual"]
        found = await estimates.of_volumes(connection)
    assert 20 < found["E00001"].ends < 22, "ten gigabytes as fast as a disk"


def test_a_library_that_is_faster_than_life_is_waited_for_accordingly() -> None:
    def found(speed: float) -> ReadingTime:
        parts = expected(picture("E00001"), Policy(), 1000.0, Pace(speed))
        return next(part.volumes["E00001"] for part in parts if part.volumes)

    slow, fast = found(1.0), found(100.0)
    assert fast.begins - 1000 == pytest.approx((slow.begins - 1000) / 100)
    assert fast.reading == pytest.approx(slow.reading / 100)


@pytest.mark.parametrize("speed", [1.0, 100.0, None])
def test_what_pauses_and_what_collects_does_so_for_no_shorter_in_a_library_that_is_faster(speed: float | None) -> None:
    made = picture("E00001")
    made.pause("E00001", 1500.0)
    made.set_volume(VolumeView(name="E00002", state="active", medium="LTO-9", capacity_bytes=18000 * GB))
    made.set_archives(ArchiveNeed(pool="east", files=1, bytes=GB, urgent=0, oldest_at=1000.0, writable=["E00002"]))
    parts = list(expected(made, Policy(collecting_age_seconds=600.0), 1000.0, Pace(speed)))
    volume = next(part.volumes["E00001"] for part in parts if part.volumes)
    pool = next(part.pools["east"] for part in parts if part.pools)
    assert 1500 < volume.begins < 1600
    assert 1600 < pool.begins < 2100


async def test_the_planner_at_work_tells_who_waits(database: Database) -> None:
    _, ann = await site(database, a=("E00001",), b=("E00002",))
    await real(database)
    async with database.transaction() as connection:
        await World(connection).run("update drive set heartbeat_at = capstan_now(), tapeserver = 't1'")
        put = await World(connection).file("/d/new", on_disk=True)
        await queues.enqueue_archives(connection, [put], urgent=True)
    first, second = await asked(database, ann, "a"), await asked(database, ann, "b")
    planner = LibraryPlanner(database, Config(name="t1"), "east")
    try:
        for work in (planner.decide, planner.learn, planner.decide, planner.learn):
            await work()
        async with database.connection() as connection:
            pools = await estimates.of_pools(connection)
            safe = estimates.last_of((await estimates.of_archives(connection, [put]))[put])
            waits = [await estimates.of_request(connection, request) for request in (first, second)]
    finally:
        await planner.close()
    known = [wait for wait in waits if wait is not None]
    assert len(known) == 2
    # One drive: who comes second waits for the change too.
    assert min(known) + 30 < max(known) < 1000
    assert set(pools) == {"east"}
    assert safe is not None
    assert 30 < safe < 1000
