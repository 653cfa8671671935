"""What lies behind the catalog's end is read back whole, and told as it is: good, damaged, or not at all."""

from __future__ import annotations

import pytest

from tapeserver.frames import Found, Load
from tapeserver.library import Drive
from tapeserver.library.faults import Fault, clear, inject
from tapeserver.mover.volume import End, LoadRefused, prepare
from tests.tapes import BLOCK_SIZE, CATALOG_ID, Stored, TapeWriter, make_library


@pytest.fixture
def writer(tmp_path):
    library = make_library(tmp_path / "east", ["A00001"])
    library.mount("A00001", "east-0", 7)
    drive = library.open("east-0", 7)
    made = TapeWriter(drive, "A00001")
    made.label()
    yield made
    drive.close()


def files(count: int, size: int = 700, first: int = 1) -> list[Stored]:
    return [Stored(number, f"/exp/f{number}", bytes([number % 256]) * size) for number in range(first, first + count)]


def loaded(
    drive: Drive, known: tuple[int, int] = (0, 2), *, believed: bool = False, found: list[Found] | None = None
) -> tuple[End, list[Found]]:
    found = [] if found is None else found
    load = Load(
        epoch=7, library_spec={}, drive="east-0", volume="A00001", generation=1, catalog_id=CATALOG_ID.lower(),
        purpose="archive", block_size=BLOCK_SIZE, known_tape_files=known[0], known_end_block=known[1],
        unreadable_is_dead=believed,
    )  # fmt: skip
    return prepare(drive, load, found.append), found


def told(found: list[Found]) -> dict[int, bool]:
    return {member.record.file_id: member.good for one in found for member in one.members}


def test_a_file_behind_the_catalogs_end_is_told_with_all_that_its_header_says(writer):
    known = writer.file(files(1)[0])
    stored = Stored(2, "/exp/other", b"z" * 10_000, copy_number=2)
    extent = writer.file(stored)
    end, (found,) = loaded(writer.drive, (1, known.end_block))
    assert (end.tape_files, end.end_block, end.dead) == (2, extent.end_block, [])
    assert (found.tape_file, found.first_block, found.blocks) == (2, extent.first_block, extent.data_blocks + 9)
    assert (found.kind, found.epoch, found.more) == ("D", 7, False)
    (member,) = found.members
    entry = writer.entries[1]
    assert (member.good, member.copy_number, member.byte_offset) == (True, 2, entry.offset)
    record = member.record
    assert (record.file_id, record.path, record.size, record.adler32) == (2, "/exp/other", 10_000, stored.adler32)
    assert (record.owner, record.group, record.mode, record.storage_class) == ("ann", "hall", 0o640, "one")
    assert writer.drive.position().block == end.end_block


def test_of_a_bundle_the_members_that_its_trailer_counts_are_told(writer):
    writer.bundle(files(5))
    writer.bundle(files(5, first=10), good=2)
    _, found = loaded(writer.drive)
    assert told(found) == {1: True, 2: True, 3: True, 4: True, 5: True, 10: True, 11: True}
    offsets = {member.record.file_id: member.byte_offset for one in found for member in one.members}
    assert offsets == {entry.file_id: entry.offset for entry in writer.entries}


def test_many_members_come_in_several_messages(writer):
    writer.bundle(files(1001, size=0))
    _, found = loaded(writer.drive)
    assert [(len(one.members), one.more) for one in found] == [(500, True), (500, True), (1, False)]


def test_wrong_bytes_are_not_good(writer):
    (stored,) = files(1)
    writer.file(stored, damaged=b"\0" * stored.size)
    with pytest.raises(LoadRefused) as refused:
        loaded(writer.drive)
    assert refused.value.verdict == "not_read_back"
    _, found = loaded(writer.drive, believed=True)
    assert told(found) == {1: False}


def test_what_was_aborted_stays_dead_and_an_index_has_no_members(writer):
    writer.file(files(1)[0], aborted=True)
    writer.index()
    end, found = loaded(writer.drive)
    assert [(dead.tape_file, dead.first_block) for dead in end.dead] == [(1, 2)]
    assert [(one.tape_file, one.kind, one.members) for one in found] == [(2, "I", [])]
    assert end.tape_files == 2


def test_an_unreadable_block_spoils_what_lies_in_it_and_nothing_else(writer, tmp_path):
    extent = writer.bundle(files(10, size=3 * BLOCK_SIZE))
    by_block = {}
    for entry in writer.entries:
        first, last = (entry.offset - 1536) // BLOCK_SIZE, (entry.offset + entry.size - 1) // BLOCK_SIZE
        for number in range(first, last + 1):
            by_block.setdefault(number, set()).add(entry.file_id)
    for number in range(1, extent.data_blocks):
        inject(tmp_path / "east", Fault(kind="unreadable", volume="A00001", block=extent.data_start + number))
        _, found = loaded(writer.drive, believed=True)
        good = {file_id for file_id, is_good in told(found).items() if is_good}
        spoilt = set(range(1, 11)) - good
        assert spoilt <= by_block.get(number, set()), f"block {number}"
        clear(tmp_path / "east")


def test_what_one_drive_cannot_read_condemns_nothing_and_the_next_drive_finds_it_good(writer, tmp_path):
    writer.file(files(1)[0])
    extent = writer.bundle(files(10, size=3 * BLOCK_SIZE, first=2))
    before: list[Found] = []
    for number in (0, 1, extent.data_blocks - 1):
        inject(tmp_path / "east", Fault(kind="unreadable", volume="A00001", block=extent.data_start + number))
        with pytest.raises(LoadRefused, match="Tape file 2") as refused:
            loaded(writer.drive, found=before)
        assert refused.value.verdict == "not_read_back"
        clear(tmp_path / "east")
    assert set(told(before)) == {1}, "what was read back before is told, nothing of what could not be read"
    _, found = loaded(writer.drive)
    assert told(found) == dict.fromkeys(range(1, 12), True)


def test_a_torn_group_behind_whole_ones_may_be_written_over(writer):
    for objects in range(1, 10):
        extent = writer.file(files(1, first=objects)[0])
        writer.torn(objects)
        end, found = loaded(writer.drive)
        assert (end.end_block, len(found)) == (extent.end_block, objects)


def test_something_else_is_refused(writer):
    extent = writer.file(files(1)[0])
    writer.drive.locate(extent.end_block)
    writer.drive.write_block(b"not ours")
    writer.drive.flush()
    with pytest.raises(LoadRefused) as refused:
        loaded(writer.drive)
    assert refused.value.verdict == "unexpected_data"
