"""Tape to cache: a file arrives whole and right, or its failure is reported and the rest goes on."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapeserver.format.objects import locate_member
from tapeserver.frames import Arrange, Arranged, Idle, Loaded, Read, ReadDone, ReadFailed, ReadItem, Write, Written
from tapeserver.library.faults import Fault as DriveFaultOnDemand
from tapeserver.library.faults import clear, inject
from tapeserver.library.virtual import add_cartridge, create_virtual_library
from tapeserver.library.virtualdrive import VirtualDrive
from tests.unit.mover.harness import (
    MoverInTest,
    TinyCache,
    archiving,
    data_of,
    done,
    failed_with,
    items_of,
    mount,
    stop,
)


def test_an_unreadable_block_fails_its_file_alone(mover, east, cache, archived):
    inject(east, DriveFaultOnDemand("unreadable", volume="A00001", block=archived.items[4].first_block + 6))
    mover.send(Read(items=items_of(cache, archived)[::-1]))
    seen = mover.until(Idle)
    assert failed_with(seen) == {15: ("medium_error", "other_copy")}
    assert done(seen) == {11, 12, 13, 14}
    assert 1015 not in cache.stored


def test_a_copy_that_is_not_what_the_catalog_says_is_never_delivered(mover, east, cache, archived):
    items = items_of(cache, archived)
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


def test_a_drive_is_asked_for_its_own_order_and_one_without_says_so(mover, east, cache, archived):
    segments = [(item.first_block + 4, 1) for item in archived.items]
    mover.send(Arrange(number=1, segments=segments))
    assert mover.until(Arranged)[-1] == Arranged(number=1, order=None)
    stop(mover)
    mount(east, 4)
    spec = {"kind": "virtual", "name": "east", "path": str(east), "medium": "LTO-9"}
    assert isinstance(mover.load(4, "recall", library_spec=spec), Loaded)
    mover.send(Arrange(number=2, segments=segments))
    answer = mover.until(Arranged)[-1]
    assert answer.number == 2
    assert sorted(answer.order) == list(range(len(segments)))


def test_while_a_drive_thinks_of_an_order_it_is_seen_to_be_busy(mover, east, cache, archived, monkeypatch):
    phases: list[str] = []
    monkeypatch.setattr(VirtualDrive, "recommended_order", lambda *_: phases.append(mover.plan.phase()[0]))
    mover.send(Arrange(number=1, segments=[(6, 1), (9, 1)]))
    mover.until(Arranged)
    # One that never answers must be found out.
    assert phases == ["locate"]


def test_a_replaced_plan_and_dropped_files_are_not_read(mover, east, cache, archived):
    items = items_of(cache, archived)
    mover.plan.apply(Read(items=[]))
    mover.send(Read(items=items[:1], replace=True))
    assert done(mover.until(Idle)) == {11}


# ---------------------------------------------------------------- members of bundles

BLOCK = 65_536


def bundled(mover, east, cache, sizes: list[int]) -> tuple[dict[int, bytes], list[Any]]:
    """Written in one bundle, and loaded for recalls: the data by number, and the items in the order on the tape."""
    data = {number: data_of(number, size) for number, size in enumerate(sizes, 1)}
    archiving(mover, east)
    mover.send(Write(items=[cache.write_item(number, one, bundle=7) for number, one in data.items()]))
    written = [item for message in mover.until(Idle) if isinstance(message, Written) for item in message.items]
    stop(mover)
    mount(east, 3)
    assert isinstance(mover.load(3, "recall"), Loaded)
    return data, [cache.read_item(item, data[item.archive_id]) for item in written]


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The objects that the drive was asked for, in order."""
    seen: list[int] = []
    read_into = VirtualDrive.read_into

    def counting(self, buffer):
        seen.append(self.position().block)
        return read_into(self, buffer)

    monkeypatch.setattr(VirtualDrive, "read_into", counting)
    return seen


def test_each_block_is_read_once_for_all_members_in_it(mover, east, cache, reads):
    data, items = bundled(mover, east, cache, [10_240] * 60)
    mover.send(Read(items=items))
    assert done(mover.until(Idle)) == set(data)
    assert {number - 1000: stored for number, stored in cache.stored.items()} == data
    assert len(reads) == len(set(reads)), "no block was read twice"
    assert reads == list(range(reads[0], reads[-1] + 1)), "it went straight through"


def test_a_gap_within_a_bundle_is_read_through_without_a_locate(mover, east, cache, reads, monkeypatch):
    _, items = bundled(mover, east, cache, [50_000] * 30)
    located: list[int] = []
    locate = VirtualDrive.locate
    monkeypatch.setattr(VirtualDrive, "locate", lambda drive, block: (located.append(block), locate(drive, block))[1])
    mover.send(Read(items=[items[0], items[-1]]))
    assert done(mover.until(Idle)) == {1, 30}
    assert located == [items[0].first_block], "only to the header of the tape file"
    assert len(reads) == len(set(reads))


def test_a_bad_block_fails_those_in_it_and_is_asked_once(mover, east, cache, reads):
    data, items = bundled(mover, east, cache, [10_240] * 40)
    bad = locate_member(items[20].first_block, items[20].byte_offset, BLOCK)[0]
    inject(east, DriveFaultOnDemand("unreadable", volume="A00001", block=bad))
    mover.send(Read(items=items))
    seen = mover.until(Idle)
    touched = {item.file_id for item in items if bad in blocks_of(item)}
    assert failed_with(seen) == dict.fromkeys(touched, ("medium_error", "other_copy"))
    assert done(seen) == set(data) - touched
    assert len([block for block in reads if block == bad]) == 1
    clear(east)
    mover.send(Read(items=[item for item in items if item.file_id in touched]))
    assert done(mover.until(Idle)) == touched, "another pass asks again"


def blocks_of(item: ReadItem) -> range:
    first, _ = locate_member(item.first_block, item.byte_offset, BLOCK)
    last, _ = locate_member(item.first_block, item.byte_offset + item.size - 1, BLOCK)
    return range(first, last + 1) if item.size else range(0)


sizes_of_members = st.one_of(st.integers(0, 600), st.integers(0, 30_000), st.sampled_from([0, BLOCK, 200_000]))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sizes_of_members, min_size=1, max_size=25), st.data())
def test_every_file_of_shared_blocks_is_reported_once_and_comes_if_it_can(tmp_path_factory, sizes, data):
    """Any sizes, any order in any number of orders given, a block that cannot be read, copies that are not as told."""
    east = tmp_path_factory.mktemp("library") / "east"
    create_virtual_library(east, "east", 2, 1)
    add_cartridge(east, "A00001", 8 * 1024 * 1024)
    cache = TinyCache()
    mover = MoverInTest(east)
    try:
        contents, items = bundled(mover, east, cache, sizes)
        wrong = set(data.draw(st.lists(st.sampled_from(sorted(contents)), max_size=2), "other checksums than recorded"))
        cache.refuses = {
            1000 + n for n in data.draw(st.lists(st.sampled_from(sorted(contents)), max_size=2), "refused")
        }
        spoiled = data.draw(
            st.sampled_from([0, *sorted({block for item in items for block in blocks_of(item)})]), "bad"
        )
        if spoiled:
            inject(east, DriveFaultOnDemand("unreadable", volume="A00001", block=spoiled))
        order = data.draw(st.permutations(items), "order")
        cut = data.draw(st.integers(0, len(order)), "late arrivals")
        told = [msgspec.structs.replace(i, adler32="00000bad") if i.file_id in wrong else i for i in order]
        for part in (told[:cut], told[cut:]):
            mover.send(Read(items=part))
        reported: list[int] = []
        good: set[int] = set()
        while len(reported) < len(items):
            message = mover.next()
            if isinstance(message, ReadDone):
                reported += [file for file, _ in message.files]
                good |= {file for file, _ in message.files}
            elif isinstance(message, ReadFailed):
                reported.append(message.file_id)
        assert sorted(reported) == sorted(contents)
        bad = wrong | {number - 1000 for number in cache.refuses}
        bad |= {item.file_id for item in items if spoiled in blocks_of(item)}
        assert good == set(contents) - bad
        assert {number - 1000: stored for number, stored in cache.stored.items()} == {n: contents[n] for n in good}
    finally:
        mover.close()
        cache.close()
