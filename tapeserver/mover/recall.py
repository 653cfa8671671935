"""Tape to cache: read the files of the plan in its order, check them, hand them to the senders.

The thread of the drive runs this. A file that cannot be read fails alone; what ends the whole mount is raised.
"""

from __future__ import annotations

import contextlib
import time

from catalog.errors import CapstanError, Damaged, Retry, TapeError
from tapeserver import paxformat
from tapeserver.frames import Idle, Load, Progress, ReadDone, ReadFailed, ReadItem
from tapeserver.labels import BadLabel
from tapeserver.library import BlockTooLong, Drive, EndOfData, Filemark, MediumError
from tapeserver.mover.bulkhttp import place_of
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.senders import BUFFER_BYTES, CacheSender
from tapeserver.mover.volume import check_header
from tapeserver.tapeformat import ADLER32_START, HEADER_OBJECTS, adler32, adler32_text, locate_member

PROGRESS_SECONDS = 0.5
IDLE_POLL_SECONDS = 1.0
ANSWER_POLL_SECONDS = 0.02


class CopyDamaged(Damaged):
    """{what} is damaged: {why}."""

    code, retry = "copy_damaged", Retry.OTHER_COPY


class Dropped(CapstanError):
    """The session dropped the file."""

    code = "dropped"


class Recall:
    """The reading part of one mount."""

    def __init__(self, drive: Drive, load: Load, plan: Plan, outbox: Outbox) -> None:
        self._drive, self._load, self._plan, self._outbox = drive, load, plan, outbox
        self._senders: dict[str, CacheSender] = {}
        self._files: dict[int, int] = {}  # reservation -> file, of what was handed to a sender
        self._checked_tape_file: int | None = None
        self._progress_at = time.monotonic()

    def run(self) -> None:
        """Until the session says Stop. Raises what the drive raises when it can do no more."""
        while not self._plan.stopping:
            item = self._plan.next_read()
            if item is not None:
                self._read(item)
            else:
                self._rest()

    def close(self) -> None:
        """Wait for what the cache servers still have to say, and end the streams."""
        for sender in self._senders.values():
            sender.close()

    def _rest(self) -> None:
        self._plan.enter("idle")
        for sender in self._senders.values():
            with contextlib.suppress(CapstanError):  # every file concerned is reported when it breaks
                sender.check()
        unanswered = any(sender.unanswered for sender in self._senders.values())
        if not unanswered and self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(ANSWER_POLL_SECONDS if unanswered else IDLE_POLL_SECONDS)

    def _read(self, item: ReadItem) -> None:
        begun: CacheSender | None = None
        try:
            sender = self._sender(item.cache_url)
            self._find(item)
            self._files[item.reservation_id] = item.file_id
            begun = sender
            sender.begin(item.reservation_id, item.size)
            checksum = self._transfer(item, sender)
            if adler32_text(checksum) != item.adler32:
                why = f"adler32 {adler32_text(checksum)} was read, {item.adler32} was written"
                raise CopyDamaged(what=self._name(item), why=why)
            sender.end(item.reservation_id, checksum)
        except (MediumError, BadLabel, EndOfData, Filemark, BlockTooLong, paxformat.BadMember) as exc:
            self._checked_tape_file = None
            self._failed(item, exc, begun, retry=Retry.OTHER_COPY)
        except CapstanError as exc:
            self._failed(item, exc, begun)
            if isinstance(exc, TapeError):
                raise  # the drive itself, or the epoch: not only this file

    def _find(self, item: ReadItem) -> None:
        if item.generation != self._load.generation:
            why = f"the volume carries generation {self._load.generation}, not {item.generation}"
            raise CopyDamaged(what=self._name(item), why=why)
        self._plan.enter("locate")
        block, _ = locate_member(item.first_block, item.byte_offset, self._load.block_size)
        if self._checked_tape_file != item.tape_file:
            self._checked_tape_file = None
            check_header(self._drive, self._load, first_block=item.first_block, tape_file=item.tape_file)
            self._checked_tape_file = item.tape_file
            if block == item.first_block + HEADER_OBJECTS:
                return
        self._drive.locate(block)

    def _transfer(self, item: ReadItem, sender: CacheSender) -> int:
        """Read the blocks and hand them on; returns the checksum of the file's bytes."""
        block_size = self._load.block_size
        block, skip = locate_member(item.first_block, item.byte_offset, block_size)
        remaining, checksum = item.size, ADLER32_START
        while remaining:
            if self._plan.read_dropped(item.file_id):
                raise Dropped
            self._plan.enter("wait")
            buffer = sender.buffer()
            self._plan.enter("read")
            view = memoryview(buffer)
            filled, start = 0, skip
            try:
                while filled - start < remaining and len(buffer) - filled >= block_size:
                    length = self._drive.read_into(view[filled:])
                    if length != block_size and filled - start + length < remaining:
                        raise CopyDamaged(what=self._name(item), why=f"block {block} has only {length} bytes")
                    if filled == 0 and skip:
                        self._check_member(item, view[:length])
                    filled, block = filled + length, block + 1
            except CapstanError:
                sender.give_back(buffer)
                raise
            payload = view[start : min(filled, start + remaining)]
            skip = 0
            checksum = adler32(payload, checksum)
            remaining -= len(payload)
            sender.data(item.reservation_id, payload, buffer)
            self._tell_progress(item, item.size - remaining, block)
        return checksum

    def _check_member(self, item: ReadItem, first: memoryview) -> None:
        """The archive's own header must name the file, where it stands right before the file's bytes."""
        if item.byte_offset > len(first):
            return
        if paxformat.header_bytes(bytes(first[: paxformat.RECORD])) != item.byte_offset:
            return  # a later member of a bundle
        member = paxformat.parse_member(bytes(first[: item.byte_offset]))
        if (member.file_id, member.size, member.adler32) != (item.file_id, item.size, item.adler32):
            raise CopyDamaged(what=self._name(item), why=f"file {member.file_id} is recorded there")

    def _sender(self, url: str) -> CacheSender:
        place = place_of(url)
        found = self._senders.get(place)
        if found is None or found.broken:
            if found is not None:
                found.close()
            buffer_bytes = max(BUFFER_BYTES, self._load.block_size)
            found = self._senders[place] = CacheSender(url, self._heard, buffer_bytes=buffer_bytes)
        return found

    def _heard(self, reservation: int, error: CapstanError | None) -> None:
        """From a thread of a sender: the cache server has the file, or not."""
        file_id = self._files.pop(reservation, None)
        if file_id is None:
            return
        if error is None:
            self._outbox.send(ReadDone(file_id=file_id, reservation_id=reservation))
        else:
            self._tell_failure(file_id, reservation, error, error.retry)
        self._plan.wake()

    def _failed(
        self, item: ReadItem, error: CapstanError, begun: CacheSender | None, retry: Retry | None = None
    ) -> None:
        # When the stream breaks under a file, its thread may have reported the file already.
        told = begun is not None and self._files.pop(item.reservation_id, None) is None
        if begun is not None and not begun.broken:
            with contextlib.suppress(CapstanError):  # broken meanwhile: nothing is left to abort
                begun.abort(item.reservation_id, str(error))
        if not told:
            self._tell_failure(item.file_id, item.reservation_id, error, retry or error.retry)

    def _tell_failure(self, file_id: int, reservation: int, error: CapstanError, retry: Retry) -> None:
        self._outbox.send(
            ReadFailed(file_id=file_id, reservation_id=reservation, code=error.code, text=str(error), retry=retry.value)
        )

    def _tell_progress(self, item: ReadItem, count: int, block: int) -> None:
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self._outbox.send(Progress(file_id=item.file_id, bytes=count, block=block))

    def _name(self, item: ReadItem) -> str:
        return f"the copy of file {item.file_id} on {self._load.volume} at block {item.first_block}"
