"""A stream of files from one cache server, cut into the blocks that go to tape.

A thread asks for the files in the order in which they were added, a bounded number ahead, and receives the bytes
right into block buffers behind the archive's header, with the checksum on the way. The thread of the drive takes
messages: for each file either Begun, Blocks and Ended, or Refused. A file of one block is Begun only when it is there
whole and right.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.errors import CapstanError, Damaged
from client import bulkframes
from client.bulkframes import Kind
from tapeserver import paxformat
from tapeserver.frames import WriteItem
from tapeserver.mover.bulkhttp import BulkRequest, CacheStreamBroken
from tapeserver.tapeformat import ADLER32_START, adler32, adler32_text

BUFFER_BYTES_MAX = 32 * 1024 * 1024
FILES_AHEAD_MAX = 64
STALL_SECONDS_MAX = 120.0
JOIN_SECONDS_MAX = 10.0
GOODBYE_SECONDS_MAX = 1.0


class ReplicaDamaged(Damaged):
    """{what} is damaged: {why}."""

    code = "replica_damaged"


@dataclass(frozen=True, slots=True)
class Begun:
    """The first block of the file is there."""

    item: WriteItem


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the tape file; give the buffer back when it was written."""

    buffer: bytearray
    length: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The file is there whole and its checksum right, or it is not."""

    error: CapstanError | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of the file will come."""

    item: WriteItem
    error: CapstanError


Message = Begun | Block | Ended | Refused


class CacheFetcher:
    """One bulk read. The methods are for the one thread that empties it."""

    def __init__(self, url: str, block_size: int, *, stall_seconds_max: float = STALL_SECONDS_MAX) -> None:
        """Raises CacheStreamBroken."""
        self._request = BulkRequest(url)
        self._block_size = block_size
        self._stall_seconds_max = stall_seconds_max
        self._added: queue.SimpleQueue[tuple[WriteItem, bytes] | None] = queue.SimpleQueue()
        self._wanted: deque[tuple[WriteItem, bytes]] = deque()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._buffers_to_make = max(4, BUFFER_BYTES_MAX // block_size)
        self._active_at = time.monotonic()
        self._closed = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name=f"fetch-{self._request.place}", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether it can be given more; to be asked while it has nothing to fetch. A restarted server ended it."""
        return not self._broken and not self._request.gone()

    def add(self, item: WriteItem, header: bytes) -> None:
        """Fetch this file after the others; `header` is its archive header, put before its bytes."""
        self._added.put((item, header))

    def get(self, timeout_seconds: float) -> Message | None:
        """The next message, None when none comes in time."""
        with contextlib.suppress(queue.Empty):
            return self._messages.get(timeout=timeout_seconds)
        if self._wanted and time.monotonic() - self._active_at > self._stall_seconds_max:
            self._request.shut_down()  # the thread reports the files that were wanted
        return None

    def give_back(self, buffer: bytearray) -> None:
        self._buffers.put(buffer)

    def close(self) -> None:
        """End at once; files that were added are not reported any more."""
        idle = not self._wanted and self._added.empty()
        self._closed = True
        self._added.put(None)
        if idle:
            self._thread.join(GOODBYE_SECONDS_MAX)
        self._request.shut_down()
        self._thread.join(JOIN_SECONDS_MAX)
        if not self._thread.is_alive():
            self._request.close()

    def _run(self) -> None:
        error: CapstanError
        try:
            if self._want_more():
                self._response = self._request.receive_head()
                while self._fetch_next() and self._want_more():
                    continue
            if not self._wanted:
                self._request.send([bulkframes.bye()])
                self._request.end_body()
            return
        except CapstanError as exc:
            error = exc
        except (OSError, ValueError, EOFError, http.client.HTTPException) as exc:
            error = CacheStreamBroken(place=self._request.place, why=repr(exc))
        self._break(error)

    def _break(self, error: CapstanError) -> None:
        """Refuse everything that was added, and whatever is added until the drive's thread asks for `usable`."""
        self._broken = True
        self._request.shut_down()
        while not self._closed:
            while self._wanted:
                self._messages.put(Refused(self._wanted.popleft()[0], error))
            added = self._added.get()
            if added is None:
                return
            self._wanted.append(added)

    def _want_more(self) -> bool:
        """Ask for files until enough are on their way; waits when there is none. False when closed."""
        frames = []
        while len(self._wanted) < FILES_AHEAD_MAX:
            if self._wanted and self._added.empty():
                break
            added = self._added.get()
            if added is None:
                return False
            self._wanted.append(added)
            frames.append(bulkframes.want(added[0].replica_id))
            self._active_at = time.monotonic()
        if frames:
            self._request.send([b"".join(frames)])
        return not self._closed

    def _fetch_next(self) -> bool:
        item, header = self._wanted[0]
        file = _IncomingFile(self, item, header)
        try:
            error = self._receive(item, file)
        except BaseException as exc:
            if file.begun:
                self._wanted.popleft()
                broken = CacheStreamBroken(place=self._request.place, why=repr(exc))
                file.end(exc if isinstance(exc, CapstanError) else broken)
            raise
        self._wanted.popleft()
        file.end(error)
        return not self._closed

    def _receive(self, item: WriteItem, file: _IncomingFile) -> CapstanError | None:
        """One file from its first frame to its last; returns what is wrong with the file. Raises for the stream."""
        what = f"replica {item.replica_id} of file {item.record.file_id}"
        received, checksum = 0, ADLER32_START
        for kind, length in self._frames_of(item):
            if kind is Kind.ERROR:
                return self._error(length)
            if kind is Kind.DATA_BEGIN:
                if length != item.record.size:
                    file.error = ReplicaDamaged(what=what, why=f"it has {length} bytes, not {item.record.size}")
            elif kind is Kind.DATA:
                received += length
                if received > item.record.size or file.error is not None:
                    file.error = file.error or ReplicaDamaged(what=what, why="it grew while it was read")
                    self._skip(length)
                    continue
                for part in file.parts(length):
                    self._read_exactly(part)
                    checksum = adler32(part, checksum)
            else:
                told = int.from_bytes(self._read_exactly(memoryview(bytearray(4))), "big")
                if file.error is not None:
                    return file.error
                if received != item.record.size:
                    return ReplicaDamaged(what=what, why=f"only {received} of {item.record.size} bytes came")
                if {told, checksum} != {int(item.record.adler32, 16)}:
                    why = f"adler32 {adler32_text(checksum)} was read, {item.record.adler32} is recorded"
                    return ReplicaDamaged(what=what, why=why)
                return None
        raise AssertionError("a file ends with DATA_END or ERROR")

    def _frames_of(self, item: WriteItem) -> Iterator[tuple[Kind, int]]:
        allowed = {Kind.DATA_BEGIN, Kind.ERROR}
        while True:
            kind, number, length = bulkframes.parse_header(
                self._read_exactly(memoryview(bytearray(bulkframes.HEADER_BYTES)))
            )
            if kind not in allowed or number != item.replica_id:
                raise CacheStreamBroken(place=self._request.place, why=f"{kind.name} of {number} came out of turn")
            yield kind, length
            if kind in (Kind.DATA_END, Kind.ERROR):
                return
            allowed = {Kind.DATA, Kind.DATA_END, Kind.ERROR}

    def _error(self, length: int) -> CapstanError:
        payload = bytes(self._read_exactly(memoryview(bytearray(length))))
        return bulkframes.Frame(Kind.ERROR, 0, length, payload).error

    def _read_exactly(self, view: memoryview) -> memoryview:
        filled = 0
        while filled < len(view):
            count = self._response.readinto(view[filled:])
            if not count:
                raise EOFError("the stream ended within a file")
            filled += count
        self._active_at = time.monotonic()
        return view

    def _skip(self, length: int) -> None:
        scratch = memoryview(bytearray(min(length, self._block_size)))
        while length:
            length -= len(self._read_exactly(scratch[: min(length, len(scratch))]))

    def _free_buffer(self) -> bytearray:
        if self._buffers.empty() and self._buffers_to_make:
            self._buffers_to_make -= 1
            return bytearray(self._block_size)
        while not self._closed:
            with contextlib.suppress(queue.Empty):
                buffer = self._buffers.get(timeout=1.0)
                self._active_at = time.monotonic()  # the drive was slow, not the cache server
                return buffer
        raise EOFError("closed")


class _IncomingFile:
    """Puts header, data, padding and the archive's end into blocks, and the blocks into messages."""

    def __init__(self, fetcher: CacheFetcher, item: WriteItem, header: bytes) -> None:
        self._fetcher, self._item = fetcher, item
        self._buffer = fetcher._free_buffer()
        self._filled = 0
        self.begun = False
        self.error: CapstanError | None = None
        self._copy(header)

    def parts(self, length: int) -> Iterator[memoryview]:
        """The places for the next `length` bytes; each must be filled before the next is asked for."""
        while length:
            self._emit_if_full()
            count = min(length, len(self._buffer) - self._filled)
            yield memoryview(self._buffer)[self._filled : self._filled + count]
            self._filled += count
            length -= count

    def end(self, error: CapstanError | None) -> None:
        """The file is over. One that was not begun and is not right is refused; its buffer is free again."""
        if error is not None and not self.begun:
            self._fetcher.give_back(self._buffer)
            self._fetcher._messages.put(Refused(self._item, error))
            return
        if error is None:
            self._copy(bytes(paxformat.padding(self._item.record.size)) + paxformat.END_OF_ARCHIVE)
            self._emit()
        else:
            self._fetcher.give_back(self._buffer)
        self._fetcher._messages.put(Ended(error))

    def _copy(self, data: bytes) -> None:
        at = 0
        for part in self.parts(len(data)):
            part[:] = data[at : at + len(part)]
            at += len(part)

    def _emit_if_full(self) -> None:
        if self._filled == len(self._buffer):
            self._emit()
            self._buffer, self._filled = self._fetcher._free_buffer(), 0

    def _emit(self) -> None:
        if not self.begun:
            self.begun = True
            self._fetcher._messages.put(Begun(self._item))
        self._fetcher._messages.put(Block(self._buffer, self._filled))
