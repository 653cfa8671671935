"""Promises of labelling before volumes are served: what has never had a label gets one, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog import volumes
from catalog.database import Database
from catalog.states import VolumeState
from tapeserver.format import labels
from tapeserver.labelling import label_volumes
from tapeserver.library.lifelike import Lifelike
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library, drive_names

CAPACITY_BYTES = 10_000_000
VIDS = ["E00001", "E00002"]


@pytest.fixture
async def library(database: Database, tmp_path: Path) -> VirtualLibrary:
    made = create_virtual_library(tmp_path / "east", "east", 1, len(VIDS))
    for vid in VIDS:
        add_cartridge(tmp_path / "east", vid, CAPACITY_BYTES)
    async with database.transaction() as connection:
        await volumes.create_library(connection, name="east", kind="virtual", spec=made.spec())
        await volumes.create_pool(connection, name="east", library="east")
        for drive in drive_names(tmp_path / "east", "east"):
            await volumes.create_drive(connection, name=drive, library="east")
    return made


async def label(database: Database) -> int:
    return await label_volumes(database, "east", "east", VIDS, capacity_bytes=CAPACITY_BYTES)


async def at(database: Database, vid: str) -> volumes.Volume:
    async with database.connection() as connection:
        return await volumes.volume_at(connection, vid)


def on_tape(directory: Path, library: VirtualLibrary, vid: str, epoch: int) -> int:
    """The generation that the cartridge's label says."""
    [drive_name] = drive_names(directory / "east", "east")
    library.mount(vid, drive_name, epoch)
    drive = library.open(drive_name, epoch)
    try:
        drive.rewind()
        return labels.parse_volume([drive.read_block(), drive.read_block()]).generation
    finally:
        drive.close()
        library.dismount(drive_name, epoch)


async def test_new_volumes_are_labelled_once(database: Database, library: VirtualLibrary) -> None:
    assert await label(database) == 2
    first = await at(database, VIDS[0])
    assert (first.state, first.generation, first.pool) == (VolumeState.ACTIVE, 1, "east")
    assert await label(database) == 0


async def test_the_first_labels_take_no_time_of_a_library_that_takes_its_time(
    database: Database, library: VirtualLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.setattr(Lifelike, "__call__", lambda *motion: taken.append(motion))
    async with database.transaction() as connection:
        await connection.execute(sa.text("""update library set spec = spec || '{"speed": 1}'"""))
    assert (await label(database), taken) == (2, [])


async def test_a_blank_volume_that_never_had_a_label_gets_its_first(
    database: Database, library: VirtualLibrary
) -> None:
    async with database.transaction() as connection:
        new = volumes.NewVolume(vid=VIDS[0], library="east", pool=None, capacity_bytes=CAPACITY_BYTES)
        await volumes.create_volumes(connection, [new])
    assert await label(database) == 2
    first = await at(database, VIDS[0])
    assert (first.state, first.generation, first.pool) == (VolumeState.ACTIVE, 1, "east")


@pytest.mark.parametrize("generation", [1, 2])
async def test_a_volume_that_was_given_up_is_left_to_its_next_mount(
    database: Database, library: VirtualLibrary, tmp_path: Path, generation: int
) -> None:
    await label(database)
    async with database.transaction() as connection:
        await connection.execute(
            sa.text("update volume set state = 'closed', generation = :g where vid = :vid"),
            {"g": generation, "vid": VIDS[0]},
        )
        await volumes.reclaim(connection, VIDS[0], who="ann", reason="test")
    # A label of the same generation would make what lies behind it count again.
    assert await label(database) == 0
    given_up = await at(database, VIDS[0])
    assert (given_up.state, given_up.generation) == (VolumeState.BLANK, generation)
    assert on_tape(tmp_path, library, VIDS[0], 10**6) == 1
