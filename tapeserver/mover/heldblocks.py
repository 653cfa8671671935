"""The blocks of a volume while its files are recalled: each is read once, however many files lie in it.

The head goes on where it stands; a small gap within a tape file is read through. What a sender was given stays in its
buffer until it is sent, so nothing is copied. Checks labels, knows no checksums and no cache server.
"""

from __future__ import annotations

from catalog.errors import CapstanError, Damaged, Retry
from tapeserver.frames import Load, ReadItem
from tapeserver.labels import BadLabel
from tapeserver.library import BlockTooLong, Drive, EndOfData, Filemark, MediumError
from tapeserver.mover.plan import Plan
from tapeserver.mover.senders import Buffer, CacheSender
from tapeserver.mover.volume import check_header
from tapeserver.tapeformat import HEADER_OBJECTS, locate_member
from tapeserver.tapereader import READ_THROUGH_BLOCKS


class CopyDamaged(Damaged):
    """{what} is damaged: {why}."""

    code, retry = "copy_damaged", Retry.OTHER_COPY


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
        self._drive, self._load, self._plan = drive, load, plan
        self._block_size = load.block_size
        self._held: _Held | None = None
        #: the object that the next read gives; None: unknown
        self._head: int | None = None
        self._tape_file: int | None = None
        self._passed = bytearray(0)
        #: what could not be read in this pass: asked once, since a drive tries for minutes
        self._unreadable: dict[int, CapstanError] = {}
        self._bad_headers: dict[tuple[int, int], CapstanError] = {}

    def find(self, item: ReadItem) -> None:
        """Its tape file is the right one: its header is read once for all that lies in it.

        Raises BadLabel and what the drive says.
        """
        if self._tape_file == item.tape_file:
            return
        self.let_go()
        self._tape_file = self._head = None
        key = (item.tape_file, item.first_block)
        if key in self._bad_headers:
            raise self._bad_headers[key]
        self._unreadable.clear()
        self._plan.enter("locate")
        try:
            check_header(self._drive, self._load, first_block=item.first_block, tape_file=item.tape_file)
        except (MediumError, BadLabel, EndOfData, Filemark, BlockTooLong) as exc:
            self._bad_headers[key] = exc
            raise
        self._tape_file, self._head = item.tape_file, item.first_block + HEADER_OBJECTS

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
            raise CopyDamaged(what=f"the copy of file {item.file_id} on {self._load.volume}", why=why)
        return memoryview(held.buffer.bytes)[start:stop], held.buffer

    def before(self, item: ReadItem) -> memoryview:
        """What stands before the file's bytes when they begin in the tape file's first block, else nothing."""
        held = self._held
        if held is None or not item.size or item.byte_offset >= self._block_size:
            return memoryview(b"")
        at = (item.first_block + HEADER_OBJECTS - held.first) * self._block_size
        return memoryview(held.buffer.bytes)[at : at + item.byte_offset] if at >= 0 else memoryview(b"")

    def forget(self) -> None:
        """What was asked for is done: the next file is looked for anew, and what was bad may have become better."""
        self.let_go()
        self._unreadable.clear()
        self._bad_headers.clear()

    def doubt(self) -> None:
        """Something is not where it should be: the next file's tape file is looked at again."""
        self._tape_file = None

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
        self._go_to(held.next)
        length = self._read(held.next, memoryview(held.buffer.bytes)[held.filled :])
        held.next, held.filled = held.next + 1, held.filled + length

    def _go_to(self, block: int) -> None:
        head = self._head
        if head is not None and head < block <= head + READ_THROUGH_BLOCKS:
            if not self._passed:
                self._passed = bytearray(self._block_size)
            try:
                for passed in range(head, block):
                    self._read(passed, memoryview(self._passed))
                return
            except MediumError:
                pass  # nobody wants that block now: on the other side of it goes on what is wanted
        if self._head != block:
            self._plan.enter("locate")
            self._head = None
            self._drive.locate(block)
            self._head = block

    def _read(self, block: int, view: memoryview) -> int:
        if block in self._unreadable:
            raise self._unreadable[block]
        self._plan.enter("read")
        self._head = None
        try:
            length = self._drive.read_into(view)
        except (MediumError, EndOfData, Filemark, BlockTooLong) as exc:
            self._unreadable[block] = exc
            raise
        self._head = block + 1
        return length
