"""The history of an installation as a trace: what is told, what is not, and that the simulator takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capstan.commands import simulate, trace
from catalog import history, reading, staging
from catalog.database import Database
from catalog.errors import NotFound
from catalog.model import Principal
from tapeserver.simulator.tracefile import read_trace
from tests.catalog_world import World

DAY = 86400.0


async def site(database: Database, **files: tuple[str, ...]) -> Principal:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        for name, vids in files.items():
            await world.file(f"/d/{name}", size=1000, volumes=vids, on_disk=not vids)
        return await world.principal()


async def asked(database: Database, who: Principal, *names: str, **more: Any) -> int:
    async with database.transaction() as connection:
        paths = {f"/d/{name}": 60.0 for name in names}
        request = await staging.create_request(connection, who, paths, **more)
        await staging.resolve_chunk(connection, request)
        return request


async def arrived(database: Database, request: int) -> None:
    async with database.transaction() as connection:
        await World(connection).run(
            "update stage_item set state = 'completed', finished_at = started_at + interval '3 minutes'"
            " where request = :r and state = 'started'",
            r=request,
        )


async def test_an_export_is_a_trace_that_the_simulator_runs(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = await site(database, a=("E00001",), b=("E00001",), c=("E00002",), disk=())
    await arrived(database, await asked(database, ann, "a", "b", "disk", activity="skim"))
    waiting = await asked(database, ann, "c")
    output = tmp_path / "site.jsonl.gz"
    found = await trace.export(database, output, since_seconds=DAY)
    assert (found["requests"], found["files"], found["volumes"], found["archives"]) == (2, 3, 2, 3)
    made = read_trace(output)
    assert [volume.name for volume in made.volumes] == ["E00001", "E00002"]
    assert made.file_bytes.tolist() == [1000, 1000, 1000]
    assert made.file_starts.tolist() == [10 * 262144 + 1024, 20 * 262144 + 1024, 10 * 262144 + 1024]
    assert made.request_cohorts[1] == waiting
    assert [(who.owner, who.group, who.activity) for who in made.who][:2] == [
        ("ann", "users", "skim"),
        ("ann", "users", ""),
    ]
    assert [made.pools[pool] for pool in made.archive_pools] == ["east"] * 3
    assert simulate.run("simulate", ["--trace", str(output), "--drives", "1", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run["mounts"] >= 2


async def test_what_was_put_since_finds_room_when_it_is_simulated(database: Database, tmp_path: Path) -> None:
    await site(database, a=("E00001",), b=("E00001",), c=("E00002",))
    async with database.transaction() as connection:
        world = World(connection)
        # As if b were from long ago; the volumes take two files each.
        await world.run("update volume set capacity_bytes = 10000000, written_bytes = 9000000, state = 'full'")
        await world.run("update copy set length = 4000000, first_block = first_block / 10")
        await world.run("update copy set created_at = created_at - interval '9 days' where first_block = 2")
    found = await trace.export(database, tmp_path / "t", since_seconds=DAY)
    made = read_trace(tmp_path / "t")
    assert {volume.name: volume.written_bytes for volume in made.volumes if volume.name[0] == "E"} == {
        "E00001": 2 * 262144 + 1024 + 4_000_000,
        "E00002": 0,
    }
    assert found["made_up_volumes"] > 0
    assert simulate.run("simulate", ["--trace", str(tmp_path / "t"), "--drives", "1"]) == 0


async def test_what_failed_was_cancelled_or_was_on_disk_is_not_in_it(database: Database, tmp_path: Path) -> None:
    ann = await site(database, a=("E00001",), b=("E00001",), disk=())
    request = await asked(database, ann, "a", "b", "disk", "nothing")
    async with database.transaction() as connection:
        await staging.cancel(connection, request, ["/d/a"])
    await trace.export(database, tmp_path / "t", since_seconds=DAY)
    assert read_trace(tmp_path / "t").files == 1


async def test_names_of_users_groups_and_activities_are_left_out_when_asked(database: Database, tmp_path: Path) -> None:
    ann = await site(database, a=("E00001",))
    await asked(database, ann, "a", activity="secret")
    await trace.export(database, tmp_path / "t", since_seconds=DAY, anonymous=True)
    made = read_trace(tmp_path / "t")
    assert {(who.owner, who.group) for who in made.who} == {("u1", "g1")}
    assert not any(word in (tmp_path / "t").read_text() for word in ("ann", "users", "secret"))


async def test_of_one_library_only_its_own_copies_are_told(database: Database, tmp_path: Path) -> None:
    ann = await site(database, both=("E00001", "W00001"), one=("E00002",))
    await asked(database, ann, "both", "one")
    found = await trace.export(database, tmp_path / "t", since_seconds=DAY, library="west")
    assert (found["files"], found["files_without_copy"], found["archives"]) == (1, 1, 1)
    assert [volume.name for volume in read_trace(tmp_path / "t").volumes] == ["W00001", "W00002"]
    with pytest.raises(NotFound, match="library north"):
        await trace.export(database, tmp_path / "t", since_seconds=DAY, library="north")


async def test_files_that_were_wanted_together_have_one_cohort(database: Database, tmp_path: Path) -> None:
    ann = await site(database, a=("E00001",), b=("E00001",), c=("E00002",))
    cohort = staging.cohort_of("ann", "job 7")
    await asked(database, ann, "a", "b", cohorts={"/d/a": cohort})
    await asked(database, ann, "c", cohorts={"/d/c": cohort})
    await trace.export(database, tmp_path / "t", since_seconds=DAY)
    cohorts = read_trace(tmp_path / "t").request_cohorts.tolist()
    assert len(cohorts) == 3
    assert len(set(cohorts)) == 2
    assert all(cohort > 0 for cohort in cohorts)


async def test_it_is_read_in_pages_and_nothing_falls_between_them(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"f{number}": ("E00001",) for number in range(9)}
    ann = await site(database, **names)
    for first in (0, 3, 6):
        await asked(database, ann, *[f"f{number}" for number in range(first, first + 3)])
    for page in ("REQUESTS_PAGE", "ITEMS_PAGE", "FILES_PAGE", "FILES_TOLD_MAX"):
        monkeypatch.setattr(history, page, 2)
    found = await trace.export(database, tmp_path / "t", since_seconds=DAY)
    assert (found["files"], found["archives"]) == (9, 9)
    made = read_trace(tmp_path / "t")
    assert len(set(made.file_starts.tolist())) == 9
    assert len(set(made.request_cohorts.tolist())) == 3


async def test_with_nothing_to_tell_it_says_so_and_leaves_no_file(database: Database, tmp_path: Path) -> None:
    ann = await site(database, a=("E00001",))
    await asked(database, ann, "a")
    async with database.transaction() as connection:
        await World(connection).run("update stage_request set created_at = created_at - interval '40 days'")
        await World(connection).run("update file set created_at = created_at - interval '40 days'")
    with pytest.raises(trace.NoHistory, match=r"in the last 30 d; give a longer --since"):
        await trace.export(database, tmp_path / "t", since_seconds=30 * DAY)
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_to_know_which_catalog_and_where_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace.run("trace", ["export", "--output", str(tmp_path / "t")]) == 1
    assert "--data DIR or --config FILE" in capsys.readouterr().err
    for words in (["export"], ["export", "--output", "t", "--since", "0"]):
        with pytest.raises(SystemExit) as ended:
            trace.run("trace", words)
        assert ended.value.code == 2


async def test_what_its_owner_has_deleted_is_history_for_a_while_and_gone_for_him(
    database: Database, tmp_path: Path
) -> None:
    ann = await site(database, a=("E00001",), b=("E00001",))
    done, other = await asked(database, ann, "a"), await asked(database, ann, "b")
    await arrived(database, done)
    async with database.transaction() as connection:
        await World(connection).run("update stage_request set items_live = 0, state = 'ended' where id = :r", r=done)
        await staging.delete(connection, done)
        with pytest.raises(NotFound):
            await staging.request_at(connection, done)
        with pytest.raises(NotFound):
            await staging.delete(connection, done)
        assert [row["id"] for row in await reading.requests(connection)] == [other]
    assert (await trace.export(database, tmp_path / "t", since_seconds=DAY))["files"] == 2
    async with database.transaction() as connection:
        await World(connection).run("update stage_request set forgotten_at = forgotten_at - interval '91 days'")
        await staging.delete(connection, other)
        left = await World(connection).run("select id from stage_request")
        assert [row.id for row in left] == [other]
