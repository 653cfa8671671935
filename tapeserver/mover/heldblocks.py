"""The blocks of a volume while its files are recalled: each is read once, however many files lie in it.

What a sender was given stays in its buffer until it is sent, so nothing is copied. How the head gets to a block is in
`blockreader`. Knows no checksums and no cache server.
"""

from __future__ import annotations

from tapeserver.format.objects import HEADER_OBJECTS, locate_member
from tapeserver.frames import Load, ReadItem
from tapeserver.library import Drive
from tapeserver.mover.blockreader import BlockReader, CopyDamaged
from tapeserver.mover.plan import Plan
from tapeserver.mover.senders import Buffer, CacheSender


class _Held:
    """A buffer with a row of blocks of one tape file, and whose buffer it is."""

    def __init__(self, sender: CacheSender, buffer: Buffer, first: int) -> None:
        self.sender, self.buffer, self.first = sender, buffer, first
        #: the block behind the last one that is in the buffer
        self.next = first
        self.filled = 0


class HeldBlocks:
    """For the thread of the drive. `find` a file's tape file, then ask for its bytes."""

    def __init__(self, drive: Drive, load: Load, plan: Plan) -> None:
        self._plan, self._block_size = plan, load.block_size
        self._reader = BlockReader(drive, load, plan)
        self._held: _Held | None = None

    def find(self, item: ReadItem) -> None:
        """Its tape file is the right one. Raises CopyDamaged, BadLabel and what the drive says."""
        if self._reader.tape_file != item.tape_file:
            self.let_go()
        self._reader.find(item)

    def take(self, item: ReadItem, offset: int, sender: CacheSender) -> tuple[memoryview, Buffer]:
        """The file's bytes from `offset` on, as far as they lie together in a buffer of `sender`: all of a small file.

        The view stays good while the buffer has a user; this object is one until it takes the next. Raises CopyDamaged,
        CacheStreamBroken, and what the drive says.
        """
        block, skip = locate_member(item.first_block, item.byte_offset + offset, self._block_size)
        wanted = item.size - offset
        held = self._hold(block, sender)
        start = (block - held.first) * self._block_size + skip
        while held.filled < start + wanted and self._room(held):
            self._read_into(held)
        stop = min(held.filled, start + wanted)
        if stop <= start or (stop < start + wanted and held.filled % self._block_size):
            why = f"block {held.next - 1} has only {held.filled % self._block_size} bytes"
            raise self.damaged(item, why)
        return memoryview(held.buffer.bytes)[start:stop], held.buffer

    def before(self, item: ReadItem) -> memoryview:
        """What stands before the file's bytes when they begin in the tape file's first block, else nothing."""
        held = self._held
        if held is None or not item.size or item.byte_offset >= self._block_size:
            return memoryview(b"")
        at = (item.first_block + HEADER_OBJECTS - held.first) * self._block_size
        return memoryview(held.buffer.bytes)[at : at + item.byte_offset] if at >= 0 else memoryview(b"")

    def forget(self) -> None:
        """What was asked for is done: what was bad may have become better."""
        self.let_go()
        self._reader.forget()

    def doubt(self) -> None:
        """Something is not where it should be: the next file's tape file is looked at again."""
        self._reader.doubt()

    def damaged(self, item: ReadItem, why: str) -> CopyDamaged:
        return self._reader.damaged(item, why)

    def let_go(self) -> None:
        """Hold no buffer any more."""
        held, self._held = self._held, None
        if held is not None:
            held.sender.let_go(held.buffer)

    def _room(self, held: _Held) -> bool:
        """Whether another block fits behind what is held. Behind a short one nothing follows."""
        whole = held.filled % self._block_size == 0
        return whole and len(held.buffer.bytes) - held.filled >= self._block_size

    def _hold(self, block: int, sender: CacheSender) -> _Held:
        """A row of blocks that has this one, or has room for it as its next."""
        held = self._held
        has = held is not None and held.sender is sender and held.first <= block < held.next + self._room(held)
        if held is not None and has:
            return held
        self.let_go()
        self._plan.enter("wait")
        self._held = _Held(sender, sender.buffer(), block)
        return self._held

    def _read_into(self, held: _Held) -> None:
        length = self._reader.read(held.next, memoryview(held.buffer.bytes)[held.filled :])
        held.next, held.filled = held.next + 1, held.filled + length
