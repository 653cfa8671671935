"""Reading tape files of which nothing is known but where they begin: labels, archives, one member after the other.

Works over a Drive, holds one block of data at a time, and tells what cannot be read instead of giving up. Used by the
mover that finds tape files behind the catalog's end, and by the scan of a volume that no catalog knows. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from catalog.errors import Retry, TapeError
from tapeserver.format import labels
from tapeserver.format.bundles import LIST_BYTES_MAX, parse_list
from tapeserver.format.labels import BadLabel
from tapeserver.format.objects import ADLER32_START, HEADER_OBJECTS, adler32
from tapeserver.format.pax import RECORD, BadMember, Member, OwnMember, header_bytes, padding, parse_any
from tapeserver.library import BlockTooLong, Drive, EndOfData, Filemark, MediumError

READ_THROUGH_BLOCKS = 256
"""A gap of so many blocks is read through: going to its end would take a drive longer."""


class Unreadable(TapeError):
    """The data of the tape file cannot be used at byte {offset}: {why}."""

    code, retry = "unreadable", Retry.OTHER_COPY

    def __init__(self, *, offset: int, why: str, resume: int | None = None) -> None:
        super().__init__(offset=offset, why=why)
        #: the first byte behind what is damaged; None: nothing that follows can be trusted
        self.resume = resume


def read_labels(drive: Drive, names: Sequence[str]) -> list[bytes]:
    """The next blocks, each looked at before the next is read: what is torn off is ours only as far as it goes."""
    found = []
    for name in names:
        found.append(drive.read_block())
        labels.expect_name(found[-1], name)
    return found


def expect_mark(drive: Drive) -> None:
    """Pass the mark behind a group of labels. Raises BadLabel when something else stands there."""
    try:
        drive.read_block()
    except Filemark:
        return
    raise BadLabel(label="HDR1", why="more than three blocks stand in a group of labels")


class TapeData:
    """The bytes of one tape file's data by their offset. Going forward is cheap, going back costs a locate.

    `blocks` is how many there are, None when that is not known: then a short block is the last one.
    """

    def __init__(
        self,
        drive: Drive,
        first_block: int,
        block_size: int,
        blocks: int | None = None,
        *,
        before_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._drive, self._block_size, self._blocks = drive, block_size, blocks
        self._before_read = before_read
        self._start = first_block + HEADER_OBJECTS
        self._buffer = bytearray(block_size)
        self._held, self._length = -1, 0
        #: the block before which the head stands; None: unknown
        self._head: int | None = None
        #: whether the mark behind the data has been passed, which was not meant
        self.passed_mark = False

    def take(self, offset: int, count: int) -> bytes:
        """Exactly these bytes. Raises Unreadable, and what the drive raises when it can do no more."""
        return b"".join(bytes(piece) for piece in self.pieces(offset, count))

    def pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        """These bytes, block by block; each piece is good until the next is asked for. Raises as `take`."""
        end = offset + count
        while offset < end:
            number, skip = divmod(offset, self._block_size)
            self._hold(number)
            stop = min(self._length, skip + end - offset)
            if stop <= skip:
                raise Unreadable(offset=offset, why="the data ends there")
            yield memoryview(self._buffer)[skip:stop]
            offset += stop - skip

    def checksum(self, offset: int, count: int) -> int:
        """The adler32 of these bytes. Raises as `take`."""
        running = ADLER32_START
        for piece in self.pieces(offset, count):
            running = adler32(piece, running)
        return running

    def _hold(self, number: int) -> None:
        if number == self._held:
            return
        if self._blocks is not None and number >= self._blocks:
            raise Unreadable(offset=number * self._block_size, why=f"it has {self._blocks} blocks")
        self._held = -1
        head = self._head
        if head is None or not head <= number <= head + READ_THROUGH_BLOCKS:
            self._head, self.passed_mark = None, False
            self._drive.locate(self._start + number)
            head = number
        for passed in range(head, number + 1):
            self._read(passed, wanted=passed == number)
        self._held = number

    def _read(self, number: int, *, wanted: bool) -> None:
        offset = number * self._block_size
        self._head = number + 1
        self._before_read()
        try:
            self._length = self._drive.read_into(self._buffer)
        except MediumError as exc:
            if wanted:
                raise Unreadable(offset=offset, why=str(exc), resume=offset + self._block_size) from exc
            return
        except (Filemark, EndOfData, BlockTooLong) as exc:
            self._head, self.passed_mark = None, isinstance(exc, Filemark)
            raise Unreadable(offset=offset, why=str(exc)) from exc
        if self._length < self._block_size and self._blocks is not None and number < self._blocks - 1:
            raise Unreadable(offset=offset, why=f"a block within has {self._length} bytes")


@dataclass(frozen=True, slots=True)
class Header:
    """Any member of an archive as its headers tell, and where its bytes lie."""

    member: Member | OwnMember
    data_offset: int

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.data_offset + self.member.size + padding(self.member.size)


def read_header(data: TapeData, offset: int) -> Header:
    """The headers of the member that begins at `offset`. Raises BadMember, Unreadable."""
    raw = data.take(offset, RECORD)
    raw += data.take(offset + RECORD, header_bytes(raw) - RECORD)
    return Header(parse_any(raw), offset + len(raw))


@dataclass(frozen=True, slots=True)
class Placed:
    """A file in the data of a tape file: its bytes begin at `offset`. `number` counts the members from 0."""

    number: int
    member: Member
    offset: int


@dataclass(frozen=True, slots=True)
class Missing:
    """So many members, from `number` on, whose headers cannot be used; None: how many is not known."""

    number: int
    members: int | None
    why: str


def walk(data: TapeData, *, generation: int, catalog_id: str, members: int | None = None) -> Iterator[Placed | Missing]:
    """The files in the data of a tape file, by their own headers: at most `members`, or as many as a list promises.

    Where a header cannot be read, the bundle's list says where the next one stands. Raises what the drive raises when
    it can do no more.
    """
    try:
        first = read_header(data, 0)
    except (BadMember, Unreadable) as exc:
        yield Missing(0, members, str(exc))
        return
    listed = first if isinstance(first.member, OwnMember) else None
    promised = first.member.members if isinstance(first.member, OwnMember) else 1
    count = promised if members is None else min(members, promised)
    number, at = 0, listed.end if listed else 0
    while number < count:
        try:
            header = read_header(data, at)
            yield Placed(number, _of_this_volume(header.member, generation, catalog_id), header.data_offset)
            number, at = number + 1, header.end
        except (BadMember, Unreadable) as exc:
            behind = exc.resume if isinstance(exc, Unreadable) else at + RECORD
            step = _next_listed(data, listed, number, behind) if listed and behind else None
            skipped = (step[0] if step else count) - number
            yield Missing(number, min(skipped, count - number), str(exc))
            if step is None:
                return
            number, at = step


def _of_this_volume(member: Member | OwnMember, generation: int, catalog_id: str) -> Member:
    if isinstance(member, OwnMember):
        raise BadMember(why=f"it is no file but a {member.kind}")
    if (member.generation, member.catalog_id.upper()) != (generation, catalog_id.upper()):
        raise BadMember(why=f"it is of generation {member.generation} of catalog {member.catalog_id}")
    return member


def _next_listed(data: TapeData, listed: Header, number: int, behind: int) -> tuple[int, int] | None:
    """The first member after `number` that begins at or behind a byte, by the bundle's list: (its number, where)."""
    if listed.member.size > LIST_BYTES_MAX:
        return None
    try:
        entries = parse_list(data.take(listed.data_offset, listed.member.size))
    except (BadMember, Unreadable):
        return None
    starts = [listed.end, *(entry.offset + entry.size + padding(entry.size) for entry in entries[:-1])]
    return next(((at, start) for at, start in enumerate(starts) if at > number and start >= behind), None)
