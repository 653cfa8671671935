"""Cache to tape: write the files of the plan as tape files, flush by policy, report only what a flush has made sure.

The thread of the drive runs this. A file that goes wrong midway is closed with an ABORTED trailer and is dead; nothing
is ever written over it. After a write or flush error everything since the last good flush is reported as failed.
"""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable

from catalog.errors import CapstanError, Retry, TapeError
from tapeserver import labels, paxformat
from tapeserver.frames import DeadExtent, Idle, Load, Progress, WriteFailed, WriteItem, Written, WrittenItem
from tapeserver.labels import FileLabel
from tapeserver.library import Drive, HardwareError, VolumeOverflow
from tapeserver.mover.bulkhttp import place_of
from tapeserver.mover.fetchers import Begun, Block, CacheFetcher, Ended, Message, Refused
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.volume import End
from tapeserver.paxformat import Member, archive_bytes
from tapeserver.tapeformat import Extent, data_blocks

FILES_AHEAD_MAX = 256
POLL_SECONDS = 0.5
PROGRESS_SECONDS = 0.5
LABEL_ROOM_BYTES = 4096
"""What the labels and marks of a tape file may take on the medium, generously."""

BLOCK_ROOM_BYTES = 16
"""What a block may take on the medium beyond its data."""


class Dropped(CapstanError):
    """The session dropped the file."""

    code = "dropped"


class VolumeFull(TapeError):
    """Volume {volume} has no room for {size} bytes."""

    code, retry = "volume_full", Retry.NEVER


class Archive:
    """The writing part of one mount. The head stands at the end of the volume, which is `end`."""

    def __init__(
        self,
        drive: Drive,
        load: Load,
        plan: Plan,
        outbox: Outbox,
        end: End,
        *,
        today: Callable[[], datetime.date],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drive, self._load, self._plan, self._outbox = drive, load, plan, outbox
        self._today, self._clock = today, clock
        self._tape_files, self._end_block = end.tape_files, end.end_block
        self._fetchers: dict[str, CacheFetcher] = {}
        self._ahead: deque[tuple[WriteItem, CacheFetcher, int]] = deque()  # with the length of the archive header
        self._full: VolumeFull | None = None
        self._batch = 0
        self._progress_at = clock()
        self._start_batch()

    def _start_batch(self) -> None:
        self._unflushed: list[WrittenItem] = []
        self._dead: list[DeadExtent] = []
        self._unflushed_bytes = 0
        self._unflushed_since = 0.0

    def run(self) -> None:
        """Until the session says Stop. Raises what the drive raises when it can do no more."""
        while not self._plan.stopping:
            self._fetch_ahead()
            if self._flush_due():
                self._flush()
            elif not self._ahead:
                self._rest()
            elif self._batch - self._plan.committed >= self._load.uncommitted_batches_max:
                self._plan.enter("wait")
                self._plan.wait(POLL_SECONDS)
            else:
                self._write_next()
        self._flush()

    def close(self) -> None:
        for fetcher in self._fetchers.values():
            fetcher.close()

    # -- what comes in --

    def _fetch_ahead(self) -> None:
        while len(self._ahead) < FILES_AHEAD_MAX:
            item = self._plan.next_write()
            if item is None:
                return
            if self._full is not None:
                self._refuse(item, self._full)
                continue
            try:
                header = paxformat.build_member(_member(item, self._load))
                fetcher = self._fetcher(item.cache_url)
            except ValueError as exc:
                self._refuse(item, paxformat.BadMember(why=str(exc)))
            except CapstanError as exc:
                self._refuse(item, exc)
            else:
                fetcher.add(item, header)
                self._ahead.append((item, fetcher, len(header)))

    def _fetcher(self, url: str) -> CacheFetcher:
        place = place_of(url)
        found = self._fetchers.get(place)
        idle = not any(fetcher is found for _, fetcher, _ in self._ahead)
        if found is not None and idle and not found.usable:
            found.close()
            found = None
        if found is None:
            found = self._fetchers[place] = CacheFetcher(url, self._load.block_size)
        return found

    def _refuse(self, item: WriteItem, error: CapstanError) -> None:
        self._outbox.send(
            WriteFailed(
                archive_ids=[item.archive_id],
                code=error.code,
                text=str(error),
                volume_full=isinstance(error, VolumeFull),
                retry=error.retry.value,
            )
        )

    def _rest(self) -> None:
        if self._has_unflushed():
            self._flush()  # nothing is left to write: what is there becomes safe now
            return
        self._plan.enter("idle")
        if self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(POLL_SECONDS)

    # -- one file --

    def _write_next(self) -> None:
        item, fetcher, header_bytes = self._ahead[0]
        message = fetcher.get(POLL_SECONDS)
        if message is None:
            self._plan.enter("wait")
            return
        self._ahead.popleft()
        if isinstance(message, Refused):
            if not self._plan.write_dropped(item.archive_id):
                self._refuse(item, message.error)
            return
        assert isinstance(message, Begun), message
        assert message.item is item, "the fetcher gives the files in the order in which they were added"
        if self._plan.write_dropped(item.archive_id):
            self._discard(fetcher)
            return
        # Asking for the room is a call of the drive too, which may not return.
        self._plan.enter("write")
        if not self._has_room(item, header_bytes):
            self._discard(fetcher)
            self._declare_full(item)
            return
        try:
            self._write_file(item, fetcher, header_bytes)
        except TapeError as exc:
            self._give_up(item, exc)
            raise

    def _write_file(self, item: WriteItem, fetcher: CacheFetcher, header_bytes: int) -> None:
        self._plan.enter("write")
        label = self._label(item)
        first_block = self._end_block
        try:
            for block in labels.build_file(label):
                self._drive.write_block(block)
            self._drive.write_marks(1)
            blocks, error = self._write_data(item, fetcher, first_block)
            trailer = label.closed(block_count=blocks, file_count=0 if error else 1, aborted=error is not None)
            self._drive.write_marks(1)
            for block in labels.build_file(trailer):
                self._drive.write_block(block)
            self._drive.write_marks(1)
        except VolumeOverflow:
            # The medium ended without a warning. There is no trailer, so this is no tape file: the next mount writes
            # over it. What was whole before it can still be flushed.
            self._discard(fetcher)
            self._declare_full(item)
            return
        extent = Extent(first_block=first_block, data_blocks=blocks)
        self._tape_files, self._end_block = label.sequence, extent.end_block
        if not self._has_unflushed():
            self._unflushed_since = self._clock()
        if error is None:
            self._keep(item, extent, header_bytes)
        else:
            self._bury(item, extent, error)

    def _write_data(self, item: WriteItem, fetcher: CacheFetcher, first_block: int) -> tuple[int, CapstanError | None]:
        """Write the blocks as they come; returns how many, and why the file is not good."""
        blocks = 0
        while True:
            self._plan.enter("wait")
            message = self._wait_for(fetcher)
            self._plan.enter("write")
            if isinstance(message, Ended):
                return blocks, message.error
            assert isinstance(message, Block)
            try:
                self._drive.write_block(memoryview(message.buffer)[: message.length])
            finally:
                fetcher.give_back(message.buffer)
            blocks += 1
            self._tell_progress(item, blocks, first_block)
            if self._drive.end_of_medium_warning and message.length == self._load.block_size:
                self._discard(fetcher)
                return blocks, VolumeFull(volume=self._load.volume, size=item.record.size)
            if self._plan.write_dropped(item.archive_id):
                self._discard(fetcher)
                return blocks, Dropped()

    def _keep(self, item: WriteItem, extent: Extent, header_bytes: int) -> None:
        self._unflushed.append(
            WrittenItem(
                archive_id=item.archive_id,
                tape_file=self._tape_files,
                first_block=extent.first_block,
                byte_offset=header_bytes,
                length=item.record.size,
            )
        )
        self._unflushed_bytes += archive_bytes(header_bytes, item.record.size)

    def _bury(self, item: WriteItem, extent: Extent, error: CapstanError) -> None:
        self._dead.append(
            DeadExtent(
                tape_file=self._tape_files,
                first_block=extent.first_block,
                blocks=extent.end_block - extent.first_block,
                why=f"{error.code}: {error}",
            )
        )
        if isinstance(error, VolumeFull):
            self._declare_full(item)
        else:
            self._refuse(item, error)

    def _label(self, item: WriteItem) -> FileLabel:
        return FileLabel(
            volume=self._load.volume,
            identifier=f"{item.record.file_id:016X}",
            sequence=self._tape_files + 1,
            generation=self._load.generation,
            catalog=labels.catalog_mark(self._load.catalog_id),
            block_size=self._load.block_size,
            epoch=self._load.epoch,
            created=self._today(),
        )

    def _wait_for(self, fetcher: CacheFetcher) -> Message:
        while True:
            message = fetcher.get(POLL_SECONDS)
            if message is not None:
                return message

    def _discard(self, fetcher: CacheFetcher) -> None:
        """Let the rest of the present file pass."""
        while True:
            message = self._wait_for(fetcher)
            if isinstance(message, Block):
                fetcher.give_back(message.buffer)
            else:
                return

    # -- the end of the medium --

    def _has_room(self, item: WriteItem, header_bytes: int) -> bool:
        if self._drive.end_of_medium_warning:
            return False
        remaining = self._drive.remaining_bytes
        size = archive_bytes(header_bytes, item.record.size)
        blocks = data_blocks(size, self._load.block_size)
        return remaining is None or size + blocks * BLOCK_ROOM_BYTES + LABEL_ROOM_BYTES <= remaining

    def _declare_full(self, item: WriteItem) -> None:
        """Nothing more is written on this volume: make sure of what is there, and refuse the rest."""
        self._full = VolumeFull(volume=self._load.volume, size=item.record.size)
        self._flush()
        for refused in [item, *(ahead for ahead, _, _ in self._ahead)]:
            self._refuse(refused, self._full)
        self._ahead.clear()
        self.close()
        self._fetchers.clear()

    # -- flush and report --

    def _has_unflushed(self) -> bool:
        return bool(self._unflushed or self._dead)

    def _flush_due(self) -> bool:
        if not self._has_unflushed():
            return False
        load = self._load
        return (
            self._unflushed_bytes >= load.flush_bytes
            or len(self._unflushed) >= load.flush_files
            or self._clock() - self._unflushed_since >= load.flush_seconds
            or self._plan.flush_wanted()
        )

    def _flush(self) -> None:
        """Make sure of what was written, then report it. Raises what the drive raises, after reporting the loss."""
        if not self._has_unflushed():
            return
        self._plan.enter("flush")
        try:
            self._drive.flush()
            self._check_position()
        except TapeError as exc:
            self._give_up(None, exc)
            raise
        self._batch += 1
        self._outbox.send(
            Written(
                batch=self._batch,
                items=self._unflushed,
                tape_files=self._tape_files,
                end_block=self._end_block,
                written_bytes=self._unflushed_bytes,
                dead=self._dead,
            )
        )
        self._start_batch()

    def _check_position(self) -> None:
        position = self._drive.position()
        if position is not None and position.block != self._end_block and self._full is None:
            why = f"it stands at block {position.block}, and {self._end_block} was computed"
            raise HardwareError(drive=self._drive.name, why=why)

    def _give_up(self, item: WriteItem | None, error: TapeError) -> None:
        """Everything since the last good flush is lost."""
        lost = [written.archive_id for written in self._unflushed] + ([item.archive_id] if item else [])
        self._start_batch()
        if lost:
            self._outbox.send(WriteFailed(archive_ids=lost, code=error.code, text=str(error), retry=error.retry.value))

    def _tell_progress(self, item: WriteItem, blocks: int, first_block: int) -> None:
        now = self._clock()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            count = min(blocks * self._load.block_size, item.record.size)
            self._outbox.send(Progress(file_id=item.record.file_id, bytes=count, block=first_block + blocks))


def _member(item: WriteItem, load: Load) -> Member:
    record = item.record
    return Member(
        path=record.path,
        size=record.size,
        mtime_ns=record.mtime_ns,
        mode=record.mode,
        owner=record.owner,
        group=record.group,
        storage_class=record.storage_class,
        adler32=record.adler32,
        file_id=record.file_id,
        generation=load.generation,
        catalog_id=load.catalog_id.upper(),
        copy_number=item.copy_number,
        digests=record.digests,
    )
