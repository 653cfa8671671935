"""Faults on demand: what a virtual library is told to fail at, through a file that every process sees.

Operators (drills) and tests add faults while a mover runs; the drive looks for a change of the file before each
operation, the changer before each move. Faults do not touch what is recorded, but for a loss of power, which takes
what was not flushed: when they are cleared, everything that was flushed can be read again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from tapeserver.library import LibraryDamaged
from tapeserver.library.alerts import Severity
from tapeserver.library.storage import locked, replace_file

FAULTS_MAX = 1000
LOCK_SECONDS_MAX = 10.0
#: a hang that nobody clears ends after a day, a slow block after an hour: no thread stays for ever
HANG_SECONDS_MAX = 86_400.0
SLOW_SECONDS_MAX = 3600.0
HANG_POLL_SECONDS = 0.02
_FILE, _LOCK = "faults.json", "faults.lock"

Kind = Literal[
    "unreadable", "write_error", "flush_error", "full", "dead", "jam", "swapped", "power_loss", "slow", "hang", "alert"
]
At = Literal["load", "unload", "locate", "read", "write", "mark", "flush"]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that fails. `volume` and `drive` narrow it down; None means any.

    unreadable   reading block `block` of `volume` raises MediumError
    write_error  after `after_blocks` more blocks were written, each write raises WriteError
    flush_error  each flush raises WriteError, and what was not flushed is lost
    full         the medium ends at `at_bytes`, before its nominal capacity; the early warning comes that much earlier
    dead         every operation of `drive` raises HardwareError, nothing can be loaded into it, and the inventory says
                 that it does not work; the changer can still take a volume out
    jam          the changer cannot move: mount and dismount raise ChangerFault, and the volume stays where it is
    swapped      in the slot of `volume` lies another cartridge, whose recording is that of `image`
    power_loss   at the next `at` (write, mark or flush) once `after_blocks` blocks were written, the drive loses its
                 power: of what was not flushed, `keep` is on the medium (some: as `seed` wills), and everything
                 raises HardwareError until the drive is opened again
    slow         each block read or written takes `seconds_per_block`, or as long as `bytes_per_second` makes it
    hang         the next `at` does not return before the fault is cleared, or the mount is fenced
    alert        the drive with `volume` in it (the library, if neither is named) reports `code`, `severity` and `text`

    `times`: after so many failures the fault is gone (jam, power_loss); None: it stays until it is cleared, but power
    is lost once.
    """

    kind: Kind
    volume: str | None = None
    drive: str | None = None
    block: int | None = None
    after_blocks: int = 0
    at_bytes: int | None = None
    image: str | None = None
    times: int | None = None
    at: At | None = None
    keep: Literal["none", "some", "all"] = "some"
    seed: int = 0
    seconds_per_block: float = 0.0
    bytes_per_second: float = 0.0
    code: str = ""
    severity: Severity = "warning"
    text: str = "fault on demand"

    def concerns(self, drive: str | None, volume: str | None) -> bool:
        return self.drive in (None, drive) and self.volume in (None, volume)


def inject(library: Path, fault: Fault) -> None:
    """Add a fault to the virtual library in the directory `library`. It works from the next operation on."""
    if fault.kind == "power_loss" and fault.times is None:
        # Lost once: the next mount has power again.
        fault = msgspec.structs.replace(fault, times=1)
    with locked(library / _LOCK, seconds_max=LOCK_SECONDS_MAX):
        faults = [*read_faults(library), fault]
        if len(faults) > FAULTS_MAX:
            raise ValueError(f"at most {FAULTS_MAX} faults can be set")
        replace_file(library / _FILE, msgspec.json.encode(faults))


def clear(library: Path, kind: Kind | None = None, *, drive: str | None = None, volume: str | None = None) -> None:
    """Take the faults of the virtual library away: all, or those of this kind, drive and volume."""
    with locked(library / _LOCK, seconds_max=LOCK_SECONDS_MAX):
        kept = [
            fault
            for fault in read_faults(library)
            if kind not in (None, fault.kind) or drive not in (None, fault.drive) or volume not in (None, fault.volume)
        ]
        replace_file(library / _FILE, msgspec.json.encode(kept))


def read_faults(library: Path) -> list[Fault]:
    """The faults that are set. Raises LibraryDamaged when the file is not what `inject` writes."""
    try:
        return msgspec.json.decode((library / _FILE).read_bytes(), type=list[Fault])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as exc:
        raise LibraryDamaged(library=library.name, why=f"{_FILE}: {exc}") from exc


def use_up(library: Path, fault: Fault) -> bool:
    """The fault strikes once: whether it is there to do so. One with `times` is gone after the last of them."""
    if fault.times is None:
        return True
    with locked(library / _LOCK, seconds_max=LOCK_SECONDS_MAX):
        faults = read_faults(library)
        if fault not in faults:
            return False
        place = faults.index(fault)
        left = fault.times - 1
        faults[place : place + 1] = [msgspec.structs.replace(fault, times=left)] if left > 0 else []
        replace_file(library / _FILE, msgspec.json.encode(faults))
    return fault.times > 0


def find(library: Path, kind: Kind, *, drive: str | None, volume: str | None, at: At | None = None) -> Fault | None:
    """The first fault of this kind that concerns the drive and the volume."""
    found = (
        fault
        for fault in read_faults(library)
        if fault.kind == kind and fault.concerns(drive, volume) and (at is None or fault.at == at)
    )
    return next(found, None)


def hang(still: Callable[[], Fault | None]) -> None:
    """Return when there is no such fault any more."""
    deadline = time.monotonic() + HANG_SECONDS_MAX
    while still() is not None and time.monotonic() < deadline:
        time.sleep(HANG_POLL_SECONDS)


class FaultWatch:
    """The faults of one drive with one volume in it, as they were at the last `refresh`."""

    def __init__(self, library: Path, drive: str, volume: str) -> None:
        self._library = library
        self._path = os.fspath(library / _FILE)
        self._drive, self._volume = drive, volume
        self._seen: tuple[int, int, int] | None = None
        self._faults: list[Fault] = []
        #: fault -> blocks written since it was first seen here
        self._written: dict[Fault, int] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look whether the file has changed; costs a stat. Whether there is any fault."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            self._faults = [one for one in read_faults(self._library) if one.concerns(self._drive, self._volume)]
            self._written = {fault: self._written.get(fault, 0) for fault in self._faults}
        return bool(self._faults)

    def of(self, kind: Kind, at: At | None = None) -> Fault | None:
        return next((one for one in self._faults if one.kind == kind and (at is None or one.at == at)), None)

    def alerts(self) -> list[Fault]:
        return [one for one in self._faults if one.kind == "alert" and (one.drive or one.volume)]

    @property
    def image(self) -> str:
        """The volume whose recording is on the medium that lies under this one's name."""
        swapped = self.of("swapped")
        return swapped.image if swapped is not None and swapped.image is not None else self._volume

    def unreadable(self, block: int) -> bool:
        return any(fault.kind == "unreadable" and fault.block in (None, block) for fault in self._faults)

    def write_fails(self) -> bool:
        """Ask once before each block that is written: counts of `after_blocks` run from the fault's arrival."""
        for fault in self._faults:
            self._written[fault] += 1
        return any(fault.kind == "write_error" and self._written[fault] > fault.after_blocks for fault in self._faults)

    def power_fails(self, at: At) -> float | None:
        """The part of what was not flushed that is on the medium when the power goes now; None: it stays on."""
        for fault in self._faults:
            ripe = self._written[fault] >= fault.after_blocks
            if fault.kind != "power_loss" or fault.at not in (None, at) or not ripe:
                continue
            if not use_up(self._library, fault):
                continue
            return {"none": 0.0, "some": random.Random(fault.seed).random(), "all": 1.0}[fault.keep]
        return None

    def hang(self, at: At, before: Callable[[], None]) -> None:
        """Do not return while a fault says so; `before` is called meanwhile, and may raise."""

        def still() -> Fault | None:
            before()
            self.refresh()
            return self.of("hang", at)

        if self.of("hang", at) is not None:
            hang(still)

    def slow_down(self, count: int) -> None:
        """Take the time that a slow drive takes for a block of `count` bytes. No lock is held meanwhile."""
        fault = self.of("slow") if self._faults else None
        if fault is not None:
            by_rate = count / fault.bytes_per_second if fault.bytes_per_second > 0 else 0.0
            time.sleep(min(max(fault.seconds_per_block, by_rate), SLOW_SECONDS_MAX))

    def flush_fails(self) -> bool:
        return self.of("flush_error") is not None

    def capacity_bytes(self, nominal: int) -> int:
        """It is asked several times for each block."""
        if not self._faults:
            return nominal
        early = [fault.at_bytes for fault in self._faults if fault.kind == "full" and fault.at_bytes is not None]
        return min([nominal, *early])
