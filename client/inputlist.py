"""A job's input list: one line per input, the namespace path, a tab, its path on this host's cache or nothing.

Reads the list and copies from a readable cache, verified; who makes the list is the job server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import BadConfig, BadRequest
from client.checksums import CHUNK_BYTES, Adler32
from client.messages import Entry
from client.part import place_file, refuse_special
from client.transfer import Progress

LINES_MAX = 1_000_000


class SameName(BadRequest):
    """{first} and {second} have the same base name: they cannot both be put into {directory}."""

    code = "same_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    path: str
    #: None: no cache of this host has it
    cache_path: Path | None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def read(file: Path) -> list[Input]:
    """The inputs in order. Raises BadConfig for a line that is none, OSError."""
    found = []
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadConfig(source=str(file), why="it is no list of inputs: it is not UTF-8") from exc
    # Not splitlines: a name may hold what Unicode calls the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        path, tab, cache_path = line.partition("\t")
        if not path.startswith("/") or not tab or number > LINES_MAX:
            raise BadConfig(source=f"{file}, line {number}", why="it is not a namespace path, a tab and a cache path")
        found.append(Input(path=path, cache_path=Path(cache_path) if cache_path else None))
    return found


def refuse_same_names(paths: list[str], directory: Path) -> None:
    """Raises SameName before anything is transferred."""
    seen: dict[str, str] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        first = seen.setdefault(name, path)
        if first != path:
            raise SameName(first=first, second=path, directory=str(directory))


def copy_verified(cache_path: Path, entry: Entry, local: Path, progress: Progress) -> bool:
    """Copy from the cache; False when it cannot be read there or is not the file: then it must be fetched. Blocks."""
    refuse_special(local)
    part = local.with_name(f"{local.name[:200]}.{entry.file_id}.{os.getpid()}.copy")
    summer, length = Adler32(), 0
    try:
        source = cache_path.open("rb", buffering=0)
    except OSError:
        return False
    try:
        with source, part.open("wb", buffering=0) as target:
            while chunk := source.read(CHUNK_BYTES):
                summer.update(chunk)
                length += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[target.write(view) :]
                progress(len(chunk))
        if length == entry.size and summer.hexdigest() == entry.adler32:
            place_file(part, local, entry)
            return True
    finally:
        part.unlink(missing_ok=True)
    progress(-length)
    return False
