"""A mover killed while it writes: what it reported is there, and the next mount finds the end of the volume."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeserver.frames import (
    Committed,
    Fault,
    Found,
    Idle,
    Load,
    Loaded,
    Read,
    Stop,
    Unloaded,
    Write,
    Written,
    WrittenItem,
)
from tapeserver.library.virtual import VirtualLibrary
from tests.unit.mover.harness import CATALOG_ID, MoverInTest, MoverProcess, TinyCache, data_of, done, labelled, mount

FILES = 24


@pytest.fixture
def process() -> Iterator[MoverProcess]:
    made = MoverProcess()
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(8))
def test_what_was_reported_survives_a_kill_and_the_rest_is_found_dead_or_gone(
    process: MoverProcess, mover: MoverInTest, east: Path, cache: TinyCache, seed: int
):
    chance = random.Random(seed)
    sizes = {number: chance.choice([10, 3000, 70_000, 400_000]) for number in range(1, FILES + 1)}
    # From the sixth on in bundles of five.
    items = [
        cache.write_item(number, data_of(number, size), bundle=1 + number // 5 if seed > 4 else 0)
        for number, size in sizes.items()
    ]
    labelled(mover, east)
    mount(east, 2)
    # Little memory, so that unflushed blocks are in the image when the process dies.
    spec = VirtualLibrary(east, "east").spec() | {"memory_bytes_max": 1}
    load = Load(
        epoch=2, library_spec=spec, drive="east-0", volume="A00001", generation=1, catalog_id=CATALOG_ID,
        purpose="archive", block_size=65_536, known_end_block=2, flush_files=chance.randint(1, 4),
    )  # fmt: skip
    assert isinstance(process.ask(load), Loaded)
    process.send(Write(items=items))
    reported: list[Written] = []
    killed_after = chance.randint(2, 5)
    while len(reported) < killed_after:
        message = process.next()
        assert not isinstance(message, Fault | Idle), message
        if isinstance(message, Written):
            reported.append(message)
            process.send(Committed(batch=message.batch))
    process.close()
    if seed % 2:
        reported.pop()  # the session died too, before the catalog had it

    mount(east, 3)
    last = reported[-1]
    loaded = mover.load(3, "archive", known_tape_files=last.tape_files, known_end_block=last.end_block)
    assert isinstance(loaded, Loaded), loaded
    beyond = [*mover.found, *loaded.dead]
    assert bool(beyond) >= seed % 2
    assert loaded.tape_files == last.tape_files + len(beyond)
    assert loaded.end_block == last.end_block + sum(extent.blocks for extent in beyond)
    written = [item for batch in reported for item in batch.items] + adopted(mover.found)
    left = [item for item in items if item.archive_id not in {one.archive_id for one in written}]
    mover.send(Write(items=left))
    written += [item for message in mover.until(Idle) if isinstance(message, Written) for item in message.items]
    assert {one.archive_id for one in written} == set(sizes)
    mover.send(Stop())
    mover.until(Unloaded)

    assert isinstance(mover.load(3, "recall"), Loaded)
    mover.send(Read(items=[cache.read_item(one, data_of(one.archive_id, sizes[one.archive_id])) for one in written]))
    assert len(done(mover.until(Idle))) == FILES
    assert cache.stored == {1000 + number: data_of(number, size) for number, size in sizes.items()}


def adopted(found: list[Found]) -> list[WrittenItem]:
    assert all(member.good for one in found for member in one.members)
    return [
        WrittenItem(
            archive_id=member.record.file_id,
            tape_file=one.tape_file,
            first_block=one.first_block,
            byte_offset=member.byte_offset,
            length=member.record.size,
        )
        for one in found
        for member in one.members
    ]
