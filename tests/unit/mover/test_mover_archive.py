"""Cache to tape: what is reported as written is there, whatever goes wrong meanwhile."""

from __future__ import annotations

import tarfile

import pytest

from tapeserver.frames import (
    Alerts,
    Committed,
    Drop,
    Fault,
    Flush,
    Idle,
    Loaded,
    Read,
    Unloaded,
    Write,
    WriteFailed,
    Written,
)
from tapeserver.library import EndOfData, Filemark, open_library
from tapeserver.library.faults import Fault as DriveFaultOnDemand
from tapeserver.library.faults import clear, inject
from tapeserver.library.virtual import VirtualLibrary
from tapeserver.library.virtualdrive import VirtualDrive
from tapeserver.mover import process
from tests.unit.mover.harness import (
    SIZES,
    archiving,
    data_of,
    done,
    labelled,
    mount,
    stop,
    write_files,
)


def test_what_is_archived_is_recalled_byte_for_byte(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    assert [item.archive_id for item in written.items] == list(SIZES)
    assert written.tape_files == 5
    mount(east, 3)
    assert isinstance(mover.load(3, "recall", known_tape_files=5, known_end_block=written.end_block), Loaded)
    wanted = [cache.read_item(item, data_of(item.archive_id, SIZES[item.archive_id])) for item in written.items]
    mover.send(Read(items=wanted[::-1]))
    seen = mover.until(Idle)
    assert done(seen) == set(SIZES)
    assert cache.stored == {1000 + number: data_of(number, size) for number, size in SIZES.items()}
    assert stop(mover) == [Unloaded()]


def test_the_tape_is_read_back_by_tar_alone(mover, east, cache, tmp_path):
    labelled(mover, east)
    write_files(mover, east, cache, {15: 700_001})
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    archive = tmp_path / "file1.tar"
    with archive.open("wb") as out:
        drive.space_marks(1)
        while True:
            try:
                out.write(drive.read_block())
            except Filemark:
                break
    drive.close()
    with tarfile.open(archive) as tar:
        (info,) = tar.getmembers()
        assert info.name == "exp/f15"
        extracted = tar.extractfile(info)
        assert extracted is not None
        assert extracted.read() == data_of(15, 700_001)


def test_the_places_reported_follow_each_other_and_end_where_the_next_mount_begins(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    assert written.items[0].first_block == 2
    assert [item.tape_file for item in written.items] == [1, 2, 3, 4, 5]
    mount(east, 3)
    loaded = mover.load(3, "archive", known_tape_files=5, known_end_block=written.end_block)
    assert loaded == Loaded(tape_files=5, end_block=written.end_block, remaining_bytes=loaded.remaining_bytes, dead=[])
    mover.send(Write(items=[cache.write_item(21, b"more")]))
    (more,) = [message for message in mover.until(Idle) if isinstance(message, Written)]
    assert (more.items[0].tape_file, more.items[0].first_block) == (6, written.end_block)


def test_a_replica_with_a_wrong_checksum_makes_a_dead_tape_file_and_no_copy(mover, east, cache):
    archiving(mover, east)
    good, large = data_of(1, 1000), data_of(2, 300_000)
    cache.lies[2] = large[:-1] + bytes([large[-1] ^ 1])
    mover.send(Write(items=[cache.write_item(1, good), cache.write_item(2, large), cache.write_item(3, good)]))
    seen = mover.until(Idle)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.code) == ([2], "replica_damaged")
    written = [message for message in seen if isinstance(message, Written)]
    assert [item.archive_id for batch in written for item in batch.items] == [1, 3]
    (dead,) = [dead for batch in written for dead in batch.dead]
    assert dead.tape_file == 2
    stop(mover)
    end = written[-1].end_block
    assert isinstance(mover.load(2, "archive", known_tape_files=3, known_end_block=end), Loaded)


@pytest.mark.parametrize("lie", [b"", b"short", b"x" * 2000])
def test_a_small_replica_that_is_wrong_never_reaches_the_tape(mover, east, cache, lie):
    archiving(mover, east)
    cache.lies[1] = lie
    mover.send(Write(items=[cache.write_item(1, data_of(1, 1000)), cache.write_item(2, b"good")]))
    seen = mover.until(Idle)
    assert [message.archive_ids for message in seen if isinstance(message, WriteFailed)] == [[1]]
    (written,) = [message for message in seen if isinstance(message, Written)]
    assert (written.items[0].archive_id, written.items[0].tape_file, written.dead) == (2, 1, [])


def test_an_absent_replica_and_a_broken_stream_fail_alone(mover, east, cache):
    archiving(mover, east)
    items = [cache.write_item(number, data_of(number, 200_000)) for number in (1, 2, 3)]
    del cache.replicas[1]
    cache.breaks_at.add(2)
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    failed = {number for message in seen if isinstance(message, WriteFailed) for number in message.archive_ids}
    assert {1, 2} <= failed
    cache.breaks_at.clear()
    mover.send(Write(items=[cache.write_item(4, b"works again")]))
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [4]


def test_after_a_write_error_everything_since_the_last_flush_is_failed_and_the_mount_is_over(mover, east, cache):
    archiving(mover, east, flush_files=2)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2)]))
    assert mover.until(Written)[-1].batch == 1
    mover.until(Idle)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (3, 4)]))
    inject(east, DriveFaultOnDemand("write_error", volume="A00001", after_blocks=9))
    cache.set_hold(False)
    seen = mover.until(Unloaded)
    assert [type(message) for message in seen] == [WriteFailed, Fault, Alerts, Unloaded]
    assert (seen[0].archive_ids, seen[0].code) == ([3, 4], "write_error")


def test_after_a_flush_error_nothing_of_the_batch_is_reported_as_written(mover, east, cache):
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("flush_error"))
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2)]))
    seen = mover.until(Unloaded)
    assert not [message for message in seen if isinstance(message, Written)]
    assert [message.archive_ids for message in seen if isinstance(message, WriteFailed)] in ([[1, 2]], [[1]])
    clear(east)
    assert isinstance(mover.load(2, "archive", known_end_block=2), Loaded)


def test_a_fenced_mover_reports_nothing_as_written(mover, east, cache):
    archiving(mover, east)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(1, b"late")]))
    VirtualLibrary(east, "east").dismount("east-0", 2)
    cache.set_hold(False)
    seen = mover.until(Unloaded)
    assert not [message for message in seen if isinstance(message, Written)]
    assert [message.code for message in seen if isinstance(message, Fault)] == ["fenced"]
    mount(east, 3)
    drive = VirtualLibrary(east, "east").open("east-0", 3)
    drive.locate(2)
    with pytest.raises(EndOfData):
        drive.read_block()
    drive.close()


def test_a_file_that_does_not_fit_makes_the_volume_full_after_what_fits_is_safe(mover, east, cache):
    archiving(mover, east)
    first, large, small = data_of(1, 500_000), data_of(2, 7_000_000), data_of(3, 1000)
    mover.send(Write(items=[cache.write_item(1, first), cache.write_item(2, large), cache.write_item(3, small)]))
    seen = mover.until(Idle)
    kinds = [message for message in seen if isinstance(message, Written | WriteFailed)]
    assert [type(message) for message in kinds][:2] == [Written, WriteFailed]
    assert [item.archive_id for item in kinds[0].items] == [1]
    refused = [message for message in kinds if isinstance(message, WriteFailed)]
    assert [number for message in refused for number in message.archive_ids] == [2, 3]
    assert all(message.volume_full for message in refused)


def test_a_medium_that_warns_under_a_file_closes_it_as_aborted(mover, east, cache, monkeypatch):
    # A drive that cannot say beforehand how much room is left.
    monkeypatch.setattr(VirtualDrive, "remaining_bytes", None)
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    mover.send(Write(items=[cache.write_item(1, b"fits"), cache.write_item(2, data_of(2, 4_000_000))]))
    seen = mover.until(Idle)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.volume_full) == ([2], True)
    (written,) = [message for message in seen if isinstance(message, Written)]
    assert [item.archive_id for item in written.items] == [1]
    assert [(dead.tape_file, dead.why.split(":")[0]) for dead in written.dead] == [(2, "volume_full")]
    stop(mover)
    clear(east)
    loaded = mover.load(2, "archive", known_tape_files=1, known_end_block=written.dead[0].first_block)
    assert isinstance(loaded, Loaded)
    assert [(dead.tape_file, dead.why) for dead in loaded.dead] == [(2, "aborted while it was written")]


def test_a_medium_that_ends_without_warning_keeps_what_was_whole(mover, east, cache, monkeypatch):
    monkeypatch.setattr(VirtualDrive, "remaining_bytes", None)
    monkeypatch.setattr(VirtualDrive, "end_of_medium_warning", False)
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    mover.send(Write(items=[cache.write_item(1, b"fits"), cache.write_item(2, data_of(2, 4_000_000))]))
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [1]
    assert [(message.archive_ids, message.volume_full) for message in seen if isinstance(message, WriteFailed)] == [
        ([2], True)
    ]
    end = next(message.end_block for message in seen if isinstance(message, Written))
    stop(mover)
    clear(east)
    loaded = mover.load(2, "archive", known_tape_files=1, known_end_block=end)
    assert isinstance(loaded, Loaded)
    assert (loaded.end_block, loaded.dead) == (end, []), "the torn tape file may be written over"


def test_no_more_than_the_allowed_batches_are_uncommitted(mover, east, cache):
    archiving(mover, east, flush_files=1, uncommitted_batches_max=2)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in range(1, 5)]))
    assert [mover.until(Written)[-1].batch for _ in range(2)] == [1, 2]
    assert mover.plan.phase()[0] != "idle"
    mover.send(Committed(batch=1))
    assert mover.until(Written)[-1].batch == 3
    mover.send(Committed(batch=3))
    assert mover.until(Idle)[0].batch == 4


def test_stop_makes_sure_of_what_was_written_and_says_nothing_of_the_rest(mover, east, cache):
    archiving(mover, east, flush_files=1, uncommitted_batches_max=1)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in range(1, 5)]))
    assert mover.until(Written)[-1].batch == 1
    assert stop(mover) == [Unloaded()]


def test_dropped_files_are_not_written_and_flush_is_obeyed(mover, east, cache):
    archiving(mover, east)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2, 3)]))
    mover.send(Drop(archive_ids=[2]))
    mover.send(Flush())
    cache.set_hold(False)
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [1, 3]
    assert not [message for message in seen if isinstance(message, WriteFailed)]


def test_a_batch_is_reported_only_behind_the_fsync_of_image_and_index(mover, east, cache, monkeypatch):
    steps: list[str] = []
    monkeypatch.setattr(
        process, "open_library", lambda spec: open_library(spec, trace=lambda step, subject: steps.append(step))
    )
    send = mover.outbox.send
    monkeypatch.setattr(mover.outbox, "send", lambda message: (steps.append(type(message).__name__), send(message)))
    archiving(mover, east, flush_files=2)
    steps.clear()
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2)]))
    mover.until(Idle)
    assert steps == ["truncate_image", "write_image", "fsync_image", "fsync_index", "Written", "Idle"]
