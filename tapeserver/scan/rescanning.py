"""A rebuild of the catalog, the part that moves tapes: every volume of some libraries is scanned, all drives at once.

Uses the libraries by themselves, without movers and sessions, so nothing else may use them meanwhile. What a scan tells
goes to `catalog.rebuild` batch by batch; a drive's thread waits until the catalog has taken it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from catalog import mounts, rebuild, volumes
from catalog.database import Database
from catalog.errors import CapstanError, NotFound, TapeError
from catalog.indexentry import IndexEntry
from catalog.journal import DIRECTORY
from catalog.journalformat import BadSegment, decode_segment, number_of
from catalog.model import join_path
from tapeserver.format.labels import VolumeLabel
from tapeserver.format.objects import adler32, adler32_text
from tapeserver.library import Drive, Fenced, Library, open_library
from tapeserver.scan.tapefiles import Copies, Dead, Problem, ScanEvent, Withdrawn
from tapeserver.scan.volume import NoLabel, VolumeFacts, read_copy, read_label, scan_volume

log = structlog.get_logger(__name__)

JOURNAL = join_path(DIRECTORY) + "/"
SEGMENT_BYTES_MAX = 1 << 30
EVENTS_AHEAD_MAX = 2
STOP_POLL_SECONDS = 0.2
FENCED_LEAP = 1_000_000
"""A volume may have seen higher epochs than any drive of its library reports."""

FENCED_ATTEMPTS_MAX = 3
DRIVE_FAILURES_MAX = 3
"""After so many volumes in a row that failed in it, a drive gets no more."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of the journal, read back from a volume or a directory."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Blank:
    """Nothing is recorded on the volume."""

    capacity_bytes: int | None


Event = ScanEvent | VolumeFacts | VolumeLabel | Segment | Blank


@dataclass(slots=True)
class Progress:
    """How far the scan is; `files` counts the copies that are staged, as the catalog will make them."""

    volumes: int = 0
    done: int = 0
    files: int = 0


@dataclass(slots=True)
class Rescan:
    """One run over the volumes of the libraries; `tell` hears of progress, often."""

    database: Database
    #: volumes of another catalog are not read further than their label; None: read all, choose later
    catalog_id: str | None = None
    tell: Callable[[Progress], None] = lambda _: None
    progress: Progress = field(default_factory=Progress)
    #: by catalog and name
    _segments: dict[tuple[str, str], int] = field(default_factory=dict)
    #: copies of each volume, to be taken back when it is read once more
    _staged: dict[str, int] = field(default_factory=dict)

    async def run(self, libraries: Sequence[str]) -> None:
        """Scan what was not scanned yet. Raises NotFound, and Refused as `rebuild.begin` does."""
        async with self.database.transaction() as connection:
            resumed = await rebuild.begin(connection)
            known = {one.name: one for one in await volumes.list_libraries(connection)}
        missing = [name for name in libraries if name not in known]
        if missing:
            raise NotFound(what=f"library {missing[0]}")
        changers = {name: open_library(known[name].spec) for name in libraries}
        for changer in changers.values():
            await self._take_inventory(changer)
        async with self.database.connection() as connection:
            standing = await rebuild.standing(connection)
        self.progress = Progress(standing.volumes, standing.done, standing.files)
        log.info("rebuild goes on" if resumed else "rebuild begins", volumes=standing.volumes, done=standing.done)
        async with asyncio.TaskGroup() as group:
            for changer in changers.values():
                async with self.database.connection() as connection:
                    wanted = _Wanted(await rebuild.to_scan(connection, changer.name))
                for drive in [one.drive for one in changer.inventory().drives if one.working]:
                    group.create_task(self._work(changer, drive, wanted), name=f"scan-{drive}")

    async def add_directory(self, directory: Path) -> int:
        """Stage the segments of the journal that lie in a directory; how many files were read."""
        paths = await asyncio.to_thread(lambda: sorted(directory.iterdir()))
        found = [path for path in paths if number_of(path.name) is not None]
        for path in found:
            data = await asyncio.to_thread(path.read_bytes)
            await self._add_segment(str(directory), Segment(str(path), data))
        return len(found)

    async def _take_inventory(self, changer: Library) -> None:
        inventory = await asyncio.to_thread(changer.inventory)
        async with self.database.transaction() as connection:
            await rebuild.raise_epochs(connection, max([1, *(one.epoch for one in inventory.drives)]))
            await rebuild.add_volumes(connection, changer.name, inventory.volumes)
        for status in inventory.drives:
            if status.volume is not None:
                # Left there by whoever ran last.
                epoch = await self._epoch()
                await asyncio.to_thread(changer.dismount, status.drive, epoch)

    async def _work(self, changer: Library, drive: str, wanted: _Wanted) -> None:
        """One drive takes volumes from `wanted` until none is left that it did not try."""
        failures = 0
        with ThreadPoolExecutor(1, thread_name_prefix=f"scan-{drive}") as thread:
            while failures < DRIVE_FAILURES_MAX and (vid := await wanted.take(drive)) is not None:
                error = await self._scan_safely(changer, drive, vid, thread, again=wanted.is_again(vid))
                failures = failures + 1 if error else 0
                if error:
                    await self._failed(vid, error)
                await wanted.give_back(vid, read=error is None)

    async def _scan_safely(
        self, changer: Library, drive: str, vid: str, thread: ThreadPoolExecutor, *, again: bool
    ) -> CapstanError | None:
        try:
            await self._scan(changer, drive, vid, thread, again=again)
        except TapeError as exc:
            log.warning("volume not scanned", volume=vid, drive=drive, why=str(exc))
            return exc
        return None

    async def _failed(self, vid: str, error: CapstanError) -> None:
        """Another drive may yet read it; until then this is what is known of it."""
        async with self.database.transaction() as connection:
            await rebuild.end_volume(connection, rebuild.Volume(vid=vid, state="failed", why=str(error)))
        self.tell(self.progress)

    async def _scan(self, changer: Library, drive: str, vid: str, thread: ThreadPoolExecutor, *, again: bool) -> None:
        async with self.database.transaction() as connection:
            await rebuild.start_volume(connection, vid, again=again)
        self._count(vid, -self._staged.get(vid, 0))
        epoch = await self._epoch()
        loop = asyncio.get_running_loop()
        for attempt in range(1, FENCED_ATTEMPTS_MAX + 1):
            try:
                await loop.run_in_executor(thread, changer.mount, vid, drive, epoch)
                break
            except Fenced:
                if attempt == FENCED_ATTEMPTS_MAX:
                    raise
                async with self.database.transaction() as connection:
                    await rebuild.raise_epochs(connection, epoch + FENCED_LEAP)
                epoch = await self._epoch()
        try:
            await self._read(changer, drive, vid, epoch, thread)
        finally:
            await loop.run_in_executor(thread, changer.dismount, drive, epoch)

    async def _read(self, changer: Library, drive: str, vid: str, epoch: int, thread: ThreadPoolExecutor) -> None:
        """The thread reads, the loop stages: at most EVENTS_AHEAD_MAX batches are between them."""
        events = _Events(asyncio.get_running_loop())

        def read() -> None:
            try:
                opened = changer.open(drive, epoch)
                try:
                    _tell_volume(opened, vid, self.catalog_id, self._segments, events.put)
                finally:
                    opened.close()
            finally:
                events.end()

        reading = asyncio.get_running_loop().run_in_executor(thread, read)
        label: VolumeLabel | None = None
        try:
            async for event in events:
                label = event if isinstance(event, VolumeLabel) else label
                await self._stage(vid, label, event)
        finally:
            events.stop()
            await asyncio.wait([reading])
            # Heard here: what ended the staging is the one to be told.
            reading.exception()
        reading.result()

    async def _stage(self, vid: str, label: VolumeLabel | None, event: Event) -> None:
        if isinstance(event, Segment):
            await self._add_segment(vid, event)
            return
        generation = label.generation if label else 0
        async with self.database.transaction() as connection:
            match event:
                case Copies(told_by, epoch, entries):
                    count = await rebuild.add_copies(
                        connection, vid, generation, told_by=told_by, epoch=epoch, entries=entries
                    )
                    self._count(vid, count)
                case Dead(told_by, extents):
                    await rebuild.add_dead(connection, vid, generation, told_by=told_by, extents=extents)
                case Withdrawn(told_by):
                    self._count(vid, -await rebuild.withdraw(connection, vid, told_by))
                case Problem(text):
                    await rebuild.add_problem(connection, vid, text)
                case Blank() | VolumeFacts():
                    await rebuild.end_volume(connection, _volume(vid, label, event))
                    self.progress.done += 1
                case VolumeLabel() if self._is_foreign(label):
                    why = f"it belongs to the catalog {event.catalog_id.lower()}"
                    foreign = rebuild.Volume(vid=vid, state="foreign", why=why, catalog_id=event.catalog_id)
                    await rebuild.end_volume(connection, foreign)
                    self.progress.done += 1
        self.tell(self.progress)

    def _count(self, vid: str, copies: int) -> None:
        self._staged[vid] = self._staged.get(vid, 0) + copies
        self.progress.files += copies

    def _is_foreign(self, label: VolumeLabel | None) -> bool:
        return label is not None and _is_foreign(label, self.catalog_id)

    async def _add_segment(self, where: str, segment: Segment) -> None:
        try:
            head, entries = await asyncio.to_thread(decode_segment, segment.data)
        except BadSegment as exc:
            async with self.database.transaction() as connection:
                await rebuild.add_problem(connection, where, f"journal segment {segment.path}: {exc}")
            return
        async with self.database.transaction() as connection:
            await rebuild.add_segment(
                connection,
                head,
                entries,
                bytes=len(segment.data),
                adler32=adler32_text(adler32(segment.data)),
                path=segment.path,
            )
        self._segments[head.catalog_id.lower(), Path(segment.path).name] = len(segment.data)

    async def _epoch(self) -> int:
        async with self.database.transaction() as connection:
            (epoch,) = await mounts.next_epochs(connection, 1)
        return epoch


class _Wanted:
    """The volumes of one library that are still to be read, and which drives have tried them. Its drives share it."""

    def __init__(self, volumes_to_read: Sequence[str]) -> None:
        self._waiting = list(volumes_to_read)
        self._tried: dict[str, set[str]] = {}
        self._under_way = 0
        self._changed = asyncio.Condition()

    async def take(self, drive: str) -> str | None:
        """A volume that `drive` did not try. Waits for those under way: one that fails is for another drive to read."""
        async with self._changed:
            while True:
                vid = next((vid for vid in self._waiting if drive not in self._tried.get(vid, ())), None)
                if vid is not None:
                    self._waiting.remove(vid)
                    self._tried.setdefault(vid, set()).add(drive)
                    self._under_way += 1
                    return vid
                if not self._under_way:
                    return None
                await self._changed.wait()

    def is_again(self, vid: str) -> bool:
        return len(self._tried[vid]) > 1

    async def give_back(self, vid: str, *, read: bool) -> None:
        async with self._changed:
            self._under_way -= 1
            if not read:
                self._waiting.append(vid)
            self._changed.notify_all()


class _Stopped(Exception):
    """Nobody wants to hear any more."""


class _Events:
    """What a drive's thread has found, on its way to the loop; the thread waits while too much is on the way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._room = threading.Semaphore(EVENTS_AHEAD_MAX)
        self._stopped = threading.Event()

    def put(self, event: Event) -> None:
        while not self._room.acquire(timeout=STOP_POLL_SECONDS):
            if self._stopped.is_set():
                raise _Stopped
        if self._stopped.is_set():
            raise _Stopped
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, None)

    def stop(self) -> None:
        self._stopped.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event
            self._room.release()


def _tell_volume(
    drive: Drive, vid: str, catalog_id: str | None, known: dict[tuple[str, str], int], put: Callable[[Event], None]
) -> None:
    """Everything of one volume, in the thread of its drive."""
    try:
        label = read_label(drive)
    except NoLabel as exc:
        if not exc.blank:
            raise
        put(Blank(drive.capacity_bytes))
        return
    if label.volume != vid:
        raise NoLabel(why=f"it says that it is {label.volume}", blank=False)
    put(label)
    if _is_foreign(label, catalog_id):
        return
    segments: list[IndexEntry] = []
    facts: VolumeFacts | None = None
    for event in scan_volume(drive, label):
        if isinstance(event, VolumeFacts):
            facts = event
            continue
        if isinstance(event, Copies):
            segments += [entry for entry in event.entries if entry.path.startswith(JOURNAL)]
        put(event)
    for entry in segments:
        name = entry.path.removeprefix(JOURNAL)
        staged = known.get((label.catalog_id.lower(), name))
        if number_of(name) is None or staged == entry.size or entry.size > SEGMENT_BYTES_MAX:
            continue
        try:
            put(Segment(entry.path, read_copy(drive, label, entry)))
        except CapstanError as exc:
            put(Problem(str(exc)))
    assert facts is not None, "a scan ends with its facts"
    put(facts)


def _is_foreign(label: VolumeLabel, catalog_id: str | None) -> bool:
    return catalog_id is not None and label.catalog_id.lower() != catalog_id.lower()


def _volume(vid: str, label: VolumeLabel | None, event: Blank | VolumeFacts) -> rebuild.Volume:
    if isinstance(event, Blank) or label is None:
        return rebuild.Volume(vid=vid, state="blank", capacity_bytes=event.capacity_bytes)
    return rebuild.Volume(
        vid=vid,
        state="scanned",
        catalog_id=label.catalog_id,
        generation=label.generation,
        block_size=label.block_size,
        pool=event.pool,
        tape_files=event.tape_files,
        end_block=event.end_block,
        index_block=event.index_block,
        indexed_tape_files=event.indexed_tape_files,
        is_full=event.full,
        epoch=event.epoch,
        capacity_bytes=event.capacity_bytes,
        written_bytes=event.written_bytes,
        files=-1,
    )
