"""A mover believes and overwrites only what the rules allow: labels, and the end of a volume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tapeserver.format import labels
from tapeserver.frames import (
    Idle,
    Loaded,
    LoadFailed,
    Write,
    Written,
)
from tapeserver.library.virtual import VirtualLibrary
from tests.unit.mover.harness import CATALOG_ID, labelled, mount, stop, write_files

LABEL = labels.VolumeLabel(volume="A00001", generation=1, catalog_id=CATALOG_ID.upper(), block_size=65_536)


def test_a_label_that_lost_power_behind_its_first_block_is_written_anew(mover, east):
    mount(east, 1)
    drive = VirtualLibrary(east, "east").open("east-0", 1)
    drive.write_block(labels.build_volume(LABEL)[0])
    drive.flush()
    drive.close()
    assert isinstance(mover.load(1, "archive", initialise_label=True), Loaded)


def test_the_first_block_of_a_label_with_something_else_behind_it_is_not_written_over(mover, east):
    mount(east, 1)
    drive = VirtualLibrary(east, "east").open("east-0", 1)
    drive.write_block(labels.build_volume(LABEL)[0])
    drive.write_marks(1)
    drive.flush()
    drive.close()
    assert mover.load(1, "archive", initialise_label=True).verdict == "not_blank"


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


def test_whole_tape_files_that_the_catalog_lacks_are_told_and_kept(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000, 12: 100_000, 13: 10})
    mount(east, 3)
    known = written.items[1].first_block
    loaded = mover.load(3, "archive", known_tape_files=1, known_end_block=known)
    assert isinstance(loaded, Loaded)
    found = mover.found
    assert (loaded.tape_files, loaded.end_block, loaded.dead) == (3, written.end_block, [])
    assert [(one.tape_file, one.first_block) for one in found] == [
        (item.tape_file, item.first_block) for item in written.items[1:]
    ]
    assert [(member.record.file_id, member.good) for one in found for member in one.members] == [(12, True), (13, True)]
    assert sum(one.blocks for one in found) == written.end_block - known


def test_a_torn_tape_file_is_written_over(mover, east, cache):
    labelled(mover, east)
    written = write_files(mover, east, cache, {11: 5000})
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    drive.locate(2)
    header = [drive.read_block() for _ in range(3)]
    drive.space_to_end()
    label = labels.parse_header(header)
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
