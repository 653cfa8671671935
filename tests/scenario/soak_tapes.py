"""Reads cartridge images without a line of Capstan's: SIMH records, labels, and the standard library's `tarfile`.

So that what the catalog says of a copy is compared with the medium by somebody who shares none of its mistakes. The
format is that of docs/storage.md.
"""

from __future__ import annotations

import io
import mmap
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END_OF_MEDIUM = 0xFFFFFFFF
LABEL_BYTES = 80
TRAILER = [b"EOF1", b"EOF2", b"UTL1"]


@dataclass(frozen=True, slots=True)
class Lying:
    """One member of a complete tape file, as it lies on the tape; its bytes have the checksum that its header says."""

    volume: str
    generation: int
    tape_file: int
    first_block: int
    byte_offset: int
    file_id: int
    size: int
    adler32: str


class BadImage(Exception):
    """An image is not what docs/storage.md says."""


def objects(image: Path) -> Iterator[bytes | None]:
    """Every block's data in order, None for a mark; ends at the end of medium, or where nothing whole follows."""
    with image.open("rb") as file:
        if not image.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at, marks = 0, 0
            while at + 4 <= len(data):
                (length,) = struct.unpack_from("<I", data, at)
                if length == 0:
                    marks, at = marks + 1, at + 4
                    continue
                tail = at + 4 + length + length % 2
                whole = tail + 4 <= len(data) and data[tail : tail + 4] == data[at : at + 4]
                if length == END_OF_MEDIUM or whole:
                    yield from [None] * marks
                    marks = 0
                if length == END_OF_MEDIUM or not whole:
                    return
                yield data[at + 4 : at + 4 + length]
                at = tail + 4


def lying_on(image: Path) -> Iterator[Lying]:
    """What lies in the complete tape files of data. Raises BadImage."""
    found = objects(image)
    labels = [next(found, None), next(found, None)]
    if labels[0] is None or labels[1] is None:
        return  # blank
    if labels[0][:4] != b"VOL1" or labels[1][:4] != b"UVL1":
        raise BadImage(f"{image.name} begins with {labels!r}")
    volume, generation = labels[0][4:10].decode().strip(), int(labels[1][5:11])
    first_block, number = 2, 2
    group: list[list[bytes]] = [[]]
    for one in found:
        number += 1
        if one is not None:
            group[-1].append(one)
            continue
        group.append([])
        if len(group) == 4:
            yield from _tape_file(volume, generation, first_block, *group[:3])
            first_block, group = number, [[]]
    if len(group) == 3 and [one[:4] for one in group[2]] == TRAILER:
        # A loss of power cut the image behind the mark that was flushed last: nothing follows it, and it is not told.
        yield from _tape_file(volume, generation, first_block, *group)


def _tape_file(
    volume: str, generation: int, first_block: int, header: list[bytes], data: list[bytes], trailer: list[bytes]
) -> Iterator[Lying]:
    where = f"{volume} at {first_block}"
    if [one[:4] for one in header] != [b"HDR1", b"HDR2", b"UHL1"]:
        raise BadImage(f"{where}: no header, but {header!r:.200}")
    if [one[:4] for one in trailer] != TRAILER:
        raise BadImage(f"{where}: no trailer, but {trailer!r:.200}")
    kind, status, tape_file = chr(trailer[2][5]), chr(trailer[2][6]), int(trailer[2][7:17])
    blocks, members = int(trailer[2][25:35]), int(trailer[2][35:42])
    if blocks != len(data):
        raise BadImage(f"{where}: {len(data)} blocks of data, the trailer says {blocks}")
    if kind != "D" or status != "C":
        return
    archive = tarfile.TarFile(fileobj=io.BytesIO(b"".join(data)))
    while members:
        member = archive.next()
        if member is None:
            raise BadImage(f"{where}: {members} members are missing")
        if member.pax_headers.get("CAPSTAN.kind") == "bundle-list":
            continue
        members -= 1
        content = archive.extractfile(member)
        assert content is not None
        adler32 = f"{zlib.adler32(content.read()):08x}"
        if adler32 != member.pax_headers["CAPSTAN.adler32"]:
            raise BadImage(f"{where}: {member.name} has the checksum {adler32}, its header says otherwise")
        yield Lying(
            volume=volume,
            generation=generation,
            tape_file=tape_file,
            first_block=first_block,
            byte_offset=member.offset_data,
            file_id=int(member.pax_headers["CAPSTAN.file_id"]),
            size=member.size,
            adler32=adler32,
        )


def missing_copies(library: Path, recorded: set[Lying]) -> list[str]:
    """What is recorded and does not lie on the cartridges of the library in this directory, in words."""
    lying: set[Lying] = set()
    mistakes = []
    for image in sorted((library / "cartridges").glob("*.tap")):
        try:
            lying |= set(lying_on(image))
        except (BadImage, tarfile.TarError) as error:
            mistakes.append(f"{image.name}: {type(error).__name__} {error}")
    return mistakes + [f"recorded, not on the medium: {one}" for one in sorted(recorded - lying, key=str)]


#: every copy that counts; `library` is whose images it must be on
RECORDED = (
    "select c.library, c.volume, c.generation, c.tape_file, c.first_block, c.byte_offset, c.file, f.size, f.adler32"
    " from present_copy c join file f on f.id = c.file"
)


def recorded_by_library(rows: list[tuple[object, ...]]) -> dict[str, set[Lying]]:
    """The rows of RECORDED."""
    found: dict[str, set[Lying]] = {}
    for library, *place in rows:
        found.setdefault(str(library), set()).add(Lying(*place))  # type: ignore[arg-type]  # as RECORDED has them
    return found
