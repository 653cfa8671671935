"""Promises of the operators' calls about media: verbs of a volume, what is in the way, alerts, pools, classes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from catalog.database import Database
from tests.integration.door import Answer, Door, open_door

OURS = "/api/capstan/v1"


@pytest.fixture
async def door(database: Database) -> AsyncIterator[Door]:
    async with open_door(database) as found:
        yield found


async def want(door: Door, vid: str, verb: str, **body: object) -> Answer:
    return await door.ask("POST", f"{OURS}/volumes/{vid}/{verb}", token="op", json={"reason": "test", **body})


async def shown(door: Door, vid: str) -> Any:
    return (await door.ask("GET", f"{OURS}/volumes/{vid}")).json


async def test_every_verb_needs_an_administrator_and_a_reason(door: Door) -> None:
    url = f"{OURS}/volumes/E00001/close"
    assert (await door.ask("POST", url, json={"reason": "x"})).code == "denied"
    assert (await door.ask("POST", url, token="op", json={"reason": " "})).code == "reason_required"
    assert (await want(door, "E00001", "burn")).code == "not_found"
    assert (await want(door, "NOSUCH", "close")).code == "not_found"


async def test_a_volume_is_closed_opened_disabled_and_enabled_to_what_it_was(door: Door) -> None:
    # A volume on which something was written: without that it goes back to blank.
    await door.sql("update volume set tape_files = 3, end_block = 40 where vid = 'E00001'")
    assert (await want(door, "E00001", "close")).json == {"volume": "E00001", "state": "closed", "changed": True}
    assert (await want(door, "E00001", "disable")).json["state"] == "disabled"
    assert (await want(door, "E00001", "enable")).json["state"] == "closed"
    assert (await want(door, "E00001", "reopen")).json["state"] == "active"
    refused = await want(door, "E00001", "reopen")
    assert (refused.status, refused.code) == (409, "wrong_state")
    found = await shown(door, "E00001")
    assert (found["state"], found["changed_by"]) == ("active", "op")


async def test_an_operator_says_what_a_drive_and_a_volume_are_and_takes_it_back(door: Door) -> None:
    async def say(what: str, kind: str, **more: str) -> Answer:
        return await door.ask("POST", f"{OURS}/{what}", token="op", json={"kind": kind, "reason": "test", **more})

    since = (await shown(door, "E00001"))["since"]
    assert (await say("drives/east-1/model", "ULT3580-TD9")).json == {"drive": "east-1", "kind": "LTO-9"}
    assert (await say("volumes/E00001/medium", "lto8")).json == {"volume": "E00001", "kind": "LTO-8"}
    assert (await door.sql("select model from drive where name = 'east-1'")) == [("LTO-9",)]
    found = await shown(door, "E00001")
    # It is in its state for as long as before.
    assert (found["medium"], found["since"]) == ("LTO-8", since)
    refused = await say("drives/east-1/model", "LTO-99")
    assert (refused.status, refused.code) == (400, "bad_request")
    assert "LTO-10" in refused.json["detail"]
    assert (await say("drives/nosuch/model", "LTO-9")).code == "not_found"
    assert (await say("drives/east-1/model", "LTO-9", reason=" ")).code == "reason_required"
    assert (await say("volumes/E00001/medium", "auto")).json == {"volume": "E00001", "kind": ""}
    assert (await door.sql("select action, object from audit where action ~ ' (medium|model)$' order by id")) == [
        ("drive model", "east-1"), ("volume medium", "E00001"), ("volume medium", "E00001"),
    ]  # fmt: skip


async def test_copies_that_were_found_broken_count_again_when_an_operator_mends_them(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    await door.sql("update copy set broken_at = capstan_now(), broken_why = 'dirty heads'")
    assert (await want(door, "E00001", "mend")).json == {"volume": "E00001", "state": "active", "mended": 1}
    assert (await want(door, "E00001", "mend")).json["mended"] == 0
    assert (await door.sql("select broken_at from copy")) == [(None,)]


async def test_an_export_is_refused_when_files_need_it_and_what_comes_back_is_suspect(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    await door.sql("update volume set tape_files = 3, end_block = 40 where vid = 'E00001'")
    assert (await want(door, "E00001", "export")).code == "unsafe"
    assert (await want(door, "E00001", "export", force=True)).json["state"] == "exported"
    assert (await want(door, "E00002", "import")).code == "wrong_state"
    back = (await want(door, "E00001", "import")).json
    assert back["state"] == "suspect"
    # It is read back by itself, so that whoever enables it knows.
    assert await door.sql("select id, kind, key, state from maintenance where kind <> 'audit'") == [
        (back["maintenance"], "verify", "E00001", "queued")
    ]
    assert (await want(door, "E00001", "enable")).json["state"] == "active"


async def test_a_volume_shows_what_is_on_it_what_failed_and_what_is_in_the_way_of_a_reclaim(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/live", size=30, volumes=("E00001",)))
    await door.in_catalog(lambda world: world.file("/d/gone", size=20, volumes=("E00001",)))
    await door.ask("DELETE", "/d/gone")
    await door.sql("update volume set written_bytes = 100, tape_files = 2, end_block = 40 where vid = 'E00001'")
    await door.sql(
        "insert into failure (library, drive, volume, kind, epoch, why, expires_at)"
        " values ('east', 'east-1', 'E00001', 'read', 1, 'bad block', capstan_now() + interval '1 day')"
    )
    await want(door, "E00001", "close")
    found = await shown(door, "E00001")
    contents = found["contents"]
    assert (contents["live_files"], contents["live_bytes"]) == (1, 30)
    assert (contents["deleted_files"], contents["deleted_bytes"], contents["dead_bytes"]) == (1, 20, 50)
    assert [(one["drive"], one["why"]) for one in found["failures"]] == [("east-1", "bad block")]
    assert "1 live file" in found["reclaim"]
    drive = (await door.ask("GET", f"{OURS}/drives/east-1")).json
    assert [one["volume"] for one in drive["failures"]] == ["E00001"]
    refused = await want(door, "E00001", "reclaim")
    assert (refused.status, refused.code) == (409, "not_reclaimable")
    await want(door, "E00001", "disable")
    await want(door, "E00001", "enable")
    assert (await shown(door, "E00001"))["failures"] == []


async def test_a_reclaim_waits_for_the_recycle_bin_and_a_backup_and_then_gives_all_up(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    await door.ask("DELETE", "/d/f")
    await want(door, "E00001", "close")
    assert "can still be restored" in (await want(door, "E00001", "reclaim")).json["detail"]
    await door.sql("update file set deleted_at = capstan_now() - interval '40 days'")
    assert "backup" in (await want(door, "E00001", "reclaim")).json["detail"]
    door.context.reclaim_needs_backup = False
    assert (await shown(door, "E00001"))["reclaim"] == "Nothing is in the way of a reclaim."
    done = await want(door, "E00001", "reclaim")
    assert done.json == {"volume": "E00001", "state": "blank", "copies": 1, "files": 1}
    labelled = (await want(door, "E00001", "label")).json
    listed = (await door.ask("GET", f"{OURS}/maintenance")).json["items"]
    assert [(one["id"], one["kind"], one["key"]) for one in listed] == [(labelled["maintenance"], "label", "E00001")]


async def test_verifies_and_repacks_are_begun_listed_and_cancelled(door: Door) -> None:
    assert (await want(door, "E00001", "verify", share=1.5)).code == "bad_request"
    verify = (await want(door, "E00001", "verify", share=0.1)).json["maintenance"]
    assert (await want(door, "E00001", "verify")).code == "wrong_state"
    repack = (await want(door, "E00002", "repack")).json["maintenance"]
    assert (await shown(door, "E00002"))["state"] == "repacking"
    listed = (await door.ask("GET", f"{OURS}/maintenance")).json["items"]
    assert [one["id"] for one in listed] == [repack, verify]
    cancelled = await want(door, "E00002", "cancel")
    assert (cancelled.json["cancelled"], cancelled.json["state"]) == (["repack"], "closed")
    assert (await want(door, "E00002", "cancel")).code == "not_found"
    one = await door.ask("POST", f"{OURS}/maintenance/{verify}/cancel", token="op", json={"reason": "enough"})
    assert one.json["kind"] == "verify"
    assert (await door.ask("GET", f"{OURS}/maintenance")).json["items"] == []
    assert len((await door.ask("GET", f"{OURS}/maintenance?all=1")).json["items"]) == 2


async def test_a_class_that_wants_more_copies_has_them_made(door: Door) -> None:
    body = {"reason": "second site", "copies": 2}
    changed = await door.ask("POST", f"{OURS}/storage-classes/one", token="op", json=body)
    assert changed.json["maintenance"] > 0
    begun = (await door.ask("POST", f"{OURS}/audits", token="op", json={"reason": "now"})).json["items"]
    assert [(one["storage_class"], one["began"]) for one in begun] == [("one", False), ("two", True)]
    impossible = await door.ask("POST", f"{OURS}/storage-classes/one", token="op", json={"reason": "x", "copies": 3})
    assert impossible.code == "bad_request"


async def test_a_pool_fills_as_many_volumes_at_once_as_it_is_told(door: Door) -> None:
    made = {"name": "raw", "library": "east", "volumes_open_max": 3}
    assert (await door.ask("POST", f"{OURS}/pools", token="op", json=made)).status == 201
    change = {"reason": "one drive", "volumes_open_max": None}
    assert (await door.ask("POST", f"{OURS}/pools/raw", token="op", json=change)).status == 200
    wrong = await door.ask("POST", f"{OURS}/pools/raw", token="op", json={"reason": "x", "volumes_open_max": 99})
    assert wrong.code == "bad_request"
    pools = {one["name"]: one for one in (await door.ask("GET", f"{OURS}/pools")).json["items"]}
    assert (pools["raw"]["volumes_open_max"], pools["raw"]["volumes"], pools["east"]["volumes"]) == (None, 0, 2)


async def test_an_alert_stays_until_somebody_clears_it(door: Door) -> None:
    await door.sql(
        "insert into alert (library, drive, code, severity, text)"
        " values ('east', 'east-1', 'clean', 'warning', 'clean me')"
    )
    [alert] = (await door.ask("GET", f"{OURS}/alerts")).json["items"]
    assert (alert["drive"], alert["code"]) == ("east-1", "clean")
    assert (await door.ask("POST", f"{OURS}/alerts/{alert['id']}/clear")).code == "denied"
    assert (await door.ask("POST", f"{OURS}/alerts/{alert['id']}/clear", token="op")).status == 200
    assert (await door.ask("GET", f"{OURS}/alerts")).json["items"] == []
