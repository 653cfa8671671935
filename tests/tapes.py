"""For tests: tape files written straight to a drive, byte for byte as docs/storage.md has them. Not a test itself."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tapeserver.format import bundles, indexes, labels, pax
from tapeserver.format.indexes import IndexDead, IndexEntry, IndexHead
from tapeserver.format.labels import FileLabel, Kind, VolumeLabel
from tapeserver.format.objects import VOLUME_LABEL_OBJECTS, Extent, adler32, adler32_text
from tapeserver.format.pax import END_OF_ARCHIVE, Member, OwnMember, padding
from tapeserver.library import Drive, EndOfData
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library

CATALOG_ID = "0F8C1D2E"
BLOCK_SIZE = 4096
DAY = datetime.date(2026, 1, 2)


def make_library(path: Path, volumes: Sequence[str], name: str = "east", drives: int = 2) -> VirtualLibrary:
    create_virtual_library(path, name, drives, max(len(volumes), 1))
    for volume in volumes:
        add_cartridge(path, volume, 256 * 1024 * 1024)
    return VirtualLibrary(path, name)


def contents(drive: Drive) -> list[bytes]:
    """All blocks from the beginning to the end of data, of a tape without marks."""
    drive.rewind()
    found = []
    while True:
        try:
            found.append(drive.read_block())
        except EndOfData:
            return found


@dataclass
class Stored:
    """A file for a tape. `node` and `parent` stand in indexes alone."""

    file_id: int
    path: str
    data: bytes
    copy_number: int = 1
    node: int | None = None
    parent: int | None = None
    storage_class: str = "one"
    owner: str = "ann"
    size: int = field(init=False)
    adler32: str = field(init=False)

    def __post_init__(self) -> None:
        self.size, self.adler32 = len(self.data), adler32_text(adler32(self.data))

    def member(self, generation: int) -> Member:
        return Member(
            path=self.path, size=self.size, mtime_ns=1_700_000_000_000_000_000 + self.file_id, mode=0o640,
            owner=self.owner, group="hall", storage_class=self.storage_class, adler32=self.adler32,
            file_id=self.file_id, generation=generation, catalog_id=CATALOG_ID, copy_number=self.copy_number,
            digests={"sha-256": "eA=="} if self.file_id % 2 else {},
        )  # fmt: skip


class TapeWriter:
    """Appends tape files to a volume in a drive, and keeps what an index has to tell of them."""

    def __init__(self, drive: Drive, volume: str, *, generation: int = 1, epoch: int = 7, pool: str = "east") -> None:
        self.drive, self.volume, self.generation, self.epoch, self.pool = drive, volume, generation, epoch, pool
        self.tape_files, self.end_block, self.previous_index, self.indexed = 0, VOLUME_LABEL_OBJECTS, 0, 0
        self.entries: list[IndexEntry] = []
        self.dead: list[IndexDead] = []

    def label(self, catalog_id: str = CATALOG_ID) -> None:
        self.drive.rewind()
        label = VolumeLabel(
            volume=self.volume, generation=self.generation, catalog_id=catalog_id, block_size=BLOCK_SIZE
        )
        for block in labels.build_volume(label):
            self.drive.write_block(block)
        self.drive.flush()

    def file(self, stored: Stored, *, aborted: bool = False, damaged: bytes | None = None) -> Extent:
        """A tape file with this one file; `damaged`: other bytes than the header promises."""
        headers = pax.build_member(stored.member(self.generation))
        data = stored.data if damaged is None else damaged
        extent = self._tape_file(
            headers + data + bytes(padding(len(data))) + END_OF_ARCHIVE, 1, aborted=aborted, identifier=stored.file_id
        )
        if aborted:
            self._bury(extent, "aborted")
        else:
            self._keep(stored, extent, len(headers))
        return extent

    def bundle(self, files: Sequence[Stored], *, good: int | None = None) -> Extent:
        """A bundle of these, of which the first `good` are whole and the rest is cut off."""
        parts = [(stored, pax.build_member(stored.member(self.generation))) for stored in files]
        lines = [
            (bundles.list_line(one.file_id, one.path, one.size, one.adler32), headers, one.size)
            for one, headers in parts
        ]
        layout = bundles.lay_out(lines)
        own = bundles.list_member(
            layout, volume=self.volume, generation=self.generation, catalog_id=CATALOG_ID,
            tape_file=self.tape_files + 1, mtime_ns=0,
        )  # fmt: skip
        archive = pax.build_own(own) + layout.list_data + bytes(padding(len(layout.list_data)))
        count = len(files) if good is None else good
        for stored, headers in parts[:count]:
            archive += headers + stored.data + bytes(padding(stored.size))
        archive += END_OF_ARCHIVE if good is None else b"what there was of the next one"
        extent = self._tape_file(archive, count, identifier=files[0].file_id)
        for (stored, _), offset in zip(parts[:count], layout.offsets, strict=False):
            self._keep(stored, extent, offset)
        return extent

    def index(self, *, full: bool = False, damaged: bool = False, **changes: Any) -> Extent:
        """An index of everything since the last one, or of all."""
        first = 1 if full else self.indexed + 1
        entries = sorted((one for one in self.entries if one.tape_file >= first), key=lambda one: one.place)
        head = IndexHead(
            volume=self.volume, generation=self.generation, catalog_id=CATALOG_ID, pool=self.pool,
            kind="full" if full else "session", first_tape_file=first, last_tape_file=self.tape_files,
            previous_index=self.previous_index, entries=len(entries), block_size=BLOCK_SIZE,
        )  # fmt: skip
        head = replace_struct(head, changes)
        data = b"".join(indexes.build(head, entries, [one for one in self.dead if one.tape_file >= first]))
        if damaged:
            data = data[:-9] + bytes([data[-9] ^ 0xFF]) + data[-8:]
        name = indexes.member_name(self.volume, self.generation, self.tape_files + 1)
        own = OwnMember(
            path=name, kind="index", size=len(data), mtime_ns=0, generation=self.generation, catalog_id=CATALOG_ID
        )
        archive = pax.build_own(own) + data + bytes(padding(len(data))) + END_OF_ARCHIVE
        extent = self._tape_file(archive, 1, kind=Kind.INDEX)
        self.previous_index, self.indexed = extent.first_block, self.tape_files
        return extent

    def torn(self, objects: int) -> None:
        """The beginning of another tape file: so many of its labels, marks and blocks."""
        label = self._label(99, Kind.DATA)
        parts: list[bytes | None] = [*labels.build_file(label), None, b"x" * BLOCK_SIZE, b"y" * 100, None]
        parts += labels.build_file(label.closed(block_count=2, file_count=1))
        self.drive.locate(self.end_block)
        for part in parts[:objects]:
            self.drive.write_marks(1) if part is None else self.drive.write_block(part)
        self.drive.flush()

    def _tape_file(
        self, archive: bytes, members: int, *, kind: Kind = Kind.DATA, aborted: bool = False, identifier: int = 0
    ) -> Extent:
        label = self._label(identifier, kind)
        self.drive.locate(self.end_block)
        blocks = [archive[at : at + BLOCK_SIZE] for at in range(0, len(archive), BLOCK_SIZE)]
        trailer = label.closed(block_count=len(blocks), file_count=0 if aborted else members, aborted=aborted)
        for block in labels.build_file(label):
            self.drive.write_block(block)
        self.drive.write_marks(1)
        for block in blocks:
            self.drive.write_block(block)
        self.drive.write_marks(1)
        for block in labels.build_file(trailer):
            self.drive.write_block(block)
        self.drive.write_marks(1)
        self.drive.flush()
        extent = Extent(first_block=self.end_block, data_blocks=len(blocks))
        self.tape_files, self.end_block = label.sequence, extent.end_block
        return extent

    def _label(self, identifier: int, kind: Kind) -> FileLabel:
        return FileLabel(
            volume=self.volume, identifier=f"{identifier:016X}", sequence=self.tape_files + 1,
            generation=self.generation, catalog=CATALOG_ID, block_size=BLOCK_SIZE, epoch=self.epoch, created=DAY,
            kind=kind, previous_index=self.previous_index,
        )  # fmt: skip

    def _keep(self, stored: Stored, extent: Extent, offset: int) -> None:
        member = stored.member(self.generation)
        self.entries.append(
            IndexEntry(
                tape_file=self.tape_files, first_block=extent.first_block, offset=offset, file_id=stored.file_id,
                copy_number=stored.copy_number, size=stored.size, adler32=stored.adler32,
                digests=dict(member.digests), path=stored.path, mtime_ns=member.mtime_ns, mode=member.mode,
                owner=member.owner, group=member.group, storage_class=stored.storage_class, collocation="",
                node=stored.node, parent=stored.parent, created=1_700_000_000_000_000, epoch=self.epoch,
            )
        )  # fmt: skip

    def _bury(self, extent: Extent, why: str) -> None:
        blocks = extent.end_block - extent.first_block
        self.dead.append(IndexDead(tape_file=self.tape_files, first_block=extent.first_block, blocks=blocks, why=why))


def replace_struct(struct: IndexHead, changes: dict[str, Any]) -> IndexHead:
    return IndexHead(**{**{name: getattr(struct, name) for name in struct.__struct_fields__}, **changes})


def altered(stored: Stored, **changes: Any) -> Stored:
    return replace(stored, **changes)
