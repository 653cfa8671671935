"""The mover against a virtual library and a cache server of a few lines: what is reported is true."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapeserver import labels
from tapeserver.frames import (
    Committed,
    Drop,
    Fault,
    Flush,
    FrameDecoder,
    Idle,
    Load,
    Loaded,
    LoadFailed,
    Ping,
    Pong,
    Read,
    ReadDone,
    ReadFailed,
    Stop,
    Unloaded,
    Write,
    WriteFailed,
    Written,
    _from_mover,
    encode,
)
from tapeserver.library import EndOfData, Filemark
from tapeserver.library.faults import Fault as DriveFaultOnDemand
from tapeserver.library.faults import clear, inject
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library
from tapeserver.library.virtualdrive import VirtualDrive
from tests.unit.mover_harness import CATALOG_ID, MoverInTest, TinyCache

KIB = 1024
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache() -> Iterator[TinyCache]:
    made = TinyCache()
    yield made
    made.close()


@pytest.fixture
def east(tmp_path: Path) -> Path:
    create_virtual_library(tmp_path / "east", "east", 2, 2)
    add_cartridge(tmp_path / "east", "A00001", 8 * KIB * KIB)
    return tmp_path / "east"


@pytest.fixture
def mover(east: Path, cache: TinyCache) -> Iterator[MoverInTest]:
    # Asks for the cache only to be closed before it.
    made = MoverInTest(east)
    yield made
    made.close()


def mount(east: Path, epoch: int) -> None:
    VirtualLibrary(east, "east").mount("A00001", "east-0", epoch)


def stop(mover: MoverInTest) -> list[Any]:
    mover.send(Stop(reason="test"))
    return mover.until(Unloaded)


def data_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def labelled(mover: MoverInTest, east: Path) -> None:
    mount(east, 1)
    assert isinstance(mover.load(1, "label"), Loaded)
    stop(mover)


def write_files(mover: MoverInTest, east: Path, cache: TinyCache, sizes: dict[int, int], epoch: int = 2) -> Written:
    """One archive mount on a labelled volume that ends at the second block; leaves the volume in the drive."""
    mount(east, epoch)
    assert isinstance(mover.load(epoch, "archive", known_end_block=2), Loaded)
    mover.send(Write(items=[cache.write_item(number, data_of(number, size)) for number, size in sizes.items()]))
    seen = mover.until(Idle)
    stop(mover)
    batches = [message for message in seen if isinstance(message, Written)]
    last = batches[-1]
    items = [item for batch in batches for item in batch.items]
    return Written(
        batch=last.batch, items=items, tape_files=last.tape_files, end_block=last.end_block, written_bytes=0, dead=[]
    )


SIZES = {11: 0, 12: 1, 13: 10 * KIB, 14: 64 * KIB, 15: 700_001}


def test_what_is_archived_is_recalled_byte_for_byte(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    assert [item.archive_id for item in written.items] == list(SIZES)
    assert written.tape_files == 5
    mount(east, 3)
    assert isinstance(mover.load(3, "recall", known_tape_files=5, known_end_block=written.end_block), Loaded)
    wanted = [cache.read_item(item, data_of(item.archive_id, SIZES[item.archive_id])) for item in written.items]
    mover.send(Read(items=wanted[::-1]))
    seen = mover.until(Idle)
    assert {message.file_id for message in seen if isinstance(message, ReadDone)} == set(SIZES)
    assert cache.stored == {1000 + number: data_of(number, size) for number, size in SIZES.items()}
    assert stop(mover) == [Unloaded()]


def test_the_tape_is_read_back_by_tar_alone(mover, east, cache, tmp_path):
    labelled(mover, east)
    write_files(mover, east, cache, {15: 700_001})
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    archive = tmp_path / "file1.tar"
    with archive.open("wb") as out:
        drive.space_marks(1)
        while True:
            try:
                out.write(drive.read_block())
            except Filemark:
                break
    drive.close()
    with tarfile.open(archive) as tar:
        (info,) = tar.getmembers()
        assert info.name == "exp/f15"
        extracted = tar.extractfile(info)
        assert extracted is not None
        assert extracted.read() == data_of(15, 700_001)


def test_the_places_reported_follow_each_other_and_end_where_the_next_mount_begins(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    assert written.items[0].first_block == 2
    assert [item.tape_file for item in written.items] == [1, 2, 3, 4, 5]
    mount(east, 3)
    loaded = mover.load(3, "archive", known_tape_files=5, known_end_block=written.end_block)
    assert loaded == Loaded(tape_files=5, end_block=written.end_block, remaining_bytes=loaded.remaining_bytes, dead=[])
    mover.send(Write(items=[cache.write_item(21, b"more")]))
    (more,) = [message for message in mover.until(Idle) if isinstance(message, Written)]
    assert (more.items[0].tape_file, more.items[0].first_block) == (6, written.end_block)


# ---------------------------------------------------------------- labels


def test_only_a_blank_or_known_volume_is_labelled(mover, east):
    mount(east, 1)
    drive = VirtualLibrary(east, "east").open("east-0", 1)
    drive.write_block(b"precious")
    drive.flush()
    drive.close()
    refused = mover.load(1, "label")
    assert isinstance(refused, LoadFailed)
    assert refused.verdict == "not_blank"
    assert isinstance(mover.load(1, "label", force_label=True), Loaded)
    stop(mover)
    assert isinstance(mover.load(1, "label", generation=2), Loaded), "an older generation of its own is known"
    stop(mover)
    refused = mover.load(1, "label", generation=1)
    assert isinstance(refused, LoadFailed), "a newer generation is not overwritten by an older one"


def test_labelling_is_safe_to_repeat_and_keeps_what_is_recorded(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000})
    assert isinstance(mover.load(2, "label"), Loaded)
    stop(mover)
    assert isinstance(mover.load(2, "archive", known_tape_files=1, known_end_block=written.end_block), Loaded)


@pytest.mark.parametrize("other", [{"volume": "A00001", "generation": 2}, {"catalog_id": "ffffffff"}])
def test_a_volume_with_another_label_is_not_touched(mover, east, other):
    labelled(mover, east)
    refused = mover.load(1, "recall", **other)
    assert isinstance(refused, LoadFailed)
    assert refused.verdict == "wrong_label"


def test_a_blank_volume_is_a_wrong_label_and_an_old_epoch_is_fenced(mover, east):
    mount(east, 5)
    refused = mover.load(5, "recall")
    assert (type(refused), refused.verdict) == (LoadFailed, "wrong_label")
    refused = mover.load(4, "recall")
    assert (type(refused), refused.verdict) == (LoadFailed, "fenced")


# ---------------------------------------------------------------- appending


def test_whole_tape_files_that_the_catalog_lacks_are_dead_and_kept(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000, 12: 100_000, 13: 10})
    mount(east, 3)
    known = written.items[1].first_block
    loaded = mover.load(3, "archive", known_tape_files=1, known_end_block=known)
    assert isinstance(loaded, Loaded)
    assert (loaded.tape_files, loaded.end_block) == (3, written.end_block)
    assert [(dead.tape_file, dead.first_block) for dead in loaded.dead] == [
        (item.tape_file, item.first_block) for item in written.items[1:]
    ]
    assert sum(dead.blocks for dead in loaded.dead) == written.end_block - known


def test_a_torn_tape_file_is_written_over(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000})
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    drive.locate(2)
    header = [drive.read_block() for _ in range(3)]
    drive.space_to_end()
    label = labels.parse_header(header)
    from dataclasses import replace

    for block in labels.build_file(replace(label, sequence=2)):
        drive.write_block(block)
    drive.write_marks(1)
    drive.write_block(b"torn data")
    drive.flush()
    drive.close()
    loaded = mover.load(2, "archive", known_tape_files=1, known_end_block=written.end_block)
    assert isinstance(loaded, Loaded)
    assert (loaded.tape_files, loaded.end_block, loaded.dead) == (1, written.end_block, [])
    mover.send(Write(items=[cache.write_item(12, b"over it")]))
    (more,) = [message for message in mover.until(Idle) if isinstance(message, Written)]
    assert more.items[0].first_block == written.end_block


def test_a_tape_that_ends_before_the_catalog_says_is_short(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000})
    for known_tape_files, known_end_block in [(2, written.end_block + 10), (2, written.end_block), (1, 11)]:
        refused = mover.load(2, "archive", known_tape_files=known_tape_files, known_end_block=known_end_block)
        assert isinstance(refused, LoadFailed)
        assert refused.verdict == "tape_short"


def test_data_of_somebody_else_behind_the_end_is_not_written_over(mover, east):
    labelled(mover, east)
    drive = VirtualLibrary(east, "east").open("east-0", 1)
    drive.space_to_end()
    drive.write_block(b"not ours")
    drive.flush()
    drive.close()
    refused = mover.load(1, "archive", known_end_block=2)
    assert (type(refused), refused.verdict) == (LoadFailed, "unexpected_data")


# ---------------------------------------------------------------- writing under faults


def archiving(mover: MoverInTest, east: Path, **options: Any) -> None:
    labelled(mover, east)
    mount(east, 2)
    assert isinstance(mover.load(2, "archive", known_end_block=2, **options), Loaded)


def test_a_replica_with_a_wrong_checksum_makes_a_dead_tape_file_and_no_copy(mover, east, cache):
    archiving(mover, east)
    good, large = data_of(1, 1000), data_of(2, 300_000)
    cache.lies[2] = large[:-1] + bytes([large[-1] ^ 1])
    mover.send(Write(items=[cache.write_item(1, good), cache.write_item(2, large), cache.write_item(3, good)]))
    seen = mover.until(Idle)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.code) == ([2], "replica_damaged")
    written = [message for message in seen if isinstance(message, Written)]
    assert [item.archive_id for batch in written for item in batch.items] == [1, 3]
    (dead,) = [dead for batch in written for dead in batch.dead]
    assert dead.tape_file == 2
    stop(mover)
    end = written[-1].end_block
    assert isinstance(mover.load(2, "archive", known_tape_files=3, known_end_block=end), Loaded)


@pytest.mark.parametrize("lie", [b"", b"short", b"x" * 2000])
def test_a_small_replica_that_is_wrong_never_reaches_the_tape(mover, east, cache, lie):
    archiving(mover, east)
    cache.lies[1] = lie
    mover.send(Write(items=[cache.write_item(1, data_of(1, 1000)), cache.write_item(2, b"good")]))
    seen = mover.until(Idle)
    assert [message.archive_ids for message in seen if isinstance(message, WriteFailed)] == [[1]]
    (written,) = [message for message in seen if isinstance(message, Written)]
    assert (written.items[0].archive_id, written.items[0].tape_file, written.dead) == (2, 1, [])


def test_an_absent_replica_and_a_broken_stream_fail_alone(mover, east, cache):
    archiving(mover, east)
    items = [cache.write_item(number, data_of(number, 200_000)) for number in (1, 2, 3)]
    del cache.replicas[1]
    cache.breaks_at.add(2)
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    failed = {number for message in seen if isinstance(message, WriteFailed) for number in message.archive_ids}
    assert {1, 2} <= failed
    cache.breaks_at.clear()
    mover.send(Write(items=[cache.write_item(4, b"works again")]))
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [4]


def test_after_a_write_error_everything_since_the_last_flush_is_failed_and_the_mount_is_over(mover, east, cache):
    archiving(mover, east, flush_files=2)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2)]))
    assert mover.until(Written)[-1].batch == 1
    mover.until(Idle)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (3, 4)]))
    inject(east, DriveFaultOnDemand("write_error", volume="A00001", after_blocks=9))
    cache.set_hold(False)
    seen = mover.until(Unloaded)
    assert [type(message) for message in seen] == [WriteFailed, Fault, Unloaded]
    assert (seen[0].archive_ids, seen[0].code) == ([3, 4], "write_error")


def test_after_a_flush_error_nothing_of_the_batch_is_reported_as_written(mover, east, cache):
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("flush_error"))
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2)]))
    seen = mover.until(Unloaded)
    assert not [message for message in seen if isinstance(message, Written)]
    assert [message.archive_ids for message in seen if isinstance(message, WriteFailed)] in ([[1, 2]], [[1]])
    clear(east)
    assert isinstance(mover.load(2, "archive", known_end_block=2), Loaded)


def test_a_fenced_mover_reports_nothing_as_written(mover, east, cache):
    archiving(mover, east)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(1, b"late")]))
    VirtualLibrary(east, "east").dismount("east-0", 2)
    cache.set_hold(False)
    seen = mover.until(Unloaded)
    assert not [message for message in seen if isinstance(message, Written)]
    assert [message.code for message in seen if isinstance(message, Fault)] == ["fenced"]
    mount(east, 3)
    drive = VirtualLibrary(east, "east").open("east-0", 3)
    drive.locate(2)
    with pytest.raises(EndOfData):
        drive.read_block()
    drive.close()


def test_a_file_that_does_not_fit_makes_the_volume_full_after_what_fits_is_safe(mover, east, cache):
    archiving(mover, east)
    small, large = data_of(1, 1000), data_of(2, 7_500_000)
    mover.send(Write(items=[cache.write_item(1, small), cache.write_item(2, large), cache.write_item(3, small)]))
    seen = mover.until(Idle)
    kinds = [message for message in seen if isinstance(message, Written | WriteFailed)]
    assert [type(message) for message in kinds][:2] == [Written, WriteFailed]
    assert [item.archive_id for item in kinds[0].items] == [1]
    refused = [message for message in kinds if isinstance(message, WriteFailed)]
    assert [message.archive_ids for message in refused] == [[2], [3]]
    assert all(message.volume_full for message in refused)


def test_a_medium_that_warns_under_a_file_closes_it_as_aborted(mover, east, cache, monkeypatch):
    # A drive that cannot say beforehand how much room is left.
    monkeypatch.setattr(VirtualDrive, "remaining_bytes", None)
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    mover.send(Write(items=[cache.write_item(1, b"fits"), cache.write_item(2, data_of(2, 4_000_000))]))
    seen = mover.until(Idle)
    (failed,) = [message for message in seen if isinstance(message, WriteFailed)]
    assert (failed.archive_ids, failed.volume_full) == ([2], True)
    (written,) = [message for message in seen if isinstance(message, Written)]
    assert [item.archive_id for item in written.items] == [1]
    assert [(dead.tape_file, dead.why.split(":")[0]) for dead in written.dead] == [(2, "volume_full")]
    stop(mover)
    clear(east)
    loaded = mover.load(2, "archive", known_tape_files=1, known_end_block=written.dead[0].first_block)
    assert isinstance(loaded, Loaded)
    assert [(dead.tape_file, dead.why) for dead in loaded.dead] == [(2, "aborted while it was written")]


def test_a_medium_that_ends_without_warning_keeps_what_was_whole(mover, east, cache, monkeypatch):
    monkeypatch.setattr(VirtualDrive, "remaining_bytes", None)
    monkeypatch.setattr(VirtualDrive, "end_of_medium_warning", False)
    archiving(mover, east)
    inject(east, DriveFaultOnDemand("full", volume="A00001", at_bytes=1_000_000))
    mover.send(Write(items=[cache.write_item(1, b"fits"), cache.write_item(2, data_of(2, 4_000_000))]))
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [1]
    assert [(message.archive_ids, message.volume_full) for message in seen if isinstance(message, WriteFailed)] == [
        ([2], True)
    ]
    end = next(message.end_block for message in seen if isinstance(message, Written))
    stop(mover)
    clear(east)
    loaded = mover.load(2, "archive", known_tape_files=1, known_end_block=end)
    assert isinstance(loaded, Loaded)
    assert (loaded.end_block, loaded.dead) == (end, []), "the torn tape file may be written over"


def test_no_more_than_the_allowed_batches_are_uncommitted(mover, east, cache):
    archiving(mover, east, flush_files=1, uncommitted_batches_max=2)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in range(1, 5)]))
    assert [mover.until(Written)[-1].batch for _ in range(2)] == [1, 2]
    assert mover.plan.phase()[0] != "idle"
    mover.send(Committed(batch=1))
    assert mover.until(Written)[-1].batch == 3
    mover.send(Committed(batch=3))
    assert mover.until(Idle)[0].batch == 4


def test_stop_makes_sure_of_what_was_written_and_says_nothing_of_the_rest(mover, east, cache):
    archiving(mover, east, flush_files=1, uncommitted_batches_max=1)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in range(1, 5)]))
    assert mover.until(Written)[-1].batch == 1
    assert stop(mover) == [Unloaded()]


def test_dropped_files_are_not_written_and_flush_is_obeyed(mover, east, cache):
    archiving(mover, east)
    cache.set_hold(True)
    mover.send(Write(items=[cache.write_item(number, b"%d" % number) for number in (1, 2, 3)]))
    mover.send(Drop(archive_ids=[2]))
    mover.send(Flush())
    cache.set_hold(False)
    seen = mover.until(Idle)
    assert [item.archive_id for message in seen if isinstance(message, Written) for item in message.items] == [1, 3]
    assert not [message for message in seen if isinstance(message, WriteFailed)]


# ---------------------------------------------------------------- reading under faults


@pytest.fixture
def archived(mover, east, cache) -> Written:
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    mount(east, 3)
    assert isinstance(mover.load(3, "recall"), Loaded)
    return written


def items_of(cache: TinyCache, written: Written, **changes: Any) -> list[Any]:
    return [
        cache.read_item(item, data_of(item.archive_id, SIZES[item.archive_id]), **changes) for item in written.items
    ]


def done(seen: list[Any]) -> set[int]:
    return {message.file_id for message in seen if isinstance(message, ReadDone)}


def failed_with(seen: list[Any]) -> dict[int, tuple[str, str]]:
    return {message.file_id: (message.code, message.retry) for message in seen if isinstance(message, ReadFailed)}


def test_an_unreadable_block_fails_its_file_alone(mover, east, cache, archived):
    inject(east, DriveFaultOnDemand("unreadable", volume="A00001", block=archived.items[4].first_block + 6))
    mover.send(Read(items=items_of(cache, archived)[::-1]))
    seen = mover.until(Idle)
    assert failed_with(seen) == {15: ("medium_error", "other_copy")}
    assert done(seen) == {11, 12, 13, 14}
    assert 1015 not in cache.stored


def test_a_copy_that_is_not_what_the_catalog_says_is_never_delivered(mover, east, cache, archived):
    items = items_of(cache, archived)
    import msgspec

    wrong = [
        msgspec.structs.replace(items[2], adler32="00000bad"),
        msgspec.structs.replace(items[3], tape_file=9),
        msgspec.structs.replace(items[4], generation=7),
        msgspec.structs.replace(items[1], first_block=items[0].first_block + 1),
        items[0],
    ]
    mover.send(Read(items=wrong))
    seen = mover.until(Idle)
    assert done(seen) == {11}
    assert set(failed_with(seen)) == {12, 13, 14, 15}
    assert {retry for _, retry in failed_with(seen).values()} == {"other_copy"}
    assert set(cache.stored) == {1011}


def test_what_the_cache_server_refuses_or_breaks_is_reported_and_the_rest_goes_on(mover, east, cache, archived):
    cache.refuses.add(1013)
    mover.send(Read(items=items_of(cache, archived)))
    seen = mover.until(Idle)
    assert failed_with(seen) == {13: ("damaged", "never")}
    cache.breaks_at.add(1015)
    mover.send(Read(items=items_of(cache, archived)[4:]))
    assert set(failed_with(mover.until(Idle))) == {15}
    cache.breaks_at.clear()
    mover.send(Read(items=items_of(cache, archived)[4:]))
    assert done(mover.until(Idle)) == {15}


def test_a_cache_server_that_is_not_there_fails_the_files_for_later(mover, east, cache, archived):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/bulk/write?sig=x"
        mover.send(Read(items=items_of(cache, archived, cache_url=url)))
        assert {retry for _, retry in failed_with(mover.until(Idle)).values()} == {"later"}


def test_a_replaced_plan_and_dropped_files_are_not_read(mover, east, cache, archived):
    items = items_of(cache, archived)
    mover.plan.apply(Read(items=[]))
    mover.send(Read(items=items[:1], replace=True))
    assert done(mover.until(Idle)) == {11}


# ---------------------------------------------------------------- the process


class Process:
    """A real mover process, as a session starts it."""

    def __init__(self) -> None:
        self.session, other = socket.socketpair()
        self.session.settimeout(10)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tapeserver.mover", "--fd", str(other.fileno())],
                pass_fds=[other.fileno()], cwd=ROOT,
            )  # fmt: skip

    def ask(self, message: Any) -> Any:
        self.session.sendall(encode(message))
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            part = self.session.recv(65536)
            assert part, "the mover is gone"
            data += part
        return _from_mover.decode(data[4:])


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.session.close()
    made.process.kill()
    made.process.wait()


def test_a_mover_process_answers_labels_a_volume_and_ends_with_its_session(process, east):
    assert isinstance(process.ask(Ping(n=7)), Pong)
    mount(east, 1)
    spec = VirtualLibrary(east, "east").spec()
    load = Load(
        epoch=1,
        library_spec=spec,
        drive="east-0",
        volume="A00001",
        generation=1,
        catalog_id=CATALOG_ID,
        purpose="label",
    )
    assert isinstance(process.ask(load), Loaded)
    assert process.ask(Stop()) == Unloaded()
    os.kill(process.process.pid, signal.SIGINT)
    assert isinstance(process.ask(Ping(n=8)), Pong), "SIGINT at the terminal is for the session to act on"
    process.session.close()
    assert process.process.wait(10) == 0


PARENT = """
import socket, subprocess, sys
session, other = socket.socketpair()
mover = subprocess.Popen([sys.executable, "-m", "tapeserver.mover", "--fd", str(other.fileno())],
                         pass_fds=[other.fileno(), session.fileno()])
import struct
from tapeserver.frames import Ping, encode
session.sendall(encode(Ping(n=1)))
session.recv(100)
print(mover.pid, flush=True)
sys.stdin.read()
"""


def test_a_mover_dies_with_its_parent_even_when_the_socket_stays_open():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    descriptor = None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([descriptor], [], [], 10)[0], "the mover outlived its parent"
    os.close(descriptor)


def test_frames_survive_any_cut():
    decoder = FrameDecoder()
    data = encode(Ping(n=1)) + encode(Stop(reason="x" * 1000))
    assert [message for at in range(len(data)) for message in decoder.feed(data[at : at + 1])] == [
        Ping(n=1), Stop(reason="x" * 1000),
    ]  # fmt: skip
