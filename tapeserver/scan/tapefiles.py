"""Tape files that no index tells of: where the last one ends, and what their own headers say of what is in them.

The slow half of a scan (see `volume`), and its events. Forward through the data wherever it can, since that is the way
a tape is fast. Believes only whole groups of labels; what is damaged is told as a problem, and the rest goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field

from tapeserver.format import labels
from tapeserver.format.indexes import IndexDead, IndexEntry
from tapeserver.format.labels import BadLabel, FileLabel, Kind, Status, VolumeLabel
from tapeserver.format.objects import HEADER_OBJECTS, TRAILER_OBJECTS, VOLUME_LABEL_OBJECTS, Extent, adler32_text
from tapeserver.library import BeginningOfMedium, Drive, EndOfData, Filemark, HardwareError, MediumError
from tapeserver.scan.tapereader import Missing, Placed, TapeData, Unreadable, expect_mark, read_labels, walk

MARKS_A_FILE = 3
NOT_LABELS = (BadLabel, Filemark, EndOfData, MediumError)
BY_HEADER = 0
"""In `told_by`: no index, but the copy's own header."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies, told by the index that is this tape file and was written under this epoch (0, 0: by their headers)."""

    told_by: int
    epoch: int
    entries: list[IndexEntry]


@dataclass(frozen=True, slots=True)
class Dead:
    """Tape files that no copy refers to."""

    told_by: int
    extents: list[IndexDead]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """All that the index in this tape file told is taken back: it is damaged further on."""

    told_by: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something on the volume that could not be read or believed, for people; the scan went on."""

    text: str


ScanEvent = Copies | Dead | Withdrawn | Problem


@dataclass(slots=True)
class Tail:
    """The last whole tape file (none: trailer and extent are None), and where the next one would begin."""

    trailer: FileLabel | None = None
    extent: Extent | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def tape_files(self) -> int:
        return self.trailer.sequence if self.trailer else 0

    @property
    def end_block(self) -> int:
        return self.extent.end_block if self.extent else VOLUME_LABEL_OBJECTS


def find_tail(drive: Drive, label: VolumeLabel) -> Tail:
    """Look for the last trailer from the end of the data; a torn tape file has at most two marks to step over.

    Only when none is where it should be, all groups are counted from the beginning.
    """
    for marks in range(1, MARKS_A_FILE + 1):
        drive.space_to_end()
        try:
            drive.space_marks(-marks)
        except BeginningOfMedium:
            return Tail()
        found = ending_at(drive, label, _block(drive) + 1)
        if found is not None:
            return Tail(*found)
    return _counted_tail(drive, label)


def ending_at(drive: Drive, label: VolumeLabel, end_block: int) -> tuple[FileLabel, Extent] | None:
    """The trailer of the tape file that ends there, and its extent; None when no trailer of ours stands before it."""
    if end_block < VOLUME_LABEL_OBJECTS + HEADER_OBJECTS + TRAILER_OBJECTS:
        return None
    try:
        drive.locate(end_block - (TRAILER_OBJECTS - 1))
        trailer = _trailer(drive)
    except NOT_LABELS:
        return None
    extent = Extent(
        first_block=end_block - TRAILER_OBJECTS - HEADER_OBJECTS - trailer.block_count, data_blocks=trailer.block_count
    )
    return (trailer, extent) if belongs(trailer, label) and extent.first_block >= VOLUME_LABEL_OBJECTS else None


def belongs(found: FileLabel, label: VolumeLabel) -> bool:
    """Whether a tape file's label is of this volume, generation and catalog."""
    return found.is_of(
        volume=label.volume, generation=label.generation, catalog_id=label.catalog_id, block_size=label.block_size
    )


def read_files(
    drive: Drive, label: VolumeLabel, *, begin: tuple[int, int], first: int, last: int
) -> Iterator[ScanEvent]:
    """What the tape files from number `first` to `last` hold. `begin`: a tape file at or before them, and its HDR1."""
    number, block = begin
    while number <= last:
        drive.locate(block)
        if number < first:
            drive.space_marks(MARKS_A_FILE)
        else:
            yield from _read_file(drive, label, number, block)
            if not _passed(drive, block):
                return
        number, block = number + 1, _block(drive)


def _read_file(drive: Drive, label: VolumeLabel, number: int, block: int) -> Iterator[ScanEvent]:
    """One tape file, from its HDR1; the head is anywhere behind that afterwards."""
    try:
        header = labels.parse_header(read_labels(drive, labels.HEADER_NAMES))
        expect_mark(drive)
        if not belongs(header, label) or header.sequence != number:
            raise BadLabel(label="UHL1", why=f"it is of tape file {header.sequence}")
    except NOT_LABELS as exc:
        yield Problem(f"tape file {number} at block {block} has no header that can be believed: {exc}")
        yield _dead(number, block, 0, "its header is damaged")
        return
    if header.kind is not Kind.DATA:
        return
    data = TapeData(drive, block, label.block_size)
    members = list(walk(data, generation=label.generation, catalog_id=label.catalog_id))
    try:
        if not data.passed_mark:
            drive.space_marks(1)
        trailer = _trailer(drive)
        if not header.opens(trailer):
            raise BadLabel(label="UTL1", why="it does not belong to the header")
    except NOT_LABELS as exc:
        yield Problem(f"tape file {number} at block {block} has no trailer that can be believed: {exc}")
        yield from _entries(header, block, [one for one in members if isinstance(one, Placed) and _is_good(data, one)])
        return
    if trailer.status is Status.ABORTED:
        yield _dead(number, block, trailer.block_count + HEADER_OBJECTS + TRAILER_OBJECTS, "it was aborted")
        return
    wanted = [one for one in members if one.number < trailer.file_count]
    for one in wanted:
        if isinstance(one, Missing):
            yield Problem(f"tape file {number} at block {block}, from member {one.number + 1} on: {one.why}")
    yield from _entries(header, block, [one for one in wanted if isinstance(one, Placed)])


def _entries(header: FileLabel, block: int, placed: list[Placed]) -> Iterator[ScanEvent]:
    if not placed:
        yield _dead(header.sequence, block, 0, "nothing in it can be used")
        return
    created = datetime.datetime.combine(header.created, datetime.time(), datetime.UTC)
    yield Copies(
        BY_HEADER, 0, [_entry(header, block, one, int(created.timestamp()) * 1_000_000) for one in placed]
    )  # fmt: skip


def _entry(header: FileLabel, block: int, placed: Placed, created: int) -> IndexEntry:
    member = placed.member
    return IndexEntry(
        tape_file=header.sequence,
        first_block=block,
        offset=placed.offset,
        file_id=member.file_id,
        copy_number=member.copy_number,
        size=member.size,
        adler32=member.adler32,
        digests=dict(member.digests),
        path=member.path,
        mtime_ns=member.mtime_ns,
        mode=member.mode,
        owner=member.owner,
        group=member.group,
        storage_class=member.storage_class,
        collocation="",
        node=None,
        parent=None,
        created=created,
        epoch=header.epoch,
    )


def _is_good(data: TapeData, one: Placed) -> bool:
    try:
        return adler32_text(data.checksum(one.offset, one.member.size)) == one.member.adler32
    except Unreadable:
        return False


def _dead(number: int, block: int, blocks: int, why: str) -> Dead:
    return Dead(BY_HEADER, [IndexDead(tape_file=number, first_block=block, blocks=blocks, why=why)])


def _passed(drive: Drive, block: int) -> bool:
    """Go behind the tape file that begins at `block`, by its marks; False when the data ends before."""
    try:
        drive.locate(block)
        drive.space_marks(MARKS_A_FILE)
    except EndOfData:
        return False
    return True


def _counted_tail(drive: Drive, label: VolumeLabel) -> Tail:
    tail = Tail(problems=[Problem("the last trailer is not where it should be; all tape files were counted")])
    try:
        drive.locate(VOLUME_LABEL_OBJECTS)
        while True:
            drive.space_marks(MARKS_A_FILE)
            end = _block(drive)
            found = ending_at(drive, label, end)
            if found is not None:
                tail.trailer, tail.extent = found
            drive.locate(end)
    except EndOfData:
        return tail


def _trailer(drive: Drive) -> FileLabel:
    trailer = labels.parse_trailer(read_labels(drive, labels.TRAILER_NAMES))
    expect_mark(drive)
    return trailer


def _block(drive: Drive) -> int:
    position = drive.position()
    if position is None:
        raise HardwareError(drive=drive.name, why="it does not say where its head is")
    return position.block
