"""What every Library and Drive promises; each implementation adds one factory to FACTORIES and runs all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tapeserver.library import (
    BeginningOfMedium,
    BlockTooLong,
    Drive,
    DriveBusy,
    DriveMissing,
    EndOfData,
    Fenced,
    Filemark,
    Library,
    MediumError,
    NotReady,
    VolumeBusy,
    VolumeMissing,
    VolumeOverflow,
    WriteError,
    open_library,
)
from tapeserver.library.faults import Fault, clear, inject
from tapeserver.library.virtual import add_cartridge, create_virtual_library

KIB = 1024


@dataclass
class LibraryUnderTest:
    """A library with the drives `east-0`, `east-1` and the blank volumes A00001, A00002, and the faults it can make."""

    library: Library
    unreadable: Callable[[str, int], None]
    write_error: Callable[[str, int], None]
    full_at: Callable[[str, int], None]
    fault: Callable[[Fault], None]
    clear: Callable[[], None]
    opened: list[Drive] = field(default_factory=list)

    def mounted(self, volume: str = "A00001", drive: str = "east-0", epoch: int = 1) -> Drive:
        self.library.mount(volume, drive, epoch)
        return self.open(drive, epoch)

    def open(self, drive: str = "east-0", epoch: int = 1) -> Drive:
        found = self.library.open(drive, epoch)
        self.opened.append(found)
        return found


def virtual(path: Path, **chosen: str) -> LibraryUnderTest:
    library = open_library(create_virtual_library(path, "east", 2, 4).spec() | chosen)
    for volume in ("A00001", "A00002"):
        add_cartridge(path, volume, 4 * KIB * KIB)
    return LibraryUnderTest(
        library,
        unreadable=lambda volume, block: inject(path, Fault("unreadable", volume=volume, block=block)),
        write_error=lambda volume, after: inject(path, Fault("write_error", volume=volume, after_blocks=after)),
        full_at=lambda volume, at: inject(path, Fault("full", volume=volume, at_bytes=at)),
        fault=lambda fault: inject(path, fault),
        clear=lambda: clear(path),
    )


def virtual_lto9(path: Path) -> LibraryUnderTest:
    """One whose drives recommend an order of reads."""
    return virtual(path, medium="LTO-9")


FACTORIES = {"virtual": virtual, "virtual LTO-9": virtual_lto9}


@pytest.fixture(params=sorted(FACTORIES))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LibraryUnderTest]:
    found = FACTORIES[request.param](tmp_path / "east")
    yield found
    for drive in found.opened:
        drive.close()


def block_of(drive: Drive) -> int:
    position = drive.position()
    assert position is not None
    return position.block


def write_three_files(drive: Drive) -> None:
    """Objects 0..7: 'a0' 'a1' mark, 'b0' mark, 'c0' 'c1' mark."""
    for blocks in ([b"a0", b"a1"], [b"b0"], [b"c0", b"c1"]):
        for data in blocks:
            drive.write_block(data)
        drive.write_marks(1)
    drive.flush()


# ---------------------------------------------------------------- changer


def test_the_inventory_shows_each_volume_in_one_place(made: LibraryUnderTest):
    inventory = made.library.inventory()
    assert inventory.volumes == {"A00001", "A00002"}
    assert [status.drive for status in inventory.drives] == ["east-0", "east-1"]
    assert all(status.volume is None for status in inventory.drives)


def test_mount_moves_and_dismount_brings_back_to_the_same_slot(made: LibraryUnderTest):
    before = made.library.inventory()
    made.library.mount("A00002", "east-1", 5)
    mounted = made.library.inventory()
    assert mounted.drive_of("A00002") == "east-1"
    assert "A00002" not in {slot.volume for slot in mounted.slots}
    assert made.library.dismount("east-1", 5) == "A00002"
    assert made.library.inventory().slots == before.slots


def test_mount_and_dismount_are_safe_to_repeat(made: LibraryUnderTest):
    made.library.mount("A00001", "east-0", 1)
    made.library.mount("A00001", "east-0", 1)
    assert made.library.dismount("east-0", 1) == "A00001"
    assert made.library.dismount("east-0", 1) is None


def test_a_mount_is_refused_when_drive_or_volume_is_taken_or_missing(made: LibraryUnderTest):
    made.library.mount("A00001", "east-0", 1)
    with pytest.raises(DriveBusy):
        made.library.mount("A00002", "east-0", 2)
    with pytest.raises(VolumeBusy):
        made.library.mount("A00001", "east-1", 3)
    with pytest.raises(VolumeMissing):
        made.library.mount("NOSUCH", "east-1", 4)
    with pytest.raises(DriveMissing):
        made.library.mount("A00002", "east-9", 5)
    assert made.library.inventory().drive_of("A00001") == "east-0"


def test_a_drive_without_volume_is_not_ready(made: LibraryUnderTest):
    with pytest.raises(NotReady):
        made.library.open("east-0", 1)


def test_a_library_is_the_same_in_another_process_by_its_spec(made: LibraryUnderTest):
    made.library.mount("A00001", "east-0", 1)
    again = open_library(json.loads(json.dumps(made.library.spec())))
    assert again.inventory() == made.library.inventory()
    drive = again.open("east-0", 1)
    made.opened.append(drive)
    assert (drive.name, drive.volume, drive.epoch) == ("east-0", "A00001", 1)


def test_a_drive_is_open_in_one_place_at_a_time(made: LibraryUnderTest):
    drive = made.mounted()
    with pytest.raises(DriveBusy):
        made.open()
    drive.close()
    made.open()


# ---------------------------------------------------------------- fencing


def test_lower_epochs_than_the_highest_seen_are_refused_everywhere(made: LibraryUnderTest):
    made.library.mount("A00001", "east-0", 10)
    with pytest.raises(Fenced):
        made.library.mount("A00001", "east-0", 9)
    with pytest.raises(Fenced):
        made.library.open("east-0", 9)
    with pytest.raises(Fenced):
        made.library.dismount("east-0", 9)
    made.library.dismount("east-0", 10)
    with pytest.raises(Fenced):
        made.library.mount("A00001", "east-0", 10)
    with pytest.raises(Fenced):
        made.library.mount("A00001", "east-1", 9)
    made.library.mount("A00001", "east-1", 11)


def test_after_dismount_nothing_of_the_old_mount_reaches_the_volume(made: LibraryUnderTest):
    old = made.mounted(epoch=1)
    old.write_block(b"kept")
    old.flush()
    old.write_block(b"lost")
    made.library.dismount("east-0", 1)
    new = made.mounted(drive="east-1", epoch=2)
    for attempt in (old.flush, old.rewind, old.read_block, lambda: old.write_block(b"x" * 100)):
        with pytest.raises((Fenced, WriteError)):
            attempt()
    assert new.read_block() == b"kept"
    with pytest.raises(EndOfData):
        new.read_block()


def test_a_new_epoch_on_the_same_drive_fences_the_writer_without_moving_the_volume(made: LibraryUnderTest):
    old = made.mounted(epoch=1)
    old.write_block(b"lost")
    made.library.mount("A00001", "east-0", 2)
    with pytest.raises(Fenced):
        old.flush()
    new = made.open(epoch=2)
    with pytest.raises(EndOfData):
        new.read_block()


def test_a_fence_alone_stops_a_writer(made: LibraryUnderTest):
    drive = made.mounted(epoch=3)
    made.library.fence("east-0", 3)
    drive.write_block(b"still allowed")
    drive.flush()
    made.library.fence("east-0", 4)
    made.library.fence("east-0", 2)
    drive.write_block(b"buffered")
    with pytest.raises(Fenced):
        drive.flush()
    with pytest.raises(Fenced):
        made.library.open("east-0", 3)


# ---------------------------------------------------------------- blocks, marks, positions


def test_blocks_and_marks_read_back_in_order_with_object_numbers(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    assert block_of(drive) == 8
    drive.rewind()
    seen: list[bytes | None] = []
    while True:
        try:
            seen.append(drive.read_block())
        except Filemark:
            seen.append(None)
        except EndOfData:
            break
        assert block_of(drive) == len(seen)
    assert seen == [b"a0", b"a1", None, b"b0", None, b"c0", b"c1", None]


def test_blocks_of_any_length_read_back_whole(made: LibraryUnderTest):
    drive = made.mounted()
    blocks = [bytes([number]) * length for number, length in enumerate([1, 2, 3, 79, 80, 4095, 65537, 256 * KIB])]
    for data in blocks:
        drive.write_block(bytearray(data))
    drive.flush()
    drive.rewind()
    assert [drive.read_block() for _ in blocks] == blocks


def test_a_block_can_be_read_into_a_buffer_and_a_longer_one_is_refused_and_passed(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"short")
    drive.write_block(b"much too long")
    drive.write_block(b"next")
    drive.rewind()
    buffer = bytearray(8)
    assert drive.read_into(buffer) == 5
    assert buffer[:5] == b"short"
    with pytest.raises(BlockTooLong):
        drive.read_into(buffer)
    assert drive.read_into(memoryview(buffer)) == 4
    assert buffer[:4] == b"next"


def test_the_written_buffer_may_be_used_again_at_once(made: LibraryUnderTest):
    drive = made.mounted()
    buffer = bytearray(b"first")
    drive.write_block(buffer)
    buffer[:] = b"other"
    drive.rewind()
    assert drive.read_block() == b"first"


def test_locate_goes_to_any_object_and_to_the_end_but_not_beyond(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    drive.locate(6)
    assert drive.read_block() == b"c1"
    drive.locate(1)
    assert drive.read_block() == b"a1"
    drive.locate(8)
    with pytest.raises(EndOfData):
        drive.read_block()
    with pytest.raises(EndOfData):
        drive.locate(9)
    assert block_of(drive) == 8


def test_space_passes_marks_forward_and_stops_before_them_backward(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    drive.rewind()
    drive.space_marks(2)
    assert drive.read_block() == b"c0"
    drive.space_marks(-1)
    assert block_of(drive) == 4
    drive.space_marks(0)
    assert block_of(drive) == 4
    with pytest.raises(EndOfData):
        drive.space_marks(3)
    assert block_of(drive) == 8
    with pytest.raises(BeginningOfMedium):
        drive.space_marks(-4)
    assert block_of(drive) == 0


def test_space_to_end_finds_where_to_append(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    drive.rewind()
    drive.space_to_end()
    assert block_of(drive) == 8
    drive.write_block(b"d0")
    drive.locate(8)
    assert drive.read_block() == b"d0"


def test_a_write_is_the_end_of_everything_behind_it(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    drive.locate(3)
    drive.write_block(b"B0 new")
    drive.flush()
    with pytest.raises(EndOfData):
        drive.read_block()
    drive.close()
    again = made.open()
    again.locate(3)
    assert again.read_block() == b"B0 new"
    with pytest.raises(EndOfData):
        again.read_block()


def test_what_was_flushed_is_there_in_another_drive(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    drive.close()
    made.library.dismount("east-0", 1)
    again = made.mounted(drive="east-1", epoch=2)
    assert again.read_block() == b"a0"
    again.space_to_end()
    assert block_of(again) == 8


def test_flush_is_safe_to_repeat_and_a_blank_volume_has_no_data(made: LibraryUnderTest):
    drive = made.mounted()
    with pytest.raises(EndOfData):
        drive.read_block()
    drive.flush()
    drive.flush()
    assert block_of(drive) == 0


# ---------------------------------------------------------------- end of medium and faults


def test_the_early_warning_comes_before_the_end_with_room_for_a_trailer(made: LibraryUnderTest):
    drive = made.mounted()
    data = bytes(64 * KIB)
    assert drive.remaining_bytes is None or drive.remaining_bytes > 0
    while not drive.end_of_medium_warning:
        drive.write_block(data)
    assert drive.remaining_bytes in (None, 0)
    for _ in range(3):
        drive.write_block(b"trailer label".ljust(80))
    drive.write_marks(1)
    drive.flush()
    end = block_of(drive)
    with pytest.raises(VolumeOverflow):
        for _ in range(1000):
            drive.write_block(data)
    drive.flush()
    drive.locate(end - 4)
    assert drive.read_block() == b"trailer label".ljust(80)


def test_a_volume_that_ends_early_warns_early(made: LibraryUnderTest):
    made.full_at("A00001", 512 * KIB)
    drive = made.mounted()
    written = 0
    while not drive.end_of_medium_warning:
        drive.write_block(bytes(16 * KIB))
        written += 16 * KIB
    assert written <= 512 * KIB
    with pytest.raises(VolumeOverflow):
        drive.write_block(bytes(512 * KIB))


def test_an_unreadable_block_is_named_and_passed(made: LibraryUnderTest):
    drive = made.mounted()
    write_three_files(drive)
    made.unreadable("A00001", 1)
    drive.rewind()
    assert drive.read_block() == b"a0"
    with pytest.raises(MediumError) as caught:
        drive.read_block()
    assert (caught.value.arguments["volume"], caught.value.arguments["block"]) == ("A00001", 1)
    with pytest.raises(Filemark):
        drive.read_block()
    made.clear()
    drive.locate(1)
    assert drive.read_block() == b"a1"


def test_after_a_write_error_only_what_was_flushed_is_sure_and_the_position_is_unknown(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"flushed")
    drive.flush()
    made.write_error("A00001", 1)
    drive.write_block(b"unflushed")
    with pytest.raises(WriteError):
        drive.write_block(b"refused")
    assert drive.position() is None
    with pytest.raises(WriteError):
        drive.write_block(b"refused again")
    made.clear()
    drive.rewind()
    assert drive.read_block() == b"flushed"
    drive.space_to_end()
    assert block_of(drive) in (1, 2)
    drive.write_block(b"later")
    drive.flush()


def test_a_recommended_order_names_each_segment_once_and_moves_nothing(made: LibraryUnderTest):
    drive = made.mounted()
    for number in range(40):
        drive.write_block(b"x" * 1000 * (1 + number % 3))
    drive.locate(17)
    segments = [(30, 2), (3, 1), (12, 5), (3, 1), (39, 9), (0, 1), (20, 1), (25, 1), (60, 1)]
    order = drive.recommended_order(segments)
    assert order is None or sorted(order) == list(range(len(segments)))
    assert drive.recommended_order(segments) == order
    assert drive.recommended_order([]) in (None, [])
    assert block_of(drive) == 17
