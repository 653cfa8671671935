"""One virtual cartridge: the image and its index, as a row of numbered blocks and marks that can only grow at its end.

Has no head and no faults: the drive (`virtualdrive`) keeps the position and decides what fails. Every change of a file
happens inside the `guard` that the drive gives, which holds the drive's lock and has checked the epoch.

The order of a flush is what durability rests on: write the image, fsync the image, write and fsync the index. What goes
to the image before it, because memory is bounded, is written by a thread while more is appended: one piece at a time,
and whatever went wrong with it is raised by the next append or the flush.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from tapeserver.library import (
    BLOCK_BYTES_MAX,
    BlockTooLong,
    EndOfData,
    Filemark,
    MediumError,
    Trace,
    VolumeOverflow,
    WriteError,
    simh,
)
from tapeserver.library.blockindex import BlockIndex
from tapeserver.library.imagewriter import ImageWriter
from tapeserver.library.tailbuffer import TailBuffer

Guard = Callable[[], AbstractContextManager[None]]


class Cartridge:
    """The medium in a drive, opened by one process."""

    def __init__(self, stem: Path, *, guard: Guard, memory_bytes_max: int, trace: Trace | None = None) -> None:
        """Open `stem`.tap and `stem`.idx; `memory_bytes_max` bounds what may be unflushed in memory."""
        self.volume = stem.name
        self._guard = guard
        self._trace = trace
        self._image = os.open(stem.with_suffix(".tap"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.posix_fadvise(self._image, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._writer = ImageWriter(self._image, stem.with_suffix(".tap"))
        self._index = BlockIndex(stem.with_suffix(".idx"), trace)
        #: begins where the image file ends, once what is being spilled is there
        self._tail = TailBuffer(memory_bytes_max)
        self._spiller = ThreadPoolExecutor(1, thread_name_prefix="spill")
        self._spilling: Future[memoryview] | None = None
        self._entries = array("Q")
        self._end = 0  # offset behind the last object, unflushed ones included
        self._marks_in_a_row = 0
        self._appending = False  # the image was cut behind the last object, and may only grow
        self._unflushed = False
        self._never_again = False  # an fsync failed: nothing that is written from now on can be believed
        self.load()

    def load(self) -> None:
        """Read the index, and scan what lies behind the flushed length. Forgets what is in memory."""
        # A drive that was dead for a while gave up nothing by itself: what it was writing must not come after the look.
        self._let_spill_end()
        self._appending = self._unflushed = False
        self._marks_in_a_row = 0
        size = os.fstat(self._image).st_size
        entries = self._index.load(size)
        flushed = self._index.image_bytes if entries is not None else 0
        found = simh.scan(lambda count, offset: os.pread(self._image, count, offset), flushed, size)
        self._entries = (entries if entries is not None else array("Q")) + found.entries
        self._end = found.end
        self._tail.restart(self._end)
        if found.entries:
            # What is read from now on must still be there after the next crash.
            with self._guard():
                os.fsync(self._image)
                self._note("fsync_image")
                self._index.commit(self._entries, self._end)

    @property
    def count(self) -> int:
        """Objects (blocks and marks) on the volume: the number of the first one that is not there."""
        return len(self._entries)

    @property
    def unflushed(self) -> bool:
        return self._unflushed

    def offset(self, block: int) -> int:
        """Where object `block` begins in the image, in bytes; the end of data for `count`."""
        return self._entries[block] & simh.OFFSET_MASK if block < len(self._entries) else self._end

    def is_mark(self, block: int) -> bool:
        return bool(self._entries[block] & simh.IS_MARK)

    def read(self, block: int) -> bytes:
        """The data of object `block`. Raises Filemark, EndOfData, MediumError."""
        offset, length = self._find(block)
        data = os.pread(self._image, simh.record_bytes(length), offset)
        word = simh.WORD.pack(length)
        if len(data) != simh.record_bytes(length) or data[:4] != word or data[-4:] != word:
            raise MediumError(volume=self.volume, block=block)
        return data[4 : 4 + length]

    def read_into(self, block: int, buffer: bytearray | memoryview) -> int:
        """The data of object `block` into `buffer`, without a copy in between. Raises as `read`, and BlockTooLong."""
        offset, length = self._find(block)
        view = memoryview(buffer)
        if length > len(view):
            raise BlockTooLong(volume=self.volume, block=block, length=length, limit=len(view), drive=None)
        before, behind = bytearray(4), bytearray(4 + (length & 1))
        count = os.preadv(self._image, [before, view[:length], behind], offset)
        word = simh.WORD.pack(length)
        if count != simh.record_bytes(length) or before != word or behind[-4:] != word:
            raise MediumError(volume=self.volume, block=block)
        return length

    def append_block(self, block: int, data: bytes | bytearray | memoryview, capacity_bytes: int) -> None:
        """Write `data` as object `block`; everything from there on is gone first. Buffered.

        Raises VolumeOverflow (nothing of it was written), WriteError, and what the guard raises.
        """
        length = len(data)
        if not 0 < length <= BLOCK_BYTES_MAX:
            raise ValueError(f"a block has 1..{BLOCK_BYTES_MAX} bytes, not {length}")
        self._make_room(block, simh.record_bytes(length), capacity_bytes)
        word = simh.WORD.pack(length)
        odd = length & 1
        self._entries.append(self._end | (simh.IS_ODD if odd else 0))
        self._end += simh.record_bytes(length)
        self._marks_in_a_row = 0
        self._tail.append(word)
        self._tail.append(data)
        self._tail.append(b"\0" + word if odd else word)
        self._unflushed = True
        while self._tail.over_bound:
            self._spill()

    def append_mark(self, block: int, capacity_bytes: int) -> None:
        """Write a tape mark as object `block`; otherwise as `append_block`."""
        if self._marks_in_a_row >= simh.MARKS_IN_A_ROW_MAX:
            raise WriteError(volume=self.volume, block=block, why="too many tape marks in a row")
        self._make_room(block, len(simh.MARK), capacity_bytes)
        self._entries.append(self._end | simh.IS_MARK)
        self._end += len(simh.MARK)
        self._marks_in_a_row += 1
        self._tail.append(simh.MARK)
        self._unflushed = True

    def flush(self) -> None:
        """Bring everything to the disk: image first, then index. Raises WriteError and what the guard raises."""
        self._wait_for_spill()
        with self._guard():
            if not self._unflushed:
                return
            self._refuse_after_failed_sync()
            try:
                self._tail.write_all(self._writer, simh.END_OF_MEDIUM)
                self._note("write_image")
                self._sync_image()
                self._index.commit(self._entries, self._end)
            except OSError as exc:
                raise WriteError(volume=self.volume, block=self.count, why=str(exc)) from exc
            self._unflushed = False

    def stop_appending(self) -> None:
        """The head has left the end: the next append has to cut the image at its place first."""
        self._appending = False

    def forget_unflushed(self) -> None:
        """Drop what is in memory after an error. `load` says what of it had reached the image."""
        self._let_spill_end()
        self._tail.restart(self._end)
        self._appending = self._unflushed = False

    def lose_power(self, kept: float) -> None:
        """The unflushed end as a loss of power leaves it: the first `kept` (0..1) of its bytes are in the image.

        Never fewer than nothing and never a later byte without an earlier one; the last record may be torn, which a
        scan passes over. Raises what the guard raises.
        """
        flushed = self._index.image_bytes
        self._let_spill_end()
        if self._unflushed:
            there = flushed + int((self._end - flushed) * kept)
            with self._guard():
                if there > self._tail.begin:
                    self._tail.write_some(self._writer, there - self._tail.begin)
                else:
                    os.ftruncate(self._image, there)
        self.forget_unflushed()

    def close(self) -> None:
        self._spiller.shutdown()
        self._writer.close()
        os.close(self._image)
        self._index.close()

    def _find(self, block: int) -> tuple[int, int]:
        if block >= len(self._entries):
            raise EndOfData(block=block)
        entry = self._entries[block]
        if entry & simh.IS_MARK:
            raise Filemark(block=block)
        offset = entry & simh.OFFSET_MASK
        return offset, self.offset(block + 1) - offset - 8 - (1 if entry & simh.IS_ODD else 0)

    def _make_room(self, block: int, size: int, capacity_bytes: int) -> None:
        self._refuse_after_failed_sync()
        if not self._appending:
            self._cut(block)
        if self._end + size > capacity_bytes:
            raise VolumeOverflow(volume=self.volume, block=block, drive=None)

    def _cut(self, block: int) -> None:
        """Forget everything from object `block` on. The index first: it must never cover what is not there."""
        offset = self.offset(block)
        kept = self._entries[:block]
        with self._guard():
            try:
                if self._index.count > block:
                    self._index.commit(kept, offset)
                os.ftruncate(self._image, offset)
            except OSError as exc:
                raise WriteError(volume=self.volume, block=block, why=str(exc)) from exc
        self._note("truncate_image")
        self._entries, self._end = kept, offset
        self._tail.restart(offset)
        self._marks_in_a_row = 0
        while self._marks_in_a_row < block and self.is_mark(block - 1 - self._marks_in_a_row):
            self._marks_in_a_row += 1
        self._appending = True

    def _spill(self) -> None:
        """Begin to write the oldest chunk, once the one before it is written. Raises what went wrong with that."""
        self._wait_for_spill()
        self._spilling = self._spiller.submit(self._write_chunk, *self._tail.take_oldest())

    def _write_chunk(self, chunk: memoryview, offset: int) -> memoryview:
        with self._guard():
            self._writer.write([chunk], offset)
        return chunk

    def _wait_for_spill(self) -> None:
        spilling, self._spilling = self._spilling, None
        if spilling is None:
            return
        try:
            self._tail.give_back(spilling.result())
        except OSError as exc:
            raise WriteError(volume=self.volume, block=self.count, why=str(exc)) from exc

    def _let_spill_end(self) -> None:
        """Everything unflushed is given up: what became of the last piece does not matter, only that it is over."""
        spilling, self._spilling = self._spilling, None
        if spilling is not None:
            spilling.exception()

    def _sync_image(self) -> None:
        try:
            os.fsync(self._image)
        except OSError:
            self._never_again = True
            raise
        self._note("fsync_image")

    def _refuse_after_failed_sync(self) -> None:
        if self._never_again:
            raise WriteError(volume=self.volume, block=self.count, why="an earlier flush failed in this mount")

    def _note(self, step: str) -> None:
        if self._trace:
            self._trace(step, self.volume)
