"""Reading back: the copies of the plan in its order, checked against their checksums, and sent nowhere.

The thread of the drive runs this. Members of a bundle share blocks: each block is read once, and the head moves only
where that is cheaper than reading on. A copy that cannot be read fails alone; what ends the whole mount is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from catalog.errors import CapstanError, Damaged, Retry
from tapeserver.frames import Idle, Load, Verified, VerifyFailed, VerifyItem
from tapeserver.labels import BadLabel
from tapeserver.library import BlockTooLong, Drive, EndOfData, Filemark, MediumError
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.volume import check_header
from tapeserver.tapeformat import ADLER32_START, HEADER_OBJECTS, adler32, adler32_text, locate_member

BATCH_FILES_MAX = 1000
BATCH_SECONDS_MAX = 0.5
IDLE_POLL_SECONDS = 1.0
#: a gap of so many blocks is read through: a drive needs longer to stop, locate and start again
READ_THROUGH_BLOCKS = 16
#: while the rate is limited, the session is heard at least so often
PAUSE_SECONDS_MAX = 0.2

_OF_ONE_COPY = (MediumError, BadLabel, EndOfData, Filemark, BlockTooLong, Damaged)


class CopyWrong(Damaged):
    """The copy of file {file} on {volume} at block {block} is wrong: {why}."""

    code, retry = "copy_damaged", Retry.OTHER_COPY


class Stopped(CapstanError):
    """The session said Stop."""

    code = "stopped"


class Verify:
    """The verifying part of one mount."""

    def __init__(
        self, drive: Drive, load: Load, plan: Plan, outbox: Outbox, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._drive, self._load, self._plan, self._outbox, self._clock = drive, load, plan, outbox, clock
        self._tape_file: int | None = None
        #: the object that the next read gives; None: unknown
        self._head: int | None = None
        self._buffer = bytearray(load.block_size)
        #: what is in the buffer
        self._block, self._length = -1, 0
        #: blocks that could not be read: asked once, since a drive tries for minutes
        self._unreadable: dict[int, CapstanError] = {}
        self._good: list[int] = []
        self._good_bytes = 0
        self._batch_since = 0.0
        self._began, self._read_bytes = clock(), 0

    def run(self) -> None:
        """Until the session says Stop. Raises what the drive raises when it can do no more."""
        try:
            while not self._plan.stopping:
                item = self._plan.next_verify()
                if item is None:
                    self._rest()
                elif not self._plan.read_dropped(item.file_id):
                    self._check(item)
        except Stopped:
            # What was under way has not been checked; the next mount begins with it.
            return
        finally:
            self._tell()

    def close(self) -> None:
        """Nothing is open."""

    def _rest(self) -> None:
        self._plan.enter("idle")
        self._tell()
        # The pause of the session is not time that was saved up.
        self._began, self._read_bytes = self._clock(), 0
        if self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(IDLE_POLL_SECONDS)

    def _check(self, item: VerifyItem) -> None:
        try:
            self._find(item)
            checksum = self._checksum(item)
            if adler32_text(checksum) != item.adler32:
                raise self._wrong(item, f"adler32 {adler32_text(checksum)} was read, {item.adler32} was written")
        except _OF_ONE_COPY as exc:
            # In order: what is told of a copy holds for all before it.
            self._tell()
            self._outbox.send(VerifyFailed(file_id=item.file_id, code=exc.code, text=str(exc)))
            return
        if not self._good:
            self._batch_since = self._clock()
        self._good.append(item.file_id)
        self._good_bytes += item.size
        if len(self._good) >= BATCH_FILES_MAX or self._clock() - self._batch_since >= BATCH_SECONDS_MAX:
            self._tell()

    def _find(self, item: VerifyItem) -> None:
        """The tape file is the right one: its header is read once for all that lies in it."""
        if item.generation != self._load.generation:
            raise self._wrong(item, f"the volume carries generation {self._load.generation}, not {item.generation}")
        if self._tape_file == item.tape_file:
            return
        self._plan.enter("locate")
        self._tape_file = self._head = None
        check_header(self._drive, self._load, first_block=item.first_block, tape_file=item.tape_file)
        self._tape_file, self._head = item.tape_file, item.first_block + HEADER_OBJECTS

    def _checksum(self, item: VerifyItem) -> int:
        block_size = self._load.block_size
        block, skip = locate_member(item.first_block, item.byte_offset, block_size)
        remaining, checksum = item.size, ADLER32_START
        while remaining:
            length = self._read(block)
            payload = memoryview(self._buffer)[skip : min(length, skip + remaining)]
            if not payload or (length != block_size and len(payload) < remaining):
                raise self._wrong(item, f"block {block} has only {length} bytes")
            checksum = adler32(payload, checksum)
            remaining -= len(payload)
            block, skip = block + 1, 0
        return checksum

    def _read(self, block: int) -> int:
        """Have the block in the buffer; its length."""
        if block == self._block:
            return self._length
        if block in self._unreadable:
            raise self._unreadable[block]
        self._keep_to_rate()
        self._go_to(block)
        self._plan.enter("read")
        self._block = -1
        try:
            length = self._drive.read_into(self._buffer)
        except CapstanError as exc:
            self._head = None
            if isinstance(exc, MediumError):
                self._unreadable[block] = exc
            raise
        self._block, self._length, self._head = block, length, block + 1
        self._read_bytes += length
        return length

    def _go_to(self, block: int) -> None:
        if self._head is not None and self._head <= block <= self._head + READ_THROUGH_BLOCKS:
            try:
                while self._head < block:
                    self._block = -1
                    self._read_bytes += self._drive.read_into(self._buffer)
                    self._head += 1
                return
            except _OF_ONE_COPY:
                # What lies in the gap is not asked for now.
                self._head = None
        self._plan.enter("locate")
        self._head = None
        self._drive.locate(block)
        self._head = block

    def _keep_to_rate(self) -> None:
        """Wait until so much may have been read. Raises Stopped."""
        rate = self._load.bytes_per_second_max
        while True:
            if self._plan.stopping:
                raise Stopped
            ahead = self._read_bytes / rate - (self._clock() - self._began) if rate else 0.0
            if ahead <= 0:
                return
            self._tell()
            self._plan.enter("wait")
            self._plan.wait(min(ahead, PAUSE_SECONDS_MAX))

    def _tell(self) -> None:
        if self._good:
            self._outbox.send(Verified(file_ids=self._good, bytes=self._good_bytes))
            self._good, self._good_bytes = [], 0

    def _wrong(self, item: VerifyItem, why: str) -> CopyWrong:
        return CopyWrong(file=item.file_id, volume=self._load.volume, block=item.first_block, why=why)
