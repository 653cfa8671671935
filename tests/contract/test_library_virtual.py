"""What the virtual library promises beyond the contract: crashes, the order of its flushes, faults across processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeserver.library import DriveBusy, LibraryDamaged, LibraryUnreachable, MediumError, Motion, WriteError
from tapeserver.library.faults import Fault, inject
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library
from tapeserver.library.virtualdrive import VirtualDrive
from tests.tapes import contents

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]


@pytest.fixture
def east(tmp_path: Path) -> Path:
    path = tmp_path / "east"
    create_virtual_library(path, "east", 2, 3)
    add_cartridge(path, "A00001", 100 * MIB)
    return path


def mounted(path: Path, epoch: int = 1, **options: object) -> VirtualDrive:
    library = VirtualLibrary(path, "east", **options)  # type: ignore[arg-type]
    library.mount("A00001", "east-0", epoch)
    return library.open("east-0", epoch)


CHILD = """
import sys
from tapeserver.library.virtual import VirtualLibrary
library = VirtualLibrary(sys.argv[1], "east", memory_bytes_max=4 * 1024 * 1024)
library.mount("A00001", "east-0", 1)
drive = library.open("east-0", 1)
for number in range(10):
    drive.write_block(b"flushed %d" % number)
drive.flush()
for number in range(int(sys.argv[2])):
    drive.write_block(b"%06d" % number + bytes(100_000))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(east: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def writer(started: list[subprocess.Popen[str]], east: Path, unflushed: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(east), str(unflushed)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


@pytest.mark.parametrize("unflushed", [0, 3, 200])
def test_after_a_kill_the_flushed_blocks_and_a_prefix_of_the_others_are_there(east, child, unflushed):
    process = writer(child, east, unflushed)
    process.send_signal(signal.SIGKILL)
    process.wait()
    drive = mounted(east, epoch=2)
    found = contents(drive)
    assert found[:10] == [b"flushed %d" % number for number in range(10)]
    rest = found[10:]
    assert rest == [b"%06d" % number + bytes(100_000) for number in range(len(rest))]
    assert len(rest) < max(unflushed, 1), "the newest blocks are in memory only"
    if unflushed == 200:
        assert rest, "the oldest blocks beyond the bound are in the image"
    drive.space_to_end()
    drive.write_block(b"appended")
    drive.flush()
    drive.close()
    assert contents(mounted(east, epoch=3))[-1] == b"appended"


def test_a_stopped_process_holds_up_neither_dismount_nor_the_next_mount(east, child):
    process = writer(child, east, 3)
    process.send_signal(signal.SIGSTOP)
    library = VirtualLibrary(east, "east", lock_seconds_max=0.2)
    assert library.dismount("east-0", 1) == "A00001"
    drive = mounted(east, epoch=2)
    drive.locate(10)
    drive.write_block(b"of epoch 2")
    drive.flush()
    assert process.poll() is None
    assert contents(drive)[-1] == b"of epoch 2"


def test_a_flush_syncs_the_image_then_the_index_and_only_then_returns(east):
    steps: list[str] = []
    drive = mounted(east, trace=lambda step, subject: steps.append(step))
    drive.write_block(b"one")
    steps.clear()
    drive.flush()
    steps.append("returned")
    assert steps == ["write_image", "fsync_image", "fsync_index", "returned"]


def test_an_overwrite_shrinks_the_index_before_it_cuts_the_image(east):
    steps: list[str] = []
    drive = mounted(east, trace=lambda step, subject: steps.append(step))
    for data in (b"one", b"two", b"three"):
        drive.write_block(data)
    drive.flush()
    drive.locate(1)
    steps.clear()
    drive.write_block(b"other")
    assert steps == ["fsync_index", "truncate_image"]


def test_a_move_is_durable_record_by_record(east):
    steps: list[tuple[str, str]] = []
    library = VirtualLibrary(east, "east", trace=lambda step, subject: steps.append((step, subject)))
    library.mount("A00001", "east-0", 1)
    one = ["fsync_record", "rename_record", "fsync_directory"]
    assert [step for step, _ in steps] == one + one
    assert [subject for step, subject in steps if step == "rename_record"] == ["A00001.json", "east-0.json"]


@pytest.mark.parametrize("damage", ["missing", "empty", "garbled", "other entries"])
def test_the_index_is_rebuilt_from_the_image(east, damage):
    drive = mounted(east)
    for number in range(5):
        drive.write_block(b"block %d" % number)
        drive.write_marks(1)
    drive.flush()
    drive.close()
    index = east / "cartridges" / "A00001.idx"
    if damage == "missing":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "garbled":
        index.write_bytes(b"\x55" * len(index.read_bytes()))
    else:
        whole = bytearray(index.read_bytes())
        whole[1024] ^= 1
        index.write_bytes(whole)
    again = mounted(east, epoch=2)
    again.space_to_end()
    assert again.position().block == 10
    assert index.stat().st_size == 1024 + 10 * 8


def test_zeros_behind_the_flushed_length_are_no_tape_marks(east):
    drive = mounted(east)
    drive.write_block(b"one")
    drive.write_marks(1)
    drive.flush()
    drive.close()
    with (east / "cartridges" / "A00001.tap").open("r+b") as image:
        image.truncate(MIB)
    again = mounted(east, epoch=2)
    again.space_to_end()
    assert again.position().block == 2


def test_a_record_damaged_in_the_image_is_a_medium_error(east):
    drive = mounted(east)
    drive.write_block(b"one")
    drive.flush()
    with (east / "cartridges" / "A00001.tap").open("r+b") as image:
        image.write(b"\x07")
    drive.rewind()
    with pytest.raises(MediumError):
        drive.read_block()
    drive.rewind()
    with pytest.raises(MediumError):
        drive.read_into(bytearray(100))


def test_a_failed_fsync_is_never_believed_again(east, monkeypatch):
    drive = mounted(east)
    drive.write_block(b"one")
    real = os.fsync

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(WriteError):
        drive.flush()
    monkeypatch.setattr(os, "fsync", real)
    drive.space_to_end()
    with pytest.raises(WriteError):
        drive.write_block(b"two")


def test_faults_reach_a_drive_that_is_open_in_another_process(east):
    drive = mounted(east)
    drive.write_block(b"one")
    drive.flush()
    subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import sys; from pathlib import Path; from tapeserver.library.faults import *;"
                "inject(Path(sys.argv[1]), Fault('unreadable', volume='A00001', block=0))"
            ),
            str(east),
        ],
        cwd=ROOT,
        check=True,
    )
    drive.rewind()
    with pytest.raises(MediumError):
        drive.read_block()


def test_a_flush_fault_loses_what_was_not_flushed(east):
    drive = mounted(east)
    drive.write_block(b"one")
    inject(east, Fault("flush_error", drive="east-0"))
    with pytest.raises(WriteError):
        drive.flush()
    assert drive.position() is None


def test_the_delay_hears_of_loads_motion_and_transfers_in_bytes(east):
    heard: list[tuple[Motion, int, int]] = []
    drive = mounted(east, delay=lambda motion, volume, start, end: heard.append((motion, start, end)))
    drive.write_block(b"12345678")
    drive.write_marks(1)
    drive.flush()
    drive.rewind()
    assert heard == [
        (Motion.LOAD, 0, 0),
        (Motion.TRANSFER, 0, 16),
        (Motion.MARK, 16, 20),
        (Motion.FLUSH, 20, 20),
        (Motion.LOCATE, 20, 0),
    ]


def test_making_a_library_is_safe_to_repeat_and_refuses_another_one(east):
    create_virtual_library(east, "east", 2, 3)
    add_cartridge(east, "A00001", 100 * MIB)
    with pytest.raises(LibraryDamaged):
        create_virtual_library(east, "west", 2, 3)
    with pytest.raises(LibraryDamaged):
        VirtualLibrary(east, "west")
    add_cartridge(east, "A00002", 100 * MIB)
    add_cartridge(east, "A00003", 100 * MIB)
    with pytest.raises(LibraryDamaged):
        add_cartridge(east, "A00004", 100 * MIB)


def test_a_library_that_is_away_is_unreachable(tmp_path):
    with pytest.raises(LibraryUnreachable):
        VirtualLibrary(tmp_path / "nothing", "east")


def test_the_fence_is_compared_under_the_lock_that_dismount_takes(east):
    drive = mounted(east)
    drive.write_block(b"one")
    library = VirtualLibrary(east, "east", lock_seconds_max=0.05)
    with drive._guard(), pytest.raises(DriveBusy):
        library.dismount("east-0", 1)
    assert library.dismount("east-0", 1) == "A00001"


def test_drives_say_that_they_are_what_their_medium_is_for_and_nothing_without_one(east: Path) -> None:
    for medium, model in (("LTO-9", "LTO-9"), (None, "")):
        drives = VirtualLibrary(east, "east", medium=medium).inventory().drives
        assert [one.model for one in drives] == [model, model]
