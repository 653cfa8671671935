"""Promises about bytes through the door, with a real cache server behind it: nothing half stored, nothing changed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from catalog.database import Database
from tests.integration.door import Door, cache_server, open_door
from tests.waiting import eventually

TWO_MB = os.urandom(2_000_000)


@pytest.fixture
async def door(database: Database, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(database) as found, cache_server(database, tmp_path / "cache"):
        yield found


async def holds(door: Door, statement: str, value: object) -> bool:
    return await door.sql(statement) == [(value,)]


async def nothing_held(door: Door) -> None:
    """No file, and in the end no reservation."""
    await eventually(lambda: holds(door, "select count(*) from reservation", 0))
    assert await door.sql("select count(*) from file") == [(0,)]
    assert await door.sql("select taken_bytes from cache_server") == [(0,)]


async def test_what_is_put_is_got_back_with_its_checksum(door: Door) -> None:
    adler32 = f"{zlib.adler32(TWO_MB):08x}"
    answer = await door.ask("PUT", "/f", data=TWO_MB, headers={"X-OC-Mtime": "1234567890"})
    assert answer.status == 201
    assert answer.json["adler32"] == adler32
    assert (answer.json["path"], answer.json["size"]) == ("/f", len(TWO_MB))
    assert answer.json["state"] == "on disk, not yet on tape"
    assert answer.json["storage_class"] == "one"
    got = await door.ask("GET", "/f")
    assert (got.status, got.body) == (200, TWO_MB)
    assert f"adler32={adler32}" in got.headers["Digest"]
    assert got.headers["Last-Modified"] == "Fri, 13 Feb 2009 23:31:30 GMT"
    assert await door.sql("select count(*) from archive") == [(1,)]


async def test_ranges_pass_through_and_bad_ones_are_416(door: Door) -> None:
    await door.ask("PUT", "/f", data=b"0123456789")
    part = await door.ask("GET", "/f", headers={"Range": "bytes=2-5"})
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"2345", "bytes 2-5/10")
    assert (await door.ask("GET", "/f", headers={"Range": "bytes=-3"})).body == b"789"
    answer = await door.ask("GET", "/f", headers={"Range": "bytes=50-"})
    assert (answer.status, answer.code) == (416, "bad_range")
    etag = (await door.ask("HEAD", "/f")).headers["ETag"]
    assert (await door.ask("GET", "/f", headers={"If-None-Match": etag})).status == 304


async def test_an_empty_file_is_a_file(door: Door) -> None:
    answer = await door.ask("PUT", "/empty", data=b"")
    assert (answer.status, answer.json["adler32"]) == (201, "00000001")
    assert (await door.ask("GET", "/empty")).body == b""


async def test_a_body_without_length_is_stored_too(door: Door) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(TWO_MB), 300_000):
            yield TWO_MB[start : start + 300_000]

    answer = await door.ask("PUT", "/piped", data=pieces())
    assert (answer.status, answer.json["size"]) == (201, len(TWO_MB))
    assert (await door.ask("GET", "/piped")).body == TWO_MB
    assert await door.sql("select taken_bytes from cache_server") == [(len(TWO_MB),)]
    assert await door.sql("select count(*) from reservation") == [(0,)]


async def test_a_wrong_digest_stores_nothing_and_a_right_one_is_kept(door: Door) -> None:
    answer = await door.ask("PUT", "/f", data=b"hello", headers={"Digest": "adler32=00000001"})
    assert (answer.status, answer.code) == (400, "digest_mismatch")
    await nothing_held(door)
    sha256 = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"hallo").digest()).decode()
    answer = await door.ask("PUT", "/f", data=b"hello", headers={"Repr-Digest": f"sha-256=:{wrong}:"})
    assert answer.code == "digest_mismatch"
    answer = await door.ask("PUT", "/f", data=b"hello", headers={"Repr-Digest": f"sha-256=:{sha256}:"})
    assert answer.status == 201
    head = await door.ask("HEAD", "/f", headers={"Want-Digest": "sha-256"})
    assert head.headers["Digest"] == f"sha-256={sha256}"
    assert f"sha-256=:{sha256}:" in head.headers["Repr-Digest"]


async def test_a_body_shorter_than_its_length_stores_nothing(door: Door) -> None:
    head = f"PUT /f HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer {door.ann}\r\n\r\n".encode()
    url = URL(door.url)
    # The client goes away in the middle.
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head + b"x" * 500)
    await writer.drain()
    await eventually(lambda: door.sql("select 1 from reservation"))
    writer.close()
    await nothing_held(door)
    # The client stands still.
    answer = await door.raw(head + b"x" * 500, seconds=8)
    assert b"timed_out" in answer or b"short_body" in answer
    await nothing_held(door)
    assert (await door.ask("GET", "/f")).code == "not_found"


async def test_a_repeated_put_of_the_same_bytes_is_nothing_new(door: Door) -> None:
    digest = {"Digest": f"adler32={zlib.adler32(b'hello'):08x}"}
    first = await door.ask("PUT", "/f", data=b"hello", headers=digest)
    again = await door.ask("PUT", "/f", data=b"hello", headers=digest)
    assert (first.status, again.status) == (201, 200)
    assert again.json["file_id"] == first.json["file_id"]
    assert again.json["path"] == "/f"


async def test_overwriting_makes_a_new_file(door: Door) -> None:
    first = await door.ask("PUT", "/f", data=b"one")
    second = await door.ask("PUT", "/f", data=b"second")
    assert second.status == 201
    assert second.json["file_id"] != first.json["file_id"]
    assert (await door.ask("GET", "/f")).body == b"second"


async def test_of_two_puts_of_one_name_at_once_one_wins_and_the_other_leaves_nothing(door: Door) -> None:
    creator = await door.token("eve", ("create", "/"), ("read", "/"))
    answers = await asyncio.gather(
        *(door.ask("PUT", "/f", token=creator, data=bytes([number]) * 100_000) for number in range(4))
    )
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
    assert {answer.code for answer in answers if answer.status == 409} == {"exists"}
    winner = next(number for number, answer in enumerate(answers) if answer.status == 201)
    assert (await door.ask("GET", "/f")).body == bytes([winner]) * 100_000
    await eventually(lambda: holds(door, "select count(*) from reservation", 0))
    assert await door.sql("select taken_bytes from cache_server") == [(100_000,)]


async def test_who_follows_redirects_ends_with_the_same(door: Door) -> None:
    admitted = await door.ask("PUT", "/f", data=b"hello", headers={"Capstan-Redirect": "1"})
    assert admitted.status == 307
    url = URL(admitted.headers["Location"], encoded=True)
    async with door.session.put(url, data=b"hello") as stored:
        assert stored.status == 201
        first = await stored.json()
    async with door.session.put(url, data=b"hello") as repeated:
        assert (repeated.status, (await repeated.json())["file_id"]) == (
            201,
            first["file_id"],
        ) or repeated.status == 200
    where = await door.ask("GET", "/f", headers={"User-Agent": "gfal2/2.21 neon"})
    async with door.session.get(URL(where.headers["Location"], encoded=True)) as got:
        assert await got.read() == b"hello"
    forged = URL(str(url)[:-5] + "AAAAA", encoded=True)
    async with door.session.put(forged, data=b"hello") as refused:
        assert (refused.status, (await refused.json())["code"]) == (403, "bad_signature")


async def test_a_removed_file_is_gone_and_its_space_too(door: Door) -> None:
    await door.ask("PUT", "/f", data=b"hello")
    assert (await door.ask("DELETE", "/f")).status == 204
    assert (await door.ask("GET", "/f")).code == "not_found"
    await eventually(lambda: holds(door, "select taken_bytes from cache_server", 0))
    assert await door.sql("select count(*) from archive") == [(0,)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="install curl")
async def test_plain_curl_stores_two_megabytes_from_a_file_and_from_a_pipe(door: Door, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(TWO_MB)
    bearer = f"Authorization: Bearer {door.ann}"

    async def curl(*arguments: str, stdin: bytes | None = None) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", *arguments, cwd=tmp_path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate(stdin)
        return process.returncode or 0, output

    code, output = await curl("-fT", str(source), "-H", bearer, f"{door.url}/f")
    assert code == 0, output
    code, output = await curl("-f", "-T", "-", "-u", f"ann:{door.ann}", f"{door.url}/piped", stdin=TWO_MB)
    assert code == 0, output
    for name in ("f", "piped"):
        assert (await curl("-fO", "-H", bearer, f"{door.url}/{name}"))[0] == 0
        assert (tmp_path / name).read_bytes() == TWO_MB
    assert (await curl("-fT", str(source), f"{door.url}/g"))[0] == 22
    assert (await curl("-fT", str(source), "-H", bearer, f"{door.url}/no/parent"))[0] == 22
    assert (await curl("-f", f"{door.url}/f"))[0] == 22


@pytest.mark.skipif(shutil.which("rclone") is None, reason="install rclone")
async def test_rclone_copies_a_tree_both_ways_and_moves_and_deletes(door: Door, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub dir").mkdir(parents=True)
    for number in range(12):
        (tree / "sub dir" / f"f ä {number}").write_bytes(TWO_MB[: number * 1000])
    (tree / "large").write_bytes(TWO_MB)
    remote = f":webdav,url='{door.url}',vendor=other,bearer_token={door.ann}:"

    async def rclone(*arguments: str) -> bytes:
        environment = {**os.environ, "RCLONE_CONFIG": str(tmp_path / "none"), "RCLONE_RETRIES": "1"}
        process = await asyncio.create_subprocess_exec(
            "rclone", *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, told = await process.communicate()
        assert process.returncode == 0, told.decode()
        return output

    await rclone("copy", str(tree), f"{remote}/t/copy")
    await rclone("copy", f"{remote}/t/copy", str(tmp_path / "back"))
    there = {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    back = tmp_path / "back"
    assert there == {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()}
    listed = (await rclone("lsf", "-R", f"{remote}/t")).decode().split("\n")
    assert "copy/sub dir/f ä 3" in listed
    await rclone("moveto", f"{remote}/t/copy/large", f"{remote}/t/moved")
    await rclone("cat", f"{remote}/t/moved")
    await rclone("delete", "--rmdirs", f"{remote}/t/copy")
    await rclone("rmdir", f"{remote}/t/copy")
    assert (await rclone("lsf", f"{remote}/t")).decode().split() == ["moved"]
