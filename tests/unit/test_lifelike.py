"""The virtual library at the speed of a real one, with a clock that the tests turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.library import Drive, LibraryDamaged, Motion, open_library
from tapeserver.library.lifelike import Lifelike
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library

MIB = 1024 * 1024
CAPACITY = 1000 * MIB
LTO7, LTO9 = (Geometry(model_of(medium), CAPACITY) for medium in ("LTO-7", "LTO-9"))


class Clock:
    """Seconds, and every sleep; sleeping is what moves it on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def lifelike(clock: Clock, speed: float = 1, medium: str = "LTO-7") -> Lifelike:
    return Lifelike(medium, speed, lambda volume: CAPACITY, clock=clock, sleep=clock.sleep)


def mounted(path: Path, delay: Lifelike | None = None) -> Drive:
    create_virtual_library(path, "east", 1, 2)
    add_cartridge(path, "A00001", CAPACITY)
    library = VirtualLibrary(path, "east", delay=delay)
    library.mount("A00001", "east-0", 1)
    return library.open("east-0", 1)


def test_a_load_and_an_unload_take_the_times_of_the_medium():
    clock = Clock()
    delay = lifelike(clock, medium="LTO-9")
    delay(Motion.LOAD, "A00001", 0, 0)
    delay(Motion.UNLOAD, "A00001", 0, 0)
    assert clock.slept == pytest.approx([17 + 6.5, 55 + 30 + 6.5])


def test_a_drill_is_a_hundred_times_faster():
    slow, fast = Clock(), Clock()
    lifelike(slow)(Motion.LOCATE, "A00001", 0, 700 * MIB)
    lifelike(fast, speed=100)(Motion.LOCATE, "A00001", 0, 700 * MIB)
    assert slow.slept == pytest.approx([LTO7.locate_seconds(0, 700 * MIB)])
    assert fast.slept == pytest.approx([slow.slept[0] / 100])


def test_many_small_blocks_take_as_long_as_their_bytes_without_a_sleep_for_each():
    clock = Clock()
    delay = lifelike(clock)
    for block in range(1000):
        delay(Motion.TRANSFER, "A00001", block * 300_000, (block + 1) * 300_000)
    assert sum(clock.slept) == pytest.approx(1.0, abs=0.006)
    assert len(clock.slept) <= 200


def test_what_the_host_takes_itself_is_not_taken_twice_but_idleness_is_no_credit():
    clock = Clock()
    delay = lifelike(clock)
    delay(Motion.TRANSFER, "A00001", 0, 300_000_000)
    clock.now += 0.6
    delay(Motion.TRANSFER, "A00001", 300_000_000, 600_000_000)
    clock.now += 50
    delay(Motion.TRANSFER, "A00001", 600_000_000, 900_000_000)
    delay(Motion.FLUSH, "A00001", 0, 0)
    assert clock.slept == pytest.approx([0.4, 3.0])


def test_a_drive_of_the_virtual_library_sleeps_for_what_it_does(tmp_path):
    clock = Clock()
    drive = mounted(tmp_path / "east", lifelike(clock))
    before = clock.now
    for _ in range(30):
        drive.write_block(bytes(MIB))
    drive.write_marks(1)
    drive.flush()
    drive.rewind()
    written = drive.capacity_bytes and 30 * (MIB + 8) + 4
    assert clock.now - before == pytest.approx(
        30 * MIB / 300e6 + 0.01 + 3 + LTO7.rewind_seconds(written or 0), abs=0.01
    )
    drive.close()


def test_without_a_speed_nothing_is_delayed_and_the_spec_carries_what_was_chosen(tmp_path):
    plain = create_virtual_library(tmp_path / "east", "east", 1, 2)
    assert "speed" not in plain.spec()
    chosen = open_library(plain.spec() | {"speed": 1000, "medium": "LTO-8"})
    assert open_library(chosen.spec()).spec() == chosen.spec() == plain.spec() | {"speed": 1000, "medium": "LTO-8"}


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"speed": -1}, {"speed": "fast"}, {"medium": "LTO9"}])
def test_a_spec_without_sense_is_refused_with_the_reason(tmp_path, wrong):
    plain = create_virtual_library(tmp_path / "east", "east", 1, 2)
    with pytest.raises(LibraryDamaged):
        open_library(plain.spec() | wrong)


def test_drives_whose_kind_recommends_an_order_tell_one_that_is_no_worse_than_block_order(tmp_path):
    mounted(tmp_path / "east").close()
    drive = open_library({"kind": "virtual", "name": "east", "path": str(tmp_path / "east"), "medium": "LTO-9"}).open(
        "east-0", 1
    )
    for _ in range(60):
        drive.write_block(bytes(5 * MIB - 8))
    drive.rewind()
    segments = [(block, 1) for block in (50, 3, 27, 44, 12, 8, 33, 59, 19, 40)]
    order = drive.recommended_order(segments)
    assert order is not None

    def seconds(chosen):
        head, total = 0, 0.0
        for index in chosen:
            start = segments[index][0] * 5 * MIB
            total += LTO9.locate_seconds(head, start)
            head = start + 5 * MIB
        return total

    assert seconds(order) <= seconds(sorted(range(10), key=lambda index: segments[index]))
    drive.close()


def test_drives_of_a_kind_without_the_function_recommend_nothing(tmp_path):
    mounted(tmp_path / "east").close()
    for chosen in ({}, {"medium": "LTO-8"}):
        spec = {"kind": "virtual", "name": "east", "path": str(tmp_path / "east")} | chosen
        drive = open_library(spec).open("east-0", 1)
        drive.write_block(b"x")
        assert drive.recommended_order([(0, 1)]) is None
        drive.close()
