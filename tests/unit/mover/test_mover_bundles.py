"""Bundles: many files in one tape file, the good ones always the first of its list, none lost without a word."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tapeserver.format import labels, pax
from tapeserver.format.bundles import ListEntry, list_path, parse_list
from tapeserver.format.labels import FileLabel, Status
from tapeserver.format.objects import adler32, adler32_text, locate_member
from tapeserver.frames import Drop, Idle, Loaded, Read, Write, WriteFailed, WriteItem, Written, WrittenItem
from tapeserver.library import EndOfData, Filemark
from tapeserver.library.faults import Fault, clear, inject
from tapeserver.library.virtual import VirtualLibrary
from tapeserver.library.virtualdrive import VirtualDrive
from tapeserver.mover import archive, plan, unflushed
from tests.unit.mover.harness import TinyCache, archiving, data_of, done, labelled, mount, stop

SIZES = {1: 10_240, 2: 0, 3: 511, 4: 200_000, 5: 512, 6: 70_001}


def bundle(cache: TinyCache, sizes: dict[int, int], number: int = 7) -> list[WriteItem]:
    return [cache.write_item(file, data_of(file, size), bundle=number) for file, size in sizes.items()]


def written_in(seen: list[Any]) -> list[WrittenItem]:
    return [item for message in seen if isinstance(message, Written) for item in message.items]


def failed_in(seen: list[Any]) -> dict[int, str]:
    return {number: one.code for one in seen if isinstance(one, WriteFailed) for number in one.archive_ids}


def tape_files(east: Path, epoch: int = 2) -> list[tuple[FileLabel, bytes]]:
    """Trailer and data of every tape file on the volume, by an open drive and nothing of the mover."""
    drive = VirtualLibrary(east, "east").open("east-0", epoch)
    found = []
    drive.locate(2)
    try:
        while True:
            labels.parse_header([drive.read_block() for _ in range(3)])
            _until_mark(drive)
            data = _until_mark(drive)
            found.append((labels.parse_trailer([drive.read_block() for _ in range(3)]), data))
            _until_mark(drive)
    except EndOfData:
        return found
    finally:
        drive.close()


def _until_mark(drive: VirtualDrive) -> bytes:
    data = b""
    while True:
        try:
            data += drive.read_block()
        except Filemark:
            return data


def members_of(data: bytes) -> dict[str, bytes]:
    """What the tarfile module finds, up to where the archive breaks off."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        try:
            for info in tar:
                extracted = tar.extractfile(info)
                assert extracted is not None
                found[info.name] = extracted.read()
        except tarfile.ReadError:
            pass
    return found


def good_entries(trailer: FileLabel, data: bytes) -> list[ListEntry]:
    """What a reader may believe of a bundle: the first entries of its list, as many as the trailer says."""
    headers = data[: pax.header_bytes(data[:512])]
    listing = pax.parse_any(headers)
    assert isinstance(listing, pax.OwnMember)
    assert listing.path == list_path("A00001", 1, trailer.sequence)
    entries = parse_list(data[len(headers) : len(headers) + listing.size])
    assert listing.members == len(entries)
    return entries[: trailer.file_count]


def check_tape(east: Path, written: list[WrittenItem], block_size: int = 65_536) -> None:
    """What was reported is exactly what is on the tape: by tarfile, by the list, and at the reported places."""
    believed = {}
    for trailer, data in tape_files(east):
        if trailer.status is Status.ABORTED:
            assert trailer.file_count == 0
            continue
        found = members_of(data)
        for entry in good_entries(trailer, data):
            assert adler32_text(adler32(found[entry.path[1:]])) == entry.adler32
            assert data[entry.offset : entry.offset + entry.size] == found[entry.path[1:]]
            believed[entry.file_id] = (trailer.sequence, entry.offset, entry.size)
    assert {one.archive_id: (one.tape_file, one.byte_offset, one.length) for one in written} == believed


def test_a_bundle_is_one_tape_file_that_tar_extracts_and_its_list_tells_of(mover, east, cache, tmp_path):
    archiving(mover, east)
    mover.send(Write(items=bundle(cache, SIZES)))
    seen = mover.until(Idle)
    stop(mover)
    assert [item.archive_id for item in written_in(seen)] == list(SIZES)
    ((trailer, data),) = tape_files(east)
    assert (trailer.file_count, trailer.status, trailer.identifier) == (6, Status.COMPLETE, f"{1:016X}")
    check_tape(east, written_in(seen))
    subprocess.run(["tar", "-xf", "-"], input=data, cwd=tmp_path, check=True)
    for number, size in SIZES.items():
        assert (tmp_path / "exp" / f"f{number}").read_bytes() == data_of(number, size)


def test_members_of_a_bundle_are_recalled_in_any_order(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=bundle(cache, SIZES)))
    written = written_in(mover.until(Idle))
    stop(mover)
    mount(east, 3)
    assert isinstance(mover.load(3, "recall"), Loaded)
    mover.send(
        Read(items=[cache.read_item(one, data_of(one.archive_id, SIZES[one.archive_id])) for one in written[::-1]])
    )
    assert done(mover.until(Idle)) == set(SIZES)
    assert cache.stored == {1000 + number: data_of(number, size) for number, size in SIZES.items()}


@pytest.mark.parametrize("bad", [1, 2, 4, 6])
def test_a_bad_member_ends_the_bundle_and_those_behind_it_come_in_the_next(mover, east, cache, bad):
    archiving(mover, east)
    items = bundle(cache, SIZES)
    cache.lies[bad] = data_of(99, max(1, SIZES[bad]))
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    assert failed_in(seen) == {bad: "replica_damaged"}
    assert sorted(item.archive_id for item in written_in(seen)) == [number for number in SIZES if number != bad]
    check_tape(east, written_in(seen))
    assert isinstance(mover.load(2, "archive", known_end_block=2), Loaded)
    good = {member.record.file_id for found in mover.found for member in found.members if member.good}
    assert good == {item.archive_id for item in written_in(seen)}, "a mount that knows nothing finds the same"


def test_absent_members_leave_no_dead_tape_file(mover, east, cache):
    archiving(mover, east)
    items = bundle(cache, SIZES)
    for number in (1, 4, 6):
        del cache.replicas[number]
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    assert set(failed_in(seen)) == {1, 4, 6}
    assert [message.dead for message in seen if isinstance(message, Written)] == [[]]
    check_tape(east, written_in(seen))
    assert [trailer.file_count for trailer, _ in tape_files(east)] == [2, 1]


def test_a_stream_that_breaks_in_a_bundle_keeps_what_had_come(mover, east, cache):
    archiving(mover, east)
    items = bundle(cache, SIZES)
    cache.breaks_at.add(4)
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    assert [item.archive_id for item in written_in(seen)] == [1, 2, 3]
    assert set(failed_in(seen)) == {4, 5, 6}
    check_tape(east, written_in(seen))


def test_a_dropped_member_is_left_out_before_its_bundle_begins_and_written_after(mover, east, cache):
    archiving(mover, east)
    cache.set_hold(True)
    mover.send(Write(items=bundle(cache, {1: 10, 2: 20, 3: 30})))
    mover.send(Drop(archive_ids=[9]))
    items = bundle(cache, {8: 80, 9: 90}, number=8)
    mover.plan.apply(Write(items=items))
    mover.plan.apply(Drop(archive_ids=[9]))
    cache.set_hold(False)
    seen = mover.until(Idle)
    stop(mover)
    assert not failed_in(seen)
    assert {1, 2, 3, 8} <= {item.archive_id for item in written_in(seen)}
    check_tape(east, written_in(seen))


def test_of_a_bundle_that_does_not_fit_the_members_that_do_are_written(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[*bundle(cache, {1: 10}, 1), *bundle(cache, {2: 4_000_000, 3: 3_900_000}, 2)]))
    seen = mover.until(Idle)
    stop(mover)
    assert [item.archive_id for item in written_in(seen)] == [1, 2]
    assert failed_in(seen) == {3: "volume_full"}
    check_tape(east, written_in(seen))


def test_a_bundle_whose_first_member_does_not_fit_is_refused_whole_before_it_begins(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[*bundle(cache, {1: 4_000_000}, 1), *bundle(cache, {2: 4_000_000, 3: 10}, 2)]))
    seen = mover.until(Idle)
    stop(mover)
    assert [item.archive_id for item in written_in(seen)] == [1]
    assert failed_in(seen) == {2: "volume_full", 3: "volume_full"}
    check_tape(east, written_in(seen))


def test_a_medium_that_warns_under_a_bundle_keeps_the_members_that_are_whole(mover, east, cache, monkeypatch):
    monkeypatch.setattr(VirtualDrive, "remaining_bytes", None)
    archiving(mover, east)
    inject(east, Fault("full", volume="A00001", at_bytes=1_000_000))
    mover.send(Write(items=bundle(cache, dict.fromkeys(range(1, 30), 100_000))))
    seen = mover.until(Idle)
    stop(mover)
    clear(east)
    written = [item.archive_id for item in written_in(seen)]
    assert 5 < len(written) < 12
    assert written == list(range(1, len(written) + 1))
    assert failed_in(seen) == dict.fromkeys(range(len(written) + 1, 30), "volume_full")
    assert not [dead for message in seen if isinstance(message, Written) for dead in message.dead]
    check_tape(east, written_in(seen))


def test_a_bundle_from_two_cache_servers_becomes_a_tape_file_for_each(mover, east, cache):
    other = TinyCache()
    try:
        archiving(mover, east)
        items = bundle(cache, {1: 10, 2: 20}) + bundle(other, {3: 30}) + bundle(cache, {4: 40}) + bundle(other, {5: 5})
        mover.send(Write(items=items))
        seen = mover.until(Idle)
        stop(mover)
    finally:
        other.close()
    check_tape(east, written_in(seen))
    files: dict[int, list[int]] = {}
    for item in written_in(seen):
        files.setdefault(item.tape_file, []).append(item.archive_id)
    assert files == {1: [1, 2, 4], 2: [3, 5]}


def test_neighbouring_bundles_and_single_files_stay_apart(mover, east, cache):
    archiving(mover, east)
    single = cache.write_item(5, data_of(5, 50))
    mover.send(Write(items=[*bundle(cache, {1: 10, 2: 20}, 1), *bundle(cache, {3: 30, 4: 40}, 2), single]))
    seen = mover.until(Idle)
    stop(mover)
    assert [item.tape_file for item in written_in(seen)] == [1, 1, 2, 2, 3]
    assert [item.byte_offset for item in written_in(seen)][-1] == 1536, "a file by itself has no list"


def test_a_large_flush_is_reported_in_batches_divided_between_tape_files(mover, east, cache, monkeypatch):
    monkeypatch.setattr(unflushed, "WRITTEN_ITEMS_MAX", 5)
    archiving(mover, east)
    mover.send(Write(items=[item for number in range(1, 5) for item in bundle(
        cache, {number * 10 + file: 100 for file in range(3)}, number)]))  # fmt: skip
    seen = [message for message in mover.until(Idle) if isinstance(message, Written)]
    assert [(one.batch, len(one.items), one.tape_files) for one in seen] == [(1, 3, 1), (2, 3, 2), (3, 3, 3), (4, 3, 4)]
    assert [one.end_block for one in seen] == [item.items[0].first_block for item in seen[1:]] + [2 + 4 * 10]
    assert all(one.written_bytes == seen[0].written_bytes > 0 for one in seen)


def test_what_is_ahead_of_the_drive_is_bounded_by_files_and_by_the_bytes_of_their_paths(monkeypatch, cache):
    monkeypatch.setattr(plan, "PATHS_BYTES_MAX", 40)
    mine = plan.Plan()
    mine.apply(Write(items=bundle(cache, dict.fromkeys(range(100, 120), 1))))
    assert [len(mine.next_writes(archive.MEMBERS_MAX)) for _ in range(3)] == [5, 5, 5]
    assert len(mine.next_writes(3)) == 3


def test_the_mark_of_a_member_lies_where_the_catalog_will_look(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=bundle(cache, SIZES)))
    written = written_in(mover.until(Idle))
    stop(mover)
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    for item in written:
        if item.length:
            block, skip = locate_member(item.first_block, item.byte_offset, 65_536)
            drive.locate(block)
            assert drive.read_block()[skip : skip + 100] == data_of(item.archive_id, item.length)[:100]
    drive.close()


def test_a_volume_that_knows_labels_only_can_be_mounted_after_bundles(mover, east, cache):
    labelled(mover, east)
    mount(east, 2)
    assert isinstance(mover.load(2, "archive", known_end_block=2), Loaded)
    mover.send(Write(items=bundle(cache, SIZES)))
    last = [message for message in mover.until(Idle) if isinstance(message, Written)][-1]
    stop(mover)
    mount(east, 3)
    loaded = mover.load(3, "archive", known_tape_files=1, known_end_block=last.end_block)
    assert (loaded.tape_files, loaded.end_block, loaded.dead, mover.found) == (1, last.end_block, [], [])
