"""For tests of the mover: a cache server of a few lines, and a mover run by a thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from catalog.errors import Damaged
from catalog.model import FileRecord
from client import bulkframes
from client.bulkframes import Kind
from client.takeover import nothing_more, taken_over
from tapeserver.format.objects import adler32, adler32_text
from tapeserver.frames import (
    Found,
    FromMover,
    Idle,
    Load,
    Loaded,
    ReadDone,
    ReadFailed,
    ReadItem,
    Stop,
    ToMover,
    Unloaded,
    Write,
    WriteItem,
    Written,
    WrittenItem,
)  # fmt: skip
from tapeserver.framing import _from_mover, encode
from tapeserver.library.virtual import VirtualLibrary
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.process import serve_mount
from tests.framereader import FrameReader

ROOT = Path(__file__).parents[3]
CATALOG_ID = "0f8c1d2e"
PATIENCE_SECONDS = 10


@asynccontextmanager
async def frames_of(request: web.Request) -> AsyncIterator[tuple[FrameReader, Callable[[bytes], Awaitable[None]]]]:
    """The frames of a connection that is taken over, and how to answer; leaving it ends the connection."""
    async with taken_over(request, idle_seconds_max=PATIENCE_SECONDS) as channel:
        reader, writer = await asyncio.open_connection(sock=channel.socket.dup())

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            yield FrameReader(reader), send
        finally:
            writer.close()


class TinyCache:
    """Serves replicas from memory and keeps what is written; faults by replica or reservation."""

    def __init__(self) -> None:
        self.replicas: dict[int, bytes] = {}
        self.stored: dict[int, bytes] = {}
        self.lies: dict[int, bytes] = {}  # sent in place of the replica
        self.refuses: set[int] = set()
        self.breaks_at: set[int] = set()
        self.hold = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._loop.call_soon(self.hold.set)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = self.run(self._start())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_SECONDS)

    async def _start(self) -> str:
        app = web.Application()
        app.add_routes([web.post("/bulk/write", self._write), web.post("/bulk/read", self._read)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def close(self) -> None:
        self.run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def set_hold(self, held: bool) -> None:
        self._loop.call_soon_threadsafe(self.hold.clear if held else self.hold.set)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        async with frames_of(request) as (reader, send):
            data = bytearray()
            while (frame := await reader.next()) is not None:
                match frame.kind:
                    case Kind.DATA_BEGIN:
                        data = bytearray()
                    case Kind.DATA:
                        data += frame.payload
                        if frame.id in self.breaks_at:
                            break
                    case Kind.DATA_END if frame.id in self.refuses:
                        await send(bulkframes.error(frame.id, Damaged(what="it", why="refused")))
                    case Kind.DATA_END:
                        self.stored[frame.id] = bytes(data)
                        await send(bulkframes.ack(frame.id, adler32(data)))
        return nothing_more()

    async def _read(self, request: web.Request) -> web.StreamResponse:
        async with frames_of(request) as (reader, send):
            while (frame := await reader.next()) is not None and frame.kind is Kind.WANT:
                await self.hold.wait()
                data = self.lies.get(frame.id, self.replicas.get(frame.id))
                if data is None:
                    await send(bulkframes.error(frame.id, Damaged(what="replica", why="it is absent")))
                    continue
                await send(bulkframes.begin(frame.id, len(data)))
                for at in range(0, len(data), 100_000):
                    part = data[at : at + 100_000]
                    await send(bulkframes.data_header(frame.id, len(part)) + part)
                    if frame.id in self.breaks_at:
                        return nothing_more()
                await send(bulkframes.end(frame.id, adler32(data)))
        return nothing_more()

    # -- items that go with it --

    def write_item(self, number: int, data: bytes, *, bundle: int = 0, **changes: Any) -> WriteItem:
        """A file whose archive, replica and file ids are all `number`."""
        self.replicas[number] = data
        return WriteItem(
            archive_id=number, copy_number=1, replica_id=number, record=record(number, data) if not changes else
            FileRecord(**{**_fields(number, data), **changes}), cache_url=f"{self.url}/bulk/read?sig=x", pool="p",
            bundle=bundle,
        )  # fmt: skip

    def read_item(self, written: WrittenItem, data: bytes, **changes: Any) -> ReadItem:
        """The recall of what was written, into the reservation 1000 + number."""
        number = written.archive_id
        fields: dict[str, Any] = {
            "file_id": number,
            "reservation_id": 1000 + number,
            "size": len(data),
            "adler32": adler32_text(adler32(data)),
            "generation": 1,
            "tape_file": written.tape_file,
            "first_block": written.first_block,
            "byte_offset": written.byte_offset,
            "path": f"/exp/f{number}",
            "cache_url": f"{self.url}/bulk/write?sig=x",
        }
        return ReadItem(**{**fields, **changes})


def _fields(number: int, data: bytes) -> dict[str, Any]:
    return {
        "file_id": number, "path": f"/exp/f{number}", "size": len(data), "adler32": adler32_text(adler32(data)),
        "mtime_ns": 1_700_000_000_000_000_000, "mode": 0o644, "owner": "alice", "group": "hall", "storage_class": "one",
    }  # fmt: skip


def record(number: int, data: bytes) -> FileRecord:
    return FileRecord(**_fields(number, data))


class MoverInTest:
    """A mover whose drive's thread is a thread of the test; messages as the session would send them."""

    def __init__(self, library_path: Path, drive: str = "east-0", volume: str = "A00001") -> None:
        self._spec = {"kind": "virtual", "name": "east", "path": str(library_path)}
        self._drive, self._volume = drive, volume
        self._session, mine = socket.socketpair()
        self._session.settimeout(PATIENCE_SECONDS)
        self._mine = mine
        self.plan, self.outbox = Plan(), Outbox(mine)
        self.found: list[Found] = []  # what the last `load` told of before Loaded
        self._thread: threading.Thread | None = None

    def send(self, message: ToMover) -> None:
        for answer in self.plan.apply(message):
            self.outbox.send(answer)

    def load(self, epoch: int, purpose: str, **options: Any) -> FromMover:
        fields: dict[str, Any] = {
            "epoch": epoch, "library_spec": self._spec, "drive": self._drive, "volume": self._volume,
            "generation": 1, "catalog_id": CATALOG_ID, "purpose": purpose, "block_size": 65_536,
        }  # fmt: skip
        self.send(Load(**{**fields, **options}))
        load = self.plan.wait_for_load()
        self._thread = threading.Thread(target=serve_mount, args=(load, self.plan, self.outbox), daemon=True)
        self._thread.start()
        self.found = []
        while isinstance(message := self.next(), Found):
            self.found.append(message)
        return message

    def next(self) -> FromMover:
        (length,) = struct.unpack("<I", self._receive(4))
        return _from_mover.decode(self._receive(length))

    def until(self, kind: type[FromMover]) -> list[Any]:
        """All messages up to the first of this kind, which is the last one."""
        seen: list[Any] = [self.next()]
        while not isinstance(seen[-1], kind):
            seen.append(self.next())
        return seen

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.send(Stop())
        if self._thread:
            self._thread.join(PATIENCE_SECONDS)
        self._session.close()
        self._mine.close()

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._session.recv(count - len(data))
            assert part, "the mover is gone"
            data += part
        return data


class MoverProcess:
    """A real mover process, as a session starts it."""

    def __init__(self) -> None:
        self.session, other = socket.socketpair()
        self.session.settimeout(PATIENCE_SECONDS)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tapeserver.mover", "--fd", str(other.fileno())],
                pass_fds=[other.fileno()], cwd=ROOT,
            )  # fmt: skip

    def send(self, message: ToMover) -> None:
        self.session.sendall(encode(message))

    def next(self) -> FromMover:
        (length,) = struct.unpack("<I", self._receive(4))
        return _from_mover.decode(self._receive(length))

    def ask(self, message: ToMover) -> FromMover:
        self.send(message)
        return self.next()

    def close(self) -> None:
        self.session.close()
        self.process.kill()
        self.process.wait()

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.session.recv(count - len(data))
            assert part, "the mover is gone"
            data += part
        return data


SIZES = {11: 0, 12: 1, 13: 10 * 1024, 14: 64 * 1024, 15: 700_001}


def mount(east: Path, epoch: int) -> None:
    VirtualLibrary(east, "east").mount("A00001", "east-0", epoch)


def stop(mover: MoverInTest) -> list[Any]:
    mover.send(Stop(reason="test"))
    return mover.until(Unloaded)


def data_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def labelled(mover: MoverInTest, east: Path) -> None:
    mount(east, 1)
    assert isinstance(mover.load(1, "label"), Loaded)
    stop(mover)


def write_files(mover: MoverInTest, east: Path, cache: TinyCache, sizes: dict[int, int], epoch: int = 2) -> Written:
    """One archive mount on a labelled volume that ends at the second block; leaves the volume in the drive."""
    mount(east, epoch)
    assert isinstance(mover.load(epoch, "archive", known_end_block=2), Loaded)
    mover.send(Write(items=[cache.write_item(number, data_of(number, size)) for number, size in sizes.items()]))
    seen = mover.until(Idle)
    stop(mover)
    batches = [message for message in seen if isinstance(message, Written)]
    last = batches[-1]
    items = [item for batch in batches for item in batch.items]
    return Written(
        batch=last.batch, items=items, tape_files=last.tape_files, end_block=last.end_block, written_bytes=0, dead=[]
    )


def archiving(mover: MoverInTest, east: Path, **options: Any) -> None:
    labelled(mover, east)
    mount(east, 2)
    assert isinstance(mover.load(2, "archive", known_end_block=2, **options), Loaded)


def items_of(cache: TinyCache, written: Written, **changes: Any) -> list[Any]:
    return [
        cache.read_item(item, data_of(item.archive_id, SIZES[item.archive_id]), **changes) for item in written.items
    ]


def done(seen: list[Any]) -> set[int]:
    return {file for message in seen if isinstance(message, ReadDone) for file, _ in message.files}


def failed_with(seen: list[Any]) -> dict[int, tuple[str, str]]:
    return {message.file_id: (message.code, message.retry) for message in seen if isinstance(message, ReadFailed)}
