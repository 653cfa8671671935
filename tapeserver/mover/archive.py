"""Cache to tape: write the files of the plan as tape files, flush by policy, report only what a flush has made sure.

The thread of the drive runs this. A bundle ends at the first member that goes wrong, and keeps those before it. A tape
file without a good member is closed with an ABORTED trailer and is dead; nothing is ever written over it. After a write
or flush error everything since the last good flush is reported as failed.
"""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from catalog.errors import CapstanError, TapeError
from tapeserver.format import bundles, pax
from tapeserver.format.bundles import MEMBERS_MAX
from tapeserver.format.labels import FileLabel, Kind
from tapeserver.format.objects import days_ns
from tapeserver.frames import Idle, IndexFailed, Load, Progress, WriteFailed, WriteItem
from tapeserver.library import Drive, VolumeOverflow
from tapeserver.mover.bulkhttp import place_of
from tapeserver.mover.fetchers import CacheFetcher
from tapeserver.mover.incoming import Begun, Block, Ended, Message, Over, Part, Refused, part_of
from tapeserver.mover.indexing import write_index
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.unflushed import Unflushed, recorded
from tapeserver.mover.volume import End
from tapeserver.mover.volumeend import FileTooLarge, VolumeEnd, VolumeFull

FILES_AHEAD_MAX = 1000
"""Whole tape files are taken from the plan while fewer files than this are ahead of the drive. So at most 999 +
MEMBERS_MAX files are, with their archive headers (about 2 KiB each, and plan.PATHS_BYTES_MAX of long paths at most);
of their data fetchers.BUFFER_BYTES_MAX for each cache server."""

LOST_IDS_MAX = 100_000
"""So many archives that a failed flush has lost are told in one message: a megabyte at most."""

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 0.5


class Dropped(CapstanError):
    """The session dropped the file."""

    code = "dropped"


@dataclass(slots=True)
class _Ahead:
    """What was given to a fetcher together: the files that are not reported yet."""

    items: dict[int, WriteItem]
    files: int
    fetcher: CacheFetcher


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
        previous_index: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`previous_index`: HDR1 of the newest index on the volume, 0 when there is none."""
        self._drive, self._load, self._plan, self._outbox = drive, load, plan, outbox
        self._clock = clock
        self._end = VolumeEnd(drive, load, end, previous_index=previous_index, today=today)
        self._fetchers: dict[str, CacheFetcher] = {}
        self._ahead: deque[_Ahead] = deque()
        self._files_ahead = 0
        self._full: VolumeFull | None = None
        self._batch = 0
        self._progress_at = clock()
        self._unflushed = Unflushed(load, clock)

    def run(self) -> None:
        """Until the session says Stop. Raises what the drive raises when it can do no more."""
        while not self._plan.stopping:
            self._fetch_ahead()
            if self._unflushed and (self._unflushed.due() or self._plan.flush_wanted()):
                self._flush()
            elif not self._ahead:
                self._rest()
            elif self._batch - self._plan.committed >= self._load.uncommitted_batches_max:
                self._plan.enter("wait")
                self._plan.wait(POLL_SECONDS)
            else:
                self._write_next()
        self._flush()
        self._write_indexes()  # one that came whole before Stop was asked for

    def close(self) -> None:
        for fetcher in self._fetchers.values():
            fetcher.close()

    # -- what comes in --

    def _fetch_ahead(self) -> None:
        while self._files_ahead < FILES_AHEAD_MAX:
            items = self._plan.next_writes(MEMBERS_MAX)
            if not items:
                return
            if self._full is not None:
                self._refuse(items, self._full)
                continue
            # What one cache server has of a bundle comes in one stream, and goes into one tape file.
            places: dict[str, list[WriteItem]] = {}
            for item in items:
                places.setdefault(place_of(item.cache_url), []).append(item)
            for place, group in places.items():
                self._fetch(place, group)

    def _fetch(self, place: str, items: Sequence[WriteItem]) -> None:
        parts: list[Part] = []
        for item in items:
            try:
                parts.append(part_of(item, self._load))
            except ValueError as exc:
                self._refuse([item], pax.BadMember(why=str(exc)))
                continue
            size = pax.archive_bytes(len(parts[-1].headers), item.record.size)
            if not self._end.may_fit(size):
                # It would fill no volume: all of them, one after the other, would be taken for full.
                del parts[-1]
                self._refuse([item], FileTooLarge(volume=self._load.volume, size=size))
        if not parts:
            return
        try:
            fetcher = self._fetcher(place, items[0].cache_url)
        except CapstanError as exc:
            self._refuse([part.item for part in parts], exc)
            return
        fetcher.add(parts)
        self._ahead.append(_Ahead({part.item.archive_id: part.item for part in parts}, len(parts), fetcher))
        self._files_ahead += len(parts)

    def _fetcher(self, place: str, url: str) -> CacheFetcher:
        found = self._fetchers.get(place)
        idle = not any(ahead.fetcher is found for ahead in self._ahead)
        if found is not None and idle and not found.usable:
            found.close()
            found = None
        if found is None:
            found = CacheFetcher(url, self._load.block_size, dropped=self._plan.write_dropped)
            self._fetchers[place] = found
        return found

    def _refuse(self, items: Iterable[WriteItem], error: CapstanError) -> None:
        refused = WriteFailed(
            archive_ids=[item.archive_id for item in items],
            code=error.code,
            text=str(error),
            volume_full=isinstance(error, VolumeFull),
            retry=error.retry.value,
        )
        if refused.archive_ids:
            self._outbox.send(refused)

    def _rest(self) -> None:
        if self._unflushed:
            # What comes little by little shares a flush; when nothing has come for a while, what is there becomes safe.
            seconds = self._unflushed.patience_seconds()
            if seconds <= 0 or self._plan.nothing_more:
                self._flush()
                return
            self._plan.enter("idle")
            self._plan.wait(min(POLL_SECONDS, seconds))
            return
        self._write_indexes()
        self._plan.enter("idle")
        if self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(POLL_SECONDS)

    # -- one tape file --

    def _write_next(self) -> None:
        ahead = self._ahead[0]
        message = ahead.fetcher.get(POLL_SECONDS)
        match message:
            case None:
                self._plan.enter("wait")
            case Over():
                # Those that are left were dropped before they were asked for: nobody waits for a word of them.
                self._ahead.popleft()
                self._files_ahead -= ahead.files
            case Refused():
                for item in message.items:
                    del ahead.items[item.archive_id]
                wanted = [item for item in message.items if not self._plan.write_dropped(item.archive_id)]
                self._refuse(wanted, message.error)
            case Begun():
                self._begin(ahead, message)
            case _:
                raise AssertionError(f"{message} came before a tape file began")

    def _begin(self, ahead: _Ahead, begun: Begun) -> None:
        if _dropped(begun, self._plan):
            del ahead.items[begun.parts[0].item.archive_id]
            self._discard(ahead.fetcher)
            return
        # Asking for the room is a call of the drive too, which may not return.
        self._plan.enter("write")
        if not self._end.has_room(_first_bytes(begun)):
            self._declare_full(begun)
            return
        try:
            self._write_tape_file(ahead, begun)
        except TapeError as exc:
            present = [part.item for part in begun.parts if part.item.archive_id in ahead.items]
            self._give_up([item.archive_id for item in present], exc)
            raise

    def _write_tape_file(self, ahead: _Ahead, begun: Begun) -> None:
        try:
            label = self._end.begin(Kind.DATA, f"{begun.parts[0].item.record.file_id:016X}")
            good, written_bytes, error = self._write_data(begun, ahead.fetcher, self._list_headers(begun, label))
            extent = self._end.close(good)
        except VolumeOverflow:
            # The medium ended without a warning. There is no trailer, so this is no tape file: the next mount writes
            # over it. What was whole before it can still be flushed.
            self._declare_full(begun)
            return
        self._unflushed.add(
            recorded(begun, self._end.tape_files, extent, good=good, written_bytes=written_bytes, error=error)
        )
        for part in begun.parts[:good]:
            del ahead.items[part.item.archive_id]
        if isinstance(error, VolumeFull):
            self._declare_full(begun)
        elif error is not None:
            # What stood behind it in the bundle comes again, as another tape file.
            failed = begun.parts[good].item
            del ahead.items[failed.archive_id]
            self._refuse([failed], error)

    def _write_data(
        self, begun: Begun, fetcher: CacheFetcher, list_headers: bytes
    ) -> tuple[int, int, CapstanError | None]:
        """Write the blocks as they come; returns how many files are good, the bytes, and why the next is not good."""
        good = written = 0
        room = self._end.remaining_bytes(len(begun.parts))
        while True:
            self._plan.enter("wait")
            message = self._wait_for(fetcher)
            self._plan.enter("write")
            if isinstance(message, Ended):
                return message.good, written, message.error
            assert isinstance(message, Block), message
            block = message.buffer[: message.length]
            if written < len(list_headers):
                blank = list_headers[written : written + message.length]
                block[: len(blank)] = blank
            try:
                self._end.write(block)
            finally:
                fetcher.give_back(message.buffer)
            good = message.good
            written += message.length
            self._tell_progress(begun, good, written)
            if (self._drive.end_of_medium_warning or (good and written > room)) and good < len(begun.parts):
                return good, written, self._volume_full(begun)
            if _dropped(begun, self._plan):
                self._discard(fetcher)
                return 0, written, Dropped()

    def _list_headers(self, begun: Begun, label: FileLabel) -> bytes:
        """The headers of a bundle's list, for which its first block has room."""
        if not begun.layout.list_data:
            return b""
        member = bundles.list_member(
            begun.layout,
            volume=label.volume,
            generation=label.generation,
            catalog_id=self._load.catalog_id.upper(),
            tape_file=label.sequence,
            mtime_ns=days_ns(label.created),
        )
        return pax.build_own(member)

    def _wait_for(self, fetcher: CacheFetcher) -> Message:
        while True:
            message = fetcher.get(POLL_SECONDS)
            if message is not None:
                return message

    def _discard(self, fetcher: CacheFetcher) -> None:
        """Let the rest of the present tape file pass."""
        while isinstance(message := self._wait_for(fetcher), Block):
            fetcher.give_back(message.buffer)

    # -- the end of the medium --

    def _volume_full(self, begun: Begun) -> VolumeFull:
        return VolumeFull(volume=self._load.volume, size=begun.layout.archive_bytes)

    def _declare_full(self, begun: Begun) -> None:
        """No more files are written on this volume: make sure of what is there, and refuse the rest."""
        self._full = self._volume_full(begun)
        self._flush()
        refused = [item for ahead in self._ahead for item in ahead.items.values()]
        self._ahead.clear()
        self._files_ahead = 0
        self.close()
        self._fetchers.clear()
        self._refuse((item for item in refused if not self._plan.write_dropped(item.archive_id)), self._full)

    # -- flush and report --

    def _flush(self) -> None:
        """Make sure of what was written, then report it. Raises what the drive raises, after reporting the loss."""
        if not self._unflushed:
            return
        self._plan.enter("flush")
        try:
            self._end.flush()
        except TapeError as exc:
            self._give_up([], exc)
            raise
        for written in self._unflushed.take(self._batch + 1):
            self._batch = written.batch
            self._outbox.send(written)

    def _give_up(self, archive_ids: list[int], error: TapeError) -> None:
        """Everything since the last good flush is lost, and what is being written."""
        lost = self._unflushed.archive_ids + archive_ids
        self._unflushed.clear()
        # There may be millions, which no frame holds.
        for at in range(0, len(lost), LOST_IDS_MAX):
            page = lost[at : at + LOST_IDS_MAX]
            self._outbox.send(WriteFailed(archive_ids=page, code=error.code, text=str(error), retry=error.retry.value))

    def _write_indexes(self) -> None:
        while (spool := self._plan.next_index()) is not None:
            self._plan.enter("write")
            try:
                self._outbox.send(write_index(self._end, spool, self._load, self._plan.enter))
            except CapstanError as exc:
                self._outbox.send(IndexFailed(code=exc.code, text=str(exc)))
                if isinstance(exc, TapeError) and not isinstance(exc, VolumeFull):
                    raise
            finally:
                spool.close()

    def _tell_progress(self, begun: Begun, good: int, written: int) -> None:
        now = self._clock()
        if now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        number = min(good, len(begun.parts) - 1)
        record = begun.parts[number].item.record
        count = min(max(0, written - begun.layout.offsets[number]), record.size)
        block = self._end.end_block + written // self._load.block_size
        self._outbox.send(Progress(file_id=record.file_id, bytes=count, block=block))


def _first_bytes(begun: Begun) -> int:
    """What there must be room for before a tape file is begun: a bundle ends where the room does."""
    size = begun.parts[0].item.record.size
    return begun.layout.offsets[0] + size + pax.padding(size) + len(pax.END_OF_ARCHIVE)


def _dropped(begun: Begun, plan: Plan) -> bool:
    """A file that nobody wants any more need not go on; a bundle does, for the others in it."""
    item = begun.parts[0].item
    return not item.bundle and plan.write_dropped(item.archive_id)
