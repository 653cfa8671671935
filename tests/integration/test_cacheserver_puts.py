"""Promises of a PUT at a cache server: what is durable when it answers, and that a failure leaves nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from catalog import puts
from catalog.database import Database
from catalog.errors import CatalogUnreachable, NotFound
from catalog.signing import PutClaims
from catalog.units import MIB
from tests.integration.cache_site import BOB, FOR_EVER, Site, make_site, running
from tests.waiting import eventually

BODY = os.urandom(300_000)


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    async with running(await make_site(database, tmp_path / "cache")) as found:
        yield found


async def nothing_stored(site: Site, path: str = "/exp/f") -> None:
    async def clean() -> bool:
        return await site.space() == (0, 0) and not site.files_below("incoming") and not site.files_below("replicas")

    await eventually(clean)
    with pytest.raises(NotFound):
        await site.file_at(path)


async def test_the_order_is_write_fsync_rename_fsync_directory_commit_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = puts.commit_many

    async def traced(*arguments: Any, **named: Any) -> Any:
        site.trace.append("commit")
        return await commit(*arguments, **named)

    monkeypatch.setattr(puts, "commit_many", traced)
    claims = await site.admit(size=len(BODY), digests={"adler32": f"{zlib.adler32(BODY):08x}"})
    site.trace.clear()
    status, answer = await site.put(claims, BODY)
    site.trace.append("answer")
    assert status == 201
    steps = [step for step in site.trace if step != "write"]
    # Two levels of directories are new, each made durable in the one above it before the file is renamed into them.
    assert steps == ["fsync", "fsync directory", "fsync directory", "rename", "fsync directory", "commit", "answer"]
    assert site.trace[0] == "write"
    assert site.trace.index("fsync") > max(i for i, step in enumerate(site.trace) if step == "write")
    record = await site.file_at("/exp/f")
    assert answer == {
        "path": "/exp/f",
        "file_id": record.file_id,
        "size": len(BODY),
        "adler32": f"{zlib.adler32(BODY):08x}",
        "state": "on disk, not yet on tape",
        "storage_class": "one",
    }
    assert site.path_of(claims.replica_id).read_bytes() == BODY
    assert await site.space() == (len(BODY), 0)


async def test_the_same_url_again_returns_the_first_result(site: Site) -> None:
    claims, first = await site.store("/exp/f", BODY)
    status, again = await site.put(claims, b"x" * len(BODY))
    assert (status, again) == (200, first)
    assert site.path_of(claims.replica_id).read_bytes() == BODY


async def test_an_empty_file_is_a_file(site: Site) -> None:
    claims, answer = await site.store("/exp/f", b"")
    assert answer["adler32"] == "00000001"
    assert (await site.get(site.get_url(claims.replica_id, b"")))[:2] == (200, b"")


async def test_other_digests_are_computed_checked_and_kept(site: Site) -> None:
    sha = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    claims = await site.admit(size=len(BODY), digests={"sha-256": sha, "md5": md5})
    assert (await site.put(claims, BODY))[0] == 201
    assert (await site.file_at("/exp/f")).digests == {"sha-256": sha, "md5": md5}


@pytest.mark.parametrize("digests", [{"adler32": "00000001"}, {"sha-256": "AAAA"}])
async def test_a_wrong_digest_stores_nothing(site: Site, digests: dict[str, str]) -> None:
    claims = await site.admit(size=len(BODY), digests=digests)
    status, problem = await site.put(claims, BODY)
    assert (status, problem["code"]) == (400, "digest_mismatch")
    await nothing_stored(site)


async def test_a_digest_that_cannot_be_computed_is_refused_before_the_body(site: Site) -> None:
    claims = await site.admit(size=len(BODY), digests={"crc-7": "AAAA"})
    assert (await site.put(claims, BODY))[1]["code"] == "bad_digest"


async def test_a_body_of_unknown_length_is_stored_in_steps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puts, "UNSIZED_STEP_BYTES", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 50_000):
            yield BODY[start : start + 50_000]

    claims = await site.admit()
    assert await site.space() == (0, 1000)
    assert (await site.put(claims, pieces()))[0] == 201
    assert (await site.file_at("/exp/f")).size == len(BODY)
    assert await site.space() == (len(BODY), 0)


async def test_a_body_of_unknown_length_ends_where_the_space_ends(database: Database, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(90):
            yield bytes(1_000_000)

    async with running(await make_site(database, tmp_path / "cache"), capacity_bytes=70_000_000) as site:
        status, problem = await site.put(await site.admit(), pieces())
        assert (status, problem["code"]) == (507, "no_space")
        await nothing_stored(site)


async def send_raw(site: Site, claims: PutClaims, head: str, body: bytes, *, then_close: bool) -> bytes:
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    target = site.signed("replica", claims).removeprefix(site.url)
    writer.write(f"PUT {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    await writer.drain()
    if then_close:
        writer.close()
        return b""
    answer = await reader.read(4096)
    writer.close()
    return answer


async def test_a_client_that_goes_away_leaves_nothing(site: Site) -> None:
    claims = await site.admit(size=len(BODY))
    await send_raw(site, claims, f"Content-Length: {len(BODY)}", BODY[:1000], then_close=True)

    async def seen() -> bool:
        return "unlink" in site.trace

    await eventually(seen)
    await nothing_stored(site)


async def test_a_content_length_that_is_not_the_admitted_one_is_refused_before_the_body(site: Site) -> None:
    claims = await site.admit(size=len(BODY))
    answer = await send_raw(site, claims, "Content-Length: 5\r\nExpect: 100-continue", b"", then_close=False)
    assert b" 400 " in answer
    assert b"100 Continue" not in answer


async def test_a_forged_or_expired_url_is_refused_before_the_body(site: Site) -> None:
    claims = await site.admit(size=len(BODY))
    forged = site.signed("replica", claims)[:-3] + "AAA"
    assert site.http is not None
    async with site.http.put(forged, data=BODY) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (403, "bad_signature")
    late = PutClaims(**{**{f: getattr(claims, f) for f in claims.__struct_fields__}, "expires_at": 1.0})
    status, problem = await site.put(late, BODY)
    assert (status, problem["code"]) == (403, "bad_signature")


async def test_a_url_for_reading_does_not_write(site: Site) -> None:
    assert site.http is not None
    async with site.http.put(site.get_url(1, b""), data=b"x") as answer:
        assert answer.status == 403


async def test_after_a_failed_fsync_the_file_is_gone_and_no_second_fsync_is_believed(site: Site) -> None:
    assert site.disk is not None
    site.disk.fail = {"fsync"}
    claims = await site.admit(size=len(BODY))
    site.trace.clear()
    status, problem = await site.put(claims, BODY)
    assert (status, problem["code"]) == (503, "unavailable")
    assert site.trace.count("fsync") == 1
    assert "rename" not in site.trace[site.trace.index("fsync") :]
    await nothing_stored(site)


async def test_after_a_failed_fsync_of_the_directory_the_file_is_gone_too(site: Site) -> None:
    await site.store("/exp/first", BODY)
    assert site.disk is not None
    site.disk.fail = {"fsync directory"}
    claims = await site.admit(size=len(BODY))
    assert (await site.put(claims, BODY))[0] == 503
    site.disk.fail = set()
    assert not site.path_of(claims.replica_id).exists()


async def test_writing_stops_where_the_file_system_must_keep_free_space(site: Site) -> None:
    assert site.disk is not None
    site.disk.free = -1
    status, problem = await site.put(await site.admit(size=len(BODY)), BODY)
    assert (status, problem["code"]) == (507, "no_space")
    await nothing_stored(site)


async def test_the_loser_of_a_race_for_a_name_is_told_and_leaves_no_bytes(site: Site) -> None:
    first, second = await site.admit(size=len(BODY)), await site.admit(size=len(BODY))
    results = await asyncio.gather(site.put(first, BODY), site.put(second, BODY))
    assert sorted(status for status, _ in results) == [201, 409]
    await eventually(lambda: _only(site, 1))
    assert await site.space() == (len(BODY), 0)


async def _only(site: Site, count: int) -> bool:
    return len(site.files_below("replicas")) == count and not site.files_below("incoming")


async def test_a_replaced_file_leaves_the_disk(site: Site) -> None:
    old, _ = await site.store("/exp/f", BODY)
    new = await site.admit(who=BOB, size=5)
    assert (await site.put(new, b"other"))[0] == 201
    await eventually(lambda: _only(site, 1))
    assert site.path_of(new.replica_id).read_bytes() == b"other"

    async def counted() -> bool:
        return await site.space() == (5, 0)

    await eventually(counted)
    assert not site.path_of(old.replica_id).exists()


async def test_a_commit_whose_answer_was_lost_is_found_to_have_taken_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, calls = puts.commit_many, 0

    async def committed_but_unheard(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            async with site.database.transaction() as other:
                await commit(other, *arguments[1:], **named)
            raise CatalogUnreachable(what="catalog", why="connection lost")
        return await commit(*arguments, **named)

    monkeypatch.setattr(puts, "commit_many", committed_but_unheard)
    claims = await site.admit(size=len(BODY))
    status, answer = await site.put(claims, BODY)
    assert status == 201
    assert answer["file_id"] == (await site.file_at("/exp/f")).file_id
    assert site.path_of(claims.replica_id).read_bytes() == BODY


async def test_a_commit_that_nobody_answers_is_503_and_left_to_the_reconciler(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, **__: Any) -> Any:
        raise CatalogUnreachable(what="catalog", why="connection lost")

    site = await make_site(database, tmp_path / "cache")
    async with running(site, commit_seconds_max=0.1):
        claims = await site.admit(size=len(BODY))
        with monkeypatch.context() as patched:
            patched.setattr(puts, "commit", silent)
            patched.setattr(puts, "commit_many", silent)
            status, problem = await site.put(claims, BODY)
        assert (status, problem["code"]) == (503, "catalog_unreachable")
        assert site.path_of(claims.replica_id).exists()
    async with running(site):
        await nothing_stored(site)


async def test_the_same_url_at_the_same_time_is_refused_not_mixed(site: Site) -> None:
    half = 2 * MIB
    claims = await site.admit(size=2 * half)
    arrived = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"a" * half
        await arrived.wait()
        yield b"b" * half

    first = asyncio.create_task(site.put(claims, slowly(), **{"Content-Length": str(2 * half)}))

    async def receiving() -> bool:
        return bool(site.files_below("incoming"))

    await eventually(receiving)
    status, problem = await site.put(claims, b"xy" * half)
    assert (status, problem["code"]) == (429, "too_busy")
    arrived.set()
    assert (await first)[0] == 201
    assert site.path_of(claims.replica_id).read_bytes() == b"a" * half + b"b" * half


async def test_too_many_transfers_are_refused_with_a_time_to_come_back(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, transfers_max=1, write_chunk_bytes=1):
        stuck, other = await site.admit("/exp/a", size=2), await site.admit("/exp/b", size=2)
        release = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"a"
            await release.wait()
            yield b"b"

        first = asyncio.create_task(site.put(stuck, slowly(), **{"Content-Length": "2"}))
        await eventually(lambda: _incoming(site))
        assert site.http is not None
        async with site.http.put(site.signed("replica", other), data=b"xy") as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        release.set()
        assert (await first)[0] == 201


async def _incoming(site: Site) -> bool:
    return bool(site.files_below("incoming"))


async def test_a_client_that_stalls_is_given_up(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, idle_seconds_max=0.1):
        claims = await site.admit(size=10)
        answer = await send_raw(site, claims, "Content-Length: 10", b"abc", then_close=False)
        assert b" 504 " in answer
        await nothing_stored(site)
    assert claims.expires_at < FOR_EVER
