"""Promises of the door and the commands about who gets the drives: shares, rules, usage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from capstan.main import main as capstan
from catalog.database import Database
from tests.integration.commands import Run, answer_of
from tests.integration.door import Door, open_door

OURS = "/api/capstan/v1"


@pytest.fixture
async def door(database: Database) -> AsyncIterator[Door]:
    async with open_door(database) as found:
        yield found


@pytest.fixture
def run(door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A capstan command of the operator's."""
    monkeypatch.setenv("CAPSTAN_URL", door.url)
    monkeypatch.setenv("CAPSTAN_TOKEN", door.op)
    return partial(answer_of, capstan, capsys=capsys)


async def used(door: Door, owner: str, group: str, seconds: float, days_ago: int = 0) -> None:
    await door.sql(
        "insert into usage values ((capstan_now() at time zone 'utc')::date - cast(:d as integer), 'east', :o, :g, 0.5,"
        " :s, 3, 4000, 5, 6000, capstan_now())",
        o=owner, g=group, s=seconds, d=days_ago,
    )  # fmt: skip


async def items(door: Door, what: str, token: str = "ann") -> Any:
    return (await door.ask("GET", f"{OURS}/{what}", token=token)).json["items"]


async def test_a_share_is_set_field_by_field_by_an_administrator_with_a_reason(door: Door) -> None:
    body = {"group": "cms", "weight": 2.5, "reading_drives": 4, "reason": "agreed"}
    assert (await door.ask("POST", f"{OURS}/shares", json=body)).code == "denied"
    assert (await door.ask("POST", f"{OURS}/shares", token="op", json={**body, "reason": ""})).code == "reason_required"
    made = await door.ask("POST", f"{OURS}/shares", token="op", json=body)
    expected = {
        "group": "cms", "owner": "", "weight": 2.5, "drive_seconds": None, "reading_drives": 4, "writing_drives": None
    }  # fmt: skip
    assert made.json == expected
    less = {"group": "cms", "reading_drives": None, "reason": "more drives"}
    assert (await door.ask("POST", f"{OURS}/shares", token="op", json=less)).json == {
        **expected,
        "reading_drives": None,
    }
    for wrong in ({"weight": 0}, {"weight": "a"}, {}, {"colour": 1}):
        answer = await door.ask("POST", f"{OURS}/shares", token="op", json={"group": "x", "reason": "x", **wrong})
        assert answer.status == 400, wrong
    assert [one["group"] for one in await items(door, "shares")] == ["cms"]
    gone = {"group": "cms", "reason": "over"}
    assert (await door.ask("POST", f"{OURS}/shares/remove", json=gone)).code == "denied"
    assert (await door.ask("POST", f"{OURS}/shares/remove", token="op", json=gone)).status == 200
    assert (await door.ask("POST", f"{OURS}/shares/remove", token="op", json=gone)).code == "not_found"
    assert await items(door, "shares") == []
    assert [tuple(row) for row in await door.sql("select who, action, reason from audit order by id")] == [
        ("op", "share set", "agreed"), ("op", "share set", "more drives"), ("op", "share removed", "over")
    ]  # fmt: skip


async def test_rules_are_added_in_their_order_and_removed(door: Door) -> None:
    rule = {"weight": 5, "activity": "t0*", "reason": "tier 0"}
    assert (await door.ask("POST", f"{OURS}/rules", json=rule)).code == "denied"
    assert (await door.ask("POST", f"{OURS}/rules", token="op", json=rule)).json["place"] == 1
    other = {"weight": 0.5, "group": "guests", "before": 1, "reason": "guests"}
    assert (await door.ask("POST", f"{OURS}/rules", token="op", json=other)).json["place"] == 1
    assert (await door.ask("POST", f"{OURS}/rules", token="op", json={**other, "before": 9})).code == "bad_request"
    assert [(one["place"], one["weight"]) for one in await items(door, "rules")] == [(1, 0.5), (2, 5.0)]
    gone = await door.ask("POST", f"{OURS}/rules/1/remove", token="op", json={"reason": "over"})
    assert (gone.json["group"], gone.json["removed"]) == ("guests", True)
    assert (await door.ask("POST", f"{OURS}/rules/2/remove", token="op", json={"reason": "x"})).code == "not_found"
    assert (await door.ask("POST", f"{OURS}/rules/x/remove", token="op", json={"reason": "x"})).code == "bad_request"
    assert [one["activity"] for one in await items(door, "rules")] == ["t0*"]


async def test_everybody_sees_his_own_usage_and_an_administrator_all(door: Door) -> None:
    await used(door, "ann", "users", 60)
    await used(door, "bob", "users", 30)
    await used(door, "eve", "others", 10, days_ago=5)
    assert [one["owner"] for one in await items(door, "usage")] == ["ann"]
    assert [one["owner"] for one in await items(door, "usage", "op")] == ["ann", "bob", "eve"]
    assert [one["owner"] for one in await items(door, "usage?since=86400", "op")] == ["ann", "bob"]
    assert await items(door, "usage?by=group") == [
        {
            "group": "users", "mounts": 1.0, "drive_seconds": 90.0, "files_read": 6, "bytes_read": 8000,
            "files_written": 10, "bytes_written": 12000,
        }
    ]  # fmt: skip
    assert [one["drive_seconds"] for one in await items(door, "usage?by=day", "op")] == [90.0, 10.0]
    for query in ("by=planet", "since=x", "since=-1", "since=1e99"):
        assert (await door.ask("GET", f"{OURS}/usage?{query}", token="op")).code == "bad_request"


async def test_an_operator_edits_shares_by_command(run: Run) -> None:
    words = ["share", "set", "cms", "--weight", "3", "--drive-time", "2h", "--reading-drives", "6"]
    assert (await run(*words, "--reason", "agreed"))[:2] == (0, "the share of cms is changed\n")
    assert (await run("share", "set", "cms", "--user", "ann", "--weight", "0.5", "--reason", "tests"))[1] == (
        "the share of ann in cms is changed\n"
    )
    await run("share", "set", "cms", "--drive-time", "none", "--reading-drives", "all", "--reason", "enough")
    code, told, _ = await run("share", "--json")
    assert code == 0
    assert [(one["owner"], one["weight"], one["drive_seconds"]) for one in json.loads(told)["items"]] == [
        ("", 3.0, None), ("ann", 0.5, None)
    ]  # fmt: skip
    assert "ann" in (await run("share", "list"))[1]
    assert (await run("share", "remove", "cms", "--reason", "over"))[0] == 0
    assert (await run("share", "remove", "cms", "--reason", "over"))[0] == 4
    assert (await run("share", "set", "cms", "--reason", "nothing"))[0] == 2
    assert (await run("share", "set", "cms", "--user", "a", "--reading-drives", "1", "--reason", "x"))[0] == 1


async def test_an_operator_edits_rules_by_command(run: Run) -> None:
    await run("rule", "add", "--activity", "t0*", "--weight", "5", "--reason", "tier 0 comes first")
    answer = await run("rule", "add", "--priority-max", "20", "--weight", "0.1", "--before", "1", "--reason", "x")
    assert answer[:2] == (0, "rule 1 is added\n")
    told = (await run("rule"))[1]
    assert "up to 20" in told
    assert told.index("0.1") < told.index("t0*")
    assert (await run("rule", "remove", "1", "--reason", "x"))[:2] == (0, "rule 1 is removed\n")
    assert [one["activity"] for one in json.loads((await run("rule", "list", "--json"))[1])["items"]] == ["t0*"]


async def test_usage_is_shown_by_command(door: Door, run: Run) -> None:
    await used(door, "ann", "users", 7200)
    told = (await run("usage"))[1]
    assert "ann" in told
    assert "2 h" in told
    found = json.loads((await run("usage", "--by", "day", "--since", "7d", "--json"))[1])
    assert (found["by"], found["items"][0]["bytes_read"]) == ("day", 4000)
    assert (await run("usage", "--by", "planet"))[0] == 2
