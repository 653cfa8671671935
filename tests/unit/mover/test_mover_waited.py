"""Cache to tape while somebody waits: what is urgent is flushed at once, and only that."""

from __future__ import annotations

import msgspec

from tapeserver.frames import DeadExtent, Flush, Idle, Load, Write, Written
from tapeserver.mover.unflushed import Recorded, Unflushed
from tests.unit.mover.harness import archiving, data_of


def test_what_somebody_waits_for_is_flushed_with_its_tape_file_and_not_when_the_policy_says(mover, east, cache):
    archiving(mover, east)
    plain, waited, later = (cache.write_item(number, data_of(number, 1000)) for number in (1, 2, 3))
    mover.send(Write(items=[plain, msgspec.structs.replace(waited, flush=True), later]))
    batches = [[item.archive_id for item in one.items] for one in mover.until(Idle) if isinstance(one, Written)]
    assert batches == [[1, 2], [3]]


def test_what_comes_little_by_little_shares_a_flush_and_nobody_is_told_before_it(mover, east, cache):
    archiving(mover, east, flush_idle_seconds=3600.0)
    for number in (1, 2, 3):
        mover.send(Write(items=[cache.write_item(number, data_of(number, 1000))]))
    mover.send(Flush(last=True))
    batches = [one for one in mover.until(Idle) if isinstance(one, Written)]
    assert [[item.archive_id for item in one.items] for one in batches] == [[1, 2, 3]]


def test_the_patience_of_a_mover_with_nothing_to_write_begins_with_its_last_tape_file():
    clock = [100.0]
    load = Load(
        epoch=1, library_spec={}, drive="d", volume="A00001", generation=1, catalog_id="0f8c1d2e", purpose="archive",
        flush_idle_seconds=5.0, flush_seconds=20.0,
    )  # fmt: skip
    unflushed = Unflushed(load, lambda: clock[0])
    extent = DeadExtent(tape_file=1, first_block=2, blocks=5, why="test")
    for at in (100.0, 104.0, 108.0):
        clock[0] = at
        unflushed.add(Recorded([], [extent], 1, 7, 10))
        assert (unflushed.patience_seconds(), unflushed.due()) == (5.0, False)
    clock[0] = 113.0
    assert (unflushed.patience_seconds(), unflushed.due()) == (0.0, False)
    clock[0] = 120.0
    assert unflushed.due(), "however it trickles on"
