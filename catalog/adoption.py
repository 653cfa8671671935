"""Adopting what a volume has behind the catalog's end: whole tape files that nobody recorded (design, rule 7a.3).

They stand there because a crash came between flush and commit, or because the catalog was restored from an older
backup. Each tape file is one transaction with the volume's end, so nothing is half done. Whether its bytes are right
was found out by who read them; nothing here trusts more than the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import namespace
from catalog.archives import enqueue_archives
from catalog.errors import Exists, NotADirectory, StaleEpoch
from catalog.model import FileRecord
from catalog.recalls import fence
from catalog.sql import load
from catalog.states import GOOD_VOLUME_STATES
from catalog.written import DeadExtent, record_end, tell_safe

_SQL = {name: sa.text(statement) for name, statement in load("adoption").items()}
WHO = "capstan"
DIRECTORY_MODE = 0o755
#: what a tape file has besides its data: labels and marks
LABEL_OBJECTS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCopy:
    """A member of a found tape file; `good`: its bytes were read back and fit its checksum."""

    record: FileRecord
    copy_number: int
    byte_offset: int
    good: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTapeFile:
    tape_file: int
    first_block: int
    #: all objects of it, labels and marks too
    blocks: int
    #: D, I or J as in the labels
    kind: str
    #: of the mount that wrote it
    epoch: int
    members: Sequence[FoundCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    copies: int
    #: files that the catalog did not know, with the ids they had
    made: int
    safe: list[int]
    #: of the volume, now
    written_bytes: int
    index_block: int


async def pass_ids(connection: AsyncConnection, found: FoundTapeFile) -> None:
    """No later file gets an id that stands on the tape; those that were not given yet are of a lost life from now on.

    In a transaction of its own before `adopt`, because it keeps everybody from being given an id while it lasts. Safe
    to repeat.
    """
    highest = max((one.record.file_id for one in found.members if one.good), default=0)
    if not await connection.scalar(_SQL["ids_ahead"], {"id": highest}):
        return
    await connection.execute(_SQL["hold_ids"])
    following = await connection.scalar(_SQL["pass_ids"], {"id": highest})
    if following is not None:
        # Unlike setval this is undone when the transaction is.
        await connection.execute(sa.text(f"alter sequence file_id_seq restart with {int(following)}"))


async def adopt(
    connection: AsyncConnection, *, volume: str, generation: int, epoch: int, found: FoundTapeFile
) -> Adopted:
    """Record one found tape file: its copies, or that it is dead; and the volume's end behind it. `pass_ids` is first.

    `epoch`: of the mount that found it. The caller's transaction; safe to repeat. A copy that counts already elsewhere,
    or that another mount is about to write, is not recorded: it is surplus. Raises StaleEpoch.
    """
    if await fence(connection, epoch) != volume:
        raise StaleEpoch(epoch=epoch)
    present = (await connection.execute(_SQL["volume"], {"volume": volume})).one()
    if present.generation != generation:
        raise StaleEpoch(epoch=epoch)
    again = present.tape_files >= found.tape_file
    index = found.kind.upper().startswith("I") and all(one.good for one in found.members)
    good = [] if found.kind.upper()[:1] != "D" else [one for one in found.members if one.good]
    unknown = {one.record.file_id: one.record for one in good}
    made = len(await make_unknown(connection, list(unknown.values())))
    copies = await _record_copies(connection, volume, generation, found, await _fitting(connection, good))
    dead = [] if again else _passed(present, found)
    if not copies and not index and not again:
        extent = DeadExtent(
            tape_file=found.tape_file, first_block=found.first_block, blocks=found.blocks, why=_why_dead(found)
        )
        dead.append(extent)
    data_bytes = 0 if again else max(0, found.blocks - LABEL_OBJECTS) * present.block_size
    state = await record_end(
        connection,
        epoch,
        volume,
        tape_files=max(found.tape_file, present.tape_files),
        end_block=max(found.first_block + found.blocks, present.end_block),
        written_bytes=present.written_bytes + data_bytes,
        dead=dead,
        index_block=found.first_block if index and not again else None,
        verified=False,
    )
    if state not in GOOD_VOLUME_STATES:
        await enqueue_archives(connection, copies)
    return Adopted(
        copies=len(copies),
        made=made,
        safe=await tell_safe(connection, copies),
        written_bytes=present.written_bytes + data_bytes,
        index_block=found.first_block if index else present.index_block,
    )


def _passed(present: sa.Row[Any], found: FoundTapeFile) -> list[DeadExtent]:
    """What lies between the catalog's end and this tape file: it was not told, so it was aborted.

    Recorded together with the end that moves past it, because after a crash nobody comes by again.
    """
    if found.first_block <= present.end_block:
        return []
    blocks = found.first_block - present.end_block
    why = "aborted while it was written"
    return [DeadExtent(tape_file=present.tape_files + 1, first_block=present.end_block, blocks=blocks, why=why)]


def _why_dead(found: FoundTapeFile) -> str:
    if found.kind.upper()[:1] != "D":
        return f"a tape file of kind {found.kind} that no volume needs"
    if not any(one.good for one in found.members):
        return "it was not recorded, and cannot be read back as it was written"
    return "it was not recorded, and nothing needs it: its files have their copies, are to be written, or are others"


async def _fitting(connection: AsyncConnection, good: Sequence[FoundCopy]) -> list[FoundCopy]:
    """Those whose file is what the catalog knows, and whose copy nobody else has, or is about to make.

    The files' and archives' rows are locked, so that this stays true.
    """
    if not good:
        return []
    ids = sorted({one.record.file_id for one in good})
    known = {row.id: row for row in await connection.execute(_SQL["files"], {"files": ids})}
    pairs = {"files": [one.record.file_id for one in good], "copy_numbers": [one.copy_number for one in good]}
    claimed = {
        (row.file, row.copy_number)
        for row in await connection.execute(_SQL["archives"], pairs)
        if row.state == "claimed"
    }
    counted = {(row.file, row.copy_number) for row in await connection.execute(_SQL["counted"], pairs)}
    fitting: dict[tuple[int, int], FoundCopy] = {}
    for one in good:
        row, pair = known.get(one.record.file_id), (one.record.file_id, one.copy_number)
        if row is None or row.state == "purged" or (row.size, row.adler32) != (one.record.size, one.record.adler32):
            continue
        if pair not in claimed and pair not in counted:
            fitting.setdefault(pair, one)
    return list(fitting.values())


async def _record_copies(
    connection: AsyncConnection, volume: str, generation: int, found: FoundTapeFile, copies: Sequence[FoundCopy]
) -> list[int]:
    """Their copies are recorded, their archives done; the files."""
    if not copies:
        return []
    pairs = {"files": [one.record.file_id for one in copies], "copy_numbers": [one.copy_number for one in copies]}
    waiting = [row.id for row in await connection.execute(_SQL["archives"], pairs)]
    await connection.execute(_SQL["archives_done"], {"archives": waiting})
    arguments = {
        **pairs,
        "volume": volume,
        "generation": generation,
        "tape_file": found.tape_file,
        "first_block": found.first_block,
        "byte_offsets": [one.byte_offset for one in copies],
        "lengths": [one.record.size for one in copies],
        "epoch": found.epoch,
    }
    return list((await connection.scalars(_SQL["copies"], arguments)).all())


async def make_unknown(connection: AsyncConnection, records: Sequence[FileRecord]) -> list[int]:
    """Files of a lost life that the catalog does not know are made again with their ids, which are answered.

    Live under their path if the name is free, else in the recycle bin. Each id once.
    """
    if not records:
        return []
    ids = sorted(one.file_id for one in records)
    # A file that was removed in this life may have no row any more: that its bytes are found does not bring it back.
    lost = set((await connection.scalars(_SQL["of_a_lost_life"], {"files": ids})).all())
    # The highest id owns a name.
    records = sorted((one for one in records if one.file_id in lost), key=lambda one: one.file_id, reverse=True)
    if not records:
        return []
    nodes = await _take_names(connection, records)
    arguments = {
        "who": WHO,
        "ids": [one.file_id for one in records],
        "nodes": [nodes.get(one.file_id) for one in records],
        "sizes": [one.size for one in records],
        "adler32s": [one.adler32 for one in records],
        "digests": [json.dumps(one.digests) for one in records],
        "mtimes_ns": [one.mtime_ns for one in records],
        "modes": [one.mode for one in records],
        "owners": [one.owner for one in records],
        "groups": [one.group for one in records],
        "classes": [one.storage_class for one in records],
        "paths": [one.path for one in records],
    }
    return list((await connection.scalars(_SQL["make_files"], arguments)).all())


async def _take_names(connection: AsyncConnection, records: Sequence[FileRecord]) -> dict[int, int]:
    """file id -> node, for those whose name was free."""
    parents: dict[tuple[str, ...], int | None] = {}
    wanted: dict[tuple[int, str], int] = {}
    for record in records:
        components = tuple(part for part in record.path.split("/") if part)
        if not components:
            continue
        if components[:-1] not in parents:
            parents[components[:-1]] = await _directory(connection, components[:-1], record)
        parent = parents[components[:-1]]
        if parent is not None:
            wanted.setdefault((parent, components[-1]), record.file_id)
    if not wanted:
        return {}
    arguments = {"parents": [parent for parent, _ in wanted], "names": [name for _, name in wanted]}
    return {wanted[row.parent, row.name]: row.id for row in await connection.execute(_SQL["names"], arguments)}


async def _directory(connection: AsyncConnection, components: tuple[str, ...], like: FileRecord) -> int | None:
    """The directory of this path, made where it is missing; None when a file stands in the way."""
    try:
        node = await namespace.make_directory(
            connection,
            components,
            owner=like.owner,
            group=like.group,
            mode=DIRECTORY_MODE,
            mtime_ns=like.mtime_ns,
            parents=True,
        )
    except (Exists, NotADirectory):
        return None
    return node.id
