"""In which order a mount reads, and that nothing is read twice or forgotten."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest

from catalog.queues import WantedRecall
from tapeserver import readinglist
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.ordering import Order, order_reads
from tapeserver.readinglist import ReadingList

BLOCK = 256 * 1024
LTO7 = Geometry(model_of("LTO-7"))


def wanted(*places: int) -> list[WantedRecall]:
    return [WantedRecall(file_id=one, tape_file=one, first_block=one, byte_offset=0, bytes=10) for one in places]


def taken(reading: ReadingList, files_max: int = 100, bytes_max: int = 10**15) -> list[int]:
    return list(reading.take(files_max, bytes_max))


def on_tape(*gigabytes: int, size: int = 10**9) -> list[WantedRecall]:
    """Files that begin about so many GB from the begin of the tape."""
    return [
        WantedRecall(file_id=one, tape_file=one, first_block=one * 10**9 // BLOCK, byte_offset=0, bytes=size)
        for one in gigabytes
    ]


def test_files_come_by_position_and_the_first_however_large() -> None:
    reading = ReadingList(None, BLOCK)
    reading.refresh(wanted(30, 10, 20))
    assert taken(reading, bytes_max=25) == [10, 20]
    assert taken(reading, bytes_max=1) == [30]
    assert taken(reading) == []
    assert len(reading) == 0


def test_a_late_arrival_ahead_of_the_head_is_met_on_the_way_and_one_behind_it_after_the_end() -> None:
    reading = ReadingList(None, BLOCK)
    reading.refresh(wanted(10, 20, 40))
    assert taken(reading, 2) == [10, 20]
    reading.refresh(wanted(5, 30, 40))
    assert taken(reading) == [30, 40, 5]


def test_what_is_not_wanted_any_more_goes() -> None:
    reading = ReadingList(None, BLOCK)
    reading.refresh(wanted(10, 20, 30))
    reading.refresh(wanted(10, 30))
    assert taken(reading) == [10, 30]


def test_what_a_copy_takes_stays_in_the_list_it_was_made_of() -> None:
    reading = ReadingList(None, BLOCK)
    reading.refresh(wanted(10, 20))
    attempt = copy(reading)
    assert taken(attempt, 1) == [10]
    assert taken(reading, 1) == [10]


def test_on_a_known_medium_files_come_in_the_order_that_is_searched_for_and_not_by_position() -> None:
    places = [5, 60, 110, 1000, 1060, 2000, 3500]
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(*places))
    starts = [(one * 10**9 // BLOCK + 4) * BLOCK for one in places]
    best = order_reads(LTO7, starts, [10**9] * len(places))
    found = reading.take(100, 10**12)
    assert list(found) == [places[index] for index in best.indices.tolist()] != sorted(places)
    assert abs(sum(found.values()) - best.seconds) < 1


def test_while_others_want_the_drive_the_last_file_is_one_from_which_the_rewind_is_short() -> None:
    # Three wraps' middles, their ends, and places in between.
    places = [20, 35, 50, 500, 1000, 1030, 2025, 3500]
    ends = {}
    for home in (False, True):
        reading = ReadingList(LTO7, BLOCK)
        reading.refresh(on_tape(*places), home=home)
        found = reading.take(100, 10**12)
        ends[home] = sum(found.values()), LTO7.rewind_seconds((list(found)[-1] * 10**9 // BLOCK + 4) * BLOCK + 10**9)
    assert sum(ends[True]) < sum(ends[False]) - 20
    assert ends[True][0] >= ends[False][0]
    assert ends[True][1] < ends[False][1]


def test_late_arrivals_join_the_rest_and_what_was_taken_stays() -> None:
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(5, 1000, 2000))
    [first] = taken(reading, 1)
    left = {5, 1000, 2000} - {first}
    reading.refresh(on_tape(*left, 70, 3000))
    assert set(taken(reading)) == left | {70, 3000}


def many_waiting(monkeypatch: pytest.MonkeyPatch, *gigabytes: int) -> tuple[ReadingList, list[int]]:
    """Many small files wait, so many that arrivals up to one in 20 join; and how many were put in order each time."""
    monkeypatch.setattr(readinglist, "INSERT_ABOVE", 20)
    monkeypatch.setattr(readinglist, "INSERT_SHARE", 20)
    planned: list[int] = []

    def order(geometry: Geometry, starts: Any, lengths: Any, *, head: int, home: bool) -> Order:
        planned.append(len(starts))
        return order_reads(geometry, starts, lengths, head=head, home=home)

    monkeypatch.setattr(readinglist, "order_reads", order)
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(*gigabytes, size=10**6))
    return reading, planned


def test_a_few_arrivals_among_many_join_the_order_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [one for one in range(50) if one != 30]
    reading, planned = many_waiting(monkeypatch, *places)
    assert taken(reading, 10) == places[:10]
    reading.refresh(on_tape(*places[10:20], *places[21:], 30, size=10**6))
    assert taken(reading) == [one for one in range(10, 50) if one != places[20]]
    assert planned == [49]


def test_when_many_have_joined_one_by_one_all_are_put_in_order_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = list(range(0, 90, 2))
    reading, planned = many_waiting(monkeypatch, *waiting)
    for late in (1, 7, 13):
        waiting.append(late)
        reading.refresh(on_tape(*waiting, size=10**6))
    assert planned == [45, 48]


def test_members_of_one_bundle_join_between_the_members_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readinglist, "INSERT_ABOVE", 20)
    members = [
        WantedRecall(file_id=one, tape_file=9, first_block=9000, byte_offset=one * 11_000, bytes=10_240)
        for one in range(200)
    ]
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh([one for one in members if one.file_id not in (50, 120)])
    assert taken(reading, 10) == list(range(10))
    reading.refresh(members[10:])
    assert taken(reading, 1000) == list(range(10, 200))


def test_no_more_is_taken_than_the_time_allows_but_one_always() -> None:
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(1000, 3000, 5000, size=30 * 10**9))
    assert len(reading.take(100, 10**12, 1.0)) == 1
    assert len(reading.take(100, 10**12, 1.0)) == 1


def test_files_that_are_cheaper_to_read_on_to_than_to_search_for_stay_together() -> None:
    reading = ReadingList(LTO7, BLOCK)
    members = [
        WantedRecall(file_id=one, tape_file=9, first_block=9 * 10**6, byte_offset=one * 10**5, bytes=10**5)
        for one in range(500)
    ]
    reading.refresh([*on_tape(3000), *members])
    found = taken(reading, files_max=1000)
    inside = [one for one in found if one < 500]
    assert inside == list(range(500))
    assert found.index(3000) in (0, 500)


def test_small_files_that_share_blocks_cost_no_search_so_that_many_are_taken_at_once() -> None:
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(
        [
            WantedRecall(file_id=one, tape_file=9, first_block=9000, byte_offset=one * 11_000, bytes=10_240)
            for one in range(4000)
        ]
    )
    found = reading.take(4000, 10**12, 300.0)
    assert list(found) == list(range(4000))
    assert sum(found.values()) < 60


def test_a_drive_that_knows_better_arranges_the_rest() -> None:
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(5, 1000, 2000, 3000))
    asked = reading.segments()
    assert [(one.files, one.first_block) for one in asked] == [
        ([file_id], file_id * 10**9 // BLOCK + 4) for [file_id] in (one.files for one in asked)
    ]
    [first] = taken(reading, 1)
    left = [file_id for one in asked for file_id in one.files if file_id != first]
    reading.refresh(on_tape(*left, 4000))
    reading.rearrange(asked, [3, 2, 1, 0])
    assert taken(reading) == [*left[::-1], 4000]


def test_an_order_that_does_not_name_each_piece_once_changes_nothing() -> None:
    reading = ReadingList(LTO7, BLOCK)
    reading.refresh(on_tape(5, 1000, 2000))
    before = reading.segments()
    for nonsense in ([0, 0, 1], [0, 1], [3, 1, 2], [-1, 0, 1]):
        reading.rearrange(before, nonsense)
    assert reading.segments() == before
