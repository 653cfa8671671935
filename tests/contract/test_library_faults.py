"""What a library shows when a part of it fails: the errors of the protocol, where volumes are, what is on the media."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tapeserver.library import (
    Alert,
    ChangerFault,
    EndOfData,
    Fenced,
    HardwareError,
    MediumError,
    WriteError,
)
from tapeserver.library.faults import FAULTS_MAX, Fault, clear, inject, read_faults
from tests.contract.test_library import LibraryUnderTest, block_of, made
from tests.tapes import contents

__all__ = ["made"]


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException | None]]:
    """`call` in a thread, and what it ended with."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


# ---------------------------------------------------------------- a drive dies


def test_a_dead_drive_fails_at_everything_and_the_inventory_says_why(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"kept")
    drive.flush()
    made.fault(Fault("dead", drive="east-0", text="power supply"))
    for attempt in (drive.rewind, drive.read_block, lambda: drive.write_block(b"x"), drive.flush, drive.position):
        with pytest.raises(HardwareError):
            attempt()
    drive.close()
    with pytest.raises(HardwareError):
        made.open()
    status = {one.drive: one for one in made.library.inventory().drives}
    assert (status["east-0"].working, status["east-0"].detail) == (False, "power supply")
    assert (status["east-1"].working, status["east-1"].detail) == (True, "")
    assert made.library.alerts() == (
        Alert(code="drive_failed", severity="critical", text="power supply", drive="east-0"),
    )


def test_the_volume_of_a_dead_drive_can_be_taken_out_and_used_elsewhere(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"kept")
    drive.flush()
    drive.write_block(b"lost")
    made.fault(Fault("dead", drive="east-0"))
    assert made.library.dismount("east-0", 1) == "A00001"
    assert contents(made.mounted(drive="east-1", epoch=2)) == [b"kept"]
    with pytest.raises(HardwareError):
        made.library.mount("A00002", "east-0", 3)
    assert made.library.inventory().drive_of("A00002") is None
    made.clear()
    made.library.mount("A00002", "east-0", 4)
    assert all(one.working for one in made.library.inventory().drives)


# ---------------------------------------------------------------- the changer jams


def test_a_jammed_changer_moves_nothing_and_says_so_until_it_is_freed(made: LibraryUnderTest):
    made.fault(Fault("jam", text="arm lost"))
    with pytest.raises(ChangerFault, match="arm lost"):
        made.library.mount("A00001", "east-0", 1)
    assert made.library.inventory().drive_of("A00001") is None
    assert [one.code for one in made.library.alerts()] == ["changer_jam"]
    made.clear()
    made.library.mount("A00001", "east-0", 1)
    assert made.library.alerts() == ()


def test_a_changer_that_jams_at_a_dismount_leaves_the_volume_in_its_drive_and_the_writer_fenced(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"lost")
    made.fault(Fault("jam", times=2))
    for _ in range(2):
        with pytest.raises(ChangerFault):
            made.library.dismount("east-0", 1)
        assert made.library.inventory().drive_of("A00001") == "east-0"
    with pytest.raises(Fenced):
        drive.flush()
    assert made.library.dismount("east-0", 1) == "A00001"
    assert made.library.inventory().drive_of("A00001") is None


def test_a_mount_that_needs_no_move_does_not_meet_the_jam(made: LibraryUnderTest):
    made.library.mount("A00001", "east-0", 1)
    made.fault(Fault("jam"))
    made.library.mount("A00001", "east-0", 2)
    assert made.open(epoch=2).volume == "A00001"


def test_a_jam_of_one_drive_leaves_the_others_alone(made: LibraryUnderTest):
    made.fault(Fault("jam", drive="east-0"))
    made.library.mount("A00001", "east-1", 1)
    with pytest.raises(ChangerFault):
        made.library.mount("A00002", "east-0", 2)


# ---------------------------------------------------------------- the wrong cartridge


def test_only_the_label_tells_that_another_cartridge_is_in_the_slot(made: LibraryUnderTest):
    for volume, epoch in (("A00001", 1), ("A00002", 2)):
        drive = made.mounted(volume, epoch=epoch)
        drive.write_block(b"label of " + volume.encode())
        drive.flush()
        drive.close()
        made.library.dismount("east-0", epoch)
    made.fault(Fault("swapped", volume="A00001", image="A00002"))
    assert made.library.inventory().volumes == {"A00001", "A00002"}
    drive = made.mounted("A00001", epoch=3)
    assert drive.volume == "A00001"
    assert contents(drive) == [b"label of A00002"]
    drive.close()
    made.library.dismount("east-0", 3)
    made.clear()
    assert contents(made.mounted("A00001", epoch=4)) == [b"label of A00001"]


# ---------------------------------------------------------------- loss of power


@pytest.mark.parametrize("keep", ["none", "some", "all"])
@pytest.mark.parametrize("at", ["write", "mark", "flush"])
def test_a_loss_of_power_leaves_what_was_flushed_and_a_prefix_of_the_rest(made: LibraryUnderTest, keep, at):
    drive = made.mounted()
    drive.write_block(b"flushed")
    drive.flush()
    made.fault(Fault("power_loss", drive="east-0", at=at, after_blocks=3, keep=keep, seed=7))
    for number in range(3):
        drive.write_block(b"%d" % number + bytes(1000))
    with pytest.raises(HardwareError):
        {"write": lambda: drive.write_block(b"x"), "mark": lambda: drive.write_marks(1), "flush": drive.flush}[at]()
    for attempt in (drive.flush, drive.rewind, lambda: drive.write_block(b"x")):
        with pytest.raises((HardwareError, WriteError)):
            attempt()
    drive.close()
    again = made.open()
    found = contents(again)
    written = [b"flushed", *(b"%d" % number + bytes(1000) for number in range(3))]
    assert found == written[: len(found)]
    assert len(found) in {"none": [1], "some": [1, 2, 3, 4], "all": [4]}[keep]
    again.space_to_end()
    again.write_block(b"appended")
    again.flush()
    assert contents(again) == [*found, b"appended"]


def test_the_same_seed_loses_the_same(made: LibraryUnderTest):
    kept = []
    for epoch in (1, 2):
        drive = made.mounted(epoch=epoch)
        for number in range(20):
            drive.write_block(b"%d" % number + bytes(500))
        made.fault(Fault("power_loss", seed=5, keep="some", at="flush"))
        with pytest.raises(HardwareError):
            drive.flush()
        drive.close()
        again = made.open(epoch=epoch)
        kept.append(len(contents(again)))
        again.rewind()
        again.close()
    assert kept[0] == kept[1]
    assert 0 < kept[0] < 20


def test_power_is_lost_once(made: LibraryUnderTest):
    made.fault(Fault("power_loss", at="write"))
    drive = made.mounted()
    with pytest.raises(HardwareError):
        drive.write_block(b"x")
    drive.close()
    again = made.open()
    again.write_block(b"x")
    again.flush()
    assert contents(again) == [b"x"]


# ---------------------------------------------------------------- slow, hanging


def test_a_slow_drive_takes_its_time_and_holds_nobody_up_who_fences_it(made: LibraryUnderTest):
    drive = made.mounted()
    made.fault(Fault("slow", seconds_per_block=0.1))
    began = time.monotonic()
    drive.write_block(b"one")
    assert time.monotonic() - began >= 0.1
    made.clear()
    made.fault(Fault("slow", bytes_per_second=100.0))
    thread, ended = in_thread(lambda: drive.write_block(bytes(30)))
    began = time.monotonic()
    made.library.dismount("east-0", 1)
    made.library.mount("A00001", "east-1", 2)
    thread.join(10)
    assert ended == [None]
    with pytest.raises(Fenced):
        drive.flush()


def test_a_flush_that_hangs_neither_returns_nor_keeps_the_volume_from_being_taken_away(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"lost")
    made.fault(Fault("hang", drive="east-0", at="flush"))
    thread, ended = in_thread(drive.flush)
    made.library.dismount("east-0", 1)
    thread.join(10)
    assert isinstance(ended[0], Fenced)
    with pytest.raises(EndOfData):
        made.mounted(drive="east-1", epoch=2).read_block()


@pytest.mark.parametrize("at", ["locate", "read", "write", "flush"])
def test_a_call_that_hangs_goes_on_when_the_fault_is_cleared(made: LibraryUnderTest, at):
    drive = made.mounted()
    drive.write_block(b"one")
    drive.flush()
    drive.rewind()
    made.fault(Fault("hang", at=at))
    calls = {
        "locate": lambda: drive.locate(1), "read": drive.read_block,
        "write": lambda: drive.write_block(b"two"), "flush": drive.flush,
    }  # fmt: skip
    thread, ended = in_thread(calls[at])
    assert ended == []
    made.clear()
    thread.join(10)
    assert ended == [None]


@pytest.mark.parametrize("at", ["load", "unload"])
def test_a_changer_that_hangs_goes_on_when_the_fault_is_cleared(made: LibraryUnderTest, at):
    if at == "unload":
        made.library.mount("A00001", "east-0", 1)
    made.fault(Fault("hang", at=at))
    move = made.library.mount if at == "load" else None
    thread, ended = in_thread(
        (lambda: move("A00001", "east-0", 1)) if move else (lambda: made.library.dismount("east-0", 1))
    )
    assert made.library.inventory().drive_of("A00001") == (None if at == "load" else "east-0")
    made.clear()
    thread.join(10)
    assert ended == [None]
    assert made.library.inventory().drive_of("A00001") == ("east-0" if at == "load" else None)


# ---------------------------------------------------------------- alerts


def test_a_drive_tells_what_it_met_and_of_whom_it_speaks(made: LibraryUnderTest):
    drive = made.mounted()
    drive.write_block(b"one")
    drive.flush()
    assert drive.alerts() == ()
    made.unreadable("A00001", 0)
    drive.rewind()
    with pytest.raises(MediumError):
        drive.read_block()
    [hard] = drive.alerts()
    assert (hard.code, hard.severity, hard.drive, hard.volume) == ("hard_error", "warning", "east-0", "A00001")


def test_alerts_on_demand_are_told_by_the_drive_they_concern_and_by_the_library_when_they_concern_none(
    made: LibraryUnderTest,
):
    made.fault(Fault("alert", drive="east-0", code="clean_now", severity="critical", text="clean me"))
    made.fault(Fault("alert", volume="A00001", code="media_life"))
    made.fault(Fault("alert", code="door_open", severity="info", text="the door is open"))
    drive = made.mounted()
    block_of(drive)
    assert [(one.code, one.severity) for one in drive.alerts()] == [
        ("clean_now", "critical"),
        ("media_life", "warning"),
    ]
    assert block_of(made.mounted("A00002", "east-1", 2)) == 0
    assert made.opened[-1].alerts() == ()
    assert made.library.alerts() == (Alert(code="door_open", severity="info", text="the door is open"),)


# ---------------------------------------------------------------- the file of faults


def test_faults_are_cleared_by_kind_drive_or_volume(tmp_path: Path):
    for fault in (Fault("dead", drive="d1"), Fault("dead", drive="d2"), Fault("jam"), Fault("alert", volume="A1")):
        inject(tmp_path, fault)
    clear(tmp_path, "dead", drive="d1")
    assert [one.drive or one.kind for one in read_faults(tmp_path)] == ["d2", "jam", "alert"]
    clear(tmp_path, volume="A1")
    assert [one.kind for one in read_faults(tmp_path)] == ["dead", "jam"]
    clear(tmp_path)
    assert read_faults(tmp_path) == []


def test_there_is_a_limit_to_the_number_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapeserver.library.faults.FAULTS_MAX", 2)
    assert FAULTS_MAX > 2
    inject(tmp_path, Fault("jam"))
    inject(tmp_path, Fault("jam"))
    with pytest.raises(ValueError, match="at most"):
        inject(tmp_path, Fault("jam"))
