"""Faults on demand: what a virtual drive is told to fail at, through a file that every process sees.

Operators and tests add faults while a mover runs; the drive looks for a change of the file before each operation.
Faults do not touch what is recorded: when they are cleared, everything can be read again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from tapeserver.library import LibraryDamaged
from tapeserver.library.storage import locked, replace_file

FAULTS_MAX = 1000
LOCK_SECONDS_MAX = 10.0
_FILE, _LOCK = "faults.json", "faults.lock"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that fails. `volume` and `drive` narrow it down; None means any.

    unreadable   reading block `block` of `volume` raises MediumError
    write_error  after `after_blocks` more blocks were written, each write raises WriteError
    flush_error  each flush raises WriteError, and what was not flushed is lost
    full         the medium ends at `at_bytes`, before its nominal capacity; the early warning comes that much earlier
    """

    kind: Literal["unreadable", "write_error", "flush_error", "full"]
    volume: str | None = None
    drive: str | None = None
    block: int | None = None
    after_blocks: int = 0
    at_bytes: int | None = None


def inject(library: Path, fault: Fault) -> None:
    """Add a fault to the virtual library in the directory `library`. It works from the next operation on."""
    with locked(library / _LOCK, seconds_max=LOCK_SECONDS_MAX):
        faults = [*read_faults(library), fault]
        if len(faults) > FAULTS_MAX:
            raise ValueError(f"at most {FAULTS_MAX} faults can be set")
        replace_file(library / _FILE, msgspec.json.encode(faults))


def clear(library: Path) -> None:
    """Take all faults of the virtual library away."""
    with locked(library / _LOCK, seconds_max=LOCK_SECONDS_MAX):
        replace_file(library / _FILE, b"[]")


def read_faults(library: Path) -> list[Fault]:
    """The faults that are set. Raises LibraryDamaged when the file is not what `inject` writes."""
    try:
        return msgspec.json.decode((library / _FILE).read_bytes(), type=list[Fault])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as exc:
        raise LibraryDamaged(library=library.name, why=f"{_FILE}: {exc}") from exc


class FaultWatch:
    """The faults of one drive with one volume in it, always as they are now."""

    def __init__(self, library: Path, drive: str, volume: str) -> None:
        self._library = library
        self._path = os.fspath(library / _FILE)
        self._drive, self._volume = drive, volume
        self._seen: tuple[int, int, int] | None = None
        self._faults: list[Fault] = []
        self._blocks_written = 0

    def unreadable(self, block: int) -> bool:
        self.refresh()
        return any(fault.kind == "unreadable" and fault.block in (None, block) for fault in self._faults)

    def write_fails(self) -> bool:
        """Ask once before each block that is written: the count of `after_blocks` runs from the fault's arrival."""
        self.refresh()
        self._blocks_written += 1
        return any(fault.kind == "write_error" and self._blocks_written > fault.after_blocks for fault in self._faults)

    def flush_fails(self) -> bool:
        self.refresh()
        return any(fault.kind == "flush_error" for fault in self._faults)

    def capacity_bytes(self, nominal: int) -> int:
        """As of the last refresh: it is asked several times for each block."""
        if not self._faults:
            return nominal
        early = [fault.at_bytes for fault in self._faults if fault.kind == "full" and fault.at_bytes is not None]
        return min([nominal, *early])

    def refresh(self) -> None:
        """Look whether the file has changed; costs a stat."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen, self._blocks_written = seen, 0
            self._faults = [
                fault
                for fault in read_faults(self._library)
                if fault.volume in (None, self._volume) and fault.drive in (None, self._drive)
            ]
