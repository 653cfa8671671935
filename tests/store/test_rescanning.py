"""From cartridges to a catalog: all drives of some libraries read them, and what lay on them is back."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog import rebuilding, volumes
from catalog.database import Database
from catalog.errors import Refused
from catalog.journalformat import Head, encode_segment
from tapeserver.library.faults import Fault, clear, inject
from tapeserver.library.sense import HardwareError
from tapeserver.library.virtual import VirtualLibrary
from tapeserver.scan.rescanning import Progress, Rescan, _Wanted
from tests.store.test_rebuild import names, node, told
from tests.tapes import Stored, TapeWriter, make_library

VOLUMES = ["E00001", "E00002", "E00003", "E00004"]


@pytest.fixture
def east(tmp_path: Path) -> Path:
    """Two volumes with files, one that is only labelled, and a blank one."""
    library = make_library(tmp_path / "east", VOLUMES)
    for number, vid in enumerate(VOLUMES[:3]):
        with_writer(library, vid, number, files=number < 2)
    return tmp_path / "east"


def with_writer(library: VirtualLibrary, vid: str, number: int, *, files: bool, catalog: str | None = None) -> None:
    library.mount(vid, "east-0", 20 + number)
    drive = library.open("east-0", 20 + number)
    writer = TapeWriter(drive, vid, epoch=20 + number)
    writer.label(**({"catalog_id": catalog} if catalog else {}))
    if files:
        base = 10 * number
        stored = [Stored(base + i, f"/exp/f{base + i}", b"x" * 999 * i, node=base + i, parent=999) for i in range(1, 7)]
        writer.file(stored[0])
        writer.bundle(stored[1:])
        if number == 0:
            writer.index()
        else:
            writer.torn(6)
    drive.close()
    library.dismount("east-0", 20 + number)


async def scanned(database: Database, path: Path, **options: object) -> Rescan:
    library = VirtualLibrary(path, "east")
    async with database.transaction() as connection:
        await volumes.create_library(connection, name="east", kind="virtual", spec=library.spec())
        await volumes.create_pool(connection, name="east", library="east")
    rescan = Rescan(database, **options)  # type: ignore[arg-type]
    await rescan.run(["east"])
    return rescan


async def finished(database: Database) -> rebuilding.Outcome:
    async with database.transaction() as connection:
        return await rebuilding.finish(connection)


async def test_everything_on_the_volumes_is_in_the_catalog(database: Database, east: Path) -> None:
    rescan = await scanned(database, east)
    assert (rescan.progress.volumes, rescan.progress.done, rescan.progress.files) == (4, 4, 12)
    outcome = await finished(database)
    assert outcome.files == 12
    assert set((await names(database)).values()) == {1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16}
    async with database.connection() as connection:
        rows = (
            await connection.execute(sa.text("select vid, state, generation, tape_files from volume order by vid"))
        ).all()
        epoch = await connection.scalar(sa.text("select nextval('mount_epoch_seq')"))
    assert [tuple(row) for row in rows] == [
        ("E00001", "active", 1, 3), ("E00002", "active", 1, 2), ("E00003", "blank", 1, 0), ("E00004", "blank", 0, 0),
    ]  # fmt: skip
    assert epoch > 22
    assert all(one.volume is None for one in VirtualLibrary(east, "east").inventory().drives)


async def test_a_volume_that_failed_is_read_by_the_next_run_and_the_others_are_not(
    database: Database, east: Path
) -> None:
    inject(east, Fault(kind="unreadable", volume="E00002", block=0))
    await scanned(database, east)
    async with database.connection() as connection:
        rows = await connection.execute(sa.text("select vid, state from rebuild.volume order by vid"))
        assert [row.state for row in rows] == ["scanned", "failed", "scanned", "blank"]
    clear(east)
    again = await scanned(database, east)
    assert again.progress.done == 4
    assert (await finished(database)).files == 12


async def test_a_crash_in_the_middle_is_resumed(database: Database, east: Path) -> None:
    class Crash(Exception):
        pass

    def crash(progress: object) -> None:
        if getattr(progress, "files", 0) >= 6:
            raise Crash

    with pytest.raises(ExceptionGroup) as raised:
        await scanned(database, east, tell=crash)
    assert raised.group_contains(Crash)
    rescan = await scanned(database, east)
    outcome = await finished(database)
    assert (outcome.files, outcome.copies, rescan.progress.files) == (12, 12, 12)


async def test_progress_counts_once_what_is_read_twice(database: Database, east: Path) -> None:
    failed: list[int] = []

    def drive_fails_once(progress: Progress) -> None:
        if progress.files >= 6 and not failed:
            failed.append(progress.files)
            raise HardwareError(drive="east-0", why="no power")

    rescan = await scanned(database, east, tell=drive_fails_once)
    assert failed
    assert rescan.progress.files == (await finished(database)).copies == 12


async def test_a_drive_with_nothing_left_to_do_stays_for_what_fails_last_in_another() -> None:
    wanted = _Wanted(["E00001"])
    assert await wanted.take("east-0") == "E00001"
    idle = asyncio.create_task(wanted.take("east-1"))
    await asyncio.sleep(0)
    await wanted.give_back("E00001", read=False)
    assert await idle == "E00001"
    assert wanted.is_again("E00001")
    last = asyncio.create_task(wanted.take("east-0"))
    await wanted.give_back("E00001", read=True)
    assert await last is None


async def test_the_journal_is_read_from_the_volumes_and_from_a_directory(
    database: Database, east: Path, tmp_path: Path
) -> None:
    first = [node(1, 1, None, "", "directory"), node(2, 50, 1, "moved"), told(3, 1, 50)]
    second = [node(4, 51, 1, "also"), told(5, 2, 51)]
    segments = [
        encode_segment(
            Head(catalog_id="0f8c1d2e", incarnation="a", number=number, previous=number - 1,
                 first_seq=entries[0].seq, last_seq=entries[-1].seq),
            entries,
        )
        for number, entries in ((1, first), (2, second))
    ]  # fmt: skip
    library = VirtualLibrary(east, "east")
    library.mount("E00004", "east-0", 30)
    drive = library.open("east-0", 30)
    writer = TapeWriter(drive, "E00004", epoch=30)
    writer.label()
    writer.file(Stored(99, "/.capstan/journal/0000000001.jsonl.gz", segments[0], storage_class="system"))
    drive.close()
    library.dismount("east-0", 30)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "0000000002.jsonl.gz").write_bytes(segments[1])
    (tmp_path / "journal" / "notes").write_bytes(gzip.compress(b"nothing of ours"))
    rescan = await scanned(database, east)
    assert await rescan.add_directory(tmp_path / "journal") == 1
    outcome = await finished(database)
    found = await names(database)
    assert (found["/moved"], found["/also"], found["/exp/f3"]) == (1, 2, 3)
    assert outcome.segments == 2
    async with database.connection() as connection:
        rows = (await connection.execute(sa.text("select number, file from journal_segment order by number"))).all()
    assert [tuple(row) for row in rows] == [(1, 99), (2, None)]


async def test_a_volume_of_another_catalog_is_not_read_when_it_is_known_which_one_is_wanted(
    database: Database, east: Path
) -> None:
    with_writer(VirtualLibrary(east, "east"), "E00004", 3, files=False, catalog="FFFFFFFF")
    rescan = await scanned(database, east, catalog_id="0f8c1d2e")
    assert rescan.progress.done == 4
    async with database.transaction() as connection:
        outcome = await rebuilding.finish(connection, catalog_id="0f8c1d2e")
    assert [(vid, state) for vid, state, _ in outcome.refused] == [("E00004", "foreign")]


async def test_nothing_to_rebuild_is_said(database: Database, tmp_path: Path) -> None:
    make_library(tmp_path / "east", ["E00001"])
    await scanned(database, tmp_path / "east")
    with pytest.raises(Refused, match="no volume"):
        await finished(database)
