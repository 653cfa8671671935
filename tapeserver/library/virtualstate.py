"""The records of a virtual library: where its files are, and what stands in them.

    library.json               name, drives, number of slots; written last when the library is made, never changed
    lock                       guards moves between slots and drives (held for milliseconds)
    drives/NAME.json           the volume in the drive, its epoch, the highest fenced epoch
    drives/NAME.lock           guards this record and every write to the medium in the drive
    drives/NAME.EPOCH.open     locked by the process that has the drive open under this epoch
    cartridges/VID.json        home slot, capacity, highest epoch
    cartridges/VID.tap .idx    the image and its index

Whoever needs both locks takes the drive's first: a process that was stopped in a flush then holds up its own drive
only. A volume that no drive's record names is in its home slot, so that each move is one replaced file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from tapeserver.library import DriveMissing, LibraryDamaged, LibraryUnreachable, Trace, VolumeMissing
from tapeserver.library.storage import replace_file

LOCK_SECONDS_MAX = 30.0


class LibraryRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the library is made of."""

    name: str
    drives: tuple[str, ...]
    slots: int
    format: int = 1


class DriveState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One drive: `epoch` is that of the mount in it (None: empty); all epochs up to `fenced` are refused."""

    drive: str
    volume: str | None = None
    epoch: int | None = None
    fenced: int = -1


class CartridgeState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One volume: where it lives, how much it holds, the highest epoch that mounted it."""

    volume: str
    slot: int
    capacity_bytes: int
    epoch: int = -1


_Record = TypeVar("_Record", LibraryRecord, DriveState, CartridgeState)


class Places:
    """The files of one virtual library."""

    def __init__(
        self, root: Path, library: str, trace: Trace | None = None, lock_seconds_max: float = LOCK_SECONDS_MAX
    ) -> None:
        self.root, self.library = root, library
        self.lock_seconds_max = lock_seconds_max
        self._trace = trace

    @property
    def library_lock(self) -> Path:
        return self.root / "lock"

    def drive_lock(self, drive: str) -> Path:
        return self.root / "drives" / f"{drive}.lock"

    def drive_record(self, drive: str) -> Path:
        return self.root / "drives" / f"{drive}.json"

    def drive_open_lock(self, drive: str, epoch: int) -> Path:
        return self.root / "drives" / f"{drive}.{epoch}.open"

    def forget_open_locks(self, drive: str) -> None:
        """Remove the files that `drive_open_lock` named; every epoch they stand for is fenced."""
        for path in (self.root / "drives").glob(f"{drive}.*.open"):
            path.unlink(missing_ok=True)

    def cartridge_stem(self, volume: str) -> Path:
        return self.root / "cartridges" / volume

    def read_library(self) -> LibraryRecord:
        """Raises LibraryUnreachable, LibraryDamaged."""
        return self._read(self.root / "library.json", LibraryRecord)

    def read_drive(self, drive: str) -> DriveState:
        """Raises DriveMissing, LibraryUnreachable, LibraryDamaged."""
        try:
            return self._read(self.drive_record(drive), DriveState)
        except LibraryUnreachable as exc:
            if isinstance(exc.__cause__, FileNotFoundError) and (self.root / "library.json").exists():
                raise DriveMissing(library=self.library, drive=drive) from exc
            raise

    def read_cartridge(self, volume: str) -> CartridgeState:
        """Raises VolumeMissing, LibraryUnreachable, LibraryDamaged."""
        try:
            return self._read(self.root / "cartridges" / f"{volume}.json", CartridgeState)
        except LibraryUnreachable as exc:
            if isinstance(exc.__cause__, FileNotFoundError) and (self.root / "library.json").exists():
                raise VolumeMissing(library=self.library, volume=volume) from exc
            raise

    def cartridges(self) -> list[CartridgeState]:
        """All volumes, by home slot."""
        found = [self.read_cartridge(path.stem) for path in (self.root / "cartridges").glob("[!.]*.json")]
        return sorted(found, key=lambda state: state.slot)

    def write_library(self, record: LibraryRecord) -> None:
        replace_file(self.root / "library.json", msgspec.json.encode(record), self._trace)

    def write_drive(self, state: DriveState) -> None:
        replace_file(self.drive_record(state.drive), msgspec.json.encode(state), self._trace)

    def write_cartridge(self, state: CartridgeState) -> None:
        replace_file(self.root / "cartridges" / f"{state.volume}.json", msgspec.json.encode(state), self._trace)

    def _read(self, path: Path, kind: type[_Record]) -> _Record:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except OSError as exc:
            raise LibraryUnreachable(library=self.library, why=str(exc)) from exc
        except msgspec.DecodeError as exc:
            raise LibraryDamaged(library=self.library, why=f"{path.name}: {exc}") from exc
