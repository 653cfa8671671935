"""adler32 as Capstan writes it: eight hexadecimal digits. Pure but for `of_file`, which reads one."""

from __future__ import annotations

from pathlib import Path

from isal import isal_zlib

CHUNK_BYTES = 1 << 20


class Adler32:
    """A running adler32."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self.value = isal_zlib.adler32(data, self.value)

    def hexdigest(self) -> str:
        return f"{self.value & 0xFFFFFFFF:08x}"


def of_bytes(data: bytes) -> str:
    summer = Adler32()
    summer.update(data)
    return summer.hexdigest()


def of_file(path: Path) -> str:
    """adler32 of a local file; blocks. Raises OSError."""
    summer = Adler32()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            summer.update(chunk)
    return summer.hexdigest()
