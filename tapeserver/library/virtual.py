"""The virtual library: a changer, drives and cartridges in a directory, for tests, demonstrations and small sites.

Survives any crash of any process that uses it; several processes may use it at once. Keeps the same contract as a real
library (`tapeserver.library`), fencing included. The drive is in `virtualdrive`, the files in `virtualstate`, faults
on demand in `faults`. Never decides which volume to mount.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from catalog.durable import sync_path
from tapeserver.library import (
    Alert,
    ChangerFault,
    Delay,
    DriveBusy,
    DriveStatus,
    Fenced,
    HardwareError,
    Inventory,
    LibraryDamaged,
    Motion,
    NotReady,
    SlotStatus,
    Trace,
    VolumeBusy,
    faults,
)
from tapeserver.library.storage import LockTimeout, locked, try_lock
from tapeserver.library.virtualdrive import MEMORY_BYTES_MAX, VirtualDrive
from tapeserver.library.virtualstate import LOCK_SECONDS_MAX, CartridgeState, DriveState, LibraryRecord, Places

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_VOLUME = re.compile(r"[A-Z0-9]{1,6}")
CAPACITY_BYTES_MIN = 64 * 1024


class VirtualLibrary:
    """See `tapeserver.library.Library`, which is the contract."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        delay: Delay | None = None,
        trace: Trace | None = None,
        lock_seconds_max: float = LOCK_SECONDS_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        medium: str | None = None,
        speed: float | None = None,
    ) -> None:
        """`medium`: the drives behave as if for it ("LTO-9"), so that they tell an order of reads where such drives do.

        `speed`: they take its time too, so many times faster (1: as in life); without it, and without `delay`, none.
        Raises LibraryUnreachable when nothing is at `path`, LibraryDamaged when it is not the library `name`, or there
        is no such medium or speed.
        """
        self._places = Places(Path(path).absolute(), name, trace, lock_seconds_max)
        self._delay, self._trace = delay, trace
        self._memory_bytes_max = memory_bytes_max
        self._medium, self._speed = medium, speed
        self.name = name
        self._record()
        if delay is None and (medium is not None or speed is not None):
            self._delay = self._lifelike()

    @classmethod
    def from_spec(
        cls, spec: Mapping[str, Any], *, delay: Delay | None = None, trace: Trace | None = None
    ) -> VirtualLibrary:
        """The library of a `spec()`, which may carry `memory_bytes_max`, `medium` and `speed`."""
        return cls(
            spec["path"],
            spec["name"],
            delay=delay,
            trace=trace,
            memory_bytes_max=spec.get("memory_bytes_max", MEMORY_BYTES_MAX),
            medium=spec.get("medium"),
            speed=spec.get("speed"),
        )

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"kind": "virtual", "name": self.name, "path": os.fspath(self._places.root)}
        if self._memory_bytes_max != MEMORY_BYTES_MAX:
            spec["memory_bytes_max"] = self._memory_bytes_max
        chosen = {"medium": self._medium, "speed": self._speed}
        return spec | {key: value for key, value in chosen.items() if value is not None}

    def inventory(self) -> Inventory:
        record = self._record()
        with self._moving(shared=True):
            drives = [self._places.read_drive(drive) for drive in record.drives]
            cartridges = self._places.cartridges()
        home = {state.volume: state.slot for state in cartridges}
        away = {state.volume for state in drives}
        dead = self._dead_drives()
        inside = {state.slot: state.volume for state in cartridges if state.volume not in away}
        return Inventory(
            slots=tuple(SlotStatus(slot, inside.get(slot)) for slot in range(record.slots)),
            drives=tuple(
                DriveStatus(
                    drive=state.drive,
                    volume=state.volume,
                    epoch=_highest(state),
                    home_slot=home.get(state.volume) if state.volume else None,
                    working=state.drive not in dead,
                    detail=dead.get(state.drive, ""),
                    model=self._medium or "",
                )
                for state in drives
            ),
        )

    def mount(self, volume: str, drive: str, epoch: int) -> None:
        cartridge = self._places.read_cartridge(volume)
        self._hang("load", drive, volume)
        with self._holding(drive) as state, self._moving():
            self._refuse_mount(volume, state, epoch)
            moved = state.volume is None
            self._refuse_dead(drive)
            if moved:
                self._refuse_jammed(drive, volume)
            if cartridge.epoch != epoch:
                # The volume first: if the process dies in between, no lower epoch gets it, and a repeat goes on.
                self._places.write_cartridge(msgspec.structs.replace(cartridge, epoch=epoch))
            if (state.volume, state.epoch) != (volume, epoch):
                self._places.write_drive(msgspec.structs.replace(state, volume=volume, epoch=epoch))
        if moved and self._delay:
            self._delay(Motion.LOAD, volume, 0, 0)

    def dismount(self, drive: str, epoch: int) -> str | None:
        self._hang("unload", drive, self._places.read_drive(drive).volume)
        with self._holding(drive) as state:
            if state.volume is None and epoch <= state.fenced:
                return None
            if state.volume is not None and epoch < _highest(state):
                raise Fenced(drive=drive, epoch=epoch, why=f"it has seen epoch {_highest(state)}")
            self._places.forget_open_locks(drive)
            fenced = max(epoch, state.fenced)
            if state.volume is not None and fenced > state.fenced:
                # Before the volume moves, and whether or not it does.
                self._places.write_drive(msgspec.structs.replace(state, fenced=fenced))
            if state.volume is not None:
                self._refuse_jammed(drive, state.volume)
            with self._moving():
                self._places.write_drive(DriveState(drive=drive, volume=None, epoch=None, fenced=fenced))
        if state.volume is not None and self._delay:
            self._delay(Motion.UNLOAD, state.volume, 0, 0)
        return state.volume

    def fence(self, drive: str, epoch: int) -> None:
        with self._holding(drive) as state:
            if epoch - 1 > state.fenced:
                self._places.write_drive(msgspec.structs.replace(state, fenced=epoch - 1))

    def open(self, drive: str, epoch: int) -> VirtualDrive:
        self._refuse_open(self._places.read_drive(drive), epoch)
        self._refuse_dead(drive)
        lock = self._lock_for_this_process(drive, epoch)
        try:
            # Again under the lock: a dismount in between has removed the file that was locked.
            with self._holding(drive) as state:
                self._refuse_open(state, epoch)
            return VirtualDrive(
                self._places,
                state,
                capacity_bytes=self._places.read_cartridge(str(state.volume)).capacity_bytes,
                delay=self._delay,
                trace=self._trace,
                memory_bytes_max=self._memory_bytes_max,
                medium=self._medium,
                on_close=lambda: os.close(lock),
            )
        except BaseException:
            os.close(lock)
            raise

    def alerts(self) -> tuple[Alert, ...]:
        found = [
            Alert(code="drive_failed", severity="critical", text=why, drive=drive)
            for drive, why in sorted(self._dead_drives().items())
        ]
        for fault in faults.read_faults(self._places.root):
            if fault.kind == "jam":
                found.append(Alert(code="changer_jam", severity="critical", text=fault.text))
            elif fault.kind == "alert" and fault.drive is None and fault.volume is None:
                found.append(Alert(code=fault.code, severity=fault.severity, text=fault.text))
        return tuple(found)

    def _lifelike(self) -> Delay | None:
        # Imported here: a library without a medium has no use for models of drives.
        from tapeserver.library.lifelike import MEDIUM, Lifelike

        def capacity_of(volume: str) -> int:
            return self._places.read_cartridge(volume).capacity_bytes

        try:
            model = Lifelike(self._medium or MEDIUM, 1.0 if self._speed is None else self._speed, capacity_of)
        except (TypeError, ValueError) as exc:
            raise LibraryDamaged(library=self.name, why=str(exc)) from exc
        return None if self._speed is None else model

    def _dead_drives(self) -> dict[str, str]:
        known = faults.read_faults(self._places.root)
        return {one.drive: one.text for one in known if one.kind == "dead" and one.drive is not None}

    def _refuse_dead(self, drive: str) -> None:
        why = self._dead_drives().get(drive)
        if why is not None:
            raise HardwareError(drive=drive, why=why)

    def _refuse_jammed(self, drive: str, volume: str) -> None:
        jam = faults.find(self._places.root, "jam", drive=drive, volume=volume)
        if jam is not None and faults.use_up(self._places.root, jam):
            raise ChangerFault(library=self.name, drive=drive, volume=volume, why=jam.text)

    def _hang(self, at: faults.At, drive: str, volume: str | None) -> None:
        faults.hang(lambda: faults.find(self._places.root, "hang", drive=drive, volume=volume, at=at))

    def _record(self) -> LibraryRecord:
        record = self._places.read_library()
        if record.name != self.name:
            raise LibraryDamaged(library=self.name, why=f"the directory holds the library {record.name}")
        return record

    def _refuse_mount(self, volume: str, state: DriveState, epoch: int) -> None:
        highest = max(_highest(state), self._places.read_cartridge(volume).epoch)
        if epoch < highest or epoch <= state.fenced:
            raise Fenced(drive=state.drive, epoch=epoch, why=f"the drive or the volume has seen epoch {highest}")
        if state.volume not in (None, volume):
            raise DriveBusy(drive=state.drive, why=f"volume {state.volume} is in it")
        for other in self._record().drives:
            if other != state.drive and self._places.read_drive(other).volume == volume:
                raise VolumeBusy(volume=volume, drive=other)

    def _refuse_open(self, state: DriveState, epoch: int) -> None:
        if state.volume is None and epoch > state.fenced:
            raise NotReady(drive=state.drive, library=self.name)
        if state.epoch != epoch or epoch <= state.fenced:
            raise Fenced(drive=state.drive, epoch=epoch, why=f"it has seen epoch {_highest(state)}")

    def _lock_for_this_process(self, drive: str, epoch: int) -> int:
        path = self._places.drive_open_lock(drive, epoch)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise DriveBusy(drive=drive, why="another process has it open")
        return descriptor

    @contextlib.contextmanager
    def _holding(self, drive: str) -> Iterator[DriveState]:
        """The drive's lock, which every flush takes too, with the drive's state as it is under it."""
        self._places.read_drive(drive)
        try:
            with locked(self._places.drive_lock(drive), seconds_max=self._places.lock_seconds_max):
                yield self._places.read_drive(drive)
        except LockTimeout as exc:
            raise DriveBusy(drive=drive, why="another process holds its lock") from exc

    @contextlib.contextmanager
    def _moving(self, *, shared: bool = False) -> Iterator[None]:
        try:
            with locked(self._places.library_lock, seconds_max=self._places.lock_seconds_max, shared=shared):
                yield
        except LockTimeout as exc:
            raise DriveBusy(drive=None, why="the changer is moving", library=self.name) from exc


def _highest(state: DriveState) -> int:
    return max(state.epoch if state.epoch is not None else -1, state.fenced)


def create_virtual_library(
    path: str | os.PathLike[str], name: str, drives: int | Sequence[str], slots: int
) -> VirtualLibrary:
    """Make an empty library in the directory `path`: drives by name, or NAME-0, NAME-1 … by number.

    Safe to repeat, also after a crash midway. Raises LibraryDamaged when another library is there.
    """
    root = Path(path).absolute()
    names = tuple(f"{name}-{number}" for number in range(drives)) if isinstance(drives, int) else tuple(drives)
    for checked in (name, *names):
        if not _NAME.fullmatch(checked):
            raise ValueError(f"{checked!r} is no name for a library or a drive")
    for directory in (root, root / "drives", root / "cartridges"):
        directory.mkdir(parents=True, exist_ok=True)
        sync_path(directory.parent)
    places = Places(root, name)
    with locked(places.library_lock, seconds_max=LOCK_SECONDS_MAX):
        wanted = LibraryRecord(name=name, drives=names, slots=slots)
        if (root / "library.json").exists():
            if places.read_library() != wanted:
                raise LibraryDamaged(library=name, why=f"{root} holds another library already")
        else:
            for drive in names:
                places.write_drive(DriveState(drive=drive))
            places.write_library(wanted)
    return VirtualLibrary(root, name)


def add_cartridge(path: str | os.PathLike[str], volume: str, capacity_bytes: int) -> None:
    """Put a blank cartridge into the first free slot. Safe to repeat: a volume that is there is left as it is.

    The image grows as it is written; `capacity_bytes` is only its limit. Raises ValueError for a
    name that is no volume's (1 to 6 of A-Z 0-9), LibraryDamaged when no slot is free.
    """
    root = Path(path).absolute()
    if not _VOLUME.fullmatch(volume):
        raise ValueError(f"{volume!r} is no name for a volume")
    if capacity_bytes < CAPACITY_BYTES_MIN:
        raise ValueError(f"a cartridge has at least {CAPACITY_BYTES_MIN} bytes")
    places = Places(root, root.name)
    record = places.read_library()
    with locked(places.library_lock, seconds_max=LOCK_SECONDS_MAX):
        present = places.cartridges()
        if any(state.volume == volume for state in present):
            return
        free = sorted(set(range(record.slots)) - {state.slot for state in present})
        if not free:
            raise LibraryDamaged(library=record.name, why="no slot is free")
        places.write_cartridge(CartridgeState(volume=volume, slot=free[0], capacity_bytes=capacity_bytes))


def drive_names(path: str | os.PathLike[str], name: str) -> tuple[str, ...]:
    """The drives of the library at `path`, in the order in which they were named."""
    return Places(Path(path), name).read_library().drives
