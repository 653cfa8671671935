"""Promises of the door about what is only expected: every answer about a wait has it, and none is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from capstan.commands.queue import _print_view
from catalog import estimates, leases, queues
from catalog.database import Database
from catalog.model import ReadingTime, WritingTime
from client.messages import ArchiveWaitFile
from client.staging import _not_yet_safe, _the_wait
from tests.integration.door import Door, open_door

OURS = "/api/capstan/v1"
SECONDS = 720.0


@pytest.fixture
async def door(database: Database) -> AsyncIterator[Door]:
    async with open_door(database) as found:
        await found.in_catalog(lambda world: world.file("/exp/f", volumes=("E00001",)))
        yield found


async def expect(door: Door) -> None:
    """The planner has looked: the volume is there in ten minutes, and read for two."""
    async with door.database.transaction() as connection:
        now = await leases.clock(connection)
        await estimates.publish(connection, "east", {"E00001": ReadingTime(now + 600, 120, 1)}, gone=())


async def requested(door: Door) -> str:
    answer = await door.ask("POST", "/api/v1/stage", json={"files": [{"path": "/exp/f"}]})
    await door.resolve()
    return str(answer.json["requestId"])


async def sentences(door: Door, about: str) -> list[str]:
    found: list[str] = (await door.ask("GET", f"{OURS}/explain?object={about}", token="op")).json["sentences"]
    return found


async def test_a_get_of_what_is_on_tape_says_when_it_is_expected_and_when_to_ask_again(door: Door) -> None:
    answer = await door.ask("GET", "/exp/f")
    assert (answer.status, 1 <= int(answer.headers["Retry-After"]) <= 5) == (503, True)
    assert "expected" not in answer.json["detail"]
    await expect(door)
    answer = await door.ask("GET", "/exp/f")
    assert answer.json["detail"] == "/exp/f is only on tape; it is expected on disk in about 12 min."
    assert answer.json["arguments"]["expected_seconds"] == pytest.approx(SECONDS, abs=10)
    assert int(answer.headers["Retry-After"]) == estimates.AGAIN_SECONDS_MAX


async def test_a_request_and_its_files_are_told_when_they_are_expected(door: Door) -> None:
    request = await requested(door)
    assert "expectedSeconds" not in (await door.ask("GET", f"/api/v1/stage/{request}")).json
    await expect(door)
    progress = (await door.ask("GET", f"/api/v1/stage/{request}")).json
    assert progress["expectedSeconds"] == pytest.approx(SECONDS, abs=10)
    [place] = (await door.ask("POST", f"{OURS}/whereis", json={"paths": ["/exp/f"]})).json["files"]
    assert (place["recall"], place["expected_seconds"]) == ("queued", pytest.approx(SECONDS, abs=10))


async def test_explanations_say_it_and_a_waiting_client_shows_it(door: Door) -> None:
    request = await requested(door)
    assert not [text for text in await sentences(door, "/exp/f") if "expected" in text]
    await expect(door)
    assert "All of it is expected on disk in about 12 min." in await sentences(door, f"request:{request}")
    assert _the_wait(await sentences(door, f"request:{request}")) == (
        "All of it is expected on disk in about 12 min. 1 file is wanted from volume E00001."
    )
    assert _the_wait(await sentences(door, "/exp/f")).endswith("It is expected on disk in about 12 min.")
    assert (await sentences(door, "E00001"))[-1] == (
        "It is expected in a drive in about 10 min; all of it is expected on disk in about 12 min."
    )


async def put(door: Door) -> int:
    """A file on disk whose copy is to be written, and the planner's word: the pool is there in ten minutes, and written
    for two."""
    file: int = await door.in_catalog(lambda world: world.file("/exp/new", on_disk=True))
    async with door.database.transaction() as connection:
        await queues.enqueue_archives(connection, [file])
    await look(door)
    return file


async def look(door: Door, *, urgent: int = 0) -> None:
    async with door.database.transaction() as connection:
        now = await leases.clock(connection)
        time = WritingTime(begins=now + 600, writing=120, files=1, urgent=urgent, oldest=now - 60, newest=now - 60)
        await estimates.publish(connection, "east", {}, gone=())
        await estimates.publish_pools(connection, "east", {"east": time})


async def test_a_file_on_its_way_to_tape_is_told_when_it_is_expected_to_be_safe(door: Door) -> None:
    file = await put(door)
    [place] = (await door.ask("POST", f"{OURS}/whereis", json={"paths": ["/exp/new"]})).json["files"]
    assert place["expected_on_tape_seconds"] == pytest.approx(SECONDS, abs=10)
    told = await sentences(door, "/exp/new")
    assert "It is expected on tape in about 12 min." in _the_wait(told)
    # Who waits makes it urgent: what was found before that says nothing any more.
    [waiting] = (await door.ask("POST", f"{OURS}/archive-wait", json={"paths": ["/exp/new"]})).json["files"]
    assert waiting["expected_seconds"] is None
    assert "expected" not in waiting["reason"]
    await look(door, urgent=1)
    [waiting] = (await door.ask("POST", f"{OURS}/archive-wait", json={"paths": ["/exp/new"]})).json["files"]
    assert waiting["expected_seconds"] == pytest.approx(720, abs=10)
    assert "It is expected on tape in about 12 min." in waiting["reason"]
    await door.sql("update archive set state = 'held' where file = :file", file=file)
    [waiting] = (await door.ask("POST", f"{OURS}/archive-wait", json={"paths": ["/exp/new"]})).json["files"]
    assert waiting["expected_seconds"] is None, "an operator's retry is nobody's guess"


def test_who_waits_for_many_files_is_told_of_the_last_if_all_are_known() -> None:
    first = ArchiveWaitFile(path="/a", safe=False, reason="it collects", expected_seconds=60.0)
    last = ArchiveWaitFile(path="/b", safe=False, expected_seconds=720.0)
    assert _not_yet_safe([first, last]) == "2 not yet safe, the last is expected on tape in about 12 min: it collects"
    assert _not_yet_safe([first]) == "1 not yet safe, expected on tape in about 1 min: it collects"
    first.reason = "It waits. It is expected on tape in about 1 min. It has failed 2 times."
    assert _not_yet_safe([first]) == "1 not yet safe, expected on tape in about 1 min: It waits. It has failed 2 times."
    last.expected_seconds = None
    assert _not_yet_safe([first, last]) == "2 not yet safe: It waits. It has failed 2 times."


async def test_the_standard_s_archiveinfo_holds_nothing_of_ours(door: Door) -> None:
    await put(door)
    [info] = (await door.ask("POST", "/api/v1/archiveinfo", json={"paths": ["/exp/new"]})).json
    assert info == {"path": "/exp/new", "locality": "DISK"}


async def test_the_queue_says_for_each_pool_when_all_of_it_is_written(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(door)
    view = (await door.ask("GET", f"{OURS}/queue", token="op")).json
    [waiting] = view["archives"]
    assert waiting["begins_seconds"] == pytest.approx(600, abs=10)
    assert waiting["expected_seconds"] == pytest.approx(SECONDS, abs=10)
    _print_view(view)
    assert "about 12 min" in capsys.readouterr().out


async def test_the_queue_says_for_each_volume_when_it_is_read(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    await requested(door)
    await door.sql("insert into queue_counter (kind, key, owner, grp, activity, priority, files, bytes, urgent)"
                   " values ('recall', 'E00001', 'ann', 'users', '', 50, 1, 10, 0)")  # fmt: skip
    await expect(door)
    view = (await door.ask("GET", f"{OURS}/queue", token="op")).json
    [waiting] = view["recalls"]
    assert waiting["begins_seconds"] == pytest.approx(600, abs=10)
    assert waiting["expected_seconds"] == pytest.approx(SECONDS, abs=10)
    _print_view(view)
    assert "about 12 min" in capsys.readouterr().out
