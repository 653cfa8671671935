"""Reads a whole volume of which no catalog knows anything: what it is, and which copies lie on it.

Indexes first: the last one is found from the end of the data, it names the one before it, and so on. The tape files
that no index tells of are read by their own headers (`tapefiles`). Works over a Drive in the calling thread, holds
one batch at a time, writes nothing, and decides nothing about names: see catalog.rebuild.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from catalog.errors import Damaged, TapeError
from tapeserver.format import indexes, labels
from tapeserver.format.indexes import BadIndex, IndexDead, IndexEntry, IndexHead
from tapeserver.format.labels import BadLabel, FileLabel, Kind, VolumeLabel
from tapeserver.format.objects import HEADER_OBJECTS, TRAILER_OBJECTS, VOLUME_LABEL_OBJECTS, adler32, adler32_text
from tapeserver.format.pax import BadMember, OwnMember
from tapeserver.library import Drive, EndOfData, Filemark
from tapeserver.scan.tapefiles import (
    NOT_LABELS,
    Copies,
    Dead,
    Problem,
    ScanEvent,
    Tail,
    Withdrawn,
    belongs,
    ending_at,
    find_tail,
    read_files,
)
from tapeserver.scan.tapereader import TapeData, Unreadable, expect_mark, read_header, read_labels

BATCH_ENTRIES = 5000
STEPS_BACK_MAX = 64
"""So many tape files are looked at from the end for the last index; then the volume counts as one without."""


class NoLabel(TapeError):
    """The volume carries no label of ours: {why}."""

    code = "no_label"

    def __init__(self, *, why: str, blank: bool) -> None:
        super().__init__(why=why)
        self.blank = blank


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """What the catalog wants to know of the volume itself. `full`: its last tape file is a full index."""

    tape_files: int
    end_block: int
    pool: str
    index_block: int
    indexed_tape_files: int
    full: bool
    #: the highest of the mounts that wrote on it
    epoch: int
    capacity_bytes: int | None
    written_bytes: int | None


def read_label(drive: Drive) -> VolumeLabel:
    """Whose volume it is. Raises NoLabel, and what the drive raises."""
    drive.rewind()
    try:
        first = drive.read_block()
    except EndOfData as exc:
        raise NoLabel(why="nothing is recorded on it", blank=True) from exc
    except Filemark as exc:
        raise NoLabel(why="it begins with a tape mark", blank=False) from exc
    try:
        return labels.parse_volume([first, drive.read_block()])
    except (BadLabel, Filemark, EndOfData) as exc:
        raise NoLabel(why=str(exc), blank=False) from exc


def scan_volume(drive: Drive, label: VolumeLabel) -> Iterator[ScanEvent | VolumeFacts]:
    """Copies, dead tape files and problems as they are found, and the facts last. Raises what ends all work.

    Every copy is told once, unless the index that told it turns out to be damaged: `Withdrawn` then takes back all
    that it told.
    """
    tail = find_tail(drive, label)
    yield from tail.problems
    chain = _Chain(drive, label)
    place = chain.last_before(tail)
    while place:
        place = yield from chain.read(place)
    for first, last in chain.holes(tail.tape_files):
        begin = max((number, block) for number, block in chain.begins.items() if number <= first)
        yield from read_files(drive, label, begin=begin, first=first, last=last)
    yield _facts(drive, tail, chain)


def read_copy(drive: Drive, label: VolumeLabel, entry: IndexEntry) -> bytes:
    """The bytes of a (small) file on the volume. Raises Damaged, and what the drive raises when it can do no more."""
    data = TapeData(drive, entry.first_block, label.block_size)
    what = f"the copy of {entry.path} on {label.volume}"
    try:
        found = data.take(entry.offset, entry.size)
    except Unreadable as exc:
        raise Damaged(what=what, why=str(exc)) from exc
    if adler32_text(adler32(found)) != entry.adler32:
        raise Damaged(what=what, why="its checksum is wrong")
    return found


def _facts(drive: Drive, tail: Tail, chain: _Chain) -> VolumeFacts:
    newest = chain.newest
    data_blocks = tail.end_block - VOLUME_LABEL_OBJECTS - tail.tape_files * (HEADER_OBJECTS + TRAILER_OBJECTS)
    return VolumeFacts(
        tape_files=tail.tape_files,
        end_block=tail.end_block,
        pool=newest.pool if newest else "",
        index_block=chain.index_block,
        indexed_tape_files=chain.indexed_tape_files,
        full=newest is not None and newest.kind == "full" and chain.indexed_tape_files == tail.tape_files,
        epoch=tail.trailer.epoch if tail.trailer else 0,
        capacity_bytes=drive.capacity_bytes,
        # As a session counts them, but for last blocks that are short.
        written_bytes=max(data_blocks, 0) * chain.label.block_size,
    )


@dataclass(slots=True)
class _Chain:
    """The indexes of a volume, from the last to the first, and which tape files they account for."""

    drive: Drive
    label: VolumeLabel
    #: the newest that is whole
    newest: IndexHead | None = None
    index_block: int = 0
    indexed_tape_files: int = 0
    #: ranges of tape files, both ends inclusive
    covered: list[tuple[int, int]] = field(default_factory=list)
    #: number -> first block, of tape files from which one can go on
    begins: dict[int, int] = field(default_factory=lambda: {1: VOLUME_LABEL_OBJECTS})

    def holes(self, tape_files: int) -> list[tuple[int, int]]:
        """The ranges of tape files that no index accounts for."""
        found, at = [], 1
        for first, last in sorted(self.covered):
            if at < first:
                found.append((at, min(first - 1, tape_files)))
            at = max(at, last + 1)
        if at <= tape_files:
            found.append((at, tape_files))
        return found

    def last_before(self, tail: Tail) -> int:
        """The block of the last index at or before a tape file, from there backwards; 0: none was found."""
        trailer, extent = tail.trailer, tail.extent
        for _ in range(STEPS_BACK_MAX):
            if trailer is None or extent is None:
                break
            if trailer.kind is Kind.INDEX:
                return extent.first_block
            if trailer.previous_index:
                return trailer.previous_index
            trailer, extent = ending_at(self.drive, self.label, extent.first_block) or (None, None)
        return 0

    def read(self, block: int) -> Generator[ScanEvent, None, int]:
        """What the index at `block` tells; returns the block of the one before it, 0: there is none."""
        try:
            self.drive.locate(block)
            header = labels.parse_header(read_labels(self.drive, labels.HEADER_NAMES))
            expect_mark(self.drive)
            if header.kind is not Kind.INDEX or not belongs(header, self.label):
                raise BadLabel(label="UHL1", why="it is of something else")
        except NOT_LABELS as exc:
            yield Problem(f"there should be an index at block {block}: {exc}")
            return self.last_before(Tail(*(ending_at(self.drive, self.label, block) or ())))
        self.begins[header.sequence] = block
        told = False
        try:
            for event in self._told(header, block):
                yield event
                told = True
        except (BadIndex, BadMember, Unreadable) as exc:
            yield Problem(f"the index in tape file {header.sequence} at block {block} is damaged: {exc}")
            if told:
                yield Withdrawn(header.sequence)
        self.covered.append((header.sequence, header.sequence))
        return header.previous_index if header.previous_index < block else 0

    def _told(self, header: FileLabel, block: int) -> Iterator[ScanEvent]:
        data = TapeData(self.drive, block, self.label.block_size)
        member = read_header(data, 0)
        if not isinstance(member.member, OwnMember) or member.member.kind != "index":
            raise BadIndex(why="it holds something else")
        head, lines = indexes.parse(bytes(piece) for piece in data.pieces(member.data_offset, member.member.size))
        self._check(head, header)
        entries: list[IndexEntry] = []
        dead: list[IndexDead] = []
        for line in lines:
            # What a newer index has told is not told again.
            if self.covered and any(first <= line.tape_file <= last for first, last in self.covered):
                continue
            if isinstance(line, IndexDead):
                dead.append(line)
                continue
            entries.append(line)
            if len(entries) == BATCH_ENTRIES:
                yield Copies(header.sequence, header.epoch, entries)
                entries = []
        if entries:
            yield Copies(header.sequence, header.epoch, entries)
        if dead:
            yield Dead(header.sequence, dead)
        if head.first_tape_file <= head.last_tape_file:
            self.covered.append((head.first_tape_file, head.last_tape_file))
        if self.newest is None:
            self.newest, self.index_block, self.indexed_tape_files = head, block, header.sequence

    def _check(self, head: IndexHead, header: FileLabel) -> None:
        ours = (head.volume, head.generation, head.catalog_id.upper())
        if ours != (self.label.volume, self.label.generation, self.label.catalog_id.upper()):
            raise BadIndex(why=f"it is of {head.volume} generation {head.generation} of catalog {head.catalog_id}")
        if head.last_tape_file >= header.sequence:
            raise BadIndex(why=f"it tells of tape file {head.last_tape_file}, which is not before it")
