"""Reads back a tape file that the catalog does not know, and tells what is in it and whether it is good.

Bounded in memory: one block of data, some hundred members. Decides nothing: what becomes of it is the session's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from catalog.model import FileRecord
from tapeserver.frames import Found, FoundMember, Load
from tapeserver.labels import FileLabel, Kind
from tapeserver.library import Drive
from tapeserver.scan.tapereader import Missing, Placed, TapeData, Unreadable, walk
from tapeserver.tapeformat import Extent, adler32_text

MEMBERS_A_MESSAGE = 500


def read_back(
    drive: Drive, load: Load, trailer: FileLabel, extent: Extent, alive: Callable[[], None]
) -> Iterator[Found]:
    """What the complete tape file of this trailer holds. A member that cannot be read is not good, or is not told.

    `alive` is called before each member and each block. Raises what the drive raises when it can do no more.
    """
    members: list[FoundMember] = []
    if trailer.kind is Kind.DATA:
        data = TapeData(drive, extent.first_block, load.block_size, extent.data_blocks, before_read=alive)
        for one in walk(data, generation=load.generation, catalog_id=load.catalog_id, members=trailer.file_count):
            if isinstance(one, Missing):
                continue
            if len(members) == MEMBERS_A_MESSAGE:
                yield _found(trailer, extent, members, more=True)
                members = []
            members.append(_member(data, one))
    yield _found(trailer, extent, members, more=False)


def _member(data: TapeData, one: Placed) -> FoundMember:
    member = one.member
    try:
        good = adler32_text(data.checksum(one.offset, member.size)) == member.adler32
    except Unreadable:
        good = False
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
    return FoundMember(record=record, copy_number=member.copy_number, byte_offset=one.offset, good=good)


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
