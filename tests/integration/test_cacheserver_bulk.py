"""Promises of the streams between movers and a cache server."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from catalog import replicas
from catalog.database import Database
from catalog.errors import CapstanError
from catalog.replicas import Recalled
from client import bulkframes
from client.bulkframes import Frame, Kind
from client.takeover import PROTOCOL
from tests.framereader import FrameReader
from tests.integration.cache_site import Site, make_site, running
from tests.store.media import make_files
from tests.waiting import eventually


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    async with running(await make_site(database, tmp_path / "cache")) as found:
        yield found


async def reserved(site: Site, sizes: Sequence[int], *, epoch: int = 1) -> list[tuple[int, int]]:
    """(reservation id, file id) for files of these sizes."""
    found = []
    async with site.database.transaction() as connection:
        for size in sizes:
            [file] = await make_files(connection, 1, size=size, on_disk=False)
            [one] = await replicas.reserve_recalls(connection, [(file, size)], epoch, 60)
            found.append((one.id, file))
    return found


def framed(id: int, body: bytes, *, chunk: int = 1 << 20, adler32: int | None = None) -> bytes:
    parts = [bulkframes.begin(id, len(body))]
    for start in range(0, len(body), chunk):
        piece = body[start : start + chunk]
        parts += [bulkframes.data_header(id, len(piece)), piece]
    parts.append(bulkframes.end(id, zlib.adler32(body) if adler32 is None else adler32))
    return b"".join(parts)


class Stream:
    """A connection that the cache server has taken over, as a mover has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.frames = FrameReader(reader)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


async def opened(site: Site, direction: str, *, epoch: int = 1) -> Stream:
    reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
    target = site.bulk_url(direction, epoch).removeprefix(site.url)
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return Stream(reader, writer)


async def write(site: Site, body: bytes | AsyncIterator[bytes], *, epoch: int = 1) -> list[Frame]:
    stream = await opened(site, "write", epoch=epoch)

    async def send() -> None:
        if isinstance(body, bytes):
            await stream.send(body)
        else:
            async for part in body:
                await stream.send(part)

    sending = asyncio.create_task(send())
    frames: list[Frame] = []
    while not frames or frames[-1].kind is not Kind.BYE:
        frame = await stream.frames.next()
        assert frame is not None, frames
        frames.append(frame)
    await sending
    stream.close()
    return frames


async def read(site: Site, ids: Sequence[int]) -> dict[int, bytes | CapstanError]:
    found: dict[int, bytes | CapstanError] = {}
    stream = await opened(site, "read")
    await stream.send(b"".join(map(bulkframes.want, ids)) + bulkframes.bye())
    parts = bytearray()
    while (frame := await stream.frames.next()) is not None and frame.kind is not Kind.BYE:
        match frame.kind:
            case Kind.DATA_BEGIN:
                parts, size = bytearray(), frame.length
            case Kind.DATA:
                parts += frame.payload
            case Kind.DATA_END:
                assert len(parts) == size
                assert frame.adler32 == zlib.adler32(parts)
                found[frame.id] = bytes(parts)
            case Kind.ERROR:
                found[frame.id] = frame.error
    stream.close()
    return found


async def test_files_arrive_are_acknowledged_and_can_be_read_back(site: Site) -> None:
    bodies = [os.urandom(size) for size in (0, 10, 10_240, 3_000_000)]
    places = await reserved(site, [len(body) for body in bodies])
    stream = b"".join(framed(id, body) for (id, _), body in zip(places, bodies, strict=True)) + bulkframes.bye()
    frames = await write(site, stream)
    assert [frame.kind for frame in frames] == [Kind.ACK] * 4 + [Kind.BYE]
    assert [frame.adler32 for frame in frames[:4]] == [zlib.adler32(body) for body in bodies]
    async with site.database.transaction() as connection:
        arrivals = [Recalled(reservation_id=id, file_id=file) for id, file in places]
        assert len(await replicas.commit_recalled(connection, arrivals)) == 4
    assert await read(site, [id for id, _ in places]) == dict(zip([id for id, _ in places], bodies, strict=True))
    assert await site.space() == (sum(map(len, bodies)), 0)


async def test_a_recalled_file_is_renamed_before_it_is_acknowledged_without_fsync(site: Site) -> None:
    [(id, _)] = await reserved(site, [5])
    site.trace.clear()
    frames = await write(site, framed(id, b"hello") + bulkframes.bye())
    assert frames[0].kind is Kind.ACK
    assert [step for step in site.trace if step != "unlink"] == ["write", "rename"]


async def test_answers_come_while_the_stream_is_open(site: Site) -> None:
    places = await reserved(site, [5, 5])
    stream = await opened(site, "write")
    for id, _ in places:
        await stream.send(framed(id, b"hello"))
        async with asyncio.timeout(5):
            frame = await stream.frames.next()
        assert frame is not None
        assert (frame.kind, frame.id) == (Kind.ACK, id)
    stream.close()


async def test_one_bad_file_does_not_stop_the_others(site: Site) -> None:
    places = [id for id, _ in await reserved(site, [5, 5, 5, 5, 5, 5])]
    other_epoch = (await reserved(site, [5], epoch=2))[0][0]
    stream = [
        framed(places[0], b"hello"),
        framed(places[1], b"larger than reserved"),
        framed(places[2], b"hello", adler32=1),
        framed(other_epoch, b"hello"),
        framed(999, b"hello"),
        bulkframes.begin(places[3], 5) + bulkframes.data_header(places[3], 2) + b"he" + bulkframes.end(places[3], 1),
        bulkframes.begin(places[4], 5)
        + bulkframes.data_header(places[4], 2)
        + b"he"
        + bulkframes.abort(places[4], "x"),
        framed(places[5], b"hello"),
        bulkframes.bye(),
    ]
    frames = await write(site, b"".join(stream))
    assert [(frame.kind, frame.id) for frame in frames] == [
        (Kind.ACK, places[0]),
        (Kind.ERROR, places[1]),
        (Kind.ERROR, places[2]),
        (Kind.ERROR, other_epoch),
        (Kind.ERROR, 999),
        (Kind.ERROR, places[3]),
        (Kind.ACK, places[5]),
        (Kind.BYE, 0),
    ]
    assert [frame.error.code for frame in frames if frame.kind is Kind.ERROR] == [
        "bad_request", "bad_request", "wrong_state", "wrong_state", "short_body",
    ]  # fmt: skip
    assert len(site.files_below("replicas")) == 2
    assert site.files_below("incoming") == []


async def test_reservations_made_while_the_stream_is_open_are_learnt(site: Site) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            [(id, _)] = await reserved(site, [5])
            yield framed(id, b"hello")
        yield bulkframes.bye()

    assert [frame.kind for frame in await write(site, stream())] == [Kind.ACK] * 3 + [Kind.BYE]


async def test_a_mover_that_dies_leaves_nothing_half(site: Site) -> None:
    [(id, _)] = await reserved(site, [100])
    stream = await opened(site, "write")
    await stream.send(bulkframes.begin(id, 100) + bulkframes.data_header(id, 50) + bytes(50))

    async def receiving() -> bool:
        return bool(site.files_below("incoming"))

    await eventually(receiving)
    stream.close()

    async def clean() -> bool:
        return not site.files_below("incoming")

    await eventually(clean)
    assert site.files_below("replicas") == []


async def test_a_missing_replica_is_an_error_for_it_alone(site: Site) -> None:
    claims, _ = await site.store("/exp/f", b"hello")
    found = await read(site, [4711, claims.replica_id])
    assert found[claims.replica_id] == b"hello"
    missing = found[4711]
    assert isinstance(missing, CapstanError)
    assert missing.code == "not_online"


async def test_thousands_of_small_files_pass_in_one_request(site: Site) -> None:
    count, body = 2_000, os.urandom(10_240)
    async with site.database.transaction() as connection:
        files = await make_files(connection, count, size=len(body), on_disk=False)
        places = await replicas.reserve_recalls(connection, [(file, len(body)) for file in files], 1, 60)
    stream = b"".join(framed(one.id, body) for one in places) + bulkframes.bye()
    frames = await write(site, stream)
    assert sum(frame.kind is Kind.ACK for frame in frames) == count
    found = await read(site, [one.id for one in places])
    assert all(data == body for data in found.values())
    assert len(found) == count


async def test_a_request_that_is_no_movers_is_told_so(site: Site) -> None:
    assert site.http is not None
    async with site.http.post(site.bulk_url("write"), data=b"") as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["code"] == "bad_request"


async def test_a_stop_ends_streams_that_wait_for_their_mover(database: Database, tmp_path: Path) -> None:
    async with running(await make_site(database, tmp_path / "cache")) as site:
        streams = [await opened(site, direction) for direction in ("write", "read")]
    for stream in streams:
        async with asyncio.timeout(5):
            assert await stream.frames.next() is None
        stream.close()
