"""A volume is read back without any catalog: by its indexes, by headers where there is none, past what is damaged."""

from __future__ import annotations

from typing import Any

import pytest

from tapeserver.library.faults import Fault, clear, inject
from tapeserver.scan.tapefiles import Copies, Dead, Problem, Withdrawn
from tapeserver.scan.volume import NoLabel, VolumeFacts, read_copy, read_label, scan_volume
from tests.tapes import BLOCK_SIZE, CATALOG_ID, Stored, TapeWriter, make_library


class Scanned:
    """All events of a scan, put together as a rebuild does."""

    def __init__(self, drive: Any) -> None:
        self.label = read_label(drive)
        self.copies: dict[int, list[Any]] = {}
        self.dead: dict[int, list[Any]] = {}
        self.problems: list[str] = []
        for event in scan_volume(drive, self.label):
            match event:
                case Copies(told_by, _, entries):
                    self.copies.setdefault(told_by, []).extend(entries)
                case Dead(told_by, extents):
                    self.dead.setdefault(told_by, []).extend(extents)
                case Withdrawn(told_by):
                    self.copies.pop(told_by, None)
                    self.dead.pop(told_by, None)
                case Problem(text):
                    self.problems.append(text)
                case VolumeFacts():
                    self.facts = event

    def places(self) -> set[tuple[Any, ...]]:
        found = [place_of(entry) for entries in self.copies.values() for entry in entries]
        assert len(found) == len(set(found)), "told twice"
        return set(found)

    def buried(self) -> set[int]:
        return {one.tape_file for extents in self.dead.values() for one in extents}


def place_of(entry: Any) -> tuple[Any, ...]:
    return (
        entry.tape_file, entry.first_block, entry.offset, entry.file_id, entry.copy_number, entry.size, entry.adler32,
        entry.path, entry.owner, entry.group, entry.mode, entry.mtime_ns, entry.storage_class, entry.epoch,
        tuple(entry.digests.items()),
    )  # fmt: skip


@pytest.fixture
def east(tmp_path):
    make_library(tmp_path / "east", ["A00001"]).mount("A00001", "east-0", 7)
    return tmp_path / "east"


@pytest.fixture
def drive(east):
    from tapeserver.library.virtual import VirtualLibrary

    opened = VirtualLibrary(east, "east").open("east-0", 7)
    yield opened
    opened.close()


@pytest.fixture
def writer(drive):
    made = TapeWriter(drive, "A00001")
    made.label()
    return made


def files(count: int, first: int = 1, size: int = 700) -> list[Stored]:
    return [
        Stored(number, f"/exp/f{number}", bytes([number % 256]) * size, node=number + 100, parent=1)
        for number in range(first, first + count)
    ]


def session(writer: TapeWriter, first: int, *, index: bool = True, **options: Any) -> None:
    """Two plain files, a bundle, one aborted, and the index."""
    one, two, wrong = files(3, first, size=5000)
    writer.file(one)
    writer.bundle(files(4, first + 3))
    writer.file(wrong, aborted=True)
    writer.file(two)
    if index:
        writer.index(**options)


def expected(writer: TapeWriter) -> set[tuple[Any, ...]]:
    return {place_of(entry) for entry in writer.entries}


def test_indexes_tell_everything_once_from_the_last_to_the_first(drive, writer):
    for number in range(3):
        session(writer, 10 * number + 1)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert set(scanned.copies) == {5, 10, 15}
    assert scanned.buried() == {3, 8, 13}
    assert not scanned.problems
    facts = scanned.facts
    assert (facts.tape_files, facts.end_block, facts.pool, facts.epoch) == (15, writer.end_block, "east", 7)
    assert (facts.index_block, facts.indexed_tape_files, facts.full) == (writer.previous_index, 15, False)
    assert scanned.label.catalog_id == CATALOG_ID


def test_a_full_index_is_all_that_is_read(drive, writer):
    session(writer, 1)
    session(writer, 11)
    writer.index(full=True)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert set(scanned.copies) == {11}
    assert scanned.facts.full


def test_a_volume_without_any_index_is_read_by_its_headers(drive, writer):
    session(writer, 1, index=False)
    writer.bundle(files(5, 50), good=2)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert set(scanned.copies) == {0}
    assert scanned.buried() == {3}
    assert (scanned.facts.index_block, scanned.facts.tape_files, scanned.problems) == (0, 5, [])


def test_what_follows_the_last_index_is_read_by_headers(drive, writer):
    session(writer, 1)
    session(writer, 11, index=False)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert {told_by: len(entries) for told_by, entries in scanned.copies.items()} == {5: 6, 0: 6}
    assert (scanned.facts.indexed_tape_files, scanned.facts.tape_files) == (5, 9)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_the_hole_that_a_damaged_index_leaves_is_filled_from_headers(drive, writer, damaged):
    for number in range(3):
        session(writer, 10 * number + 1, damaged=number == damaged)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert scanned.buried() == {3, 8, 13}
    assert set(scanned.copies) == {0, 5, 10, 15} - {5 * damaged + 5}
    assert len(scanned.problems) == 1
    assert scanned.facts.indexed_tape_files == (10 if damaged == 2 else 15)


def test_an_index_that_tells_too_little_leaves_a_hole(drive, writer):
    session(writer, 1)
    session(writer, 11, index=False)
    writer.indexed = 9
    session(writer, 21)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert set(scanned.copies) == {0, 5, 14}


@pytest.mark.parametrize("objects", range(1, 11))
@pytest.mark.parametrize("index", [True, False])
def test_a_torn_tail_is_stepped_over(drive, writer, objects, index):
    session(writer, 1, index=index)
    if objects < 11:
        writer.torn(objects)
    scanned = Scanned(drive)
    assert scanned.places() == expected(writer)
    assert scanned.facts.end_block == writer.end_block


@pytest.mark.parametrize("objects", [0, 1, 4, 7, 9])
def test_a_volume_that_was_only_labelled_or_torn_at_once_is_empty(drive, writer, objects):
    writer.torn(objects)
    scanned = Scanned(drive)
    assert scanned.places() == set()
    assert (scanned.facts.tape_files, scanned.facts.end_block) == (0, 2)


def test_any_unreadable_block_costs_only_what_lies_in_it(drive, writer, east):
    session(writer, 1)
    session(writer, 11, index=False)
    lost_by_block = {}
    for block in range(2, writer.end_block):
        inject(east, Fault(kind="unreadable", volume="A00001", block=block))
        scanned = Scanned(drive)
        lost = {place[0] for place in expected(writer) - scanned.places()}
        assert scanned.places() <= expected(writer), f"block {block}"
        if lost:
            lost_by_block[block] = lost
        clear(east)
    assert all(len(lost) == 1 for lost in lost_by_block.values()), "never more than one tape file"
    assert min(min(lost) for lost in lost_by_block.values()) > 5, "what an index tells does not depend on its headers"


def test_what_is_no_volume_of_ours_is_said_to_be_blank_or_foreign(drive):
    with pytest.raises(NoLabel) as refused:
        read_label(drive)
    assert refused.value.blank
    drive.write_block(b"precious")
    drive.flush()
    with pytest.raises(NoLabel) as refused:
        read_label(drive)
    assert not refused.value.blank


def test_what_an_older_generation_left_behind_is_not_believed(drive, writer):
    session(writer, 1)
    later = TapeWriter(drive, "A00001", generation=2)
    later.label()
    session(later, 30, index=False)
    scanned = Scanned(drive)
    assert scanned.label.generation == 2
    assert scanned.places() == expected(later)


def test_a_file_is_read_and_checked_by_what_an_index_says_of_it(drive, writer):
    session(writer, 1)
    label = read_label(drive)
    for entry in writer.entries:
        assert len(read_copy(drive, label, entry)) == entry.size
    assert BLOCK_SIZE < 5000
