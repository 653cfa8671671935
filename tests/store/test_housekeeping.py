"""Promises of housekeeping at the catalog: what it learns of libraries by asking them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog import volumes
from catalog.database import Database
from tapeserver.config import Config
from tapeserver.housekeeping import Housekeeping
from tapeserver.library import DriveStatus, Inventory
from tapeserver.library.virtual import VirtualLibrary, create_virtual_library
from tapeserver.library.words import NAME_LENGTH_MAX


async def test_a_model_that_no_database_takes_is_kept_as_far_as_it_can_be_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = create_virtual_library(tmp_path / "east", "east", 1, 1)
    async with database.transaction() as connection:
        await volumes.create_library(connection, name="east", kind="virtual", spec=library.spec())
        await volumes.create_drive(connection, name="east-0", library="east")
        await connection.execute(sa.text("update drive set tapeserver = 'ts', heartbeat_at = capstan_now()"))
    told = DriveStatus("east-0", None, 1, model="ULT\0\udcff" + "8" * 5000)
    monkeypatch.setattr(VirtualLibrary, "inventory", lambda _: Inventory(slots=(), drives=(told,)))
    keeping = Housekeeping(database, Config(name="ts"), [], lambda: ["east"], closing=asyncio.Event())
    await keeping._libraries()
    async with database.connection() as connection:
        [drive] = await volumes.list_drives(connection)
        [kept] = await volumes.list_libraries(connection)
    assert drive.reported_model == "ULT\ufffd\ufffd" + "8" * (NAME_LENGTH_MAX - 5)
    assert kept.state == "up"


async def test_drives_are_known_by_the_models_that_their_library_reports(database: Database, tmp_path: Path) -> None:
    library = create_virtual_library(tmp_path / "east", "east", 2, 1)
    async with database.transaction() as connection:
        for name in ("east-0", "east-1"):
            await volumes.create_library(
                connection, name="east", kind="virtual", spec=library.spec() | {"medium": "LTO-9"}
            )
            await volumes.create_drive(connection, name=name, library="east")
        await connection.execute(sa.text("update drive set tapeserver = 'ts', heartbeat_at = capstan_now()"))
    keeping = Housekeeping(database, Config(name="ts"), [], lambda: ["east"], closing=asyncio.Event())

    async def reported() -> list[str]:
        await keeping._libraries()
        async with database.connection() as connection:
            return [one.reported_model for one in await volumes.list_drives(connection)]

    assert await reported() == ["LTO-9", "LTO-9"]
    async with database.transaction() as connection:
        await volumes.create_library(connection, name="east", kind="virtual", spec=library.spec())
    assert await reported() == ["", ""]
