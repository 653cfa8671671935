"""Promises of a volume's room: what fits is written, and what fits on no volume takes none out of use."""

from __future__ import annotations

from tapeserver.frames import Idle, IndexPart, IndexWritten, Write, WriteFailed, Written
from tapeserver.mover import volumeend
from tests.unit.mover.harness import archiving, data_of, stop


def test_of_a_bundle_that_does_not_fit_is_written_what_fits(mover, east, cache):
    archiving(mover, east)
    numbers = range(100, 1000)
    mover.send(Write(items=[cache.write_item(number, data_of(number, 10_240), bundle=1) for number in numbers]))
    seen = mover.until(Idle)
    stop(mover)
    written = [item.archive_id for message in seen if isinstance(message, Written) for item in message.items]
    failed = [message for message in seen if isinstance(message, WriteFailed)]
    assert written == list(numbers)[: len(written)]
    # Seven of the eight MiB stand before the early warning.
    assert len(written) * 10_240 > 5_500_000
    assert {message.code for message in failed} == {"volume_full"}
    assert sorted(written + [one for message in failed for one in message.archive_ids]) == list(numbers)


def test_a_file_that_an_empty_volume_has_no_room_for_fails_alone(mover, east, cache):
    archiving(mover, east)
    items = [cache.write_item(1, data_of(1, 7_500_000)), cache.write_item(2, data_of(2, 1000))]
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.code, failed.volume_full) == ([1], "file_too_large", False)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [2]


def test_a_file_longer_than_any_such_volume_does_not_end_one_that_is_partly_filled(mover, east, cache):
    archiving(mover, east)
    items = [cache.write_item(number, data_of(number, size)) for number, size in ((1, 1000), (2, 9_000_000), (3, 1000))]
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.code) == ([2], "file_too_large")
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [1, 3]


def test_a_file_that_fits_on_another_volume_ends_a_partly_filled_one(mover, east, cache):
    archiving(mover, east)
    items = [cache.write_item(number, data_of(number, size)) for number, size in ((1, 4_000_000), (2, 4_000_000))]
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.volume_full) == ([2], True)


def test_the_room_that_the_index_of_so_many_files_needs_is_kept_for_it(mover, east, cache, monkeypatch):
    # As with files a thousand times as small, of which a volume holds so many.
    monkeypatch.setattr(volumeend, "INDEX_LINE_BYTES", 20_000)
    archiving(mover, east)
    numbers = range(100, 300)
    mover.send(Write(items=[cache.write_item(number, data_of(number, 30_000), bundle=1) for number in numbers]))
    seen = mover.until(Idle)
    written = [item.archive_id for message in seen if isinstance(message, Written) for item in message.items]
    # The seven MiB before the early warning, without what the index of all two hundred needs.
    assert 90 < len(written) < (7 * 1024**2 - 200 * 20_000) / 30_000 + 5
    index = data_of(9, len(written) * 20_000)
    for at in range(0, len(index), 60_000):
        last = at + 60_000 >= len(index)
        mover.send(IndexPart(name="capstan-index/A00001-1-2.jsonl.gz", data=index[at : at + 60_000], last=last))
    assert isinstance(mover.until(IndexWritten)[-1], IndexWritten)
    stop(mover)
