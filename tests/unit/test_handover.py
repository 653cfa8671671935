"""Promises of the session's account of what its mover has to write."""

from __future__ import annotations

from catalog.model import FileRecord
from tapeserver.frames import Idle, Progress, WriteItem
from tapeserver.handover import Outstanding


def item(number: int) -> WriteItem:
    record = FileRecord(
        file_id=100 + number, path=f"/f{number}", size=10, adler32="00000001", mtime_ns=0, mode=0o644, owner="a",
        group="g", storage_class="one",
    )  # fmt: skip
    return WriteItem(
        archive_id=number, copy_number=1, replica_id=number, record=record, cache_url="http://127.0.0.1:1/x", pool="p"
    )


def test_a_mover_that_said_idle_before_it_was_given_more_is_not_taken_for_idle() -> None:
    out = Outstanding()
    out.add([item(1)])
    out.forget(1)
    out.add([item(2)])
    out.heard(Idle())
    assert (out.idle, 2 in out.ahead_archive_ids) == (False, True)
    out.forget(2)
    out.heard(Idle())
    assert (out.idle, out.ahead_archive_ids) == (True, [])


def test_a_mover_need_not_report_what_it_was_told_to_drop() -> None:
    out = Outstanding()
    out.add([item(1), item(2)])
    out.add([item(3)])
    out.heard(Progress(file_id=102, bytes=0, block=0))
    out.drop(out.ahead_archive_ids)
    out.forget(1)
    out.heard(Idle())
    assert (out.idle, out.archive_ids) == (True, [2, 3])
