"""Reading back: the copies of the plan in its order, checked against their checksums, and sent nowhere.

The thread of the drive runs this. Members of a bundle share blocks: each block is read once. How the head gets to a
block is in `blockreader`. A copy that cannot be read fails alone; what ends the whole mount is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from catalog.errors import CapstanError
from tapeserver.format.objects import ADLER32_START, adler32, adler32_text, locate_member
from tapeserver.frames import Idle, Load, Verified, VerifyFailed, VerifyItem
from tapeserver.library import Drive
from tapeserver.mover.blockreader import OF_ONE_COPY, BlockReader, CopyDamaged
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan

BATCH_FILES_MAX = 1000
BATCH_SECONDS_MAX = 0.5
IDLE_POLL_SECONDS = 1.0
#: while the rate is limited, the session is heard at least so often
PAUSE_SECONDS_MAX = 0.2


class Stopped(CapstanError):
    """The session said Stop."""

    code = "stopped"


class Verify:
    """The verifying part of one mount."""

    def __init__(
        self, drive: Drive, load: Load, plan: Plan, outbox: Outbox, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._load, self._plan, self._outbox, self._clock = load, plan, outbox, clock
        self._blocks = BlockReader(drive, load, plan, before_read=self._keep_to_rate)
        self._buffer = bytearray(load.block_size)
        #: what is in the buffer
        self._block, self._length = -1, 0
        self._good: list[int] = []
        self._good_bytes = 0
        self._batch_since = 0.0
        #: since when the rate is kept, and what had been read by then
        self._began, self._began_bytes = clock(), 0

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
        self._blocks.forget()
        self._tell()
        # The pause of the session is not time that was saved up.
        self._began, self._began_bytes = self._clock(), self._blocks.read_bytes
        if self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(IDLE_POLL_SECONDS)

    def _check(self, item: VerifyItem) -> None:
        try:
            self._blocks.find(item)
            checksum = self._checksum(item)
            if adler32_text(checksum) != item.adler32:
                why = f"adler32 {adler32_text(checksum)} was read, {item.adler32} was written"
                raise self._blocks.damaged(item, why)
        except (*OF_ONE_COPY, CopyDamaged) as exc:
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

    def _checksum(self, item: VerifyItem) -> int:
        block_size = self._load.block_size
        block, skip = locate_member(item.first_block, item.byte_offset, block_size)
        remaining, checksum = item.size, ADLER32_START
        while remaining:
            length = self._read(block)
            payload = memoryview(self._buffer)[skip : min(length, skip + remaining)]
            if not payload or (length != block_size and len(payload) < remaining):
                raise self._blocks.damaged(item, f"block {block} has only {length} bytes")
            checksum = adler32(payload, checksum)
            remaining -= len(payload)
            block, skip = block + 1, 0
        return checksum

    def _read(self, block: int) -> int:
        """Have the block in the buffer; its length."""
        if block == self._block:
            return self._length
        self._block = -1
        self._length = self._blocks.read(block, memoryview(self._buffer))
        self._block = block
        return self._length

    def _keep_to_rate(self) -> None:
        """Wait until so much may have been read. Raises Stopped."""
        rate = self._load.bytes_per_second_max
        while True:
            if self._plan.stopping:
                raise Stopped
            count, elapsed = self._blocks.read_bytes - self._began_bytes, self._clock() - self._began
            ahead = count / rate - elapsed if rate else 0.0
            if ahead <= 0:
                return
            self._tell()
            self._plan.enter("wait")
            self._plan.wait(min(ahead, PAUSE_SECONDS_MAX))

    def _tell(self) -> None:
        if self._good:
            self._outbox.send(Verified(file_ids=self._good, bytes=self._good_bytes))
            self._good, self._good_bytes = [], 0
