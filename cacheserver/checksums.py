"""Checksums of bytes on their way: adler32 always, others when somebody promised them. Blocks; belongs in a thread."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from isal import isal_zlib

from catalog.errors import BadDigest, DigestMismatch

#: HTTP name of the algorithm (RFC 9530, RFC 3230) -> hashlib's
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5"}
_READ_BYTES = 4 * 1024 * 1024


def adler32(data: bytes | bytearray | memoryview, value: int = 1) -> int:
    result: int = isal_zlib.adler32(data, value)
    return result


class Checksums:
    """Of one file. Raises BadDigest for an algorithm that cannot be computed here."""

    def __init__(self, promised: Mapping[str, str]) -> None:
        unknown = [name for name in promised if name != "adler32" and name not in ALGORITHMS]
        if unknown:
            raise BadDigest(why=f"{unknown[0]} is not computed here; known are adler32, {', '.join(ALGORITHMS)}")
        self._promised = dict(promised)
        self._adler32 = 1
        self._others: dict[str, Any] = {
            name: hashlib.new(ALGORITHMS[name], usedforsecurity=False) for name in promised if name != "adler32"
        }

    def update(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        for buffer in buffers:
            self._adler32 = adler32(buffer, self._adler32)
            for other in self._others.values():
                other.update(buffer)

    @property
    def adler32_hex(self) -> str:
        return f"{self._adler32:08x}"

    @property
    def others(self) -> dict[str, str]:
        """Base64, as in RFC 9530."""
        return {name: base64.b64encode(other.digest()).decode() for name, other in self._others.items()}

    def check(self) -> None:
        """Raises DigestMismatch when a promise was not kept."""
        found = {"adler32": self.adler32_hex, **self.others}
        for name, expected in self._promised.items():
            if found[name] != (expected.lower() if name == "adler32" else expected):
                raise DigestMismatch(algorithm=name, actual=found[name], expected=expected)


def adler32_of(descriptor: int) -> str:
    """Of a whole file, read from its beginning; hex."""
    value, offset = 1, 0
    while chunk := os.pread(descriptor, _READ_BYTES, offset):
        value = adler32(chunk, value)
        offset += len(chunk)
    return f"{value:08x}"
