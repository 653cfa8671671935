"""Promises of the end of a mount whose tape server was thought dead and comes back."""

from __future__ import annotations

from pathlib import Path

from catalog import endings, mounts, volumes
from catalog.database import Database
from tapeserver.config import Config
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library
from tapeserver.sessions import unload
from tests.store.media import mounted


async def planned(database: Database, tapeserver: str) -> mounts.MountWork:
    async with database.transaction() as connection:
        epoch = await mounted(connection, "E00001", "east-0")
        work = await mounts.take(connection, epoch, tapeserver)
    assert work is not None
    return work


async def one_drive(database: Database, path: Path) -> VirtualLibrary:
    library = create_virtual_library(path, "east", 1, 2)
    add_cartridge(path, "E00001", 10**8)
    async with database.transaction() as connection:
        await volumes.create_library(connection, name="east", kind="virtual", spec=library.spec())
        await volumes.create_pool(connection, name="east", library="east")
        await volumes.create_drive(connection, name="east-0", library="east")
        new = volumes.NewVolume(vid="E00001", library="east", pool="east", capacity_bytes=10**8, generation=1)
        await volumes.create_volumes(connection, [new])
    return library


async def test_who_was_taken_over_from_does_not_blame_the_mount_that_came_after_his(
    database: Database, tmp_path: Path
) -> None:
    library = await one_drive(database, tmp_path / "east")
    config = Config(name="ts1", database_url=database.url)
    stopped = await planned(database, "ts1")
    library.mount("E00001", "east-0", stopped.epoch)
    # Another tape server ends that mount, and the same volume comes into the same drive again.
    library.dismount("east-0", stopped.epoch)
    async with database.transaction() as connection:
        await endings.end_mount(connection, stopped.epoch, "its tape server is silent")
    present = await planned(database, "ts2")
    library.mount("E00001", "east-0", present.epoch)

    assert await unload(database, config, stopped, "done")

    async with database.connection() as connection:
        [drive] = await volumes.list_drives(connection)
        assert drive.state == "up"
        assert (await volumes.volume_at(connection, "E00001")).state == "active"
        assert await mounts.reasons_to_stop(connection, [present.epoch]) == {present.epoch: None}
    assert library.inventory().drive_of("E00001") == "east-0"
