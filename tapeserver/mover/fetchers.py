"""A stream of files from one cache server, cut into the blocks that go to tape.

A thread asks for the files in the order in which they were added, a bounded number ahead, and receives the bytes
right into block buffers behind the archive's headers, with the checksum on the way. The thread of the drive takes
messages (`incoming`): for what was added together any number of tape files (Begun, Blocks and Ended) and Refused files,
then Over. A file that goes wrong ends its tape file; what stood behind it in its bundle comes in the next one.
A file of one block is in a Block only when it is there whole and right.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from catalog.errors import CapstanError, Damaged
from client import bulkframes
from client.bulkframes import Kind
from tapeserver.format.objects import ADLER32_START, adler32, adler32_text
from tapeserver.frames import WriteItem
from tapeserver.mover.bulkhttp import BulkRequest, CacheStreamBroken
from tapeserver.mover.incoming import IncomingTapeFile, Message, Over, Part, Refused

BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""Blocks of one stream that were received and not yet written."""

FILES_ASKED_MAX = 512
BYTES_ASKED_MAX = 64 * 1024 * 1024
"""So many files, and so many bytes but for the last of them, are asked for and on their way."""

SMALL_BYTES_MAX = 128 * 1024
"""A file up to this size is looked at only when it has been received as a whole."""

RECEIVE_BYTES = 256 * 1024
STALL_SECONDS_MAX = 120.0
JOIN_SECONDS_MAX = 10.0
GOODBYE_SECONDS_MAX = 1.0


class ReplicaDamaged(Damaged):
    """{what} is damaged: {why}."""

    code = "replica_damaged"


class CacheFetcher:
    """One bulk read. The methods are for the one thread that empties it."""

    def __init__(
        self,
        url: str,
        block_size: int,
        *,
        dropped: Callable[[int], bool] = lambda archive_id: False,
        stall_seconds_max: float = STALL_SECONDS_MAX,
    ) -> None:
        """`dropped` says of which archives nobody wants to hear any more. Raises CacheStreamBroken."""
        self._request = BulkRequest(url)
        self._block_size = block_size
        self._dropped = dropped
        self._stall_seconds_max = stall_seconds_max
        self._added: queue.SimpleQueue[Sequence[Part] | None] = queue.SimpleQueue()
        self._groups: deque[Sequence[Part]] = deque()  # what was added together and is not over
        self._unasked: deque[Part] = deque()
        self._asked_files = self._asked_bytes = 0
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
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

    def add(self, parts: Sequence[Part]) -> None:
        """Fetch these after the others: one file, or the files of a bundle."""
        self._added.put(parts)

    def get(self, timeout_seconds: float) -> Message | None:
        """The next message, None when none comes in time."""
        with contextlib.suppress(queue.Empty):
            return self._messages.get(timeout=timeout_seconds)
        if self._asked_files and time.monotonic() - self._active_at > self._stall_seconds_max:
            self._request.shut_down()  # the thread reports the files that were wanted
        return None

    def give_back(self, buffer: memoryview) -> None:
        self._buffers.put(buffer)

    def close(self) -> None:
        """End at once; files that were added are not reported any more."""
        idle = not self._groups and self._added.empty()
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
            if self._wait_for_group():
                self._received = _Received(self._request.received())
                while self._fetch_group() and self._wait_for_group():
                    continue
            if not self._groups:
                self._request.send([bulkframes.bye()])
                self._request.end_sending()
            return
        except CapstanError as exc:
            error = exc
        except (OSError, ValueError, EOFError, http.client.HTTPException) as exc:
            error = CacheStreamBroken(place=self._request.place, why=repr(exc))
        self._break(error)

    def _break(self, error: CapstanError) -> None:
        """Refuse everything that was added, and whatever is added until the drive's thread asks for `usable`."""
        self._broken = True
        self._asked_files = 0
        self._request.shut_down()
        while not self._closed:
            while self._groups:
                parts = self._groups.popleft()
                if parts:
                    self._messages.put(Refused([part.item for part in parts], error))
                self._messages.put(Over())
            added = self._added.get()
            if added is None:
                return
            self._groups.append(added)

    # -- asking --

    def _wait_for_group(self) -> bool:
        """Ask for files until enough are on their way; waits when there is none. False when closed."""
        if not self._groups:
            self._take(self._added.get())
        self._ask()
        return not self._closed

    def _take(self, added: Sequence[Part] | None) -> None:
        """From now on the files of a bundle are fixed: those that were dropped by now are left out."""
        if added is not None:
            parts = [part for part in added if not self._dropped(part.item.archive_id)]
            self._groups.append(parts)
            self._unasked.extend(parts)
            self._active_at = time.monotonic()

    def _ask(self) -> None:
        frames = []
        while self._asked_files < FILES_ASKED_MAX and self._asked_bytes < BYTES_ASKED_MAX:
            if not self._unasked:
                try:
                    self._take(self._added.get_nowait())
                except queue.Empty:
                    break
                if self._closed:
                    break
                continue
            item = self._unasked.popleft().item
            self._asked_files += 1
            self._asked_bytes += item.record.size
            frames.append(bulkframes.want(item.replica_id))
        if frames:
            self._request.send([b"".join(frames)])

    # -- receiving --

    def _fetch_group(self) -> bool:
        while self._groups[0] and not self._closed:
            file = IncomingTapeFile(self._groups[0], self._free_buffer, self._messages.put)
            try:
                error = self._fetch_tape_file(file)
            except BaseException as exc:
                broken = exc if isinstance(exc, CapstanError) else CacheStreamBroken(
                    place=self._request.place, why=repr(exc)
                )  # fmt: skip
                self._end(file, broken)
                raise
            self._end(file, error)
        self._groups.popleft()
        self._messages.put(Over())
        return not self._closed

    def _end(self, file: IncomingTapeFile, error: CapstanError | None) -> None:
        free = file.end(error)
        if free is not None:
            self._buffers.put(free)
        self._groups[0] = self._groups[0][file.good + (error is not None) :]

    def _fetch_tape_file(self, file: IncomingTapeFile) -> CapstanError | None:
        """Until all its files are there, or one is wrong: returns why. Raises for the stream."""
        while (part := file.next) is not None:
            item = part.item
            data = self._whole(item) if item.record.size <= SMALL_BYTES_MAX else None
            if data is not None:
                file.add(data)
            elif (error := self._receive(item, file)) is not None:
                self._came(item)
                return error
            else:
                file.finish()
            self._came(item)
        return None

    def _came(self, item: WriteItem) -> None:
        """All of it was received, right or wrong; ask for more, or what stands behind it in its bundle never comes."""
        self._asked_files -= 1
        self._asked_bytes -= item.record.size
        if self._asked_files <= FILES_ASKED_MAX // 2:
            self._ask()

    def _whole(self, item: WriteItem) -> memoryview | None:
        """The file's bytes if all its frames come in the usual row and are right, else None, and nothing is taken.

        So most small files are looked at: by comparing what came with what has to come.
        """
        record, received = item.record, self._received
        expected = bulkframes.begin(item.replica_id, record.size)
        # Waits only for what must come whatever has happened: a frame, one more behind DATA_BEGIN, an end behind DATA.
        if not self._comes(expected, 0):
            return None
        start = len(expected)
        if record.size:
            header = bulkframes.data_header(item.replica_id, record.size)
            if not self._comes(header, start):
                return None
            start += len(header)
        end = bulkframes.end(item.replica_id, int(record.adler32, 16))
        if not self._comes(end, start + record.size):
            return None
        data = received.view[received.at + start : received.at + start + record.size]
        if adler32_text(adler32(data)) != record.adler32:
            return None
        received.at += start + record.size + len(end)
        return data

    def _comes(self, expected: bytes, offset: int) -> bool:
        """Whether these bytes come so many bytes from now; waits for them or others."""
        if self._received.missing(offset + len(expected)):
            self._received.fill(offset + len(expected))
            self._active_at = time.monotonic()
        return self._received.starts_with(expected, offset)

    def _receive(self, item: WriteItem, file: IncomingTapeFile) -> CapstanError | None:
        """One file from its first frame to its last; returns what is wrong with the file. Raises for the stream."""
        what = f"replica {item.replica_id} of file {item.record.file_id}"
        wrong: CapstanError | None = None
        received, checksum = 0, ADLER32_START
        for kind, length in self._frames_of(item):
            if kind is Kind.ERROR:
                return self._error(length)
            if kind is Kind.DATA_BEGIN:
                if length != item.record.size:
                    wrong = ReplicaDamaged(what=what, why=f"it has {length} bytes, not {item.record.size}")
                else:
                    file.begin()
            elif kind is Kind.DATA:
                received += length
                if received > item.record.size and wrong is None:
                    wrong = ReplicaDamaged(what=what, why="it grew while it was read")
                if wrong is not None:
                    self._skip(length)
                    continue
                for place in file.places(length):
                    self._read_exactly(place)
                    checksum = adler32(place, checksum)
            else:
                told = int.from_bytes(self._read_exactly(memoryview(bytearray(4))), "big")
                if wrong is None and received != item.record.size:
                    wrong = ReplicaDamaged(what=what, why=f"only {received} of {item.record.size} bytes came")
                if wrong is None and {told, checksum} != {int(item.record.adler32, 16)}:
                    why = f"adler32 {adler32_text(checksum)} was read, {item.record.adler32} is recorded"
                    wrong = ReplicaDamaged(what=what, why=why)
                return wrong
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

    def _read_exactly(self, place: memoryview) -> memoryview:
        self._received.into(place)
        self._active_at = time.monotonic()
        return place

    def _skip(self, length: int) -> None:
        scratch = memoryview(bytearray(min(length, self._block_size)))
        while length:
            length -= len(self._read_exactly(scratch[: min(length, len(scratch))]))

    def _free_buffer(self) -> memoryview:
        if self._buffers.empty() and self._buffers_to_make:
            self._buffers_to_make -= 1
            return memoryview(bytearray(self._block_size))
        while not self._closed:
            with contextlib.suppress(queue.Empty):
                buffer = self._buffers.get(timeout=1.0)
                self._active_at = time.monotonic()  # the drive was slow, not the cache server
                return buffer
        raise EOFError("closed")


class _Stream(Protocol):
    """What comes from the cache server."""

    def read1(self, size: int, /) -> bytes: ...

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Received:
    """What has come and is not taken: `view` from `at` on. Many small frames come with one call of the system."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._data = b""
        self.view = memoryview(self._data)
        self.at = 0

    def missing(self, count: int) -> bool:
        """Whether fewer bytes than that are here."""
        return self.at + count > len(self._data)

    def fill(self, count: int) -> None:
        """Wait until so many bytes are here. Raises EOFError, OSError."""
        while self.missing(count):
            piece = self._stream.read1(RECEIVE_BYTES)
            if not piece:
                raise EOFError("the stream ended within a file")
            self._data = self._data[self.at :] + piece
            self.view, self.at = memoryview(self._data), 0

    def starts_with(self, expected: bytes, offset: int) -> bool:
        return self._data.startswith(expected, self.at + offset)

    def into(self, place: memoryview) -> None:
        """Fill `place`: from here what is here, the rest right from the stream if it is long. Raises as `fill`."""
        count = min(len(place), len(self._data) - self.at)
        if count < len(place) < bulkframes.HEADER_BYTES * 2:
            self.fill(len(place))
            count = len(place)
        place[:count] = self.view[self.at : self.at + count]
        self.at += count
        while count < len(place):
            got = self._stream.readinto(place[count:])
            if not got:
                raise EOFError("the stream ended within a file")
            count += got
