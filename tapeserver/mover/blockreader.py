"""The blocks of the copies that a mount reads, for recalls and for verifying: where the head goes, and what is bad.

The head moves only where that is cheaper than reading on; what a drive has failed at is asked once, since it tries for
minutes. Checks headers and generations; knows no checksums, keeps no data, and does not say what is read next.
"""

from __future__ import annotations

from collections.abc import Callable

from catalog.errors import CapstanError, Damaged, Retry
from tapeserver.format.labels import BadLabel
from tapeserver.format.objects import HEADER_OBJECTS
from tapeserver.frames import Load, ReadItem, VerifyItem
from tapeserver.library import BlockTooLong, Drive, EndOfData, Filemark, MediumError
from tapeserver.mover.plan import Plan
from tapeserver.mover.volume import check_header
from tapeserver.scan.tapereader import READ_THROUGH_BLOCKS

#: what a drive or a label says of one copy: the mount goes on with the next
OF_ONE_COPY = (MediumError, BadLabel, EndOfData, Filemark, BlockTooLong)


class CopyDamaged(Damaged):
    """The copy of file {file} on {volume} at block {block} is damaged: {why}."""

    code, retry = "copy_damaged", Retry.OTHER_COPY


class BlockReader:
    """For the thread of the drive. `find` a copy's tape file, then read its blocks."""

    def __init__(self, drive: Drive, load: Load, plan: Plan, *, before_read: Callable[[], None] = lambda: None) -> None:
        self._drive, self._load, self._plan, self._before_read = drive, load, plan, before_read
        #: bytes that went past the head, also those that nobody wanted
        self.read_bytes = 0
        self.tape_file: int | None = None
        #: the object that the next read gives; None: unknown
        self._head: int | None = None
        self._passed = bytearray(0)
        self._unreadable: dict[int, CapstanError] = {}
        self._bad_headers: dict[tuple[int, int], CapstanError] = {}

    def find(self, copy: ReadItem | VerifyItem) -> None:
        """Its tape file is the right one: its header is read once for all that lies in it.

        Raises CopyDamaged (another generation), BadLabel and what the drive says.
        """
        if copy.generation != self._load.generation:
            raise self.damaged(copy, f"the volume carries generation {self._load.generation}, not {copy.generation}")
        if self.tape_file == copy.tape_file:
            return
        self.tape_file = self._head = None
        key = (copy.tape_file, copy.first_block)
        if key in self._bad_headers:
            raise self._bad_headers[key]
        self._unreadable.clear()
        self._plan.enter("locate")
        try:
            check_header(self._drive, self._load, first_block=copy.first_block, tape_file=copy.tape_file)
        except OF_ONE_COPY as exc:
            self._bad_headers[key] = exc
            raise
        self.tape_file, self._head = copy.tape_file, copy.first_block + HEADER_OBJECTS

    def read(self, block: int, view: memoryview) -> int:
        """Read this block into `view`; its length. Raises what the drive says, and what `before_read` raises."""
        # Asked here too: going to a block that is known to be bad would cost a locate.
        if block in self._unreadable:
            raise self._unreadable[block]
        self._go_to(block)
        return self._read(block, view)

    def damaged(self, copy: ReadItem | VerifyItem, why: str) -> CopyDamaged:
        return CopyDamaged(file=copy.file_id, volume=self._load.volume, block=copy.first_block, why=why)

    def doubt(self) -> None:
        """Something is not where it should be: the next copy's tape file is looked at again."""
        self.tape_file = None

    def forget(self) -> None:
        """What was asked for is done: what was bad may have become better."""
        self._unreadable.clear()
        self._bad_headers.clear()

    def _go_to(self, block: int) -> None:
        head = self._head
        if head is not None and head < block <= head + READ_THROUGH_BLOCKS:
            if not self._passed:
                self._passed = bytearray(self._load.block_size)
            try:
                for passed in range(head, block):
                    self._read(passed, memoryview(self._passed))
            except OF_ONE_COPY:
                pass  # nobody wants that block now: on the other side of it goes on what is wanted
        if self._head != block:
            self._plan.enter("locate")
            self._head = None
            self._drive.locate(block)
            self._head = block

    def _read(self, block: int, view: memoryview) -> int:
        if block in self._unreadable:
            raise self._unreadable[block]
        self._before_read()
        self._plan.enter("read")
        self._head = None
        try:
            length = self._drive.read_into(view)
        except OF_ONE_COPY as exc:
            self._unreadable[block] = exc
            raise
        self._head = block + 1
        self.read_bytes += length
        return length
