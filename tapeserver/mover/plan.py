"""What the mover is to do: the session's messages put it in, the thread of the drive takes it out.

The one place where the two threads meet. Decides nothing; keeps the order that the session gave.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from catalog.errors import Retry
from tapeserver.frames import (
    Arrange,
    Committed,
    Drop,
    Flush,
    FromMover,
    IndexFailed,
    IndexPart,
    Load,
    Read,
    ReadFailed,
    ReadItem,
    Stop,
    ToMover,
    Verify,
    VerifyFailed,
    VerifyItem,
    Write,
    WriteFailed,
    WriteItem,
)
from tapeserver.framing import BadFrame
from tapeserver.mover.indexspool import IndexSpool

PLAN_ITEMS_MAX = 200_000
"""More files than this are refused: a session has no use for a longer plan of one mount."""

PATHS_BYTES_MAX = 8 * 1024 * 1024
"""The files of one tape file have no more in their paths: with their headers they are in memory all at once."""

_TOO_MANY = f"the plan of a mount holds at most {PLAN_ITEMS_MAX} files"


class Plan:
    """Shared by two threads; every method takes the lock itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._load: Load | None = None
        self._mounted = False
        self._changes = self._changes_seen = 0
        self._phase, self._phase_since = "idle", time.monotonic()
        self._spool: IndexSpool | None = None
        self._indexes: deque[IndexSpool] = deque()
        self._reset()

    def _reset(self) -> None:
        self._reads: deque[ReadItem] = deque()
        self._arrange: Arrange | None = None
        self._writes: deque[WriteItem] = deque()
        self._verifies: deque[VerifyItem] = deque()
        self._dropped_files: set[int] = set()
        self._dropped_archives: set[int] = set()
        self._stopping = self._flush_wanted = self._nothing_more = self._told_something = False
        self._committed = 0
        for spool in [*self._indexes, *([self._spool] if self._spool else [])]:
            spool.close()
        self._spool, self._indexes = None, deque()

    # -- the session's side --

    def apply(self, message: ToMover) -> list[FromMover]:
        """Put a message into the plan; returns what has to be answered at once. Raises BadFrame out of turn."""
        with self._changed:
            answers = self._apply(message)
            self._changes += 1
            self._changed.notify_all()
        return answers

    def _apply(self, message: ToMover) -> list[FromMover]:
        match message:
            case Load():
                if self._mounted or self._load:
                    raise BadFrame(why="Load came before Unloaded")
                self._reset()
                self._load, self._mounted = message, True
            case Read():
                return self._add_reads(message)
            case Arrange():
                self._arrange = message
            case Write():
                return self._add_writes(message)
            case Verify():
                return self._add_verifies(message)
            case IndexPart():
                return self._add_index_part(message)
            case Drop():
                self._dropped_files.update(message.file_ids)
                self._dropped_archives.update(message.archive_ids)
            case Flush():
                self._nothing_more = message.last
                self._flush_wanted = self._flush_wanted or not message.last
            case Committed():
                self._committed = max(self._committed, message.batch)
            case Stop():
                self._stopping = True
        return []

    def _add_reads(self, message: Read) -> list[FromMover]:
        if message.replace:
            self._reads.clear()
        self._dropped_files.difference_update(item.file_id for item in message.items)
        self._told_something = True
        room = PLAN_ITEMS_MAX - len(self._reads)
        self._reads.extend(message.items[:room])
        return [
            ReadFailed(
                file_id=item.file_id,
                reservation_id=item.reservation_id,
                code="too_busy",
                text=_TOO_MANY,
                retry=Retry.LATER.value,
            )
            for item in message.items[room:]
        ]

    def _add_writes(self, message: Write) -> list[FromMover]:
        self._dropped_archives.difference_update(item.archive_id for item in message.items)
        self._told_something, self._nothing_more = True, False
        room = PLAN_ITEMS_MAX - len(self._writes)
        self._writes.extend(message.items[:room])
        refused = [item.archive_id for item in message.items[room:]]
        if not refused:
            return []
        return [WriteFailed(archive_ids=refused, code="too_busy", text=_TOO_MANY, retry=Retry.LATER.value)]

    def _add_verifies(self, message: Verify) -> list[FromMover]:
        self._dropped_files.difference_update(item.file_id for item in message.items)
        self._told_something = True
        room = PLAN_ITEMS_MAX - len(self._verifies)
        self._verifies.extend(message.items[:room])
        return [VerifyFailed(file_id=item.file_id, code="too_busy", text=_TOO_MANY) for item in message.items[room:]]

    def _add_index_part(self, message: IndexPart) -> list[FromMover]:
        if message.first and self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._spool is None:
            self._spool = IndexSpool()
        self._spool.add(message)
        if not message.last:
            return []
        spool, self._spool = self._spool, None
        if spool.error is not None:
            spool.close()
            return [IndexFailed(code=spool.error.code, text=str(spool.error))]
        self._indexes.append(spool)
        return []

    def phase(self) -> tuple[str, float]:
        """What the drive does now, and for how many seconds it has been doing it."""
        return self._phase, time.monotonic() - self._phase_since

    # -- the drive's side --

    def wait_for_load(self) -> Load:
        with self._changed:
            while self._load is None:
                self._changed.wait()
            load, self._load = self._load, None
            return load

    def unloaded(self) -> None:
        """The mount is over: the next Load may come."""
        with self._changed:
            self._mounted = False
        self.enter("idle")

    def enter(self, phase: str) -> None:
        self._phase, self._phase_since = phase, time.monotonic()

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def committed(self) -> int:
        """The newest batch that is in the catalog."""
        return self._committed

    def next_read(self) -> ReadItem | None:
        """Take the next file to read; None when there is none now."""
        with self._changed:
            while self._reads:
                item = self._reads.popleft()
                if item.file_id not in self._dropped_files:
                    return item
            return None

    def next_question(self) -> Arrange | None:
        """Take the question after the drive's own order; None when there is none."""
        with self._changed:
            question, self._arrange = self._arrange, None
            return question

    def next_writes(self, files_max: int) -> list[WriteItem]:
        """Take what goes into the next tape file: a file, or the neighbours of one bundle, at most so many.

        Empty when there is nothing now.
        """
        taken: list[WriteItem] = []
        path_bytes = 0
        with self._changed:
            while self._writes and len(taken) < files_max and path_bytes < PATHS_BYTES_MAX:
                bundle = self._writes[0].bundle
                if taken and (bundle == 0 or bundle != taken[0].bundle):
                    break
                item = self._writes.popleft()
                path_bytes += len(item.record.path)
                if item.archive_id not in self._dropped_archives:
                    taken.append(item)
        return taken

    def next_verify(self) -> VerifyItem | None:
        """Take the next copy to read back; None when there is none now."""
        with self._changed:
            while self._verifies:
                item = self._verifies.popleft()
                if item.file_id not in self._dropped_files:
                    return item
            return None

    def next_index(self) -> IndexSpool | None:
        """Take an index that came whole; None when there is none. Who takes it closes it."""
        with self._changed:
            return self._indexes.popleft() if self._indexes else None

    def read_dropped(self, file_id: int) -> bool:
        return file_id in self._dropped_files

    def write_dropped(self, archive_id: int) -> bool:
        return archive_id in self._dropped_archives

    def flush_wanted(self) -> bool:
        """Whether a flush was asked for since the last call."""
        wanted, self._flush_wanted = self._flush_wanted, False
        return wanted

    @property
    def nothing_more(self) -> bool:
        """Whether the session has said that nothing follows which a flush could wait for."""
        return self._nothing_more

    def ran_empty(self) -> bool:
        """True once each time nothing is left of what the session told."""
        with self._changed:
            if self._reads or self._writes or self._verifies or not self._told_something:
                return False
            self._told_something = False
            return True

    def wait(self, seconds: float) -> None:
        """Until the session says something, a stream calls `wake`, or the time is over.

        Returns at once when that happened since the last call: nothing is slept through.
        """
        with self._changed:
            if self._changes == self._changes_seen:
                self._changed.wait(seconds)
            self._changes_seen = self._changes

    def wake(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()
