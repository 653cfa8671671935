"""Promises of the door that need no bytes: who gets in, what is refused and how, WebDAV, staging, operators, events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from catalog.database import Database
from catalog.signing import PutClaims, verify
from tests.integration.door import Door, open_door


@pytest.fixture
async def door(database: Database) -> AsyncIterator[Door]:
    async with open_door(database) as found:
        yield found


# ------------------------------------------------------------------ who gets in


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/x"), ("HEAD", "/x"), ("PUT", "/x"), ("PROPFIND", "/"), ("OPTIONS", "/"), ("DELETE", "/x"),
     ("POST", "/api/v1/stage"), ("GET", "/api/capstan/v1/status"), ("GET", "/api/jobs/v1/jobs")],
)  # fmt: skip
async def test_without_a_valid_token_nothing_is_told(door: Door, method: str, path: str) -> None:
    for token in (None, "nonsense"):
        answer = await door.ask(method, path, token=token)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert method == "HEAD" or answer.code == "unauthenticated"


async def test_health_discovery_and_on_this_machine_metrics_are_open(door: Door) -> None:
    assert (await door.ask("GET", "/healthz", token=None)).json == {"name": "door1", "kind": "tapeserver", "ok": True}
    well_known = (await door.ask("GET", "/.well-known/wlcg-tape-rest-api", token=None)).json
    assert well_known["sitename"] == "test-site"
    assert well_known["endpoints"][0]["uri"] == f"{door.url}/api/v1"
    metrics = await door.ask("GET", "/metrics", token=None)
    assert b"capstan_oldest_unsafe_seconds 0.0" in metrics.body
    assert b'capstan_drive_up{drive="east-1",library="east"} 0.0' in metrics.body


async def test_basic_with_the_token_as_password_works_too(door: Door) -> None:
    auth = aiohttp.encode_basic_auth("anybody", door.ann) if hasattr(aiohttp, "encode_basic_auth") else None
    header = auth or aiohttp.BasicAuth("anybody", door.ann).encode()
    answer = await door.ask("GET", "/api/capstan/v1/whoami", token=None, headers={"Authorization": header})
    assert answer.json["owner"] == "ann"


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("method", ["GET", "PUT", "MKCOL", "PROPFIND", "DELETE", "MOVE"])
async def test_a_name_that_may_not_be_is_refused_by_every_method(door: Door, method: str) -> None:
    bad = ["a/../b", "a/%2e%2e/b", "a%2Fb", "a%00b", "a%0ab", "a%ff", "x" * 300, ".capstan/f", "%", "a/./b"]
    for name in bad:
        answer = await door.ask(method, f"/{name}", headers={"Depth": "0", "Destination": "/y"})
        assert (answer.status, answer.code) == (400, "bad_path")


async def test_a_call_that_is_none_is_not_found_and_one_with_another_method_says_which(door: Door) -> None:
    for method in ("GET", "POST", "PUT"):
        answer = await door.ask(method, "/api/nothing")
        assert (answer.status, answer.code) == (404, "not_found")
    wrong = await door.ask("PUT", "/api/v1/stage")
    assert (wrong.status, wrong.code) == (405, "method_not_allowed")
    assert wrong.json["arguments"]["allowed"] == "POST"


async def test_what_capstan_keeps_for_itself_is_in_no_listing(door: Door) -> None:
    root = (await door.sql("select id from node where parent is null"))[0][0]
    await door.sql("insert into node (parent, name, kind) values (:r, '.capstan', 'directory')", r=root)
    own = (await door.sql("select id from node where name = '.capstan'"))[0][0]
    await door.sql(
        "insert into directory (node, owner, grp, mtime_ns) select id, 'capstan', 'capstan', 0 from node where id = :n",
        n=own,
    )
    await door.in_catalog(lambda world: world.file("/d/.capstan/f"))
    for recursive in (False, True):
        body = {"path": "/", "recursive": recursive, "limit": 2}
        listed = (await door.ask("POST", "/api/capstan/v1/list", json=body)).json
        assert [entry["path"] for entry in listed["entries"]] == (["/d", "/d/.capstan"] if recursive else ["/d"])
    assert b".capstan" not in (await door.ask("PROPFIND", "/", headers={"Depth": "1"})).body


async def test_users_list_their_tokens_and_never_see_a_secret(door: Door) -> None:
    mine = (await door.ask("GET", "/api/capstan/v1/tokens")).json["items"]
    assert [token["owner"] for token in mine] == ["ann"]
    everybodys = (await door.ask("GET", "/api/capstan/v1/tokens", token="op")).json["items"]
    assert {token["owner"] for token in everybodys} == {"ann", "op"}
    assert door.ann not in str(everybodys)


# ------------------------------------------------------------------ the recycle bin

_RECYCLE = "/api/capstan/v1/recycle"


async def test_a_removed_file_that_is_on_tape_can_be_had_back_by_who_may_modify_it(door: Door) -> None:
    file_id = await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    gone = await door.ask("DELETE", "/d/f")
    assert (gone.status, gone.headers["Capstan-Recycled"]) == (204, str(file_id))
    assert int(gone.headers["Capstan-Recycled-Until"]) > 0
    listed = (await door.ask("POST", f"{_RECYCLE}/list", json={"prefix": "/d"})).json
    assert [(one["path"], one["deleted_by"]) for one in listed["files"]] == [("/d/f", "ann")]
    eve = await door.token("eve", ("read", "/"))
    assert (await door.ask("POST", f"{_RECYCLE}/list", token=eve, json={})).json["files"] == []
    assert (await door.ask("POST", f"{_RECYCLE}/restore", token=eve, json={"path": "/d/f"})).code == "denied"
    assert (await door.ask("POST", f"{_RECYCLE}/purge", json={"prefix": "/", "reason": "x"})).code == "denied"
    restored = await door.ask("POST", f"{_RECYCLE}/restore", json={"path": "/d/f"})
    assert restored.json == {"file_id": file_id, "path": "/d/f", "queued": 0}
    assert (await door.ask("HEAD", "/d/f")).status == 200
    assert (await door.ask("POST", f"{_RECYCLE}/restore", json={"path": "/d/f"})).code == "not_found"


async def test_a_purge_takes_what_it_is_told_and_no_more(door: Door) -> None:
    for name in ("f", "g"):
        await door.in_catalog(lambda world, name=name: world.file(f"/d/{name}", volumes=("E00001",)))
        await door.ask("DELETE", f"/d/{name}")
    done = await door.ask("POST", f"{_RECYCLE}/purge", token="op", json={"prefix": "/d/f", "reason": "privacy"})
    assert done.json == {"files": 1, "bytes": 10}
    listed = (await door.ask("POST", f"{_RECYCLE}/list", json={})).json
    assert [one["path"] for one in listed["files"]] == ["/d/g"]
    assert await door.sql("select who, reason from audit where action = 'recycle purge'") == [("op", "privacy")]


async def test_empty_parts_collapse(door: Door) -> None:
    assert (await door.ask("MKCOL", "//a//")).status == 201
    assert (await door.ask("PROPFIND", "/a", headers={"Depth": "0"})).status == 207


async def test_a_path_through_a_file_says_so(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f"))
    for method in ("GET", "PUT", "MKCOL", "DELETE"):
        answer = await door.ask(method, "/d/f/x")
        assert (answer.status, answer.code) == (409, "not_a_directory")


async def test_a_slash_at_the_end_never_means_a_file(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f"))
    for method in ("GET", "PUT", "DELETE", "PROPFIND"):
        assert (await door.ask(method, "/d/f/", headers={"Depth": "0"})).code == "not_a_directory"


async def test_what_is_to_lie_together_on_tape_goes_with_the_put(door: Door) -> None:
    answer = await door.ask("PUT", "/f", data=b"x", headers={"Capstan-Collocation": "run 7 é", "Capstan-Redirect": "1"})
    assert answer.status == 307
    [key] = await door.context.signing_keys()
    signature = URL(answer.headers["Location"]).query["sig"]
    claims = verify(signature, [key], 0.0)
    assert isinstance(claims, PutClaims)
    assert claims.collocation == "run 7 é"
    refused = await door.ask("PUT", "/f", data=b"x", headers={"Capstan-Collocation": "x" * 300})
    assert (refused.status, refused.code) == (400, "bad_request")


# ------------------------------------------------------------------ directories and moves


async def test_mkcol_needs_its_parent_and_a_free_name(door: Door) -> None:
    assert (await door.ask("MKCOL", "/a/b")).code == "parent_missing"
    assert (await door.ask("MKCOL", "/a")).status == 201
    taken = await door.ask("MKCOL", "/a")
    assert (taken.status, taken.code) == (405, "exists")
    answer = await door.ask("MKCOL", "/b", headers={"Capstan-Storage-Class": "none"})
    assert answer.code == "unknown_storage_class"


async def test_only_an_empty_directory_is_deleted(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f"))
    assert (await door.ask("DELETE", "/d/")).code == "not_empty"
    assert (await door.ask("DELETE", "/d/f")).status == 204
    assert (await door.ask("DELETE", "/d")).status == 204
    assert (await door.ask("DELETE", "/d")).code == "not_found"


async def test_a_move_obeys_overwrite_and_never_replaces_a_directory(door: Door) -> None:
    for name in ("f", "g"):
        await door.in_catalog(lambda world, name=name: world.file(f"/d/{name}"))
    await door.in_catalog(lambda world: world.directory("/e"))
    to_g = {"Destination": f"{door.url}/d/g"}
    kept = await door.ask("MOVE", "/d/f", headers={**to_g, "Overwrite": "F"})
    assert (kept.status, kept.code) == (412, "exists")
    creator = await door.token("eve", ("create", "/"), ("modify", "/d/f"))
    assert (await door.ask("MOVE", "/d/f", token=creator, headers=to_g)).code == "denied"
    assert (await door.ask("MOVE", "/d/f", headers=to_g)).status == 204
    assert (await door.ask("MOVE", "/d/g", headers={"Destination": "/e"})).code == "exists"
    assert (await door.ask("MOVE", "/d/g", headers={"Destination": "/e/h"})).status == 201
    assert (await door.ask("MOVE", "/e", headers={"Destination": "/e/x"})).code == "refused"
    assert (await door.ask("MOVE", "/e", headers={"Destination": "http://other/x"})).code == "bad_request"
    assert (await door.sql("select state from file order by id")) == [("live",), ("purged",)]


async def test_propfind_lists_one_level_and_refuses_infinity(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/a & b", size=12))
    await door.in_catalog(lambda world: world.directory("/d/sub"))
    body = (await door.ask("PROPFIND", "/d", headers={"Depth": "1"})).body.decode()
    assert body.count("<D:response>") == 3
    assert "<D:href>/d/a%20&amp;%20b</D:href>" in body
    assert "<D:href>/d/sub/</D:href>" in body
    assert "<D:getcontentlength>12</D:getcontentlength>" in body
    assert "Thu, 01 Jan 1970 00:00:01 GMT" in body
    one = (await door.ask("PROPFIND", "/d", headers={"Depth": "0"})).body.decode()
    assert one.count("<D:response>") == 1
    for headers in ({}, {"Depth": "infinity"}):
        answer = await door.ask("PROPFIND", "/d", headers=headers)
        assert answer.status == 403
        assert b"propfind-finite-depth" in answer.body
    asked = b'<propfind xmlns="DAV:"><prop><displayname/><quota xmlns="u:x"/></prop></propfind>'
    some = (await door.ask("PROPFIND", "/d/sub", headers={"Depth": "0"}, data=asked)).body.decode()
    assert "404 Not Found" in some
    assert "<D:displayname>sub</D:displayname>" in some
    assert (await door.ask("PROPFIND", "/d", headers={"Depth": "0"}, data=b"<x")).code == "bad_request"


async def test_options_says_what_there_is(door: Door) -> None:
    answer = await door.ask("OPTIONS", "/")
    assert answer.headers["DAV"] == "1"
    assert "PROPFIND" in answer.headers["Allow"]
    refused = await door.ask("PATCH", "/x")
    assert (refused.status, refused.code) == (405, "method_not_allowed")


# ------------------------------------------------------------------ refusals of a PUT before its body


async def test_a_refused_put_is_refused_before_100_continue_and_closes_the_connection(door: Door) -> None:
    for authorization, code in ((b"nonsense", b"unauthenticated"), (door.ann.encode(), b"parent_missing")):
        answer = await door.raw(
            b"PUT /no/f HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n"
            b"Authorization: Bearer " + authorization + b"\r\n\r\n"
        )
        assert b"100 Continue" not in answer
        assert code in answer
        assert b"Connection: close" in answer


async def test_a_refused_put_without_expect_is_answered_while_its_body_comes(door: Door) -> None:
    answer = await door.raw(
        b"PUT /no/f HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n"
        b"Authorization: Bearer " + door.ann.encode() + b"\r\n\r\n" + b"x" * 100_000
    )
    assert answer.startswith(b"HTTP/1.1 409")
    assert b"parent_missing" in answer


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Capstan-Storage-Class": "none"}, 400, "unknown_storage_class"),
        ({"Content-Length": "99999999999999"}, 413, "larger_than_any_volume"),
        ({"Content-Length": "5000000000"}, 507, "no_space"),
        ({"Digest": "adler32=nonsense"}, 400, "bad_digest"),
        ({"Capstan-Mode": "rwx"}, 400, "bad_request"),
        ({"Capstan-Mtime": "yesterday"}, 400, "bad_request"),
        ({"Content-Range": "bytes 0-1/2"}, 400, "bad_request"),
    ],
)
async def test_what_cannot_be_stored_is_refused_before_the_body(
    door: Door, headers: dict[str, str], status: int, code: str
) -> None:
    lines = {"Content-Length": "10", "Expect": "100-continue", **headers}
    request = "PUT /f HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + door.ann
    request += "".join(f"\r\n{name}: {value}" for name, value in lines.items()) + "\r\n\r\n"
    answer = await door.raw(request.encode())
    assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code


async def test_a_put_over_a_file_is_refused_unless_it_may_modify(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f"))
    creator = await door.token("eve", ("create", "/"))
    answer = await door.ask("PUT", "/d/f", token=creator, data=b"x")
    assert (answer.status, answer.code) == (409, "exists")
    answer = await door.ask("PUT", "/d/f", data=b"x", headers={"If-None-Match": "*"})
    assert (answer.status, answer.code) == (412, "exists")
    assert (await door.ask("PUT", "/d", data=b"x")).code == "is_a_directory"
    reader = await door.token("eve", ("read", "/"))
    assert (await door.ask("PUT", "/d/g", token=reader, data=b"x")).code == "denied"


async def test_who_is_known_to_follow_is_redirected_to_a_signed_url(door: Door) -> None:
    for headers in ({"Capstan-Redirect": "1"}, {"User-Agent": "libdavix/0.8.11"}):
        answer = await door.ask("PUT", "/f", data=b"hello", headers=headers)
        assert answer.status == 307
        assert answer.headers["Location"].startswith("http://127.0.0.1:1/replica?sig=")
    await door.in_catalog(lambda world: world.file("/g", on_disk=True))
    answer = await door.ask("GET", "/g", headers={"Capstan-Redirect": "1"})
    assert (answer.status, answer.headers["Digest"]) == (307, "adler32=00000001")


async def test_a_cache_server_that_does_not_answer_is_503_and_its_space_is_given_up(door: Door) -> None:
    answer = await door.ask("PUT", "/f", data=b"hello")
    assert (answer.status, answer.code) == (503, "unavailable")
    # What that server has of it, only that one knows: it gives the space back when it is there again.
    assert await door.sql("select count(*) from reservation where expires_at > capstan_now()") == [(0,)]
    await door.in_catalog(lambda world: world.file("/g", on_disk=True))
    assert (await door.ask("GET", "/g")).code == "unavailable"


# ------------------------------------------------------------------ files on tape


async def test_a_get_of_a_file_on_tape_asks_for_its_recall_once_and_says_when_to_come_again(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    for _ in range(3):
        answer = await door.ask("GET", "/d/f")
        assert (answer.status, answer.code) == (503, "on_tape")
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert await door.sql("select origin, items, items_live from stage_request") == [("get", 1, 1)]
    assert await door.sql("select count(*) from recall") == [(1,)]


async def test_head_and_propfind_never_recall(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", size=7, volumes=("E00001",)))
    head = await door.ask("HEAD", "/d/f", headers={"Want-Digest": "adler32"})
    assert (head.status, head.headers["Content-Length"], head.headers["Digest"]) == (200, "7", "adler32=00000001")
    assert head.headers["ETag"] == '"00000001"'
    assert head.headers["Accept-Ranges"] == "bytes"
    assert head.headers["Last-Modified"] == "Thu, 01 Jan 1970 00:00:01 GMT"
    await door.ask("PROPFIND", "/d", headers={"Depth": "1"})
    assert await door.sql("select count(*) from stage_request") == [(0,)]


async def test_reading_from_tape_needs_the_right_to_stage(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    reader = await door.token("eve", ("read", "/"))
    answer = await door.ask("GET", "/d/f", token=reader)
    assert (answer.status, answer.code) == (403, "denied")
    assert "only on tape" in answer.json["detail"]


async def test_a_file_without_any_copy_is_gone_and_says_so(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f"))
    answer = await door.ask("GET", "/d/f")
    assert (answer.status, answer.code) == (410, "lost")


async def test_rights_end_at_whole_names(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/expert/f", on_disk=True))
    reader = await door.token("eve", ("read", "/exp"))
    assert (await door.ask("GET", "/expert/f", token=reader)).code == "denied"
    assert (await door.ask("HEAD", "/expert/f", token=reader)).status == 403


# ------------------------------------------------------------------ the WLCG Tape REST API


async def staged(door: Door, *paths: str, slash: str = "", **keywords: Any) -> str:
    body = {"files": [{"path": path} for path in paths]}
    answer = await door.ask("POST", "/api/v1/stage" + slash, json=body, **keywords)
    assert answer.status == 201, answer.body
    request = answer.json["requestId"]
    assert answer.headers["Location"] == f"{door.url}/api/v1/stage/{request}"
    return str(request)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_staging_from_request_to_release(door: Door, slash: str) -> None:
    await door.in_catalog(lambda world: world.file("/d/disk", on_disk=True))
    await door.in_catalog(lambda world: world.file("/d/tape", volumes=("E00001",)))
    request = await staged(door, "/d/disk", "//d//tape", "/d/none", "/d", "/d/disk", slash=slash)
    first = (await door.ask("GET", f"/api/v1/stage/{request}{slash}")).json
    assert [file["path"] for file in first["files"]] == ["/d/disk", "/d/tape", "/d/none", "/d"]
    assert {file["state"] for file in first["files"]} == {"SUBMITTED"}
    assert isinstance(first["createdAt"], int)
    assert "completedAt" not in first
    await door.resolve()
    files = {file["path"]: file for file in (await door.ask("GET", f"/api/v1/stage/{request}")).json["files"]}
    assert files["/d/disk"]["state"] == "COMPLETED"
    assert "error" not in files["/d/disk"]
    assert files["/d/tape"]["state"] == "STARTED"
    assert (files["/d/none"]["state"], files["/d/none"]["error"]) == ("FAILED", "/d/none does not exist.")
    assert "directory" in files["/d"]["error"]
    pins = "select count(*) from pin"
    assert await door.sql(pins) == [(1,)]
    released = await door.ask("POST", f"/api/v1/release/{request}{slash}", json={"paths": ["/d/disk", "/d/x"]})
    assert (released.status, released.body) == (200, b"")
    assert await door.sql(pins) == [(0,)]


async def test_cancel_refuses_foreign_paths_without_acting(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/tape", volumes=("E00001",)))
    request = await staged(door, "/d/tape")
    await door.resolve()
    refused = await door.ask("POST", f"/api/v1/stage/{request}/cancel", json={"paths": ["/d/tape", "/d/x"]})
    assert refused.status == 400
    assert "does not belong to the stage request" in refused.json["detail"]
    assert await door.sql("select state from stage_item") == [("started",)]
    for _ in range(2):
        answer = await door.ask("POST", f"/api/v1/stage/{request}/cancel/", json={"paths": ["/d/tape"]})
        assert (answer.status, answer.body) == (200, b"")
    found = (await door.ask("GET", f"/api/v1/stage/{request}")).json
    assert found["files"][0]["state"] == "CANCELLED"
    assert "completedAt" in found
    assert await door.sql("select count(*) from recall") == [(0,)]


async def test_a_deleted_request_is_gone(door: Door) -> None:
    request = await staged(door, "/d/tape")
    answer = await door.ask("DELETE", f"/api/v1/stage/{request}")
    assert (answer.status, answer.body) == (200, b"")
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        answer = await door.ask(method, f"/api/v1/stage/{request}{path}", json={"paths": ["/d/tape"]})
        assert (answer.status, answer.code) == (404, "not_found")
    assert (await door.ask("GET", "/api/v1/stage/not-a-number")).status == 404


async def test_nobody_touches_another_ones_request_but_an_administrator(door: Door) -> None:
    request = await staged(door, "/d/f")
    eve = await door.token("eve", ("stage", "/"))
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        answer = await door.ask(method, f"/api/v1/stage/{request}{path}", token=eve, json={"paths": ["/d/f"]})
        assert (answer.status, answer.code) == (403, "denied")
    assert (await door.ask("GET", f"/api/v1/stage/{request}", token="op")).status == 200


async def test_release_of_an_unknown_request_drops_ones_own_pins_and_only_these(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", on_disk=True))
    await staged(door, "/d/f")
    eve = await door.token("eve", ("stage", "/"))
    await staged(door, "/d/f", token=eve)
    await door.resolve()
    for request in ("gfal2-placeholder-id", "99999"):
        answer = await door.ask("POST", f"/api/v1/release/{request}", token=eve, json={"paths": ["/d/f", "/d/no"]})
        assert answer.status == 200
    assert await door.sql("select r.owner from pin p join stage_request r on p.owner = 'request:' || r.id") == [
        ("ann",)
    ]


async def test_a_file_that_the_token_does_not_reach_shows_an_error_and_nothing_else(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", on_disk=True))
    eve = await door.token("eve", ("stage", "/mine"), ("poll", "/"))
    request = await staged(door, "/d/f", token=eve)
    await door.resolve()
    [file] = (await door.ask("GET", f"/api/v1/stage/{request}", token=eve)).json["files"]
    assert set(file) == {"path", "error"}
    stranger = await door.token("bob", ("poll", "/mine"))
    [info] = (await door.ask("POST", "/api/v1/archiveinfo", token=stranger, json={"paths": ["/d/f"]})).json
    assert set(info) == {"path", "error"}


@pytest.mark.parametrize("slash", ["", "/"])
async def test_archiveinfo_answers_per_path(door: Door, slash: str) -> None:
    await door.in_catalog(lambda world: world.file("/d/disk", on_disk=True))
    await door.in_catalog(lambda world: world.file("/d/both", on_disk=True, volumes=("E00001",)))
    await door.in_catalog(lambda world: world.file("/d/tape", volumes=("E00001",)))
    paths = ["/d/disk", "//d/both", "/d/tape", "/d", "/no", "bad", "/d/../x"]
    answers = (await door.ask("POST", "/api/v1/archiveinfo" + slash, json={"paths": paths})).json
    assert [answer["path"] for answer in answers] == ["/d/disk", "/d/both", "/d/tape", "/d", "/no", "bad", "/d/../x"]
    localities = [answer.get("locality") for answer in answers]
    assert localities == ["DISK", "DISK_AND_TAPE", "TAPE", None, None, None, None]
    assert all("error" in answer for answer in answers[3:])


async def test_what_the_standard_allows_beside_the_known_fields_is_no_error(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", on_disk=True))
    metadata = {"test-site": {"activity": "t0", "x": [1]}, "elsewhere": 5, "default": {"activity": "other"}}
    file = {"path": "/d/f", "diskLifetime": "PT1H", "targetedMetadata": metadata, "unknown": {}}
    answer = await door.ask("POST", "/api/v1/stage", json={"files": [file], "whatever": True})
    assert answer.status == 201
    await door.resolve()
    assert await door.sql("select activity from stage_request") == [("t0",)]
    [(seconds,)] = await door.sql("select extract(epoch from expires_at - capstan_now())::float from pin")
    assert 3500 < seconds <= 3600


async def test_files_that_are_wanted_together_are_one_cohort_in_all_requests_of_their_owner(door: Door) -> None:
    def wanted(path: str, site: str, label: object) -> dict[str, object]:
        return {"path": path, "targetedMetadata": {site: {"cohort": label}}}

    first = [wanted("/d/a", "capstan", "job:17"), wanted("/d/b", "test-site", "job:18"), {"path": "/d/c"}]
    second = [wanted("/d/e", "capstan", "job:17"), wanted("/d/f", "elsewhere", "job:17"), wanted("/d/g", "capstan", 5)]
    for files, token in ((first, "ann"), (second, "ann"), (first, "op")):
        assert (await door.ask("POST", "/api/v1/stage", json={"files": files}, token=token)).status == 201
    cohorts = dict(
        await door.sql("select r.owner || i.path, i.cohort from stage_item i join stage_request r on r.id = i.request")
    )
    assert cohorts["ann/d/a"] == cohorts["ann/d/e"] < 0
    assert len({cohorts["ann/d/a"], cohorts["ann/d/b"], cohorts["op/d/a"], cohorts["op/d/b"]}) == 4
    # What has no label of its own is wanted with the rest of its request.
    assert (cohorts["ann/d/c"], cohorts["ann/d/f"], cohorts["ann/d/g"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("asked", "token", "given"),
    [(20, "ann", 20), (99, "ann", 50), (-5, "ann", 11), (99, "op", 99), (10**9, "op", 100), ("high", "ann", 50),
     (True, "ann", 50), (None, "ann", 50)],
)  # fmt: skip
async def test_a_priority_is_granted_as_far_as_the_principal_may(
    door: Door, asked: object, token: str, given: int
) -> None:
    file = {"path": "/d/f", "targetedMetadata": {"capstan": {"priority": asked}}}
    assert (await door.ask("POST", "/api/v1/stage", json={"files": [file]}, token=token)).status == 201
    assert await door.sql("select priority from stage_request") == [(given,)]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"files": []}', b'{"files": "x"}', b'{"files": [{}]}', b'{"files": [{"path": 5}]}',
     b'{"files": [{"path": "/a", "diskLifetime": 5}]}', b"\xff\xfe", b'{"files": [{"path": "\\ud800"}]}',
     b"[" * 100_000],
)  # fmt: skip
async def test_a_body_that_is_not_what_is_wanted_is_bad_json(door: Door, body: bytes) -> None:
    answer = await door.ask("POST", "/api/v1/stage", data=body)
    assert (answer.status, answer.code) == (400, "bad_json")
    answer = await door.ask("POST", "/api/v1/archiveinfo", data=body)
    assert (answer.status, answer.code) == (400, "bad_json")


async def test_a_nul_in_a_staged_path_is_refused_with_the_request(door: Door) -> None:
    answer = await door.ask("POST", "/api/v1/stage", json={"files": [{"path": "/a\0b"}]})
    assert (answer.status, answer.code) == (400, "bad_path")


async def test_more_files_than_the_limit_are_413(door: Door) -> None:
    door.context.stage_files_max = 2
    answer = await door.ask("POST", "/api/v1/stage", json={"files": [{"path": f"/{n}"} for n in range(3)]})
    assert (answer.status, answer.code) == (413, "too_large")
    door.context.stage_bytes_max = 10
    answer = await door.ask("POST", "/api/v1/stage", json={"files": [{"path": "/abcdefghijkl"}]})
    assert (answer.status, answer.code) == (413, "too_large")
    door.context.paths_max = 1
    answer = await door.ask("POST", "/api/capstan/v1/whereis", json={"paths": ["/a", "/b"]})
    assert (answer.status, answer.code) == (413, "too_large")


# ------------------------------------------------------------------ our own calls


async def test_unknown_fields_in_our_own_calls_are_refused(door: Door) -> None:
    for path, body in (("list", {"path": "/", "deep": 1}), ("whereis", {"paths": [], "x": 1}), ("pins", {"owner": 1})):
        answer = await door.ask("POST", f"/api/capstan/v1/{path}", json=body)
        assert (answer.status, answer.code) == (400, "bad_json")


async def test_a_listing_comes_in_pages_flat_or_deep_and_a_file_lists_itself(door: Door) -> None:
    for path in ("/d/a/x", "/d/b", "/d/c"):
        await door.in_catalog(lambda world, path=path: world.file(path, on_disk=True))

    async def listing(**body: Any) -> tuple[list[str], str | None]:
        answer = (await door.ask("POST", "/api/capstan/v1/list", json=body)).json
        return [entry["path"] for entry in answer["entries"]], answer["next"]

    assert await listing(path="/d") == (["/d/a", "/d/b", "/d/c"], None)
    assert await listing(path="/d", recursive=True) == (["/d/a", "/d/a/x", "/d/b", "/d/c"], None)
    assert await listing(path="/d", recursive=True, limit=2) == (["/d/a", "/d/a/x"], "a/x")
    assert await listing(path="/d", recursive=True, after="a/x", limit=3) == (["/d/b", "/d/c"], None)
    assert await listing(path="/d/b") == (["/d/b"], None)
    assert await listing(path="/") == (["/d"], None)
    entry = (await door.ask("POST", "/api/capstan/v1/list", json={"path": "/d/b"})).json["entries"][0]
    assert (entry["label"], entry["size"], entry["owner"], entry["safe"]) == ("disk", 10, "ann", False)
    assert (await door.ask("POST", "/api/capstan/v1/list", json={"path": "/no"})).code == "not_found"


async def test_whereis_tells_copies_and_the_place_on_disk(door: Door) -> None:
    file_id = await door.in_catalog(lambda world: world.file("/d/f", on_disk=True, volumes=("E00001", "W00001")))
    body = {"paths": ["/d/f", "/no", "/d"]}
    files = (await door.ask("POST", "/api/capstan/v1/whereis", json=body)).json["files"]
    assert files[0]["file_id"] == file_id
    assert files[0]["cache_host"] == "here"
    assert files[0]["cache_path"].startswith("/cache/")
    assert [copy["volume"] for copy in files[0]["copies"]] == ["E00001", "W00001"]
    assert all(copy["readable"] for copy in files[0]["copies"])
    assert [file.get("error", {}).get("code") for file in files[1:]] == ["not_found", "is_a_directory"]


async def test_pins_keep_what_is_on_disk_and_name_what_is_not(door: Door) -> None:
    disk = await door.in_catalog(lambda world: world.file("/d/disk", on_disk=True))
    tape = await door.in_catalog(lambda world: world.file("/d/tape", volumes=("E00001",)))
    body = {"owner": "job:1", "files": [disk, tape, 999], "lifetime_seconds": 60}
    assert (await door.ask("POST", "/api/capstan/v1/pins", json=body)).code == "denied"
    answer = await door.ask("POST", "/api/capstan/v1/pins", token="op", json=body)
    assert answer.json == {"pinned": 1, "missing": [tape, 999]}
    mine = await door.ask("POST", "/api/capstan/v1/pins", json={**body, "owner": "user:ann:x"})
    assert mine.json["pinned"] == 1
    # What is still on tape is kept from its arrival on.
    assert await door.sql("select owner, file from pin order by owner, file") == [
        (owner, file) for owner in ("job:1", "user:ann:x") for file in (disk, tape)
    ]
    await door.ask("DELETE", "/api/capstan/v1/pins", token="op", json={"owner": "job:1"})
    assert await door.sql("select distinct owner from pin") == [("user:ann:x",)]
    answer = await door.ask("POST", "/api/capstan/v1/pins", token="op", json={**body, "lifetime_seconds": -1})
    assert answer.code == "bad_request"


async def test_a_token_gives_no_more_than_its_maker_has_and_ends_when_revoked(door: Door) -> None:
    body = {"label": "j", "owner": "ann", "groups": ["users"], "grants": [["read", "/d"]], "lifetime_seconds": 60}
    made = await door.ask("POST", "/api/capstan/v1/tokens", json=body)
    assert made.status == 201
    secret, token_id = made.json["token"], made.json["token_id"]
    me = (await door.ask("GET", "/api/capstan/v1/whoami", token=secret)).json
    assert (me["owner"], me["grants"], me["recorded"], me["token_id"]) == ("ann", [["read", "/d"]], False, token_id)
    for change in ({"grants": [["admin", "/"]]}, {"owner": "bob"}, {"groups": ["root"]}):
        assert (await door.ask("POST", "/api/capstan/v1/tokens", json={**body, **change})).code == "denied"
    narrow = {**body, "grants": [["modify", "/d"]]}
    assert (await door.ask("POST", "/api/capstan/v1/tokens", token=secret, json=narrow)).code == "denied"
    eve = await door.token("eve", ("read", "/"))
    assert (await door.ask("DELETE", f"/api/capstan/v1/tokens/{token_id}", token=eve)).code == "denied"
    assert (await door.ask("DELETE", f"/api/capstan/v1/tokens/{token_id}")).status == 204
    assert (await door.ask("GET", "/api/capstan/v1/whoami", token=secret)).code == "unauthenticated"


async def test_waiting_for_tape_makes_it_urgent_and_says_how_it_stands(door: Door) -> None:
    file_id = await door.in_catalog(lambda world: world.file("/d/f", on_disk=True))
    await door.in_catalog(lambda world: world.file("/d/safe", volumes=("E00001",)))
    archive = "insert into archive (file, copy_number, pool, bytes, owner, grp) values (:f, 1, 'east', 1, 'a', 'g')"
    await door.sql(archive, f=file_id)
    answer = await door.ask("POST", "/api/capstan/v1/archive-wait", json={"paths": ["/d/f", "/d/safe", "/no"]})
    waiting, safe, missing = answer.json["files"]
    assert (waiting["safe"], waiting["state"]) == (False, "disk")
    assert "waits to be written to pool east" in waiting["reason"]
    assert (safe["safe"], missing["state"]) == (True, "not_found")
    assert await door.sql("select urgent from archive") == [(True,)]


# ------------------------------------------------------------------ operators


async def test_a_change_needs_an_administrator_and_a_reason_and_is_recorded(door: Door) -> None:
    url = "/api/capstan/v1/drives/east-1"
    body = {"state": "down", "reason": "cleaning"}
    assert (await door.ask("POST", url, json=body)).code == "denied"
    assert (await door.ask("POST", url, token="op", json={**body, "reason": " "})).code == "reason_required"
    assert (await door.ask("POST", url, token="op", json={**body, "state": "sideways"})).code == "bad_request"
    assert (await door.ask("POST", url + "x", token="op", json=body)).code == "not_found"
    assert (await door.ask("POST", url, token="op", json=body)).status == 200
    shown = (await door.ask("GET", url)).json
    assert (shown["state"], shown["reason"]) == ("down", "cleaning")
    assert await door.sql("select who, action, object, reason from audit where action like 'drive%'") == [
        ("op", "drive down", "east-1", "cleaning")
    ]
    for what, name, state in (("libraries", "west", "down"), ("volumes", "E00001", "disabled")):
        answer = await door.ask("POST", f"/api/capstan/v1/{what}/{name}", token="op", json={**body, "state": state})
        assert answer.status == 200


@pytest.mark.parametrize("what", ["drives", "libraries", "volumes", "pools", "storage-classes", "cache", "requests"])
async def test_everything_can_be_listed(door: Door, what: str) -> None:
    await staged(door, "/x")
    assert (await door.ask("GET", f"/api/capstan/v1/{what}")).json["items"]


async def test_the_queue_shows_what_waits_and_why(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    await staged(door, "/d/f")
    await door.resolve()
    view = (await door.ask("GET", "/api/capstan/v1/queue")).json
    assert (view["recalls"][0]["volume"], view["recalls"][0]["files"]) == ("E00001", 1)
    assert len(view["requests"]) == 1
    assert view["oldest_unsafe_seconds"] is None
    retry = {"kind": "recalls", "reason": "now"}
    assert (await door.ask("POST", "/api/capstan/v1/queue/retry", json=retry)).code == "denied"
    assert (await door.ask("POST", "/api/capstan/v1/queue/retry", token="op", json=retry)).status == 200
    assert (
        await door.ask("POST", "/api/capstan/v1/queue/retry", token="op", json={**retry, "kind": "x"})
    ).status == 400


async def test_a_request_is_cancelled_by_an_operator_with_a_reason(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/f", volumes=("E00001",)))
    request = await staged(door, "/d/f")
    await door.resolve()
    url = f"/api/capstan/v1/requests/{request}"
    assert (await door.ask("GET", url)).json["states"] == {"started": 1}
    assert (await door.ask("POST", url + "/cancel", token="op", json={"reason": ""})).code == "reason_required"
    answer = await door.ask("POST", url + "/cancel", token="op", json={"reason": "stuck"})
    assert answer.json == {"cancelled": 1}
    assert (await door.ask("GET", url)).json["state"] == "ended"


async def test_a_volumes_files_are_paged_by_position_and_only_what_one_may_see(door: Door) -> None:
    for name in ("a", "b", "c"):
        await door.in_catalog(lambda world, name=name: world.file(f"/d/{name}"))
    await door.sql(
        "insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch)"
        " select id, 1, 'E00001', 1, 1, 100 - id, 0, 10, 1 from file"
    )
    url = "/api/capstan/v1/volumes/E00001/files"
    page = (await door.ask("GET", f"{url}?limit=2")).json
    rest = (await door.ask("GET", f"{url}?after_block={page['next'][0]}&after_offset={page['next'][1]}")).json
    assert [file["path"] for file in page["files"] + rest["files"]] == ["/d/c", "/d/b", "/d/a"]
    assert rest["next"] is None
    eve = await door.token("eve", ("read", "/d/b"))
    assert [file["path"] for file in (await door.ask("GET", url, token=eve)).json["files"]] == ["/d/b"]
    assert (await door.ask("GET", "/api/capstan/v1/volumes/X/files")).code == "not_found"


async def test_dropping_from_the_cache_counts_what_stays_and_why(door: Door) -> None:
    await door.in_catalog(lambda world: world.file("/d/safe", on_disk=True, volumes=("E00001",)))
    await door.in_catalog(lambda world: world.file("/d/sub/unsafe", on_disk=True))
    pinned = await door.in_catalog(lambda world: world.file("/d/pinned", on_disk=True, volumes=("E00001",)))
    await door.sql("insert into pin (file, owner, expires_at) values (:f, 'x', capstan_now() + '1 h')", f=pinned)
    body = {"paths": ["/d"]}
    assert (await door.ask("POST", "/api/capstan/v1/cache/drop", json=body)).code == "denied"
    answer = (await door.ask("POST", "/api/capstan/v1/cache/drop", token="op", json=body)).json
    assert (answer["dropped"], answer["bytes"]) == (1, 10)
    assert {kept["path"] for kept in answer["kept"]} == {"/d/pinned", "/d/sub/unsafe"}
    assert sum(answer["kept_count"].values()) == 2
    assert (
        await door.ask("POST", "/api/capstan/v1/cache/drop", token="op", json={"paths": ["/no"]})
    ).code == "not_found"


@pytest.mark.parametrize(
    ("object", "kind", "words"),
    [
        ("/d", "directory", "is a directory"),
        ("/d/disk", "file", "It waits for nothing"),
        ("/d/tape", "file", "It waits to be read from volume E00001"),
        ("request:1", "request", "1 file is wanted from volume E00001"),
        ("volume:E00001", "volume", "wanted from it"),
        ("W00002", "volume", "it waits for nothing"),
    ],
)
async def test_everything_that_exists_has_an_explanation(door: Door, object: str, kind: str, words: str) -> None:
    await door.in_catalog(lambda world: world.file("/d/disk", on_disk=True, volumes=("E00001",)))
    await door.in_catalog(lambda world: world.file("/d/tape", volumes=("E00001",)))
    await staged(door, "/d/tape", "/d/none")
    await door.resolve()
    answer = (await door.ask("GET", f"/api/capstan/v1/explain?object={object}")).json
    assert answer["kind"] == kind
    assert words in " ".join(answer["sentences"])


@pytest.mark.parametrize("object", ["/no", "request:77", "volume:NONE", "NONE", "request:x"])
async def test_what_does_not_exist_has_none(door: Door, object: str) -> None:
    assert (await door.ask("GET", f"/api/capstan/v1/explain?object={object}")).code == "not_found"


async def test_status_is_always_answered_with_every_component(door: Door) -> None:
    answer = (await door.ask("GET", "/api/capstan/v1/status")).json
    assert set(answer["components"]) == {"door", "database", "planner", "cache", "movers", "jobserver"}
    assert not answer["ok"]
    assert answer["components"]["database"] == {"ok": True}
    # The world's cache server is a row and no process: a fresh heartbeat is not taken for an answer.
    assert not answer["components"]["cache"]["ok"]


async def test_a_job_server_is_found_by_its_heartbeat_and_calls_go_through(door: Door) -> None:
    assert (await door.ask("GET", "/api/jobs/v1/jobs")).code == "unavailable"
    # A door is a fine stand-in: it answers /healthz, and says what it was asked.
    body = {"kind": "jobserver", "name": "j", "url": door.url, "host": "h", "pid": 1, "detail": {}}
    assert (await door.ask("POST", "/api/capstan/v1/servers", json=body)).code == "denied"
    assert (await door.ask("POST", "/api/capstan/v1/servers", token="op", json=body)).status == 204
    status = (await door.ask("GET", "/api/capstan/v1/status")).json
    assert status["components"]["jobserver"] == {"ok": True, "servers": [{"ok": True, "name": "j"}]}
    await door.sql("update server set heartbeat_at = capstan_now() - interval '1 min'")
    assert (await door.ask("POST", "/api/jobs/v1/jobs", json={})).code == "unavailable"


# ------------------------------------------------------------------ events


async def test_the_event_stream_goes_on_where_it_was_left(door: Door) -> None:
    async def frames(headers: dict[str, str], count: int) -> list[dict[str, str]]:
        sent = {"Authorization": f"Bearer {door.op}", **headers}
        found: list[dict[str, str]] = []
        async with asyncio.timeout(10), door.session.get(door.url + "/api/capstan/v1/events", headers=sent) as answer:
            started.set()
            frame: dict[str, str] = {}
            async for raw in answer.content:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name and raw[0:1] != b":":
                    frame[name] = value
                elif raw == b"\n" and frame:
                    found.append(frame)
                    frame = {}
                    if len(found) == count:
                        return found
        return found

    started = asyncio.Event()
    reading = asyncio.create_task(frames({}, 2))
    await started.wait()
    for name in ("a", "b"):
        await door.in_catalog(lambda world, name=name: world.file(f"/d/{name}"))
        await door.ask("DELETE", f"/d/{name}")
    first, second = await reading
    assert (first["event"], json.loads(first["data"])["subject"]) == ("file.removed", "/d/a")
    [again] = await frames({"Last-Event-ID": first["id"]}, 1)
    assert again == second
    bad = await door.ask("GET", "/api/capstan/v1/events", headers={"Last-Event-ID": "nonsense"})
    assert bad.code == "bad_request"
