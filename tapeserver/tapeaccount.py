"""What writing takes, counted before or after: objects, marks, bytes, flushes and seconds of a row of tape files.

Pure. The mover asks here when a flush is due, so that what is computed from a plan is what the mover does with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catalog.model import BLOCK_SIZE
from tapeserver.format import labels
from tapeserver.format.bundles import OFFSET_WIDTH
from tapeserver.format.objects import HEADER_OBJECTS, TRAILER_OBJECTS, data_blocks
from tapeserver.format.pax import END_OF_ARCHIVE, OWN_HEADER_BYTES, RECORD, padding

LABELS = len(labels.HEADER_NAMES) + len(labels.TRAILER_NAMES)
"""Blocks of 80 bytes around the data of a tape file."""

MARKS = HEADER_OBJECTS + TRAILER_OBJECTS - LABELS

HEADER_BYTES = 3 * RECORD
"""The archive headers of a file whose path and digests are not very long."""

LINE_BYTES = 100
"""A file's line in the list of a bundle, up to its offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeFile:
    """A tape file by its files: `sizes` in bytes, more than one only in a `bundle`."""

    sizes: Sequence[int]
    bundle: bool = False
    header_bytes: int = HEADER_BYTES
    line_bytes: int = LINE_BYTES

    @property
    def archive_bytes(self) -> int:
        """Its data on tape: the list of a bundle, headers, files, what fills them up, the end."""
        sizes = Counter(self.sizes)
        files = sum(number * (self.header_bytes + size + padding(size)) for size, number in sizes.items())
        if not self.bundle:
            return files + len(END_OF_ARCHIVE)
        listed = len(self.sizes) * (self.line_bytes + OFFSET_WIDTH + len("}\n"))
        return OWN_HEADER_BYTES + listed + padding(listed) + files + len(END_OF_ARCHIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveFigures:
    bytes_per_second: float
    #: of a synchronised flush with its back-hitch
    flush_seconds: float
    #: of a tape mark that is buffered
    mark_seconds: float


#: reference figures of a full-height LTO-9 drive; the mark is our assumption, at the upper end
LTO9 = DriveFigures(bytes_per_second=400e6, flush_seconds=3.0, mark_seconds=0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What goes to the medium. `objects` are blocks (labels and data) and marks; `bytes` counts all blocks,
    `file_bytes` the files' own; `flushes` is how often the drive stops for a synchronised flush; `seconds` is what a
    drive takes that is never kept waiting."""

    tape_files: int
    files: int
    objects: int
    marks: int
    bytes: int
    file_bytes: int
    flushes: int
    seconds: float

    def share_of_native(self, drive: DriveFigures = LTO9) -> float:
        """The bytes of files per second by the drive's own rate: headers, marks and flushes all count as loss."""
        return self.file_bytes / self.seconds / drive.bytes_per_second if self.seconds else 0.0


def flush_due(unflushed_bytes: int, unflushed_files: int, *, flush_bytes: int, flush_files: int) -> bool:
    """Whether so much is unflushed that it must become safe before more is written."""
    return unflushed_bytes >= flush_bytes or unflushed_files >= flush_files


def account(
    tape_files: Iterable[TapeFile],
    *,
    flush_bytes: int,
    flush_files: int,
    flush_seconds: float = math.inf,
    drive: DriveFigures = LTO9,
    block_size: int = BLOCK_SIZE,
) -> Account:
    """What writing these in this order takes on `drive`, with a flush by the policy and one at the end."""
    count = files = objects = written = file_bytes = flushes = 0
    unflushed_bytes = unflushed_files = 0
    seconds = unflushed_seconds = 0.0
    for tape_file in tape_files:
        archive = tape_file.archive_bytes
        count += 1
        files += len(tape_file.sizes)
        file_bytes += sum(tape_file.sizes)
        objects += HEADER_OBJECTS + data_blocks(archive, block_size) + TRAILER_OBJECTS
        written += archive + LABELS * labels.LABEL_BYTES
        unflushed_bytes += archive
        unflushed_files += len(tape_file.sizes)
        took = (archive + LABELS * labels.LABEL_BYTES) / drive.bytes_per_second + MARKS * drive.mark_seconds
        seconds += took
        unflushed_seconds += took
        by_amount = flush_due(unflushed_bytes, unflushed_files, flush_bytes=flush_bytes, flush_files=flush_files)
        if by_amount or unflushed_seconds >= flush_seconds:
            flushes += 1
            unflushed_bytes = unflushed_files = 0
            unflushed_seconds = 0.0
    flushes += unflushed_files > 0
    return Account(
        tape_files=count,
        files=files,
        objects=objects,
        marks=count * MARKS,
        bytes=written,
        file_bytes=file_bytes,
        flushes=flushes,
        seconds=seconds + flushes * drive.flush_seconds,
    )
