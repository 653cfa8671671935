"""Writing an index as a tape file: an archive with one member, behind everything else, and behind a flush of its own.

Whatever goes wrong with it harms nothing else: what stands before it was flushed and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tapeserver.format import pax
from tapeserver.format.labels import Kind
from tapeserver.format.objects import days_ns
from tapeserver.format.pax import END_OF_ARCHIVE, OwnMember, padding
from tapeserver.frames import IndexWritten, Load
from tapeserver.library import VolumeOverflow
from tapeserver.mover.indexspool import IndexRefused, IndexSpool
from tapeserver.mover.volumeend import VolumeEnd, VolumeFull

IDENTIFIER = "CAPSTAN-INDEX"
"""In HDR1, where a tape file of data has the id of its first file."""


def write_index(end: VolumeEnd, spool: IndexSpool, load: Load, enter: Callable[[str], None]) -> IndexWritten:
    """Write it and flush; every later tape file names it. `enter` hears what the drive does.

    Everything before it was flushed. Raises IndexRefused and VolumeFull, after which nothing else is lost and a shorter
    one may be tried, and what the drive raises.
    """
    # Whether the room that is left behind the early warning is enough, only the medium can say: a longer index, or a
    # file, may have met its end before.
    end.step_back()
    headers = _headers(end, spool, load)
    first_block, written_bytes = end.end_block, 0
    try:
        end.begin(Kind.INDEX, IDENTIFIER)
        try:
            for block in _blocks(headers, spool, load.block_size):
                enter("write")
                end.write(block)
                written_bytes += len(block)
        except OSError as exc:
            end.close(0)
            raise IndexRefused(why=f"it cannot be read again: {exc}") from exc
        end.close(1)
        enter("flush")
        end.flush()
    except VolumeOverflow as exc:
        raise VolumeFull(volume=load.volume, size=spool.size) from exc
    end.previous_index = first_block
    return IndexWritten(
        index_block=first_block, tape_files=end.tape_files, end_block=end.end_block, written_bytes=written_bytes
    )


def _headers(end: VolumeEnd, spool: IndexSpool, load: Load) -> bytes:
    member = OwnMember(
        path=spool.name,
        kind="index",
        size=spool.size,
        mtime_ns=days_ns(end.today()),
        generation=load.generation,
        catalog_id=load.catalog_id.upper(),
    )
    try:
        return pax.build_own(member)
    except ValueError as exc:
        raise IndexRefused(why=str(exc)) from exc


def _blocks(headers: bytes, spool: IndexSpool, block_size: int) -> Iterator[bytes]:
    """The archive in blocks, the last one short."""
    pending = bytearray(headers)
    for piece in spool.pieces(block_size):
        pending += piece
        while len(pending) > block_size:
            yield bytes(pending[:block_size])
            del pending[:block_size]
    pending += bytes(padding(spool.size)) + END_OF_ARCHIVE
    for at in range(0, len(pending), block_size):
        yield bytes(pending[at : at + block_size])
