"""The end of the volume, where tape files are appended: labels, marks and blocks in their order, and what room is left.

Writes what it is given; which files those are, and when to flush, is `archive`'s matter.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable

from catalog.errors import Retry, TapeError
from tapeserver.format import labels
from tapeserver.format.labels import FileLabel, Kind
from tapeserver.format.objects import Extent, data_blocks
from tapeserver.frames import Load
from tapeserver.library import Drive, HardwareError, VolumeOverflow
from tapeserver.mover.volume import End

LABEL_ROOM_BYTES = 4096
"""What the labels and marks of a tape file may take on the medium, generously."""

BLOCK_ROOM_BYTES = 16
"""What a block may take on the medium beyond its data."""

INDEX_LINE_BYTES = 64
"""What a file takes in an index, generously: 26 bytes is usual, and how long its path is decides."""

WHOLE_SHARE = 0.8
"""An empty medium with a smaller part of its capacity before the early warning is short for reasons of its own."""


class FileTooLarge(TapeError):
    """A volume like {volume} has no room for {size} bytes, also when it is empty."""

    code, retry = "file_too_large", Retry.NEVER


class VolumeFull(TapeError):
    """Volume {volume} has no room for {size} bytes."""

    code, retry = "volume_full", Retry.NEVER


class VolumeEnd:
    """One tape file after the other: `begin`, `write` its blocks, `close`.

    `tape_files` and `end_block` move when a tape file is closed, and are true on the medium after `flush`. Every method
    raises what the drive raises. After a VolumeOverflow the volume is `torn`: behind `end_block` stands a beginning
    without a trailer, which is no tape file, and nothing more is written unless `step_back` succeeds.
    """

    def __init__(
        self, drive: Drive, load: Load, end: End, *, previous_index: int, today: Callable[[], datetime.date]
    ) -> None:
        self._drive, self._load, self.today = drive, load, today
        self.tape_files, self.end_block = end.tape_files, end.end_block
        #: HDR1 of the newest index, which every tape file names
        self.previous_index = previous_index
        self.torn = False
        self._label: FileLabel | None = None
        self._blocks = 0
        #: good members of the tape files of this mount, of which its index will tell
        self._members = 0
        #: what fits on such a volume when it is empty; None: the drive does not know
        self._whole_bytes = _whole_bytes(drive, empty=end.tape_files == 0)

    def has_room(self, archive_bytes: int) -> bool:
        """Whether a tape file with so much data ends before the early warning, as far as the drive knows, and leaves
        the room that the index of this mount's files needs."""
        if self.torn or self._drive.end_of_medium_warning:
            return False
        return self._room(archive_bytes) <= self.remaining_bytes(1)

    def remaining_bytes(self, members: int) -> float:
        """From the head to the early warning, without what the index of this mount's files and so many more needs.

        What lies behind the warning is for its labels and trailers, and for what the index needs beyond that.
        """
        remaining = self._drive.remaining_bytes
        return math.inf if remaining is None else remaining - (self._members + members) * INDEX_LINE_BYTES

    def may_fit(self, archive_bytes: int) -> bool:
        """Whether a tape file with so much data fits on such a volume at all."""
        return self._whole_bytes is None or self._room(archive_bytes) + INDEX_LINE_BYTES <= self._whole_bytes

    def _room(self, archive_bytes: int) -> int:
        blocks = data_blocks(archive_bytes, self._load.block_size)
        return archive_bytes + blocks * BLOCK_ROOM_BYTES + LABEL_ROOM_BYTES

    def step_back(self) -> None:
        """Go to `end_block` over what was torn off there, which the next write overwrites, as the next mount's would.

        Only when everything before it was flushed. Does nothing on a volume that is not torn.
        """
        if self.torn:
            self._drive.locate(self.end_block)
            self.torn, self._label = False, None

    def begin(self, kind: Kind, identifier: str) -> FileLabel:
        """Write the header of the next tape file and the mark behind it."""
        label = FileLabel(
            volume=self._load.volume,
            identifier=identifier,
            sequence=self.tape_files + 1,
            generation=self._load.generation,
            catalog=labels.catalog_mark(self._load.catalog_id),
            block_size=self._load.block_size,
            epoch=self._load.epoch,
            created=self.today(),
            kind=kind,
            previous_index=self.previous_index,
        )
        self._label, self._blocks = label, 0
        self._write_labels(label)
        return label

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Write a block of data."""
        try:
            self._drive.write_block(block)
        except VolumeOverflow:
            self.torn = True
            raise
        self._blocks += 1

    def close(self, members: int) -> Extent:
        """Write the trailer of a tape file with so many good members, ABORTED with none; returns where it lies."""
        assert self._label is not None, "begin comes first"
        label, self._label = self._label, None
        self._write_mark()
        self._write_labels(label.closed(block_count=self._blocks, file_count=members, aborted=members == 0))
        extent = Extent(first_block=self.end_block, data_blocks=self._blocks)
        self.tape_files, self.end_block = label.sequence, extent.end_block
        self._members += members
        return extent

    def flush(self) -> None:
        """Make sure of everything, and that it lies where it was computed to lie."""
        try:
            self._drive.flush()
        except VolumeOverflow:
            # What is lost of it is not known, and nothing may follow it.
            self.torn = True
            raise
        position = self._drive.position()
        if position is not None and position.block != self.end_block and not self.torn:
            why = f"it stands at block {position.block}, and {self.end_block} was computed"
            raise HardwareError(drive=self._drive.name, why=why)

    def _write_labels(self, label: FileLabel) -> None:
        try:
            for block in labels.build_file(label):
                self._drive.write_block(block)
        except VolumeOverflow:
            self.torn = True
            raise
        self._write_mark()

    def _write_mark(self) -> None:
        try:
            self._drive.write_marks(1)
        except VolumeOverflow:
            self.torn = True
            raise


def _whole_bytes(drive: Drive, *, empty: bool) -> int | None:
    capacity, remaining = drive.capacity_bytes, drive.remaining_bytes
    if capacity is None or remaining is None or not empty or remaining < WHOLE_SHARE * capacity:
        return capacity
    return remaining
