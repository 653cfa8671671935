"""How the messages between a session and its mover become frames on their socket pair, and back.

A frame is a length (4 bytes, little-endian) and that many bytes of msgpack: one of the messages of `tapeserver.frames`.
Opens no socket: a session reads with `read_from_mover`, a mover with `FrameDecoder`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol, TypeVar

import msgspec

from catalog.errors import CapstanError
from tapeserver.frames import FromMover, ToMover

FRAME_BYTES_MAX = 32 * 1024 * 1024
"""A plan of 10,000 files with paths of 1,000 bytes fits; what is longer must be sent in parts."""

_LENGTH = struct.Struct("<I")


class BadFrame(CapstanError):
    """The frames between a session and its mover are broken: {why}."""

    code = "bad_mover_frame"


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
