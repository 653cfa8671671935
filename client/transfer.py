"""One file, there and back: checksums on the way, resume, and nothing left behind that is not the whole file.

What is sent is either the local file as it was from the first byte to the last, or refused: see `FileBody`. What
arrives lies under a `.part` name until its size and checksum are right. Which file, and whether it is on disk, is
decided elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from catalog.errors import CapstanError, Damaged, DigestMismatch, DoorUnreachable
from client.checksums import Adler32, of_bytes
from client.messages import Entry, Stored
from client.part import Part, place_file, refuse_special
from client.transport import Call, MaybeDone, NotADoor, Transport

T = TypeVar("T")

#: up to this a file is read at once: its digest is known before it is sent, and the server refuses what differs
WHOLE_BYTES_MAX = 8 << 20
CHUNK_BYTES = 1 << 20
ROUNDS_MAX = 20

Progress = Callable[[int], None]


def no_progress(_: int) -> None:
    """For who does not watch."""


class ChangedWhileRead(CapstanError):
    """{path} changed while it was read; nothing was stored. Send it again when it is no longer written to."""

    code = "changed_while_read"


class ChangedMeanwhile(CapstanError):
    """{path} was replaced while it was fetched; get it again."""

    code = "changed_meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What a PUT came to. `already`: the same content was there, and nothing was sent or kept twice."""

    stored: Stored
    already: bool


Fingerprint = tuple[int, int, int, int]


def fingerprint(status: os.stat_result) -> Fingerprint:
    """What changes when a file is written to or replaced."""
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


@dataclass(slots=True, kw_only=True)
class FileBody:
    """A local file as the body of a PUT.

    The last chunk is held back until the file is seen to be as it was before the first: a file that changed makes
    the body too short, the server stores nothing, and there is nothing to take back. `failure` keeps why, for aiohttp
    only says that the body failed.
    """

    path: Path
    before: Fingerprint
    progress: Progress
    adler32: str = ""
    sent_bytes: int = 0
    failure: Exception | None = field(default=None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, a chunk behind the reading."""
        self.failure = None
        summer = Adler32()
        self.progress(-self.sent_bytes)
        self.sent_bytes = 0
        try:
            with await asyncio.to_thread(self.path.open, "rb", 0) as file:
                held = b""
                while chunk := await asyncio.to_thread(_read_summed, file, summer):
                    if held:
                        yield held
                        self._count(len(held))
                    held = chunk
                self.adler32 = summer.hexdigest()
                await asyncio.to_thread(self._check_unchanged, file.fileno())
                if held:
                    yield held
                    self._count(len(held))
        except (OSError, CapstanError) as exc:
            self.failure = exc
            raise

    def _count(self, length: int) -> None:
        self.sent_bytes += length
        self.progress(length)

    def _check_unchanged(self, descriptor: int) -> None:
        if fingerprint(os.fstat(descriptor)) != self.before or fingerprint(self.path.stat()) != self.before:
            raise ChangedWhileRead(path=str(self.path))


def _read_summed(file: object, summer: Adler32) -> bytes:
    chunk: bytes = file.read(CHUNK_BYTES)  # type: ignore[attr-defined]  # an unbuffered file; io has no name for it
    summer.update(chunk)
    return chunk


async def send_file(
    transport: Transport, local: Path, remote: str, *, headers: dict[str, str], progress: Progress = no_progress
) -> Put:
    """PUT `local` at `remote`. Raises ChangedWhileRead, DigestMismatch, OSError, and what the servers say.

    mtime and mode go along. A lost answer is asked for again: the same content is then "already" there.
    """
    status = await asyncio.to_thread(local.stat)
    body = FileBody(path=local, before=fingerprint(status), progress=progress)
    headers = {
        **headers,
        "Capstan-Redirect": "1",
        "Capstan-Mtime": str(status.st_mtime_ns),
        "Capstan-Mode": f"{stat.S_IMODE(status.st_mode):o}",
        "Content-Type": "application/octet-stream",
    }
    whole = b""
    if status.st_size <= WHOLE_BYTES_MAX:
        whole = await asyncio.to_thread(_read_whole, body)
        headers["Digest"] = f"adler32={body.adler32}"
    call = Call(
        method="PUT",
        path=remote,
        headers=headers,
        data=body.chunks if status.st_size > WHOLE_BYTES_MAX else lambda: whole,
        length=status.st_size,
        follow=True,
    )
    result = await _moving(transport, lambda: _send_once(transport, call, body), lambda: body.sent_bytes)
    if status.st_size <= WHOLE_BYTES_MAX:
        progress(status.st_size)
    await _check_stored(transport, result, body, remote)
    return result


def _read_whole(body: FileBody) -> bytes:
    with body.path.open("rb", buffering=0) as file:
        content = file.readall()
        body.adler32 = of_bytes(content)
        body._check_unchanged(file.fileno())
    if len(content) != body.before[0]:
        # It grew for a moment, or says no size, as the files of /proc.
        raise ChangedWhileRead(path=str(body.path))
    return content


async def _send_once(transport: Transport, call: Call, body: FileBody) -> Put:
    try:
        async with await transport.send(call) as response:
            raw = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as exc:
        if body.failure is not None:
            raise body.failure from exc
        raise MaybeDone(url=call.path, why=str(exc)) from exc
    except CapstanError as exc:
        # The servers call a body that broke off short; the reason is here.
        if body.failure is not None:
            raise body.failure from exc
        raise
    try:
        return Put(stored=msgspec.json.decode(raw, type=Stored), already=status == 200)
    except msgspec.DecodeError as exc:
        raise NotADoor(url=str(response.url.origin()), what=f"PUT {call.path}", why=str(exc)) from exc


async def _check_stored(transport: Transport, result: Put, body: FileBody, remote: str) -> None:
    if not body.adler32 or result.stored.adler32 == body.adler32:
        return
    if not result.already:
        await transport.call("DELETE", remote, type(None))
    raise DigestMismatch(algorithm="adler32", actual=result.stored.adler32, expected=body.adler32)


async def _moving(transport: Transport, once: Callable[[], Awaitable[T]], moved: Callable[[], int]) -> T:
    """`once`, again after a broken connection for as long as each round moves bytes."""
    for _ in range(ROUNDS_MAX):
        before = moved()
        try:
            return await transport.retry(once)
        except DoorUnreachable:
            if moved() <= before:
                raise
    return await transport.retry(once)


# ---- there -> here ---------------------------------------------------------------------------------------------------


async def receive_file(transport: Transport, entry: Entry, local: Path, *, progress: Progress = no_progress) -> None:
    """GET `entry` to `local`: resumed from its part, verified, mtime and mode set, then renamed into place.

    Raises OnTape or NotOnline when it is not on disk, Damaged when the checksum is wrong twice, NotRegular.
    """
    await asyncio.to_thread(refuse_special, local)
    part = await asyncio.to_thread(Part.of, entry, local, progress)
    try:
        await _fill(transport, entry, part)
        await asyncio.to_thread(place_file, part.path, local, entry)
    except BaseException:
        part.leave()
        raise
    finally:
        part.close()


async def _fill(transport: Transport, entry: Entry, part: Part) -> None:
    """Everything that is missing, and the whole again when what was resumed was not its beginning."""
    resumed = part.length > 0
    while True:
        if entry.size:
            await _moving(transport, lambda: _receive_once(transport, entry, part), lambda: part.length)
        if part.length == entry.size and part.summer.hexdigest() == entry.adler32:
            return
        actual = part.summer.hexdigest()
        await asyncio.to_thread(part.restart)
        if not resumed:
            raise Damaged(
                what=entry.path, why=f"it arrived with adler32 {actual}, and the catalog says {entry.adler32}"
            )
        resumed = False


async def _receive_once(transport: Transport, entry: Entry, part: Part) -> None:
    if part.length == entry.size:
        return
    headers = {"Capstan-Redirect": "1"}
    if part.length:
        headers |= {"Range": f"bytes={part.length}-", "If-Range": f'"{entry.adler32}"'}
    call = Call(method="GET", path=entry.path, headers=headers, follow=True)
    async with await transport.send(call) as response:
        if part.length and response.status != 206:
            await asyncio.to_thread(part.restart)
        tag = response.headers.get("ETag", "").strip('"')
        length = response.content_length
        if (tag and tag != entry.adler32) or (length is not None and part.length + length != entry.size):
            raise ChangedMeanwhile(path=entry.path)
        try:
            await _collect(response, part)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise MaybeDone(url=str(response.url.origin()), why=str(exc) or "silence") from exc
    if part.length < entry.size:
        raise MaybeDone(url=entry.path, why=f"{part.length} of {entry.size} bytes arrived")


async def _collect(response: aiohttp.ClientResponse, part: Part) -> None:
    """The body to the part, in steps of about CHUNK_BYTES, each in a thread."""
    chunks: list[bytes] = []
    waiting = 0
    try:
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            waiting += len(chunk)
            if waiting >= CHUNK_BYTES:
                ready, chunks, waiting = chunks, [], 0
                await asyncio.to_thread(part.append, ready)
    finally:
        # What arrived before a break or an interrupt need not come again.
        if chunks:
            part.append(chunks)
