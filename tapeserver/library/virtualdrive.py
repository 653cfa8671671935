"""A drive of the virtual library: the head, the epoch, what a drive refuses, and where its faults strike.

The medium itself is in `cartridge`, the changer in `virtual`. Before each read the drive looks whether it still has its
volume under its epoch; each change of the medium happens under the drive's lock after comparing the epoch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from tapeserver.library import (
    Alert,
    BeginningOfMedium,
    Delay,
    DriveBusy,
    EndOfData,
    Fenced,
    HardwareError,
    MediumError,
    Motion,
    NotReady,
    Position,
    Trace,
    WriteError,
)
from tapeserver.library.alerts import tape_alert
from tapeserver.library.cartridge import Cartridge
from tapeserver.library.faults import At, FaultWatch
from tapeserver.library.storage import LockTimeout, locked
from tapeserver.library.virtualstate import DriveState, Places

MEMORY_BYTES_MAX = 64 * 1024 * 1024
"""How much may be written and not yet in the image; beyond it the oldest goes there, without an fsync."""

RESERVE_BYTES_MAX = 64 * 1024 * 1024
"""Room behind the early-warning point for trailers and an index; a sixteenth of a volume too small for it."""

RESERVE_BYTES_MIN = 2 * 1024 * 1024
"""Some blocks must fit behind the warning; an eighth of a volume too small even for this."""

HARD_ERROR, WRITE_FAILURE, HARDWARE_A = 3, 6, 30
"""The TapeAlert flags that it raises by itself."""


class VirtualDrive:
    """See `tapeserver.library.Drive`, which is the contract."""

    def __init__(
        self,
        places: Places,
        state: DriveState,
        *,
        capacity_bytes: int,
        delay: Delay | None,
        trace: Trace | None,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        medium: str | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        if state.volume is None or state.epoch is None:
            raise NotReady(drive=state.drive, library=places.library)
        self.name, self.volume, self.epoch = state.drive, state.volume, state.epoch
        self._places = places
        self._record = os.fspath(places.drive_record(self.name))
        self._seen: tuple[int, int] | None = None
        self._nominal_bytes = capacity_bytes
        self._delay, self._medium = delay, medium
        self._on_close = on_close
        self._faults = FaultWatch(places.root, self.name, self.volume)
        self._cartridge = Cartridge(
            places.cartridge_stem(self._faults.image), guard=self._guard, memory_bytes_max=memory_bytes_max, trace=trace
        )
        self._block: int | None = 0
        self._warning = False
        self._open = True
        #: the power was lost: this drive answers again once it is opened anew
        self._dark = False
        self._flags: set[int] = set()

    # -- what the drive knows --

    @property
    def end_of_medium_warning(self) -> bool:
        return self._warning

    @property
    def capacity_bytes(self) -> int | None:
        return self._nominal_bytes

    @property
    def remaining_bytes(self) -> int | None:
        if self._block is None:
            return None
        self._faults.refresh()
        return max(0, self._warning_offset() - self._cartridge.offset(self._block))

    def alerts(self) -> tuple[Alert, ...]:
        own = [tape_alert(flag, drive=self.name, volume=self.volume) for flag in sorted(self._flags)]
        told = [
            Alert(code=one.code, severity=one.severity, text=one.text, drive=self.name, volume=self.volume)
            for one in self._faults.alerts()
        ]
        return (*own, *told)

    def position(self) -> Position | None:
        self._enter("locate")
        self._check_mine()
        if self._block is None:
            return None
        return Position(self._block, at_end_of_data=self._block == self._cartridge.count)

    # -- motion --

    def rewind(self) -> None:
        self._settle()
        self._move(0)

    def locate(self, block: int) -> None:
        if block < 0:
            raise ValueError(f"there is no block {block}")
        self._settle()
        end = self._cartridge.count
        self._move(min(block, end))
        if block > end:
            raise EndOfData(block=end)

    def space_marks(self, count: int) -> None:
        head = self._settle()
        step = 1 if count > 0 else -1
        missing, block = abs(count), head
        while missing:
            at = block if step > 0 else block - 1
            if step > 0 and at >= self._cartridge.count:
                self._move(at)
                raise EndOfData(block=at)
            if at < 0:
                self._move(0)
                raise BeginningOfMedium(missing=missing, block=0)
            missing -= self._cartridge.is_mark(at)
            block += step
        self._move(block)

    def space_to_end(self) -> None:
        self._settle()
        self._move(self._cartridge.count)

    def recommended_order(self, segments: Sequence[tuple[int, int]]) -> Sequence[int] | None:
        self._enter("locate")
        self._check_mine()
        if self._block is None or self._medium is None:
            return None
        # Imported here: most movers never ask, and it takes a while.
        from tapeserver.library.lifelike import recommended_order

        end, offset = self._cartridge.count, self._cartridge.offset
        places = [(offset(min(first, end)), offset(min(first + count, end))) for first, count in segments]
        return recommended_order(self._medium, self._nominal_bytes, offset(self._block), places)

    # -- data --

    def read_block(self) -> bytes:
        block = self._before_read()
        data = self._cartridge.read(block)
        self._after_transfer(block)
        return data

    def read_into(self, buffer: bytearray | memoryview) -> int:
        block = self._before_read()
        length = self._cartridge.read_into(block, buffer)
        self._after_transfer(block)
        return length

    def write_block(self, data: bytes | bytearray | memoryview) -> None:
        self._enter("write")
        block = self._known_block()
        if self._faults.write_fails():
            self._flags.add(WRITE_FAILURE)
            self._lose()
            raise WriteError(volume=self.volume, block=block, why="fault on demand")
        with self._losing_on_failure():
            self._cartridge.append_block(block, data, self._faults.capacity_bytes(self._nominal_bytes))
        self._after_transfer(block)
        self._warning = self._cartridge.offset(block + 1) > self._warning_offset()

    def write_marks(self, count: int) -> None:
        for _ in range(count):
            self._enter("mark")
            block = self._known_block()
            with self._losing_on_failure():
                self._cartridge.append_mark(block, self._faults.capacity_bytes(self._nominal_bytes))
            self._block = block + 1
            self._warning = self._cartridge.offset(block + 1) > self._warning_offset()
            self._spend(Motion.MARK, block)

    def flush(self) -> None:
        self._enter("flush")
        if self._faults.flush_fails() and self._cartridge.unflushed:
            self._flags.add(WRITE_FAILURE)
            self._lose()
            raise WriteError(volume=self.volume, block=self._cartridge.count, why="fault on demand")
        with self._losing_on_failure():
            self._cartridge.flush()
        if self._block is not None:
            self._spend(Motion.FLUSH, self._block)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._cartridge.close()
            self._on_close()

    # -- epoch --

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the drive's lock with the epoch compared under it: nobody takes the volume away meanwhile."""
        try:
            with locked(self._places.drive_lock(self.name), seconds_max=self._places.lock_seconds_max):
                self._compare(self._places.read_drive(self.name))
                yield
        except LockTimeout as exc:
            raise DriveBusy(drive=self.name, why="another process holds its lock") from exc

    def _check_mine(self) -> None:
        """Compare the epoch if the drive's record changed since it was last seen; costs a stat."""
        try:
            status = os.stat(self._record)
        except OSError as exc:
            raise NotReady(drive=self.name) from exc
        seen = (status.st_ino, status.st_mtime_ns)
        if seen != self._seen:
            self._compare(self._places.read_drive(self.name))
            self._seen = seen

    def _compare(self, state: DriveState) -> None:
        if state.volume == self.volume and state.epoch == self.epoch and state.fenced < self.epoch:
            return
        self._block = None
        newest = max(state.epoch or 0, state.fenced)
        raise Fenced(drive=self.name, epoch=self.epoch, why=f"it has seen epoch {newest}")

    # -- faults --

    def _enter(self, at: At) -> None:
        """What may come between asking for an operation and its beginning: no power, a dead drive, a hang."""
        if self._dark:
            raise HardwareError(drive=self.name, why="it has lost its power; what was not flushed is gone")
        if not self._faults.refresh():
            return
        self._faults.hang(at, self._check_mine)
        dead = self._faults.of("dead")
        if dead is not None:
            self._flags.add(HARDWARE_A)
            self._block = None
            raise HardwareError(drive=self.name, why=dead.text)
        kept = self._faults.power_fails(at)
        if kept is not None:
            self._dark = True
            self._block = None
            self._cartridge.lose_power(kept)
            raise HardwareError(drive=self.name, why="it has lost its power")

    # -- head --

    def _known_block(self) -> int:
        if self._block is None:
            raise WriteError(volume=self.volume, block=None, why="the position is unknown since an earlier error")
        return self._block

    def _settle(self) -> int:
        """Before any motion: nothing unflushed, and what was lost by an error is read anew. Returns the position."""
        self._enter("locate")
        self._check_mine()
        if self._block is None:
            self._cartridge.load()
            return 0
        if self._cartridge.unflushed:
            self.flush()
        return self._block

    def _move(self, block: int) -> None:
        if self._delay and block != self._block:
            self._delay(
                Motion.LOCATE, self.volume, self._cartridge.offset(self._block or 0), self._cartridge.offset(block)
            )
        if block != self._block:
            self._cartridge.stop_appending()
        self._block = block
        self._warning = False

    def _before_read(self) -> int:
        self._enter("read")
        self._check_mine()
        if self._cartridge.unflushed:
            self.flush()
        block = self._known_block()
        if self._faults.unreadable(block):
            self._flags.add(HARD_ERROR)
            self._pass(block)
            raise MediumError(volume=self.volume, block=block, drive=self.name)
        if block < self._cartridge.count:
            # Mark, unreadable or too long: the head stands behind the object whatever the read says.
            self._pass(block)
        return block

    def _pass(self, block: int) -> None:
        self._block = block + 1
        self._cartridge.stop_appending()

    def _after_transfer(self, block: int) -> None:
        self._block = block + 1
        self._faults.slow_down(self._cartridge.offset(block + 1) - self._cartridge.offset(block))
        self._spend(Motion.TRANSFER, block)

    def _spend(self, motion: Motion, block: int) -> None:
        if self._delay:
            self._delay(motion, self.volume, self._cartridge.offset(block), self._cartridge.offset(block + 1))

    def _warning_offset(self) -> int:
        capacity = self._faults.capacity_bytes(self._nominal_bytes)
        return capacity - min(RESERVE_BYTES_MAX, max(capacity // 16, min(RESERVE_BYTES_MIN, capacity // 8)))

    @contextlib.contextmanager
    def _losing_on_failure(self) -> Iterator[None]:
        try:
            yield
        except (WriteError, Fenced, DriveBusy):
            self._lose()
            raise

    def _lose(self) -> None:
        self._block = None
        self._cartridge.forget_unflushed()
