"""Reading back: every copy is checked by its checksum, shared blocks are read once, and a bad copy fails alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tapeserver.format.objects import adler32, adler32_text, locate_member
from tapeserver.frames import Idle, Loaded, Verified, Verify, VerifyFailed, VerifyItem, Write, Written, WrittenItem
from tapeserver.library.faults import Fault, inject
from tapeserver.library.virtualdrive import VirtualDrive
from tapeserver.mover import verify
from tests.unit.mover.harness import MoverInTest, TinyCache, archiving, data_of, mount, stop

BUNDLE = {1: 10_240, 2: 0, 3: 511, 4: 200_000, 5: 512, 6: 70_001}
SINGLE = {11: 0, 12: 1, 13: 64 * 1024, 14: 300_001}
SIZES = {**BUNDLE, **SINGLE}
BLOCK = 65_536


def item(written: WrittenItem) -> VerifyItem:
    number = written.archive_id
    return VerifyItem(
        file_id=number, size=SIZES[number], adler32=adler32_text(adler32(data_of(number, SIZES[number]))), generation=1,
        tape_file=written.tape_file, first_block=written.first_block, byte_offset=written.byte_offset,
    )  # fmt: skip


@pytest.fixture
def written(mover: MoverInTest, east: Any, cache: TinyCache) -> list[VerifyItem]:
    """A bundle and files of their own on a volume, by position; it is in the drive under the epoch 3."""
    archiving(mover, east)
    items = [cache.write_item(file, data_of(file, size), bundle=7) for file, size in BUNDLE.items()]
    items += [cache.write_item(file, data_of(file, size)) for file, size in SINGLE.items()]
    mover.send(Write(items=items))
    seen = mover.until(Idle)
    stop(mover)
    found = [item(one) for message in seen if isinstance(message, Written) for one in message.items]
    assert {one.file_id for one in found} == set(SIZES)
    mount(east, 3)
    return sorted(found, key=lambda one: (one.first_block, one.byte_offset))


def load(mover: MoverInTest, **options: Any) -> None:
    assert isinstance(mover.load(3, "verify", **options), Loaded)


def verified(seen: list[Any]) -> list[int]:
    return [file for one in seen if isinstance(one, Verified) for file in one.file_ids]


def failed(seen: list[Any]) -> dict[int, str]:
    return {one.file_id: one.code for one in seen if isinstance(one, VerifyFailed)}


def checked(mover: MoverInTest, items: list[VerifyItem]) -> list[Any]:
    mover.send(Verify(items=items))
    return mover.until(Idle)


@pytest.fixture
def located(monkeypatch):
    """The blocks that the drive was asked to go to."""
    blocks, locate = [], VirtualDrive.locate
    monkeypatch.setattr(VirtualDrive, "locate", lambda self, block: blocks.append(block) or locate(self, block))
    return blocks


def test_all_that_was_written_is_read_back_in_the_order_of_the_plan(mover, written):
    load(mover)
    seen = checked(mover, written)
    assert verified(seen) == [one.file_id for one in written]
    assert failed(seen) == {}
    assert sum(one.bytes for one in seen if isinstance(one, Verified)) == sum(SIZES.values())


def test_members_that_share_blocks_are_read_with_one_pass_of_the_head(mover, written, located, monkeypatch):
    reads, read_into = [], VirtualDrive.read_into
    monkeypatch.setattr(VirtualDrive, "read_into", lambda self, buffer: reads.append(1) or read_into(self, buffer))
    load(mover)
    bundle = [one for one in written if one.file_id in BUNDLE]
    assert verified(checked(mover, bundle)) == [one.file_id for one in bundle]
    last, skip = locate_member(bundle[-1].first_block, bundle[-1].byte_offset, BLOCK)
    blocks = last + (skip + bundle[-1].size - 1) // BLOCK - (bundle[0].first_block + 4) + 1
    assert len(reads) <= blocks
    assert located == [bundle[0].first_block]


def test_an_unreadable_block_fails_the_members_in_it_alone_and_is_asked_once(mover, east, written, located):
    bundle = {one.file_id: one for one in written if one.file_id in BUNDLE}
    bad, _ = locate_member(bundle[1].first_block, bundle[1].byte_offset, BLOCK)
    inject(east, Fault("unreadable", volume="A00001", block=bad))
    load(mover)
    seen = checked(mover, written)
    assert set(failed(seen)) == {1, 3, 4}
    assert set(failed(seen).values()) == {"medium_error"}
    assert set(verified(seen)) == set(SIZES) - {1, 3, 4}
    assert located.count(bad) <= 1


def test_a_header_that_cannot_be_read_fails_all_behind_it_and_is_asked_once(mover, east, written, located):
    first = next(one.first_block for one in written if one.file_id in BUNDLE)
    inject(east, Fault("unreadable", volume="A00001", block=first))
    load(mover)
    seen = checked(mover, written)
    assert set(failed(seen)) == set(BUNDLE)
    assert set(verified(seen)) == set(SINGLE)
    assert located.count(first) == 1


def test_a_copy_that_is_not_what_the_catalog_says_fails_in_its_place(mover, written):
    load(mover)
    wrong = {
        3: {"adler32": "00000bad"},
        5: {"size": 600_000},
        12: {"generation": 2},
        13: {"tape_file": 9},
    }
    items = [msgspec.structs.replace(one, **wrong.get(one.file_id, {})) for one in written]
    seen = checked(mover, items)
    assert set(failed(seen)) == set(wrong)
    told = [
        file
        for one in seen
        for file in (
            one.file_ids if isinstance(one, Verified) else [one.file_id] if isinstance(one, VerifyFailed) else []
        )
    ]
    assert told == [one.file_id for one in written]


def test_more_can_be_appended_and_a_stop_ends_it_between_two_copies(mover, written):
    load(mover)
    assert verified(checked(mover, written[:2])) == [one.file_id for one in written[:2]]
    assert verified(checked(mover, written[2:4])) == [one.file_id for one in written[2:4]]
    assert not failed(stop(mover))


def test_the_rate_is_kept_and_a_stop_is_heard_while_it_waits(mover, written):
    load(mover, bytes_per_second_max=70_000)
    mover.send(Verify(items=written))
    first = mover.until(Verified)
    # At this rate the rest would take ten seconds.
    seen = [*first, *stop(mover)]
    assert failed(seen) == {}
    done = verified(seen)
    assert done == [one.file_id for one in written][: len(done)]
    assert len(done) < len(written)


def test_batches_are_bounded(mover, written, monkeypatch):
    monkeypatch.setattr(verify, "BATCH_FILES_MAX", 2)
    load(mover)
    seen = checked(mover, written)
    assert max(len(one.file_ids) for one in seen if isinstance(one, Verified)) == 2
    assert len(verified(seen)) == len(written)
