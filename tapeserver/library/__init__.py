"""The Library and Drive protocols: what Capstan asks of tape hardware, in terms that a SCSI library can fulfil.

A library moves volumes between slots and drives; a drive reads and writes blocks and tape marks at a position. Neither
knows of files, labels or the catalog: see `tapeserver.format` and `tapeserver.mover` for those. The docstrings are
the contract, and `tests/contract/test_library.py` runs it against every implementation.

Every call blocks the calling thread: a mount for up to minutes, an append for microseconds. An asyncio caller uses a
thread. A `Library` may be used by several processes at once, each with its own object made by `open_library` from the
same spec; a `Drive` belongs to one process and one thread at a time.

Epochs fence. Each mount has an epoch from one sequence that only grows; the library remembers, beyond any crash, the
highest it has seen for each drive and each volume. Whoever comes with a lower one is refused with `Fenced`, also when
he opened the drive while his epoch was still the highest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tapeserver.library.alerts import Alert
from tapeserver.library.sense import (
    BeginningOfMedium,
    BlockTooLong,
    ChangerFault,
    ChangerRefusal,
    DriveBusy,
    DriveFault,
    DriveMissing,
    DriveStop,
    EndOfData,
    Fenced,
    Filemark,
    HardwareError,
    LibraryDamaged,
    LibraryUnreachable,
    MediumError,
    NotReady,
    VolumeBusy,
    VolumeMissing,
    VolumeOverflow,
    WriteError,
    WrongVolume,
)
from tapeserver.library.words import NAME_LENGTH_MAX, in_words

BLOCK_BYTES_MAX = 8 * 1024 * 1024
"""The longest block any implementation accepts; LTO drives end at 8 MiB."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One storage slot: its element address, and the volume in it or None."""

    slot: int
    volume: str | None


@dataclass(frozen=True, slots=True)
class DriveStatus:
    """One drive as the library sees it.

    `volume` is what the changer put there (None: empty), `epoch` the highest epoch this drive has seen, `home_slot`
    where a dismount will bring the volume. `working` is False when the library itself reports the drive as broken,
    and `detail` then says in words why. `model` is the drive's, as it calls itself ("ULT3580-TD8") or by its medium
    ("LTO-8"); "" when the library does not know. Whatever bytes they were, both are kept as printable words.
    """

    drive: str
    volume: str | None
    epoch: int
    home_slot: int | None = None
    working: bool = True
    detail: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", in_words(self.detail))
        object.__setattr__(self, "model", in_words(self.model, NAME_LENGTH_MAX))


@dataclass(frozen=True, slots=True)
class Inventory:
    """Where every volume is. A volume is in exactly one slot or one drive."""

    slots: tuple[SlotStatus, ...]
    drives: tuple[DriveStatus, ...]

    @property
    def volumes(self) -> frozenset[str]:
        """The names of all volumes in the library."""
        places = [slot.volume for slot in self.slots] + [drive.volume for drive in self.drives]
        return frozenset(volume for volume in places if volume is not None)

    def drive_of(self, volume: str) -> str | None:
        """The drive that holds `volume`, or None when it is in a slot or not in the library."""
        return next((status.drive for status in self.drives if status.volume == volume), None)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the head is.

    `block` is the logical object number as LTO counts it: blocks and tape marks from the beginning, from 0; the object
    with this number is read or overwritten next. `at_end_of_data` is None where the drive cannot say.
    """

    block: int
    at_end_of_data: bool | None = None


class Library(Protocol):
    """One changer with its slots, drives and volumes."""

    @property
    def name(self) -> str:
        """The library's name, as in the catalog."""

    def spec(self) -> dict[str, Any]:
        """A small JSON-able description from which `open_library` makes an equal object in another process."""

    def inventory(self) -> Inventory:
        """Where every volume is, from the library and not from memory. Blocks for seconds. Safe to repeat.

        Raises LibraryUnreachable, LibraryDamaged.
        """

    def mount(self, volume: str, drive: str, epoch: int) -> None:
        """Put `volume` into `drive` for the mount `epoch`, and fence every lower epoch of both.

        Returns when the medium is loaded and stands at its beginning; blocks for minutes (the first load of a new
        LTO-9 medium for up to two hours). Safe to repeat with the same epoch: what is mounted already is left as it
        is. The same volume in the same drive under a higher epoch changes hands without being moved.

        Raises Fenced (a higher epoch has been seen for the drive or the volume), DriveBusy (another volume is in
        the drive), VolumeBusy (the volume is in another drive), VolumeMissing, DriveMissing, HardwareError (the drive
        does not load), ChangerFault (nothing can be moved now), LibraryUnreachable. After an error the volume is where
        `inventory()` says.
        """

    def dismount(self, drive: str, epoch: int) -> str | None:
        """Bring the volume of `drive` back to its slot; returns its name, None when the drive was empty already.

        Every epoch up to and including `epoch` is fenced before the volume moves, so that nothing is written after
        this returned. What the drive had not flushed is lost. Blocks for minutes. Safe to repeat: an empty drive is
        left alone.

        Raises Fenced (the drive has seen a higher epoch: the volume in it is somebody else's), DriveMissing,
        DriveBusy (a flush under way did not end in time), HardwareError (the drive does not let go), ChangerFault,
        LibraryUnreachable. After an error the volume is where `inventory()` says; the epochs are fenced all the same,
        unless the error is Fenced.
        """

    def fence(self, drive: str, epoch: int) -> None:
        """Refuse all work on `drive` below `epoch` from now on, and leave the volume where it is. Safe to repeat.

        On return no write of a lower epoch is under way, and none will reach the medium. A fence lower than what
        the drive has seen already does nothing. Raises DriveMissing, DriveBusy, LibraryUnreachable.
        """

    def open(self, drive: str, epoch: int) -> Drive:
        """The drive, to be used by this process until `Drive.close`. The head stands where it was left or at block 0.

        Raises Fenced (the mount in this drive is not `epoch`), NotReady (empty), DriveBusy (another process has it
        open under the same epoch), DriveMissing, HardwareError, LibraryUnreachable.
        """

    def alerts(self) -> tuple[Alert, ...]:
        """What the changer has to complain of now: of itself, and of drives as it sees them from outside.

        Safe to repeat: what goes on being so is told each time. Blocks for seconds. Raises LibraryUnreachable,
        LibraryDamaged.
        """


class Drive(Protocol):
    """One drive with a volume in it, opened by one process for one epoch.

    Every operation may raise Fenced (a newer mount has taken over; nothing more of this one reaches the medium),
    NotReady (the volume was taken out) and HardwareError. After Fenced, WriteError, HardwareError, and after any error
    of `flush`, everything written since the last flush that returned must be taken for lost, and the position is
    unknown until `rewind` or `locate`.
    """

    @property
    def name(self) -> str:
        """The drive's name in its library."""

    @property
    def volume(self) -> str:
        """The volume that the changer says is in the drive. Only the label on the tape proves it."""

    @property
    def epoch(self) -> int:
        """The epoch of the mount under which it was opened."""

    @property
    def end_of_medium_warning(self) -> bool:
        """True once the last block or mark was written behind the early-warning point.

        What was written is on the tape; there is still room for trailers and an index, and `write_block` does not
        refuse. A caller that goes on regardless meets VolumeOverflow.
        """

    @property
    def capacity_bytes(self) -> int | None:
        """Native capacity of the volume, None where the drive does not know."""

    @property
    def remaining_bytes(self) -> int | None:
        """Room from the head to the early-warning point, 0 behind it, None where the drive does not know."""

    def rewind(self) -> None:
        """Go to block 0. Blocks for a minute. Flushes first, as every motion away from unflushed data does."""

    def locate(self, block: int) -> None:
        """Go to logical object `block` (see Position). Blocks for minutes.

        Raises EndOfData when the tape ends before `block`; the head then stands at the end of data.
        """

    def space_marks(self, count: int) -> None:
        """Pass `count` tape marks: forward to behind the last of them, with a negative count to before it.

        Raises EndOfData (the head stands there) or BeginningOfMedium (the head stands at block 0) when there are
        fewer. 0 does nothing.
        """

    def space_to_end(self) -> None:
        """Go to the end of data, where the next block can be appended. Blocks for minutes."""

    def position(self) -> Position | None:
        """Where the head is, or None when the drive does not know. Unflushed blocks count."""

    def recommended_order(self, segments: Sequence[tuple[int, int]]) -> Sequence[int] | None:
        """In which order the drive itself would read `segments`, from where the head is; None when it does not say.

        A segment is (first block, number of blocks). The answer holds the index of each segment once. Moves nothing,
        changes nothing, safe to repeat; may take seconds. None is always a possible answer (a drive without the
        function, more segments than it takes, a position it does not know), and what is read in another order is
        read as well. (SCSI: RECEIVE RECOMMENDED ACCESS ORDER.)
        """

    def read_block(self) -> bytes:
        """The next block, and the head moves behind it.

        Raises Filemark (the head stands behind the mark), EndOfData (the head stays), MediumError (the head stands
        behind the block). Never returns an empty block.
        """

    def read_into(self, buffer: bytearray | memoryview) -> int:
        """Read the next block into `buffer`, which must be large enough; returns its length in bytes.

        The fast way; otherwise as `read_block`. Raises BlockTooLong when the block does not fit: the head stands
        behind it and `buffer` holds nothing of use.
        """

    def write_block(self, data: bytes | bytearray | memoryview) -> None:
        """Append a block of 1..BLOCK_BYTES_MAX bytes at the head; all that was recorded behind the head is gone.

        Buffered: after a crash none, some or all of what was written since the last flush may be on the tape, but
        never a later block without an earlier one. `data` may be reused as soon as this returns.

        Raises WriteError, VolumeOverflow (nothing of this block was written; what went before can still be flushed).
        """

    def write_marks(self, count: int) -> None:
        """Append `count` tape marks, buffered like a block. Does not flush. Raises like `write_block`."""

    def flush(self) -> None:
        """Return when all that was written is on the medium and will be read back after a crash. Blocks for seconds.

        (SCSI: WRITE FILEMARKS with count 0.) Safe to repeat; without unflushed data it only checks the epoch.
        Raises WriteError, VolumeOverflow.
        """

    def alerts(self) -> tuple[Alert, ...]:
        """What the drive reports of itself and of the medium in it (TapeAlert), since it was opened.

        To be asked once, before `close`: a real drive forgets a flag when it has told it, so that a repeat may say
        less. Moves nothing, and never raises anything: a drive that cannot even say this says nothing.
        """

    def close(self) -> None:
        """Give the drive back. Flushes nothing: what was not flushed may be lost. Safe to repeat, raises nothing."""


class Motion(enum.Enum):
    """What a drive spends time on; the argument of a `Delay`."""

    LOAD = "load"
    UNLOAD = "unload"
    LOCATE = "locate"
    TRANSFER = "transfer"
    MARK = "mark"
    FLUSH = "flush"


Delay = Callable[[Motion, str, int, int], None]
"""Called before the virtual library does something that takes a real one time: (motion, volume, from, to), with
distances along the volume in bytes. It may sleep. The place where a model of a drive is put in."""

Trace = Callable[[str, str], None]
"""Called after each step whose order matters for durability: (step, subject). Tests assert the order with it."""


def open_library(spec: Mapping[str, Any], *, delay: Delay | None = None, trace: Trace | None = None) -> Library:
    """The library that `spec` (made by `Library.spec`) describes. Nothing is moved. Raises LibraryUnreachable."""
    # Imported here: an implementation imports this module, and a mover loads only the one it uses.
    kind = spec.get("kind")
    if kind == "virtual":
        from tapeserver.library.virtual import VirtualLibrary

        return VirtualLibrary.from_spec(spec, delay=delay, trace=trace)
    raise LibraryDamaged(library=spec.get("name"), why=f"there is no kind of library {kind!r}")


__all__ = [
    "BLOCK_BYTES_MAX",
    "Alert",
    "BeginningOfMedium",
    "BlockTooLong",
    "ChangerFault",
    "ChangerRefusal",
    "Delay",
    "Drive",
    "DriveBusy",
    "DriveFault",
    "DriveMissing",
    "DriveStatus",
    "DriveStop",
    "EndOfData",
    "Fenced",
    "Filemark",
    "HardwareError",
    "Inventory",
    "Library",
    "LibraryDamaged",
    "LibraryUnreachable",
    "MediumError",
    "Motion",
    "NotReady",
    "Position",
    "SlotStatus",
    "Trace",
    "VolumeBusy",
    "VolumeMissing",
    "VolumeOverflow",
    "WriteError",
    "WrongVolume",
    "open_library",
]
