"""Promises of staging a whole volume: bounded requests, only what one may stage, by order or by cost, honest counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from catalog.database import Database
from client.cli import tstage
from tapeserver.door import wholevolumes
from tests.integration.commands import Run, answer_of
from tests.integration.door import Door, open_door

URL = "/api/capstan/v1/volumes/E00001/stage"


@pytest.fixture
async def door(database: Database) -> AsyncIterator[Door]:
    """A door, and a volume with /d/0 to /d/4 and, behind them, /other/f."""
    async with open_door(database) as found:
        for number in range(5):
            name, on_disk = f"/d/{number}", number == 3
            await found.in_catalog(
                lambda world, name=name, on_disk=on_disk: world.file(name, on_disk=on_disk, volumes=("E00001",))
            )
            await found.sql("update copy set first_block = :n * 10, tape_file = :n where file = :f",
                            n=number + 1, f=number + 1)  # fmt: skip
        await found.in_catalog(lambda world: world.file("/other/f", volumes=("E00001",)))
        await found.sql("update copy set first_block = 100, tape_file = 10 where file = 6")
        yield found


@pytest.fixture
def run(door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("CAPSTAN_URL", door.url)
    monkeypatch.setenv("CAPSTAN_TOKEN", door.ann)
    return partial(answer_of, tstage.main, capsys=capsys)


async def staged(door: Door) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for request, path in await door.sql("select request, path from stage_item order by request, number"):
        found.setdefault(request, []).append(path)
    return found


async def test_everything_on_a_volume_is_asked_for_by_position_in_requests_of_bounded_size(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wholevolumes, "REQUEST_FILES_MAX", 4)
    monkeypatch.setattr("catalog.wholevolumes.PAGE_FILES", 3)
    first = (await door.ask("POST", URL, json={"lifetime_seconds": 60, "activity": "campaign", "priority": 20})).json
    assert (first["request_id"], first["files"], first["bytes"], first["on_disk_files"]) == ("1", 4, 40, 1)
    assert first["next"] == [40, 1024]
    second = (await door.ask("POST", URL, json={"after": first["next"]})).json
    assert (second["request_id"], second["files"], second["next"]) == ("2", 2, None)
    assert await staged(door) == {1: [f"/d/{number}" for number in range(4)], 2: ["/d/4", "/other/f"]}
    assert await door.sql("select owner, activity, priority from stage_request order by id") == [
        ("ann", "campaign", 20), ("ann", "", 50)
    ]  # fmt: skip
    # Each file is of use by itself, and lives as long as was asked.
    assert await door.sql("select distinct cohort, lifetime_seconds from stage_item where request = 1") == [(0, 60.0)]
    await door.resolve()
    assert await door.sql("select count(*) from demand where volume = 'E00001'") == [(5,)]


async def test_only_what_the_token_may_stage_is_taken_and_the_rest_is_counted(door: Door) -> None:
    token = await door.token("bob", ("stage", "/other"), ("poll", "/"))
    answer = (await door.ask("POST", URL, token=token, json={})).json
    assert (answer["files"], answer["denied_files"]) == (1, 5)
    assert await staged(door) == {1: ["/other/f"]}
    nobody = await door.token("eve", ("poll", "/"))
    answer = (await door.ask("POST", URL, token=nobody, json={})).json
    assert (answer["request_id"], answer["files"], answer["denied_files"]) == (None, 0, 6)
    assert (await door.ask("POST", URL, token="op", json={})).json["files"] == 6


async def test_by_cost_the_wanted_and_what_is_cheap_to_take_along_is_read(door: Door) -> None:
    refused = await door.ask("POST", URL, json={"by": "cost"})
    assert (refused.code, "not known" in refused.json["detail"]) == ("bad_request", True)
    await door.sql("update library set spec = '{\"medium\": \"LTO-9\"}' where name = 'east'")
    await door.sql("update volume set capacity_bytes = 18000000000000, block_size = 1000000000 where vid = 'E00001'")
    # /d/1 and /d/2 are large; somebody wants /d/2.
    await door.sql("update file set size = 800000000000 where id in (2, 3)")
    await door.ask("POST", "/api/v1/stage", json={"files": [{"path": "/d/2"}]})
    await door.resolve()
    answer = (await door.ask("POST", URL, json={"by": "cost"})).json
    assert (answer["files"], answer["left_out_files"], answer["full"]) == (5, 1, False)
    assert answer["chance"] == pytest.approx(1 / 6)
    assert "/d/1" not in (await staged(door))[2]
    assert (await door.ask("POST", URL, json={"by": "cost", "chance": 0.0})).json["left_out_files"] == 4
    little = (await door.ask("POST", URL, json={"by": "cost", "bytes_max": 1000})).json
    assert (little["files"], little["full"], little["next"]) == (1, True, None)


@pytest.mark.parametrize(
    "body", [{"by": "colour"}, {"by": "cost", "chance": 2}, {"activity": "x" * 201}, {"unknown": 1}, {"after": [1]}]
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_asked_for(door: Door, body: dict[str, Any]) -> None:
    assert (await door.ask("POST", URL, json=body)).status == 400
    assert await staged(door) == {}


async def test_a_volume_that_is_not_there_is_not_found(door: Door, run: Run) -> None:
    assert (await door.ask("POST", URL.replace("E00001", "X00001"), json={})).code == "not_found"
    assert (await run("--volume", "X00001"))[0] == 4


async def test_the_command_tells_each_request_and_the_sums(
    door: Door, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wholevolumes, "REQUEST_FILES_MAX", 4)
    code, told, complained = await run("--volume", "E00001")
    assert (code, told) == (0, "request 1: 4 files, 40 B\nrequest 2: 2 files, 20 B\n")
    assert "1 file on disk already" in complained
    code, told, _ = await run("--volume", "E00001", "--json")
    found = json.loads(told)
    assert [(one["request_id"], one["files"]) for one in found["items"]] == [("3", 4), ("4", 2)]
    assert (found["files"], found["bytes"], found["by"], found["denied_files"]) == (6, 60, "order", 0)


async def test_the_command_says_what_was_left_out(door: Door, run: Run) -> None:
    await door.sql("update library set spec = '{\"medium\": \"LTO-9\"}' where name = 'east'")
    await door.sql("update file set size = 500000000000 where id = 2")
    code, told, complained = await run("--volume", "E00001", "--by-cost", "--chance", "0.01")
    assert (code, told) == (0, "request 1: 5 files, 50 B\n")
    assert "1 file not worth it by a chance of 0.01" in complained


@pytest.mark.parametrize(
    "words",
    [["--by-cost", "/d/1"], ["--volume", "E00001", "/d/1"], ["--volume", "E00001", "--chance", "0.5"],
     ["--volume", "E00001", "--by-cost", "--chance", "2"], ["--volume", "E00001", "--by-cost", "--by-order"]],
)  # fmt: skip
async def test_options_that_do_not_fit_together_are_wrong_use(run: Run, words: list[str]) -> None:
    assert (await run(*words))[0] == 2
