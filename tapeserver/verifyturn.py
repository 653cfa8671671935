"""Verifying: the copies of one volume, by position, read back by the mover; what becomes of those that are wrong.

The cursor of the maintenance row is where the next mount goes on. A copy that fails is tried once more in another
mount, in another drive if there is one: the planner avoids the pair that failed. Whether it is broken then is for the
evidence to say (`catalog.failures`). The turn gives way to recalls of its volume, and to everything else by being
stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import failures, maintenance, mounts
from catalog.database import EVENTS, PLANNER
from catalog.maintenance import CopyToVerify, Maintenance
from catalog.states import MaintenanceState
from tapeserver import frames
from tapeserver.frames import FromMover, Load, Loaded, Verified, VerifyFailed, VerifyItem
from tapeserver.mountcontext import MountContext
from tapeserver.turns import LoadRefused, Turn

log = structlog.get_logger(__name__)

#: copies that the mover has at once
COPIES_AHEAD = 2000
#: mounts in a row that brought nothing, after which the verify is given up
STARTS_MAX = 5
#: copies that wait for their second try, at most: then this mount ends, and the next begins with them
AGAIN_MAX = 1000
#: reads of a copy that failed, after which it is broken where only one drive can be asked
READS_MAX = 2
REASON_LENGTH_MAX = 500


class VerifyTurn(Turn):
    purpose: ClassVar[Literal["recall", "archive", "label", "verify"]] = "verify"

    def __init__(self, context: MountContext) -> None:
        super().__init__(context)
        self._row: Maintenance | None = None
        self._out: deque[CopyToVerify] = deque()
        #: where the mover is, and where the claims are
        self._done_to = self._claimed_to = (-1, -1)
        #: copies that failed in an earlier mount, and are read again in this one first
        self._second: set[int] = set()
        #: those that failed in this one for the first time
        self._again: list[int] = []
        self._end_of_volume = False
        self._over_now = False
        #: copies that failed in this mount, for the verdict on drive and volume
        self.medium_failure: str | None = None

    def load_fields(self) -> Load:
        rate = self.context.config.verify_bytes_per_second_max
        return msgspec.structs.replace(super().load_fields(), bytes_per_second_max=rate, initialise_label=False)

    async def run(self) -> None:
        try:
            await super().run()
        except LoadRefused as refusal:
            if refusal.verdict == "wrong_label":
                # Nothing on this cartridge is what was to be verified, however often it is mounted.
                await self.context.commit(partial(_refused, volume=self.context.work.volume, why=str(refusal)))
            raise

    async def loaded(self, message: Loaded) -> None:
        work = self.context.work

        async def begin(connection: AsyncConnection) -> tuple[Maintenance | None, list[CopyToVerify]]:
            row = await maintenance.live_verify(connection, work.volume)
            if row is None:
                return None, []
            starts = int(row.cursor.get("starts", 0)) + 1
            if starts > STARTS_MAX:
                note = f"given up after {STARTS_MAX} mounts that brought nothing"
                await maintenance.verify_ended(connection, row, MaintenanceState.FAILED, note)
                return None, []
            cursor = {**row.cursor, "starts": starts}
            await maintenance.verify_progress(connection, work.epoch, row, cursor=cursor, files=0, bytes=0)
            again = await maintenance.copies_to_verify_again(connection, work.volume, row.cursor.get("again", []))
            return row, again

        self._row, again = await self.context.commit(begin)
        if self._row is None:
            self._over_now = True
            return
        cursor = self._row.cursor
        self._done_to = self._claimed_to = (cursor.get("block", -1), cursor.get("offset", -1))
        self._second = {one.file_id for one in again}
        await self._hand_over(again)

    async def top_up(self) -> None:
        row = self._row
        if row is None or self._over_now:
            return
        if not self._out and (self._end_of_volume or len(self._again) >= AGAIN_MAX):
            await self._ended(row)
            return
        if self._end_of_volume or len(self._out) > COPIES_AHEAD // 2 or len(self._again) >= AGAIN_MAX:
            return
        limit = COPIES_AHEAD - len(self._out)
        copies = await self.context.commit(
            lambda connection: maintenance.copies_to_verify(connection, row, after=self._claimed_to, limit=limit)
        )
        self._end_of_volume = len(copies) < limit
        if copies:
            self._claimed_to = (copies[-1].first_block, copies[-1].byte_offset)
            await self._hand_over(copies)

    async def _hand_over(self, copies: Sequence[CopyToVerify]) -> None:
        if not copies:
            return
        self._out.extend(copies)
        items = [
            VerifyItem(
                file_id=one.file_id,
                size=one.size,
                adler32=one.adler32,
                generation=one.generation,
                tape_file=one.tape_file,
                first_block=one.first_block,
                byte_offset=one.byte_offset,
            )
            for one in copies
        ]
        await self.context.link.send(frames.Verify(items=items))

    async def handle(self, message: FromMover) -> None:
        if isinstance(message, Verified):
            await self._verified(message)
        elif isinstance(message, VerifyFailed):
            await self._failed(message)

    async def _verified(self, message: Verified) -> None:
        row, work = self._row, self.context.work
        # The mover speaks in the order of its plan: these are the first of those it has.
        good = [self._out.popleft() for _ in message.file_ids if self._out]
        if row is None or not good:
            return
        acquitted = [one.file_id for one in good if one.file_id in self._second]
        cursor = self._moved(good)

        async def record(connection: AsyncConnection) -> bool:
            going_on = await maintenance.verify_progress(
                connection, work.epoch, row, cursor=cursor, files=len(good), bytes=message.bytes
            )
            await failures.acquit_copies(connection, drive=work.drive, volume=work.volume, files=acquitted)
            await mounts.add_progress(connection, work.epoch, files=len(good), bytes=message.bytes)
            return going_on

        if not await self.context.commit(record):
            self._over_now = True
        self.files += len(good)

    async def _failed(self, message: VerifyFailed) -> None:
        row, work = self._row, self.context.work
        if row is None or not self._out:
            return
        copy = self._out.popleft()
        second = copy.file_id in self._second
        why = f"{message.code}: {message.text}"[:REASON_LENGTH_MAX]
        self.medium_failure = why
        self._again.append(copy.file_id)
        block = self._moved([copy])
        attempts = self.context.config.attempts_max

        async def record(connection: AsyncConnection) -> bool:
            # Before anything of this mount is held: it locks who waits for the file.
            await failures.record(
                connection, library=work.library, drive=work.drive, volume=work.volume, kind="read",
                epoch=work.epoch, why=why, file=copy.file_id,
            )  # fmt: skip
            reasons = [(copy.file_id, why)]
            # Read twice is enough, but by two drives where two can be asked: one drive is no evidence against a copy.
            enough = READS_MAX if second else attempts
            broken = await failures.condemn(connection, work.volume, reasons, attempts_max=enough)
            over = bool(broken.files)
            cursor = {**block, "again": [one for one in block["again"] if not (over and one == copy.file_id)]}
            await maintenance.verify_progress(
                connection, work.epoch, row, cursor=cursor, files=int(over), bytes=copy.size if over else 0,
                errors=int(over),
            )  # fmt: skip
            return over

        over = await self.context.commit(record)
        if over:
            self._again.remove(copy.file_id)
        log.warning("copy not verified", volume=work.volume, file=copy.file_id, drive=work.drive, broken=over, why=why)
        for channel in (PLANNER, EVENTS):
            self.context.database.wake(channel)

    def _moved(self, copies: Sequence[CopyToVerify]) -> dict[str, Any]:
        """The cursor behind these copies. A mount that brought something is not counted as one that did not."""
        for one in copies:
            if one.file_id in self._second:
                self._second.discard(one.file_id)
            else:
                self._done_to = (one.first_block, one.byte_offset)
        block, offset = self._done_to
        return {"block": block, "offset": offset, "again": [*sorted(self._second), *self._again], "starts": 0}

    async def _ended(self, row: Maintenance) -> None:
        """The mover has done it all; what failed for the first time waits for the next mount."""
        self._over_now = True
        if self._again:
            return
        volume = self.context.work.volume

        async def end(connection: AsyncConnection) -> None:
            present = await maintenance.at(connection, row.id)
            note = f"{present.done_files} copies read back, {present.errors} of them broken"
            await maintenance.verify_ended(connection, present, MaintenanceState.DONE, note)

        await self.context.commit(end)
        log.info("volume verified", volume=volume)
        self.context.database.wake(PLANNER)

    def outstanding(self) -> int:
        return len(self._out)

    def waiting(self) -> bool:
        # It ends by what the catalog says is left, never by being idle for a moment.
        return self._row is not None and not self._over_now

    def give_way(self) -> bool:
        return self._over_now or self.context.recalls_wait

    async def record(self, *, now: bool = False) -> None:
        """Nothing waits: what the mover reports is recorded at once, it reports in batches."""

    async def give_back(self) -> None:
        """Nothing was claimed: the next mount goes on at the cursor."""
        self._out.clear()


async def _refused(connection: AsyncConnection, *, volume: str, why: str) -> None:
    row = await maintenance.live_verify(connection, volume)
    if row is not None:
        await maintenance.verify_ended(connection, row, MaintenanceState.FAILED, why[:REASON_LENGTH_MAX])
