"""Promises of a reading turn about what its mover says late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from catalog.queues import ClaimedRecall
from catalog.replicas import Reservation
from tapeserver.frames import FromMover, ReadDone, ReadFailed
from tapeserver.mountcontext import MountContext
from tapeserver.readturn import ReadTurn

FILE, BEFORE, NOW = 7, 100, 200


@pytest.mark.parametrize(
    "late",
    [
        ReadDone(files=[(FILE, BEFORE)]),
        ReadFailed(file_id=FILE, reservation_id=BEFORE, code="dropped", text="it was dropped", retry="never"),
    ],
)
async def test_what_is_said_of_a_file_that_was_dropped_does_not_end_its_next_reading(late: FromMover) -> None:
    async def commit(_: Any) -> None:
        raise AssertionError("nothing is to be recorded")

    work = SimpleNamespace(library_spec={}, medium="", capacity_bytes=1, block_size=1)
    context = cast(MountContext, SimpleNamespace(now=0.0, commit=commit, work=work))
    turn = ReadTurn(context, seconds_max=None)
    space = Reservation(id=NOW, cache_server="cache", url="http://127.0.0.1:1", bytes=1, file_id=FILE)
    turn._out[FILE] = (cast(ClaimedRecall, object()), space, 0.0)
    await turn.handle(late)
    assert turn.outstanding() == 1
