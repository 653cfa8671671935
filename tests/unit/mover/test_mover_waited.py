"""Cache to tape while somebody waits: what is urgent is flushed at once, and only that."""

from __future__ import annotations

import msgspec

from tapeserver.frames import Idle, Write, Written
from tests.unit.mover.harness import archiving, data_of


def test_what_somebody_waits_for_is_flushed_with_its_tape_file_and_not_when_the_policy_says(mover, east, cache):
    archiving(mover, east)
    plain, waited, later = (cache.write_item(number, data_of(number, 1000)) for number in (1, 2, 3))
    mover.send(Write(items=[plain, msgspec.structs.replace(waited, flush=True), later]))
    batches = [[item.archive_id for item in one.items] for one in mover.until(Idle) if isinstance(one, Written)]
    assert batches == [[1, 2], [3]]
