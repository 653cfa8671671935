"""In which order a mount reads, and that nothing is read twice or forgotten."""

from __future__ import annotations

from copy import copy

from catalog.queues import WantedRecall
from tapeserver.readinglist import ReadingList


def wanted(*places: int) -> list[WantedRecall]:
    return [WantedRecall(file_id=one, tape_file=one, first_block=one, byte_offset=0, bytes=10) for one in places]


def taken(reading: ReadingList, files_max: int = 100, bytes_max: int = 10**9) -> list[int]:
    return [one.file_id for one in reading.take(files_max, bytes_max)]


def test_files_come_by_position_and_the_first_however_large() -> None:
    reading = ReadingList()
    reading.refresh(wanted(30, 10, 20))
    assert taken(reading, bytes_max=25) == [10, 20]
    assert taken(reading, bytes_max=1) == [30]
    assert taken(reading) == [] and len(reading) == 0


def test_a_late_arrival_ahead_of_the_head_is_met_on_the_way_and_one_behind_it_after_the_end() -> None:
    reading = ReadingList()
    reading.refresh(wanted(10, 20, 40))
    assert taken(reading, 2) == [10, 20]
    reading.refresh(wanted(5, 30, 40))
    assert taken(reading) == [30, 40, 5]


def test_what_is_not_wanted_any_more_goes() -> None:
    reading = ReadingList()
    reading.refresh(wanted(10, 20, 30))
    reading.refresh(wanted(10, 30))
    assert taken(reading) == [10, 30]


def test_what_a_copy_takes_stays_in_the_list_it_was_made_of() -> None:
    reading = ReadingList()
    reading.refresh(wanted(10, 20))
    attempt = copy(reading)
    assert taken(attempt, 1) == [10]
    assert taken(reading, 1) == [10]
