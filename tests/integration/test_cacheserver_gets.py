"""Promises of a GET at a cache server."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import leases, replicas
from catalog.database import Database
from tests.integration.cache_site import Site, make_site, running
from tests.store.media import make_copies
from tests.waiting import eventually

BODY = os.urandom(3_000_000)


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    async with running(await make_site(database, tmp_path / "cache")) as found:
        yield found


async def test_what_was_put_is_got_with_its_digest(site: Site) -> None:
    claims, stored = await site.store("/exp/f", BODY)
    status, body, headers = await site.get(site.get_url(claims.replica_id, BODY))
    assert (status, body) == (200, BODY)
    assert headers["Digest"] == f"adler32={stored['adler32']}"
    assert headers["ETag"] == f'"{stored["adler32"]}"'
    assert headers["Content-Length"] == str(len(BODY))


async def test_a_connection_serves_many_gets_one_after_the_other(site: Site) -> None:
    claims, _ = await site.store("/exp/f", BODY)
    url = site.get_url(claims.replica_id, BODY)
    for _ in range(5):
        assert (await site.get(url))[1] == BODY
    assert (await site.get(url, Range="bytes=5-9"))[1] == BODY[5:10]


async def test_ranges_conditions_and_head(site: Site) -> None:
    claims, stored = await site.store("/exp/f", BODY)
    url = site.get_url(claims.replica_id, BODY)
    status, body, headers = await site.get(url, Range="bytes=1000000-")
    assert (status, body) == (206, BODY[1_000_000:])
    assert headers["Content-Range"] == f"bytes 1000000-2999999/{len(BODY)}"
    status, body, headers = await site.get(url, Range="bytes=3000000-")
    assert status == 416
    assert b"bad_range" in body
    status, body, _ = await site.get(url, **{"If-None-Match": f'"{stored["adler32"]}"'})
    assert (status, body) == (304, b"")
    assert site.http is not None
    async with site.http.head(url) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(BODY)))


async def test_a_slow_reader_gets_everything(site: Site) -> None:
    claims, _ = await site.store("/exp/f", BODY)
    url = site.get_url(claims.replica_id, BODY)
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
    writer.write(f"GET {url.removeprefix(site.url)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    received = bytearray()
    while chunk := await reader.read(100_000):
        received += chunk
        await asyncio.sleep(0)
    writer.close()
    assert received.endswith(BODY)


async def test_a_client_that_goes_away_is_no_trouble(site: Site) -> None:
    claims, _ = await site.store("/exp/f", BODY)
    url = site.get_url(claims.replica_id, BODY)
    assert site.http is not None
    for _ in range(3):
        async with site.http.get(url) as answer:
            await answer.content.read(10)
            answer.close()
    assert (await site.get(url))[1] == BODY


async def test_an_absent_unsafe_replica_is_503_never_404_and_lost(site: Site) -> None:
    claims, stored = await site.store("/exp/f", BODY)
    site.path_of(claims.replica_id).unlink()
    status, body, headers = await site.get(site.get_url(claims.replica_id, BODY))
    assert status == 503
    assert b"not_online" in body
    assert "Retry-After" in headers

    async def lost() -> bool:
        async with site.database.connection() as connection:
            rows = await replicas.replicas_by_id(connection, "cache", [claims.replica_id])
        return [row.state for row in rows] == ["lost"]

    await eventually(lost)
    assert stored["file_id"] == (await site.file_at("/exp/f")).file_id


async def test_an_absent_safe_replica_can_be_recalled_again(site: Site) -> None:
    claims, stored = await site.store("/exp/f", BODY)
    async with site.database.transaction() as connection:
        await make_copies(connection, [stored["file_id"]], "E00001")
    site.path_of(claims.replica_id).unlink()
    assert (await site.get(site.get_url(claims.replica_id, BODY)))[0] == 503

    async def forgotten() -> bool:
        async with site.database.connection() as connection:
            return not await replicas.replicas_by_id(connection, "cache", [claims.replica_id])

    await eventually(forgotten)
    assert await site.space() == (0, 0)


async def test_a_replica_of_the_wrong_size_is_never_served(site: Site) -> None:
    claims, _ = await site.store("/exp/f", BODY)
    with site.path_of(claims.replica_id).open("ab") as file:
        file.write(b"x")
    status, body, _ = await site.get(site.get_url(claims.replica_id, BODY))
    assert status == 503
    assert b"damaged" in body
    assert len(site.files_below("quarantine")) == 1


async def test_a_url_of_a_clock_that_was_set_back_reads(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replicas.heartbeat_server

    async def ahead(connection: AsyncConnection, name: str, **told: int | None) -> Any:
        beat = await before(connection, name, **told)
        return beat and dataclasses.replace(beat, now_epoch_seconds=beat.now_epoch_seconds + 3600)

    monkeypatch.setattr(replicas, "heartbeat_server", ahead)
    async with running(await make_site(database, tmp_path / "cache")) as site:
        async with database.connection() as connection:
            now = await leases.clock(connection)
        claims = await site.admit("/exp/f", size=5)
        # Every URL of the door's has expired by this cache server's clock.
        assert (await site.put(claims, b"hello"))[0] == 201
        assert (await site.get(site.get_url(claims.replica_id, b"hello", expires_at=now + 60)))[0] == 200


async def test_an_expired_url_does_not_read(site: Site) -> None:
    claims, _ = await site.store("/exp/f", BODY)
    assert (await site.get(site.get_url(claims.replica_id, BODY, expires_at=1.0)))[0] == 403
