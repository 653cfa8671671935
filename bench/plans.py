"""What is computed or measured without users: a drive's share of its own rate, space for indexes, speed of a rebuild.

The share comes from the session's own plan and the mover's own account of it, on the figures of a real drive; nothing
of it is timed. The other two work on files that never were, told of as a session tells.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from bench import rebuild
from bench.measure import Row
from bench.workplace import Workplace
from catalog.journalformat import Entry, Head, encode_segment
from catalog.units import GIB, KIB, MIB
from tapeserver.bundling import Limits, tape_files
from tapeserver.config import Config
from tapeserver.format import indexes
from tapeserver.tapeaccount import LTO9, TapeFile, account

#: (size, how many in all, least share)
NATIVE = [
    (10 * KIB, 8_000_000, 0.8),
    (MIB, 100_000, None),
    (10 * MIB, 10_000, 0.9),
    (100 * MIB, 1_000, 0.9),
    (GIB, 200, 0.9),
]
SPACE_FILES, SPACE_FILES_QUICK = 200, 20
SPACE_PERCENT_MAX = 0.1
#: each copy stands in the index of its session, and once more in that of the full volume
INDEXES = 2
REBUILD_FILES, REBUILD_FILES_QUICK = 400_000, 8_000
REBUILD_FILES_PER_SECOND_MIN = 20_000.0


@dataclass(frozen=True)
class _File:
    size: int


@dataclass(frozen=True)
class _Archive:
    file: _File
    collocation: str = "a"
    urgent: bool = False


def run_native(place: Workplace) -> list[Row]:
    config = Config()
    limits = Limits(
        member_bytes_max=config.bundle_member_bytes_max,
        bytes_max=config.bundle_bytes_max,
        files_max=config.bundle_files_max,
    )
    rows = []
    for size, number, least in NATIVE:
        # As much as a session claims at a time, again and again.
        claimed = min(number, config.archives_files_max, max(1, config.archives_bytes_max // size))
        plan = list(tape_files([_Archive(_File(size))] * claimed, limits))
        found = account(
            [TapeFile(sizes=[size] * len(members), bundle=len(members) > 1) for members in plan]
            * -(-number // claimed),
            flush_bytes=config.flush_bytes,
            flush_files=config.flush_files,
            flush_seconds=config.flush_seconds,
        )
        name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        rows.append(
            Row(
                name=f"share of an LTO-9 drive's rate when files of {name} are written",
                value=found.share_of_native(),
                unit="of 400 MB/s",
                of="value",
                at_least=least,
                note=f"computed; {found.files:,} files in {found.tape_files:,} tape files, {found.flushes} flushes of"
                f" {LTO9.flush_seconds:g} s; {1000 * LTO9.mark_seconds:g} ms a buffered mark is assumed",
            )
        )
    return rows


def run_space(place: Workplace) -> list[Row]:
    """Bytes of index and journal for each file of 1 MiB; the journal's are those of files that were really put."""
    number = SPACE_FILES_QUICK if place.quick else SPACE_FILES
    directory = place.make_small_files(place.scratch / "space", number, KIB)
    with place.look() as look:
        last = look.value("select coalesce(max(seq), 0) from journal")
        place.site.run(["tput", "-r", str(directory), "/bench-space"])
        statement = (
            "select coalesce(json_agg(json_build_object('seq', seq, 'kind', kind, 'id', id, 'removed', removed,"
            " 'entry', entry) order by seq), '[]')::text from journal where seq > $1"
        )
        told = msgspec.json.decode(look.value(statement, last), type=list[Entry])
    head = Head(catalog_id=rebuild.CATALOG_ID, incarnation="a", number=1, previous=0, first_seq=1, last_seq=2)
    journal = len(encode_segment(head, told)) / number
    files = 20_000
    index_head = indexes.IndexHead(
        volume="E00000", generation=1, catalog_id=rebuild.CATALOG_ID, pool="east", kind="full", first_tape_file=1,
        last_tape_file=files, previous_index=0, entries=files, block_size=rebuild.BLOCK_SIZE,
    )  # fmt: skip
    index = sum(map(len, indexes.build(index_head, rebuild.entries(1, files)))) / files
    return [
        Row(
            name="space of indexes and journal on tape, of user data in files of 1 MiB",
            value=100 * (INDEXES * index + journal) / MIB,
            unit="%",
            of="value",
            at_most=SPACE_PERCENT_MAX,
            note=f"{index:.0f} bytes a copy in each of {INDEXES} indexes, {journal:.0f} bytes a file in the journal"
            f" ({len(told) / number:.1f} entries); one copy of each",
        )
    ]


def run_rebuild(place: Workplace) -> list[Row]:
    directory = place.directory / "rebuild"
    directory.mkdir()
    directory.chmod(0o755)
    number = REBUILD_FILES_QUICK if place.quick else REBUILD_FILES
    found = asyncio.run(rebuild.measure(directory, number))
    return [
        Row(
            name="catalog rebuilt from indexes of a virtual library",
            value=found["files_per_second"],
            unit="files/s",
            of="value",
            at_least=REBUILD_FILES_PER_SECOND_MIN,
            note=f"{number:,} files; reading {found['scan_files_per_second']:,.0f}/s, making the catalog"
            f" {found['finish_files_per_second']:,.0f}/s; {found['cpu_us_per_file']:.0f} us of processor time a file",
        )
    ]
