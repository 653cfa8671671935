"""Tape to cache: read the files of the plan in its order, check them, hand them to the senders.

The thread of the drive runs this. A file that cannot be read fails alone; what ends the whole mount is raised. Which
blocks are read, and that each is read once, is in `heldblocks`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from catalog.errors import CapstanError, Retry, TapeError
from tapeserver.format import pax
from tapeserver.format.objects import ADLER32_START, adler32, adler32_text, locate_member
from tapeserver.frames import Arranged, Idle, Load, Progress, ReadDone, ReadFailed, ReadItem
from tapeserver.library import Drive, MediumError
from tapeserver.mover.blockreader import OF_ONE_COPY
from tapeserver.mover.bulkhttp import place_of
from tapeserver.mover.heldblocks import HeldBlocks
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.senders import BUFFER_BYTES, Buffer, CacheSender

PROGRESS_SECONDS = 0.5
IDLE_POLL_SECONDS = 1.0
ANSWER_POLL_SECONDS = 0.02


class Dropped(CapstanError):
    """The session dropped the file."""

    code = "dropped"


class Recall:
    """The reading part of one mount."""

    def __init__(self, drive: Drive, load: Load, plan: Plan, outbox: Outbox) -> None:
        self._drive, self._load, self._plan, self._outbox = drive, load, plan, outbox
        self._blocks = HeldBlocks(drive, load, plan)
        self._senders: dict[str, CacheSender] = {}
        self._places: dict[str, str] = {}  # URL -> whose stream
        self._files: dict[int, int] = {}  # reservation -> file, of what was handed to a sender
        self._progress_at = time.monotonic()

    def run(self) -> None:
        """Until the session says Stop. Raises what the drive raises when it can do no more."""
        while not self._plan.stopping:
            question = self._plan.next_question()
            if question is not None:
                self._plan.enter("locate")
                order = self._drive.recommended_order(question.segments)
                self._outbox.send(Arranged(number=question.number, order=None if order is None else list(order)))
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
        self._blocks.forget()
        for sender in self._senders.values():
            with contextlib.suppress(CapstanError):  # every file concerned is reported when it breaks
                sender.flush()
        unanswered = any(sender.unanswered for sender in self._senders.values())
        if not unanswered and self._plan.ran_empty():
            self._outbox.send(Idle())
        self._plan.wait(ANSWER_POLL_SECONDS if unanswered else IDLE_POLL_SECONDS)

    def _read(self, item: ReadItem) -> None:
        begun: CacheSender | None = None
        try:
            if self._plan.read_dropped(item.file_id):
                raise Dropped
            sender = self._sender(item.cache_url)
            self._blocks.find(item)
            payload, buffer = self._blocks.take(item, 0, sender) if item.size else (memoryview(b""), None)
            self._check_member(item)
            whole = len(payload) == item.size
            if whole:
                self._check(item, adler32(payload))
            self._files[item.reservation_id] = item.file_id
            begun = sender
            if whole:
                sender.file(item.reservation_id, int(item.adler32, 16), payload, buffer)
                return
            sender.begin(item.reservation_id, item.size)
            checksum = self._stream(item, sender, payload, buffer)
            self._check(item, checksum)
            sender.end(item.reservation_id, checksum)
        except (*OF_ONE_COPY, pax.BadMember) as exc:
            if not isinstance(exc, MediumError):
                self._blocks.doubt()
            self._failed(item, exc, begun, retry=Retry.OTHER_COPY)
        except CapstanError as exc:
            self._failed(item, exc, begun)
            if isinstance(exc, TapeError):
                raise  # the drive itself, or the epoch: not only this file

    def _stream(self, item: ReadItem, sender: CacheSender, payload: memoryview, buffer: Buffer | None) -> int:
        """Hand on what was read, and the rest of the file; returns the checksum of its bytes."""
        checksum, sent = ADLER32_START, 0
        while True:
            checksum = adler32(payload, checksum)
            sent += len(payload)
            sender.data(item.reservation_id, payload, buffer)
            self._tell_progress(item, sent)
            if sent == item.size:
                return checksum
            if self._plan.read_dropped(item.file_id):
                raise Dropped
            payload, buffer = self._blocks.take(item, sent, sender)

    def _check(self, item: ReadItem, checksum: int) -> None:
        if adler32_text(checksum) != item.adler32:
            why = f"adler32 {adler32_text(checksum)} was read, {item.adler32} was written"
            raise self._blocks.damaged(item, why)

    def _check_member(self, item: ReadItem) -> None:
        """The archive's own header must name the file, where it stands right before the file's bytes."""
        before = self._blocks.before(item)
        if len(before) < pax.RECORD or pax.header_bytes(bytes(before[: pax.RECORD])) != len(before):
            return  # a later member of a bundle
        member = pax.parse_member(bytes(before))
        if (member.file_id, member.size, member.adler32) != (item.file_id, item.size, item.adler32):
            raise self._blocks.damaged(item, f"file {member.file_id} is recorded there")

    def _sender(self, url: str) -> CacheSender:
        place = self._places.get(url)
        if place is None:
            place = self._places[url] = place_of(url)
        found = self._senders.get(place)
        if found is None or found.broken:
            if found is not None:
                found.close()
            buffer_bytes = max(BUFFER_BYTES, self._load.block_size)
            found = self._senders[place] = CacheSender(url, self._heard, buffer_bytes=buffer_bytes)
        return found

    def _heard(self, results: Sequence[tuple[int, CapstanError | None]]) -> None:
        """From a thread of a sender: the cache server has these, or not."""
        done = []
        for reservation, error in results:
            file_id = self._files.pop(reservation, None)
            if file_id is None:
                continue
            if error is None:
                done.append((file_id, reservation))
            else:
                self._tell_failure(file_id, reservation, error, error.retry)
        if done:
            self._outbox.send(ReadDone(files=done))
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

    def _tell_progress(self, item: ReadItem, count: int) -> None:
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            block, _ = locate_member(item.first_block, item.byte_offset + count, self._load.block_size)
            self._outbox.send(Progress(file_id=item.file_id, bytes=count, block=block))
