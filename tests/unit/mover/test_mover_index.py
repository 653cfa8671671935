"""The index of a session: written behind everything else, named by every header after it, and never at the cost of
anything."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tapeserver.format import pax
from tapeserver.format.labels import Kind, Status
from tapeserver.frames import (
    Alerts,
    Fault,
    Idle,
    IndexFailed,
    IndexPart,
    IndexWritten,
    Loaded,
    Stop,
    Unloaded,
    Write,
    WriteFailed,
    Written,
)
from tapeserver.library.faults import Fault as FaultOnDemand
from tapeserver.library.faults import inject
from tapeserver.mover import indexspool
from tests.unit.mover.harness import MoverInTest, archiving, data_of, mount, stop
from tests.unit.mover.test_mover_bundles import tape_files

INDEX = data_of(77, 150_000)
NAME = "capstan-index/A00001-1-2.jsonl.gz"


def send_index(mover: MoverInTest, data: bytes = INDEX, name: str = NAME) -> None:
    for at in range(0, len(data), 60_000):
        mover.send(IndexPart(name=name, data=data[at : at + 60_000], last=at + 60_000 >= len(data)))


def read_index(data: bytes) -> tuple[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (info,) = tar.getmembers()
        extracted = tar.extractfile(info)
        assert extracted is not None
        return info.name, extracted.read()


def test_an_index_is_a_tape_file_that_tar_reads_and_the_headers_behind_it_name(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[cache.write_item(1, b"first")]))
    written = [message for message in mover.until(Idle) if isinstance(message, Written)][-1]
    send_index(mover)
    (told,) = mover.until(IndexWritten)
    assert (told.index_block, told.tape_files) == (written.end_block, 2)
    mover.send(Write(items=[cache.write_item(2, b"second")]))
    last = [message for message in mover.until(Idle) if isinstance(message, Written)][-1]
    assert (last.items[0].tape_file, last.items[0].first_block) == (3, told.end_block)
    stop(mover)
    first, index, second = tape_files(east)
    assert read_index(index[1]) == (NAME, INDEX)
    assert (index[0].kind, index[0].status, index[0].file_count) == (Kind.INDEX, Status.COMPLETE, 1)
    assert [trailer.previous_index for trailer, _ in (first, index, second)] == [0, 0, told.index_block]
    headers = index[1][: pax.header_bytes(index[1][:512])]
    member = pax.parse_any(headers)
    assert isinstance(member, pax.OwnMember)
    assert (member.kind, member.generation, member.catalog_id) == ("index", 1, "0F8C1D2E")
    assert told.written_bytes == len(index[1])


def test_the_next_mount_goes_on_from_the_index_that_the_session_or_the_tape_knows(mover, east, cache):
    archiving(mover, east)
    send_index(mover, name="capstan-index/A00001-1-1.jsonl.gz")
    (told,) = mover.until(IndexWritten)
    stop(mover)
    mount(east, 3)
    known = {"known_tape_files": 1, "known_end_block": told.end_block, "previous_index": told.index_block}
    assert isinstance(mover.load(3, "archive", **known), Loaded)
    mover.send(Write(items=[cache.write_item(1, b"x")]))
    mover.until(Idle)
    stop(mover)
    mount(east, 4)
    assert isinstance(mover.load(4, "archive", known_end_block=2), Loaded), "the catalog lost all of it"
    assert [found.kind for found in mover.found] == ["I", "D"]
    mover.send(Write(items=[cache.write_item(2, b"y")]))
    mover.until(Idle)
    stop(mover)
    assert [trailer.previous_index for trailer, _ in tape_files(east, 4)] == [0, told.index_block, told.index_block]


def test_an_index_that_came_whole_before_stop_is_still_written(mover, east):
    archiving(mover, east)
    send_index(mover)
    mover.send(Stop())
    assert [type(message) for message in mover.until(Unloaded)] == [IndexWritten, Unloaded]


def test_half_an_index_is_forgotten_with_its_mount(mover, east):
    archiving(mover, east)
    mover.send(IndexPart(name=NAME, data=b"half"))
    assert stop(mover) == [Unloaded()]
    assert tape_files(east) == []
    assert isinstance(mover.load(2, "archive", known_end_block=2), Loaded)
    send_index(mover)
    assert isinstance(mover.until(IndexWritten)[-1], IndexWritten)
    stop(mover)
    assert read_index(tape_files(east)[0][1]) == (NAME, INDEX)


def test_an_index_uses_the_room_that_is_kept_behind_the_early_warning(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[cache.write_item(1, data_of(1, 400_000)), cache.write_item(2, data_of(2, 7_000_000))]))
    seen = mover.until(Idle)
    assert [message.volume_full for message in seen if isinstance(message, WriteFailed)] == [True]
    inject(east, FaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    send_index(mover)
    assert isinstance(mover.until(IndexWritten)[-1], IndexWritten)
    send_index(mover, data_of(5, 900_000), name="capstan-index/A00001-1-3.jsonl.gz")
    (failed,) = mover.until(IndexFailed)
    assert failed.code == "volume_full"
    assert stop(mover) == [Unloaded()]
    assert [trailer.kind for trailer, _ in tape_files(east)] == [Kind.DATA, Kind.INDEX], "what was there is there"


def test_a_shorter_index_is_written_over_what_there_was_room_for_of_a_longer_one(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[cache.write_item(1, data_of(1, 400_000))]))
    written = [message for message in mover.until(Idle) if isinstance(message, Written)][-1]
    inject(east, FaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    send_index(mover, data_of(5, 900_000))
    (failed,) = mover.until(IndexFailed)
    assert failed.code == "volume_full"
    send_index(mover)
    (told,) = mover.until(IndexWritten)
    assert (told.index_block, told.tape_files) == (written.end_block, 2)
    assert stop(mover) == [Unloaded()]
    data, index = tape_files(east)
    assert (data[0].kind, index[0].kind) == (Kind.DATA, Kind.INDEX)
    assert read_index(index[1]) == (NAME, INDEX)


def test_an_index_that_begins_anew_is_not_mixed_with_what_came_of_the_one_before(mover, east):
    archiving(mover, east)
    mover.send(IndexPart(name=NAME, data=b"half of one that was broken off", first=True))
    mover.send(IndexPart(name=NAME, data=INDEX[:70_000], first=True))
    mover.send(IndexPart(name=NAME, data=INDEX[70_000:], last=True))
    assert isinstance(mover.until(IndexWritten)[-1], IndexWritten)
    stop(mover)
    assert read_index(tape_files(east)[0][1]) == (NAME, INDEX)


def test_a_drive_that_cannot_write_the_index_loses_nothing_else(mover, east, cache):
    archiving(mover, east)
    mover.send(Write(items=[cache.write_item(1, b"safe")]))
    mover.until(Idle)
    inject(east, FaultOnDemand("write_error", volume="A00001", after_blocks=4))
    send_index(mover)
    assert [type(message) for message in mover.until(Unloaded)] == [IndexFailed, Fault, Alerts, Unloaded]
    assert [trailer.kind for trailer, _ in tape_files(east)] == [Kind.DATA]


def test_an_index_that_is_too_long_or_has_no_usable_name_is_refused(mover, east, monkeypatch):
    archiving(mover, east)
    send_index(mover, name="/not/a/name/of/ours")
    assert mover.until(IndexFailed)[-1].code == "index_refused"
    monkeypatch.setattr(indexspool, "INDEX_BYTES_MAX", 100_000)
    send_index(mover)
    assert mover.until(IndexFailed)[-1].code == "index_refused"
    assert stop(mover) == [Unloaded()]
    assert tape_files(east) == []


def test_an_index_waits_on_disk_and_not_in_memory(tmp_path: Path):
    spool = indexspool.IndexSpool()
    for piece in (b"a" * 70_000, b"", b"b" * 5):
        spool.add(IndexPart(name="n", data=piece))
    assert [len(piece) for piece in spool.pieces(65_536)] == [65_536, 4_469]
    assert (spool.size, spool.name) == (70_005, "n")
    spool.close()
