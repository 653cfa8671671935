"""What a session and its mover say to each other over their socket pair: the messages and their encoding.

A frame is a length (4 bytes, little-endian) and that many bytes of msgpack: one of the messages of `ToMover` or
`FromMover`, tagged by its name. A message says what to do with a volume or what has happened to it; no bytes of files
pass here. Opens no socket: a session reads with `read_from_mover`, a mover with `FrameDecoder`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from catalog.errors import CapstanError
from catalog.model import FileRecord

FRAME_BYTES_MAX = 32 * 1024 * 1024
"""A plan of 10,000 files with paths of 1,000 bytes fits; what is longer must be sent in parts."""

_LENGTH = struct.Struct("<I")


class BadFrame(CapstanError):
    """The frames between a session and its mover are broken: {why}."""

    code = "bad_mover_frame"


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, kw_only=True):
    """A message is tagged by the name of its class."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a message."""


# ---------------------------------------------------------------- parts


class ReadItem(_Part, frozen=True):
    """One file to read: its copy on the volume, and where it goes.

    `first_block` is the object number of the tape file's HDR1, `byte_offset` counts from the start of that tape file's
    data. `cache_url` is the signed URL of the cache server's bulk write; `reservation_id` names the space there.
    """

    file_id: int
    reservation_id: int
    size: int
    adler32: str
    generation: int
    tape_file: int
    first_block: int
    byte_offset: int
    path: str
    cache_url: str


class WriteItem(_Part, frozen=True):
    """One file to write as a tape file: what it is, and the replica that has it (signed URL of the bulk read)."""

    archive_id: int
    copy_number: int
    replica_id: int
    record: FileRecord
    cache_url: str
    pool: str = ""


class WrittenItem(_Part, frozen=True):
    """Where an archive's copy lies now; fields as in catalog.model.CopyPlace."""

    archive_id: int
    tape_file: int
    first_block: int
    byte_offset: int
    length: int


class DeadExtent(_Part, frozen=True):
    """A complete tape file that no copy refers to. It counts as a tape file and is never overwritten."""

    tape_file: int
    first_block: int
    blocks: int
    why: str


# ---------------------------------------------------------------- to the mover


class Ping(_Message, frozen=True):
    """Answered with Pong at once, also while the drive is busy."""

    n: int


class Load(_Message, frozen=True):
    """Open the drive, in which the changer has put the volume, and check the label; for archives the end as well.

    Answered by Loaded or LoadFailed. `known_tape_files` and `known_end_block` are the catalog's: the number of the last
    tape file and the object at which the next one begins. `initialise_label` writes the label first, if the volume is
    blank or carries an older generation of its own name; `force_label` whatever is on it. Policy: a flush comes after
    so many bytes, files or seconds, and when nothing is left to write; at most `uncommitted_batches_max` batches are
    flushed and not yet answered by Committed.
    """

    epoch: int
    library_spec: dict[str, Any]
    drive: str
    volume: str
    generation: int
    catalog_id: str
    purpose: Literal["recall", "archive", "label"]
    block_size: int = 262_144
    known_tape_files: int = 0
    known_end_block: int = 0
    pool: str = ""
    initialise_label: bool = False
    force_label: bool = False
    flush_bytes: int = 4 * 1024**3
    flush_files: int = 2000
    flush_seconds: float = 30.0
    uncommitted_batches_max: int = 2


class Read(_Message, frozen=True):
    """Append files to the plan, in the order in which they are to be read; `replace` drops what was not begun."""

    items: list[ReadItem]
    replace: bool = False


class Write(_Message, frozen=True):
    """Append files to write, in this order."""

    items: list[WriteItem]


class Drop(_Message, frozen=True):
    """Forget these files. One that is under way ends as failed with the code `dropped`; the others say nothing."""

    file_ids: list[int] = []
    archive_ids: list[int] = []


class Flush(_Message, frozen=True):
    """Flush after the present file, whatever the policy says."""


class Committed(_Message, frozen=True):
    """The batch is in the catalog."""

    batch: int


class Stop(_Message, frozen=True):
    """Finish the present file, flush, report, close the drive; then Unloaded. What was not begun says nothing."""

    reason: str = ""


# ---------------------------------------------------------------- from the mover


class Pong(_Message, frozen=True):
    """`phase` is what the drive does now (load, locate, read, write, flush, wait, idle), and for how long.

    Reading and writing begin anew with each buffer, so a long phase is one call that does not return.
    """

    n: int
    phase: str = "idle"
    phase_seconds: float = 0.0


class Loaded(_Message, frozen=True):
    """The volume is the right one. `tape_files` and `end_block` are true now: `dead` counts among them."""

    tape_files: int
    end_block: int
    remaining_bytes: int | None
    dead: list[DeadExtent] = []


class LoadFailed(_Message, frozen=True):
    """The volume cannot be used. The drive is closed again; nothing was written.

    wrong_label: another volume, generation or catalog. tape_short: the tape ends before the catalog's end (rule 7a.3).
    unexpected_data: what follows the catalog's end is not ours. not_blank: not to be labelled. fenced, io: as they say.
    """

    code: str
    text: str
    verdict: Literal["wrong_label", "tape_short", "unexpected_data", "not_blank", "fenced", "io"]


class ReadDone(_Message, frozen=True):
    """The file is on the cache server under its reservation; the checksum was right on both sides."""

    file_id: int
    reservation_id: int


class ReadFailed(_Message, frozen=True):
    """The file could not be brought; `retry` is a value of catalog.errors.Retry."""

    file_id: int
    reservation_id: int
    code: str
    text: str
    retry: str


class Written(_Message, frozen=True):
    """Since the last batch these were written, and the flush was GOOD. `written_bytes` counts this batch's blocks."""

    batch: int
    items: list[WrittenItem]
    tape_files: int
    end_block: int
    written_bytes: int
    dead: list[DeadExtent] = []


class WriteFailed(_Message, frozen=True):
    """These archives are not on the volume. With `volume_full` nothing is wrong: they belong on another one."""

    archive_ids: list[int]
    code: str
    text: str
    volume_full: bool = False
    retry: str = "other_drive"


class Idle(_Message, frozen=True):
    """Nothing is left to do, and everything was reported; once each time the plan runs empty."""


class Progress(_Message, frozen=True):
    """How far the present file is; at most two a second."""

    file_id: int
    bytes: int
    block: int


class Unloaded(_Message, frozen=True):
    """The drive is closed; the mover waits for the next Load. The volume is still in the drive."""


class Fault(_Message, frozen=True):
    """The drive can do no more in this mount; everything not reported as written or read counts as failed."""

    code: str
    text: str


ToMover = Ping | Load | Read | Write | Drop | Flush | Committed | Stop
FromMover = (
    Pong | Loaded | LoadFailed | ReadDone | ReadFailed | Written | WriteFailed | Idle | Progress | Unloaded | Fault
)

_T = TypeVar("_T")

_encoder = msgspec.msgpack.Encoder()
_to_mover: msgspec.msgpack.Decoder[ToMover] = msgspec.msgpack.Decoder(ToMover)
_from_mover: msgspec.msgpack.Decoder[FromMover] = msgspec.msgpack.Decoder(FromMover)


def encode(message: ToMover | FromMover) -> bytes:
    """The frame of a message. Raises BadFrame when it is too long."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise BadFrame(why=f"a message of {len(body)} bytes is longer than {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


class ExactReader(Protocol):
    """What asyncio.StreamReader offers."""

    async def readexactly(self, n: int) -> bytes: ...


async def read_from_mover(reader: ExactReader) -> FromMover:
    """The mover's next message. Raises asyncio.IncompleteReadError when the mover is gone, BadFrame."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    _check_length(length)
    return _decode(_from_mover, await reader.readexactly(length))


class FrameDecoder:
    """Turns received bytes into the session's messages, for the mover."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[ToMover]:
        """The messages that `data` completes. Raises BadFrame."""
        self._received += data
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            _check_length(length)
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield _decode(_to_mover, body)


def _check_length(length: int) -> None:
    if not 0 < length <= FRAME_BYTES_MAX:
        raise BadFrame(why=f"a length of {length} bytes")


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as exc:
        raise BadFrame(why=str(exc)) from exc
