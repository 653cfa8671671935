"""The frames that movers and cache servers stream to each other: encoding, and decoding with bounds.

A frame is a header of 24 bytes, little-endian, and for some kinds a payload:

    magic u32 | kind u8 | flags u8 | zero u16 | id u64 (of a reservation or replica) | length u64

`length` counts the payload that follows, except in DATA_BEGIN, where it is the size of the file and nothing follows.
Writing to a cache: DATA_BEGIN, DATA..., DATA_END for each file (or ABORT in place of DATA_END); the answer is ACK or
ERROR. Reading: WANT for each file; the answer is DATA_BEGIN, DATA..., DATA_END, or ERROR, also in place of DATA_END.
BYE says that nothing more comes. This module speaks to no socket: it is given bytes.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from catalog.errors import BadRequest, CapstanError, from_problem

MAGIC = 0x42504143  # "CAPB" on the wire
DATA_BYTES_MAX = 4 * 1024 * 1024
TEXT_BYTES_MAX = 64 * 1024
_HEADER = struct.Struct("<IBBHQQ")
HEADER_BYTES = _HEADER.size


class Kind(enum.IntEnum):
    DATA_BEGIN = 1
    DATA = 2
    DATA_END = 3
    ABORT = 4
    WANT = 5
    ACK = 6
    ERROR = 7
    BYE = 8


#: the most that may follow a header of this kind
_PAYLOAD_BYTES_MAX = {
    Kind.DATA: DATA_BYTES_MAX, Kind.DATA_END: 4, Kind.ACK: 4, Kind.ABORT: TEXT_BYTES_MAX, Kind.ERROR: TEXT_BYTES_MAX,
    Kind.DATA_BEGIN: 0, Kind.WANT: 0, Kind.BYE: 0,
}  # fmt: skip
_CHECKSUMMED = frozenset({Kind.DATA_END, Kind.ACK})


class BadFrames(BadRequest):
    """The frame stream is broken: {why}."""

    code: ClassVar[str] = "bad_frames"


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. `length` is the file's size in DATA_BEGIN, else the length of `payload`."""

    kind: Kind
    id: int
    length: int
    #: bytes, or a view of received bytes that stays valid
    payload: bytes | bytearray | memoryview = b""

    @property
    def adler32(self) -> int:
        """Of DATA_END and ACK."""
        return int.from_bytes(self.payload, "big")

    @property
    def text(self) -> str:
        """Of ABORT: the reason."""
        return bytes(self.payload).decode("utf-8", "replace")

    @property
    def error(self) -> CapstanError:
        """Of ERROR: the error of its problem document."""
        try:
            document = json.loads(bytes(self.payload))
        except ValueError as exc:
            raise BadFrames(why="an ERROR frame holds no problem document") from exc
        if not isinstance(document, dict):
            raise BadFrames(why="an ERROR frame holds no problem document")
        status = document.get("status")
        return from_problem(document, status if isinstance(status, int) else 500)


def begin(id: int, size: int) -> bytes:
    return _HEADER.pack(MAGIC, Kind.DATA_BEGIN, 0, 0, id, size)


def data_header(id: int, length: int) -> bytes:
    """The header alone: the caller sends the `length` bytes behind it, without a copy. Raises ValueError."""
    if not 0 < length <= DATA_BYTES_MAX:
        raise ValueError(f"a DATA frame holds 1 to {DATA_BYTES_MAX} bytes, not {length}")
    return _HEADER.pack(MAGIC, Kind.DATA, 0, 0, id, length)


def end(id: int, adler32: int) -> bytes:
    return _HEADER.pack(MAGIC, Kind.DATA_END, 0, 0, id, 4) + adler32.to_bytes(4, "big")


def abort(id: int, reason: str) -> bytes:
    return _text(Kind.ABORT, id, reason.encode("utf-8", "replace")[:TEXT_BYTES_MAX])


def want(id: int) -> bytes:
    return _HEADER.pack(MAGIC, Kind.WANT, 0, 0, id, 0)


def ack(id: int, adler32: int) -> bytes:
    return _HEADER.pack(MAGIC, Kind.ACK, 0, 0, id, 4) + adler32.to_bytes(4, "big")


def error(id: int, error: CapstanError) -> bytes:
    payload = json.dumps(error.problem()).encode()
    if len(payload) > TEXT_BYTES_MAX:
        payload = json.dumps({**error.problem(), "detail": str(error)[:1000], "arguments": {}}).encode()
    return _text(Kind.ERROR, id, payload)


def bye() -> bytes:
    return _HEADER.pack(MAGIC, Kind.BYE, 0, 0, 0, 0)


def _text(kind: Kind, id: int, payload: bytes) -> bytes:
    return _HEADER.pack(MAGIC, kind, 0, 0, id, len(payload)) + payload


class FrameDecoder:
    """Turns received bytes into frames, whatever the cuts. Holds at most one payload and one header.

    `split_data`: a DATA frame of which only a part was received is told in parts, each a frame whose `length` is that
    of its payload, so that no byte is copied. Its frames are views of what was fed and live as long as that.
    """

    def __init__(self, *, split_data: bool = False) -> None:
        self._split_data = split_data
        #: id and the bytes to come of a DATA frame that is told in parts
        self._rest: tuple[int, int] | None = None
        self._head = bytearray()
        self._pending: tuple[Kind, int, int] | None = None
        self._payload = bytearray()
        self._filled = 0

    @property
    def between_frames(self) -> bool:
        """Whether the stream may end here."""
        return self._pending is None and self._rest is None and not self._head

    def feed(self, received: bytes | memoryview) -> Iterator[Frame]:
        """The frames that `received` completes, in order. Consume it whole. Raises BadFrames."""
        view, at = memoryview(received), 0
        while at < len(view):
            if self._rest is not None:
                id, wanted = self._rest
                taken = min(wanted, len(view) - at)
                self._rest = (id, wanted - taken) if wanted > taken else None
                yield Frame(Kind.DATA, id, taken, view[at : at + taken])
                at += taken
                continue
            if self._pending is None:
                if not self._head and len(view) - at >= HEADER_BYTES:
                    kind, id, length = parse_header(view[at : at + HEADER_BYTES])
                    at += HEADER_BYTES
                else:
                    taken = min(HEADER_BYTES - len(self._head), len(view) - at)
                    self._head += view[at : at + taken]
                    at += taken
                    if len(self._head) < HEADER_BYTES:
                        return
                    kind, id, length = parse_header(self._head)
                    self._head.clear()
                wanted = 0 if kind is Kind.DATA_BEGIN else length
                if len(view) - at >= wanted:
                    # The whole payload is here: a view, no copy.
                    yield Frame(kind, id, length, view[at : at + wanted] if wanted else b"")
                    at += wanted
                    continue
                if self._split_data and kind is Kind.DATA:
                    self._rest = (id, length)
                    continue
                self._pending, self._payload, self._filled = (kind, id, length), bytearray(wanted), 0
            taken = min(len(self._payload) - self._filled, len(view) - at)
            self._payload[self._filled : self._filled + taken] = view[at : at + taken]
            self._filled += taken
            at += taken
            if self._filled == len(self._payload):
                frame = Frame(*self._pending, self._payload)
                self._pending, self._payload = None, bytearray()
                yield frame


def parse_header(head: bytes | bytearray | memoryview) -> tuple[Kind, int, int]:
    """Kind, id and length, for those who receive payloads right into their own buffers. Raises BadFrames."""
    magic, number, _flags, _zero, id, length = _HEADER.unpack(head)
    if magic != MAGIC:
        raise BadFrames(why="it does not begin with the magic number")
    try:
        kind = Kind(number)
    except ValueError as exc:
        raise BadFrames(why=f"there is no frame kind {number}") from exc
    if kind is not Kind.DATA_BEGIN and length > _PAYLOAD_BYTES_MAX[kind]:
        raise BadFrames(why=f"a {kind.name} frame of {length} bytes is too long")
    if kind in _CHECKSUMMED and length != 4:
        raise BadFrames(why=f"a {kind.name} frame holds a checksum of 4 bytes, not {length}")
    return kind, id, length
