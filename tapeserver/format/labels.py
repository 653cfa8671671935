"""The labels on a tape: ANSI X3.27 (ISO 1001) records of 80 ASCII characters, built and parsed.

A volume begins with VOL1 UVL1. Around each tape file stand HDR1 HDR2 UHL1 before its data and EOF1 EOF2 UTL1 behind.
The standard fields are narrow (sequence 4 digits, block count 6, block size 5); what is true stands in UVL1, UHL1 and
UTL1, the standard ones hold it modulo their width, or 0. Every byte is described in docs/storage.md.

Pure, and strict: whatever is not exactly what this module builds raises BadLabel, so that a foreign or a damaged tape
is never taken for ours. Reads and writes no tape.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from catalog.errors import Retry, TapeError

LABEL_BYTES = 80
HEADER_NAMES = ("HDR1", "HDR2", "UHL1")
TRAILER_NAMES = ("EOF1", "EOF2", "UTL1")
IMPLEMENTATION = "CAPSTAN"

_VOLUME = re.compile(r"[A-Z0-9]{1,6}")
_CATALOG_ID = re.compile(r"[0-9A-Z-]{8,36}")
_IDENTIFIER = re.compile(r"[A-Z0-9 !\"%&'()*+,./:;<=>?_-]{1,17}")
_OWNER = re.compile(r"[A-Z0-9 !\"%&'()*+,./:;<=>?_-]{0,14}")


class BadLabel(TapeError):
    """The label {label} is not one of ours: {why}."""

    code, retry = "bad_label", Retry.OTHER_COPY


class Kind(enum.StrEnum):
    """What a tape file holds."""

    DATA = "D"
    INDEX = "I"
    JOURNAL = "J"


class Status(enum.StrEnum):
    """How a tape file stands: OPEN in UHL1; COMPLETE or ABORTED in UTL1."""

    OPEN = "O"
    COMPLETE = "C"
    ABORTED = "A"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeLabel:
    """VOL1 and UVL1. `catalog_id` names the catalog that the volume belongs to; `generation` grows by relabelling."""

    volume: str
    generation: int
    catalog_id: str
    block_size: int
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLabel:
    """The labels of one tape file; `header()` of it opens the file, `trailer()` closes it.

    `sequence` counts the tape files of the volume from 1. `generation` and `catalog` (the first 8 characters of the
    catalog id) repeat the volume's label, so that data left over from before a relabelling is known by itself.
    `previous_index` is the block of the previous index tape file, 0 when there is none. `block_count` (data blocks) and
    `file_count` (members) are 0 in the header.
    """

    volume: str
    identifier: str
    sequence: int
    generation: int
    catalog: str
    block_size: int
    epoch: int
    created: datetime.date
    kind: Kind = Kind.DATA
    status: Status = Status.OPEN
    previous_index: int = 0
    block_count: int = 0
    file_count: int = 0

    def closed(self, *, block_count: int, file_count: int, aborted: bool = False) -> FileLabel:
        """The label for the trailer of the file that this one opened."""
        status = Status.ABORTED if aborted else Status.COMPLETE
        return replace(self, status=status, block_count=block_count, file_count=file_count)

    def is_of(self, *, volume: str, generation: int, catalog_id: str, block_size: int) -> bool:
        """Whether the tape file was written to this volume, since it was labelled so."""
        wanted = volume, generation, catalog_mark(catalog_id), block_size
        return (self.volume, self.generation, self.catalog, self.block_size) == wanted

    def opens(self, other: FileLabel) -> bool:
        """Whether `other` may be the trailer of this header: equal in all that does not change in between."""
        return self == replace(other, status=Status.OPEN, block_count=0, file_count=0)


def catalog_mark(catalog_id: str) -> str:
    """The 8 characters by which the labels of tape files name a catalog."""
    return catalog_id.upper()[:8]


def build_volume(label: VolumeLabel) -> list[bytes]:
    """VOL1 and UVL1, a block each. Raises ValueError for what does not fit."""
    _check("volume", label.volume, _VOLUME)
    _check("catalog id", label.catalog_id, _CATALOG_ID)
    _check("owner", label.owner, _OWNER)
    vol1 = (
        "VOL1" + label.volume.ljust(6) + " " + " " * 13 + IMPLEMENTATION.ljust(13) + label.owner.ljust(14)
        + " " * 28 + "4"
    )  # fmt: skip
    uvl1 = (
        "UVL11" + _digits("generation", label.generation, 6) + _digits("block size", label.block_size, 8)
        + label.catalog_id.ljust(36) + " " * 25
    )  # fmt: skip
    return [_encode(vol1), _encode(uvl1)]


def parse_volume(blocks: Sequence[bytes]) -> VolumeLabel:
    """The label of a volume from its first two blocks. Raises BadLabel."""
    vol1, uvl1 = _two_volume_records(blocks)
    uvl1.literal(5, "1")
    label = VolumeLabel(
        volume=vol1.text(5, 10),
        generation=uvl1.number(6, 11),
        block_size=uvl1.number(12, 19),
        catalog_id=uvl1.text(20, 55),
        owner=vol1.text(38, 51),
    )
    _must_rebuild(lambda: build_volume(label), [vol1, uvl1])
    return label


def build_file(label: FileLabel) -> list[bytes]:
    """HDR1 HDR2 UHL1 when `label` is OPEN, else EOF1 EOF2 UTL1; a block each.

    Raises ValueError for what does not fit.
    """
    _check("volume", label.volume, _VOLUME)
    _check("identifier", label.identifier, _IDENTIFIER)
    if (
        label.identifier != label.identifier.strip()
        or len(label.catalog) != 8
        or not _CATALOG_ID.fullmatch(label.catalog)
    ):
        raise ValueError(f"identifier {label.identifier!r} or catalog {label.catalog!r} does not fit a label")
    if label.status is Status.OPEN and (label.block_count or label.file_count):
        raise ValueError("the counts of an open tape file are 0")
    first, second, user = HEADER_NAMES if label.status is Status.OPEN else TRAILER_NAMES
    hdr1 = (
        first + label.identifier.ljust(17) + label.volume.ljust(6) + "0001" + f"{label.sequence % 10_000:04d}" + "0001"
        + "00" + _date(label.created) + " 00000" + " " + f"{label.block_count % 1_000_000:06d}"
        + IMPLEMENTATION.ljust(13) + " " * 7
    )  # fmt: skip
    narrow = label.block_size if label.block_size < 100_000 else 0
    hdr2 = second + "F" + f"{narrow:05d}" + "00512" + " " * 35 + "00" + " " * 28
    uhl1 = (
        user + "1" + label.kind.value + label.status.value + _digits("sequence", label.sequence, 10)
        + _digits("block size", label.block_size, 8) + _digits("block count", label.block_count, 10)
        + _digits("file count", label.file_count, 7) + _digits("generation", label.generation, 6)
        + _digits("previous index", label.previous_index, 12) + label.catalog + _digits("epoch", label.epoch, 12)
    )  # fmt: skip
    return [_encode(hdr1), _encode(hdr2), _encode(uhl1)]


def parse_header(blocks: Sequence[bytes]) -> FileLabel:
    """The label of a tape file from the three blocks before its data. Raises BadLabel."""
    return _parse_file(blocks, HEADER_NAMES, {Status.OPEN})


def parse_trailer(blocks: Sequence[bytes]) -> FileLabel:
    """The label of a tape file from the three blocks behind its data. Raises BadLabel."""
    return _parse_file(blocks, TRAILER_NAMES, {Status.COMPLETE, Status.ABORTED})


def expect_name(block: bytes, name: str) -> None:
    """Raise BadLabel unless `block` is a label of this name; what else stands in it is not looked at."""
    _Record(block, name)


class _Record:
    """One label of 80 characters, read by the positions of the standard, which count from 1."""

    def __init__(self, block: bytes, name: str) -> None:
        self.name, self.block = name, block
        if len(block) != LABEL_BYTES:
            raise BadLabel(label=name, why=f"it has {len(block)} bytes, not {LABEL_BYTES}")
        try:
            self._text = block.decode("ascii")
        except UnicodeDecodeError as exc:
            raise BadLabel(label=name, why="it is not ASCII") from exc
        self.literal(1, name)

    def field(self, first: int, last: int) -> str:
        return self._text[first - 1 : last]

    def text(self, first: int, last: int) -> str:
        return self.field(first, last).rstrip(" ")

    def literal(self, first: int, wanted: str) -> None:
        found = self.field(first, first + len(wanted) - 1)
        if found != wanted:
            raise BadLabel(label=self.name, why=f"{found!r} stands at {first}, not {wanted!r}")

    def number(self, first: int, last: int) -> int:
        field = self.field(first, last)
        if not (field.isascii() and field.isdigit()):
            raise BadLabel(label=self.name, why=f"{field!r} at {first} is no number")
        return int(field)

    def choice(self, at: int, kind: type[Kind] | type[Status]) -> str:
        field = self.field(at, at)
        if field not in {member.value for member in kind}:
            raise BadLabel(label=self.name, why=f"{field!r} at {at} is not known")
        return field

    def date(self, first: int) -> datetime.date:
        century, rest = self.field(first, first), self.number(first + 1, first + 5)
        base = {" ": 1900, "0": 2000, "1": 2100}.get(century)
        year, day = (base or 0) + rest // 1000, rest % 1000
        if base is None or not 1 <= day <= 366:
            raise BadLabel(label=self.name, why=f"{self.field(first, first + 5)!r} is no date")
        return datetime.date(year, 1, 1) + datetime.timedelta(days=day - 1)


def _two_volume_records(blocks: Sequence[bytes]) -> tuple[_Record, _Record]:
    if len(blocks) != 2:
        raise BadLabel(label="VOL1", why=f"{len(blocks)} label blocks stand at the beginning, not 2")
    return _Record(blocks[0], "VOL1"), _Record(blocks[1], "UVL1")


def _parse_file(blocks: Sequence[bytes], names: tuple[str, str, str], allowed: set[Status]) -> FileLabel:
    if len(blocks) != 3:
        raise BadLabel(label=names[0], why=f"{len(blocks)} label blocks stand here, not 3")
    first, second, user = (_Record(block, name) for block, name in zip(blocks, names, strict=True))
    user.literal(5, "1")
    status = Status(user.choice(7, Status))
    if status not in allowed:
        raise BadLabel(label=names[2], why=f"its status is {status.name}")
    label = FileLabel(
        volume=first.text(22, 27),
        identifier=first.text(5, 21),
        created=first.date(42),
        kind=Kind(user.choice(6, Kind)),
        status=status,
        sequence=user.number(8, 17),
        block_size=user.number(18, 25),
        block_count=user.number(26, 35),
        file_count=user.number(36, 42),
        generation=user.number(43, 48),
        previous_index=user.number(49, 60),
        catalog=user.field(61, 68),
        epoch=user.number(69, 80),
    )
    _must_rebuild(lambda: build_file(label), [first, second, user])
    return label


def _must_rebuild(build: Callable[[], list[bytes]], records: Sequence[_Record]) -> None:
    """Every byte must be as this module writes it: the standard fields agree with ours, and nothing else is there."""
    try:
        rebuilt = build()
    except ValueError as exc:
        raise BadLabel(label=records[0].name, why=str(exc)) from exc
    for record, block in zip(records, rebuilt, strict=True):
        if record.block != block:
            at = next(number for number in range(LABEL_BYTES) if record.block[number] != block[number])
            raise BadLabel(label=record.name, why=f"the field at {at + 1} contradicts the others")


def _digits(what: str, value: int, width: int) -> str:
    if not 0 <= value < 10**width:
        raise ValueError(f"the {what} {value} does not fit {width} digits")
    return f"{value:0{width}d}"


def _date(day: datetime.date) -> str:
    century = {19: " ", 20: "0", 21: "1"}.get(day.year // 100)
    if century is None:
        raise ValueError(f"{day} does not fit a label")
    return f"{century}{day.year % 100:02d}{day.timetuple().tm_yday:03d}"


def _check(what: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value) or value != value.strip():
        raise ValueError(f"the {what} {value!r} does not fit a label")


def _encode(text: str) -> bytes:
    assert len(text) == LABEL_BYTES, (len(text), text)
    return text.encode("ascii")
