"""Reads back a tape file that the catalog does not know, and tells what is in it and whether it is good.

What cannot be read condemns nothing on the word of one drive: the load is refused, and the volume goes to another one.
Only when the session says that this was tried (`Load.unreadable_is_dead`) it is told as not good.
Bounded in memory: one block of data, some hundred members. Decides nothing: what becomes of it is the session's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from catalog.errors import Retry, TapeError
from catalog.model import FileRecord
from tapeserver.format.labels import FileLabel, Kind
from tapeserver.format.objects import Extent, adler32_text
from tapeserver.frames import Found, FoundMember, Load
from tapeserver.library import Drive
from tapeserver.scan.tapereader import Missing, Placed, TapeData, Unreadable, walk

MEMBERS_A_MESSAGE = 500


class NotReadBack(TapeError):
    """Tape file {tape_file}, which the catalog lacks, cannot be read back: {why}."""

    code, retry = "not_read_back", Retry.OTHER_COPY


def read_back(
    drive: Drive, load: Load, trailer: FileLabel, extent: Extent, alive: Callable[[], None]
) -> Iterator[Found]:
    """What the complete tape file of this trailer holds.

    With `load.unreadable_is_dead` a member that cannot be read, or not as it was written, is not good, or is not told;
    else NotReadBack is raised, and nothing was told that is not good.

    `alive` is called before each member and each block. Raises what the drive raises when it can do no more.
    """
    members: list[FoundMember] = []
    if trailer.kind is Kind.DATA:
        data = TapeData(drive, extent.first_block, load.block_size, extent.data_blocks, before_read=alive)
        for one in walk(data, generation=load.generation, catalog_id=load.catalog_id, members=trailer.file_count):
            if isinstance(one, Missing):
                _doubt(load, trailer, one.why)
                continue
            if len(members) == MEMBERS_A_MESSAGE:
                yield _found(trailer, extent, members, more=True)
                members = []
            told, why = _member(data, one)
            if why is not None:
                _doubt(load, trailer, why)
            members.append(told)
    yield _found(trailer, extent, members, more=False)


def _doubt(load: Load, trailer: FileLabel, why: str) -> None:
    if not load.unreadable_is_dead:
        raise NotReadBack(tape_file=trailer.sequence, why=why)


def _member(data: TapeData, one: Placed) -> tuple[FoundMember, str | None]:
    """With why it is not good, if it is not."""
    member, why = one.member, None
    try:
        checksum = adler32_text(data.checksum(one.offset, member.size))
        if checksum != member.adler32:
            why = f"file {member.file_id} has the checksum {checksum}, not {member.adler32}"
    except Unreadable as exc:
        why = f"file {member.file_id}: {exc}"
    record = FileRecord(
        file_id=member.file_id,
        path=member.path,
        size=member.size,
        adler32=member.adler32,
        mtime_ns=member.mtime_ns,
        mode=member.mode,
        owner=member.owner,
        group=member.group,
        storage_class=member.storage_class,
        digests=dict(member.digests),
    )
    found = FoundMember(record=record, copy_number=member.copy_number, byte_offset=one.offset, good=why is None)
    return found, why


def _found(trailer: FileLabel, extent: Extent, members: list[FoundMember], *, more: bool) -> Found:
    return Found(
        tape_file=trailer.sequence,
        first_block=extent.first_block,
        blocks=extent.end_block - extent.first_block,
        kind=trailer.kind.value,
        epoch=trailer.epoch,
        members=members,
        more=more,
    )
