"""Files a second brought back by a rebuild: from the index of one full volume of a virtual library to a whole catalog.

Counts everything: reading the index, staging, and the last step that makes names, files and copies. The database is an
own server on the disk of the work place; there is no peer that does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from catalog import migrate, rebuilding, volumes
from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from tapeserver.format import indexes, labels, pax
from tapeserver.format.indexes import IndexEntry, IndexHead
from tapeserver.format.labels import FileLabel, Kind, VolumeLabel
from tapeserver.format.pax import END_OF_ARCHIVE, OwnMember, padding
from tapeserver.library import Drive
from tapeserver.library.virtual import VirtualLibrary, add_cartridge, create_virtual_library
from tapeserver.scan.rescanning import Rescan

CATALOG_ID = "0F8C1D2E"
BLOCK_SIZE = 256 * 1024
FILES_A_BUNDLE = 1000
FILES_A_DIRECTORY = 500
FILES_DEFAULT = 200_000


def entries(first: int, files: int) -> Iterator[IndexEntry]:
    """As a session tells of bundles of 10 KiB files."""
    for number in range(files):
        tape_file, place = 1 + number // FILES_A_BUNDLE, number % FILES_A_BUNDLE
        file_id = first + number
        yield IndexEntry(
            tape_file=tape_file, first_block=2 + (tape_file - 1) * 60, offset=200_000 + place * 12_000,
            file_id=file_id, copy_number=1, size=10_240, adler32=f"{file_id % 2**32:08x}",
            digests={"sha-256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
            path=f"/exp/run{file_id // FILES_A_DIRECTORY:06d}/event-{file_id:09d}.dat",
            mtime_ns=1_700_000_000_000_000_000 + file_id, mode=0o640, owner="ann", group="hall", storage_class="one",
            collocation="", node=file_id + 10, parent=file_id // FILES_A_DIRECTORY + 2_000_000_000,
            created=1_700_000_000_000_000, epoch=7,
        )  # fmt: skip


def write_volume(drive: Drive, volume: str, first: int, files: int) -> None:
    """Labels, and an index of tape files that are not there: a rebuild does not look at them."""
    label = VolumeLabel(volume=volume, generation=1, catalog_id=CATALOG_ID, block_size=BLOCK_SIZE)
    tape_files = -(-files // FILES_A_BUNDLE)
    head = IndexHead(
        volume=volume, generation=1, catalog_id=CATALOG_ID, pool="east", kind="full", first_tape_file=1,
        last_tape_file=tape_files, previous_index=0, entries=files, block_size=BLOCK_SIZE,
    )  # fmt: skip
    data = b"".join(indexes.build(head, entries(first, files)))
    name = indexes.member_name(volume, 1, tape_files + 1)
    own = OwnMember(path=name, kind="index", size=len(data), mtime_ns=0, generation=1, catalog_id=CATALOG_ID)
    archive = pax.build_own(own) + data + bytes(padding(len(data))) + END_OF_ARCHIVE
    blocks = [archive[at : at + BLOCK_SIZE] for at in range(0, len(archive), BLOCK_SIZE)]
    opened = FileLabel(
        volume=volume, identifier="0", sequence=tape_files + 1, generation=1, catalog=CATALOG_ID,
        block_size=BLOCK_SIZE, epoch=7, created=datetime.date(2026, 1, 1), kind=Kind.INDEX,
    )  # fmt: skip
    drive.rewind()
    for block in (*labels.build_volume(label), *labels.build_file(opened)):
        drive.write_block(block)
    drive.write_marks(1)
    for block in blocks:
        drive.write_block(block)
    drive.write_marks(1)
    for block in labels.build_file(opened.closed(block_count=len(blocks), file_count=1)):
        drive.write_block(block)
    drive.write_marks(1)
    drive.flush()


def cpu_seconds(place: Path) -> float:
    """Of this process, and of every process of the database server in `place` that still runs."""
    leader = (place / "data" / "postgresql" / "postmaster.pid").read_text().split()[0]
    ticks = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if fields[1] == leader or status.parent.name == leader:
                ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


async def measure(place: Path, files: int) -> dict[str, float]:
    names = [f"E{number:05d}" for number in range(4)]
    create_virtual_library(place / "east", "east", 2, len(names))
    library = VirtualLibrary(place / "east", "east")
    for number, volume in enumerate(names):
        add_cartridge(place / "east", volume, 10**10)
        library.mount(volume, "east-0", 10 + number)
        drive = library.open("east-0", 10 + number)
        write_volume(drive, volume, 1 + number * files // 4, files // 4)
        drive.close()
        library.dismount("east-0", 10 + number)
    server = EmbeddedPostgres(place / "data")
    url = await server.start()
    try:
        await migrate.upgrade(url)
        async with Database(url, statement_seconds_max=None) as database:
            async with database.transaction() as connection:
                await volumes.create_library(connection, name="east", kind="virtual", spec=library.spec())
            started, used = time.monotonic(), cpu_seconds(place)
            await Rescan(database).run(["east"])
            scanned, used_by_scan = time.monotonic(), cpu_seconds(place) - used
            async with database.transaction() as connection:
                outcome = await rebuilding.finish(connection)
            finished, used = time.monotonic(), cpu_seconds(place) - used
    finally:
        await server.stop()
    assert outcome.files == outcome.copies == files, outcome
    return {
        "files": files, "scan_files_per_second": files / (scanned - started),
        "finish_files_per_second": files / (finished - scanned), "files_per_second": files / (finished - started),
        "scan_cpu_us_per_file": used_by_scan / files * 1e6, "cpu_us_per_file": used / files * 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else FILES_DEFAULT
    with tempfile.TemporaryDirectory(prefix="capstan-bench-rebuild-") as directory:
        Path(directory).chmod(0o755)
        for key, value in asyncio.run(measure(Path(directory), wanted)).items():
            print(f"{key}: {value:,.0f}")
