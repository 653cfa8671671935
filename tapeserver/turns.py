"""A turn of a mount: from Load to Unloaded in one direction. What reading and writing have in common.

A mount is a row of turns (`tapeserver.sessions`); the mover does one thing at a time. A turn claims work while there is
any, hands it to the mover, records what the mover reports, and gives back what is left when it ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import msgspec
import structlog

from catalog import mounts
from catalog.database import PLANNER
from catalog.errors import TapeError, TimedOut
from catalog.states import VolumeState
from tapeserver.adopting import tried_elsewhere
from tapeserver.frames import (
    Alerts,
    Fault,
    Found,
    FromMover,
    Idle,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    Stop,
    Unloaded,
)
from tapeserver.mountcontext import LOOK_SECONDS, MountContext

log = structlog.get_logger(__name__)

#: a turn that does not stay has nothing to do for so long before it is over
IDLE_SECONDS = LOOK_SECONDS / 5


class LoadRefused(TapeError):
    """The volume could not be used: {why}."""

    code = "load_refused"

    def __init__(self, verdict: str, why: str) -> None:
        super().__init__(verdict=verdict, why=why)
        self.verdict = verdict
        self.why = why


class MoverFault(TapeError):
    """The drive gave up ({fault}): {why}."""

    code = "mover_fault"

    def __init__(self, fault: str, why: str) -> None:
        super().__init__(fault=fault, why=why)
        self.fault = fault


class DriveStuck(TapeError):
    """Drive {drive} has not moved for {seconds} s in {phase}."""

    code = "drive_stuck"


#: what a mover says it is doing while the drive itself works; loading has a limit of its own
MOTIONS = frozenset({"locate", "read", "write", "flush"})


class Turn(ABC):
    """One direction of one mount. `run` once; then `problem` says why there was no going on, if so."""

    purpose: ClassVar[Literal["recall", "archive", "label", "verify"]]

    def __init__(self, context: MountContext) -> None:
        self.context = context
        self.problem: str | None = None
        self.files = 0
        self._idle_since: float | None = None
        self._look_again_at = 0.0
        self._unloaded = False
        self._fault: MoverFault | None = None

    async def run(self) -> None:
        """Raises LoadRefused, MoverFault, MoverGone, DriveStuck, TimedOut (the mover does not end), StaleEpoch,
        CatalogUnreachable."""
        await self._load()
        while not self._over():
            news = self._may_have_news()
            await self._tell_idle()
            await self.context.look()
            if news and not self._ending():
                await self.top_up()
            await self.record()
            await self.take_in(LOOK_SECONDS if self.outstanding() else IDLE_SECONDS)
        if self.working():
            await self.finish()
        await self._stop()
        if self._fault is not None:
            raise self._fault

    # -- what a direction is

    @abstractmethod
    async def loaded(self, message: Loaded) -> None:
        """The label (and the end) are right."""

    async def found(self, message: Found) -> None:
        """A complete tape file that the catalog lacks; before `loaded`, and only where the end is looked at."""
        return

    @abstractmethod
    async def top_up(self) -> None:
        """Claim more when little is left with the mover, and hand it over."""

    @abstractmethod
    async def handle(self, message: FromMover) -> None:
        """What the mover says of files."""

    @abstractmethod
    async def record(self, *, now: bool = False) -> None:
        """Commit what is due, or everything."""

    @abstractmethod
    def outstanding(self) -> int:
        """Files that the mover has."""

    def waiting(self) -> bool:
        """Whether it waits for something else than work, with an end of its own to that."""
        return False

    @abstractmethod
    def give_way(self) -> bool:
        """Whether the other direction should have its turn."""

    def stays(self) -> bool:
        """Whether it waits for more when there is nothing to do, until the planner wants the drive for others."""
        return True

    @abstractmethod
    async def give_back(self) -> None:
        """What was claimed and not done goes back to the queue."""

    def heard(self, message: Progress | Idle) -> None:
        """How far the mover is."""
        return

    async def finish(self) -> None:
        """What is to be done on the volume at the end, before the mover lets go of it."""
        return

    def working(self) -> bool:
        """Whether the mover has the drive, and the drive works."""
        return self._fault is None and not self._unloaded

    def load_fields(self) -> Load:
        work, config = self.context.work, self.context.config
        blank = work.volume_state == VolumeState.BLANK
        return Load(
            epoch=work.epoch,
            library_spec=work.library_spec,
            drive=work.drive,
            volume=work.volume,
            generation=work.generation + 1 if blank else work.generation,
            catalog_id=work.catalog_id,
            purpose=self.purpose,
            block_size=work.block_size,
            known_tape_files=work.tape_files,
            known_end_block=work.end_block,
            pool=work.pool or "",
            initialise_label=blank,
            previous_index=work.index_block,
            flush_bytes=config.flush_bytes,
            flush_files=config.flush_files,
            flush_seconds=config.flush_seconds,
            flush_idle_seconds=config.flush_idle_seconds,
            uncommitted_batches_max=config.uncommitted_batches_max,
        )

    # -- the course of it

    async def _load(self) -> None:
        context = self.context
        fields = self.load_fields()
        if fields.purpose == "archive":
            fields = msgspec.structs.replace(fields, unreadable_is_dead=await tried_elsewhere(context))
        await context.link.send(fields)
        link, deadline, stopping = context.link, context.now + context.config.load_seconds_max, False
        # What is read back takes its time, and says so: only a single step of the check may not take too long.
        while context.now < deadline or (link.phase == "load" and not stopping):
            if link.phase == "load" and link.phase_seconds > context.limits.load:
                break
            message = await context.link.receive(LOOK_SECONDS)
            if isinstance(message, Loaded):
                await self.loaded(message)
                return
            if isinstance(message, LoadFailed):
                raise LoadRefused(message.verdict, message.text)
            if isinstance(message, Found):
                await self.found(message)
                # It is read back, whatever is behind the catalog's end, and may take longer than any load.
                deadline = context.now + context.limits.load
            await context.look()
            if context.stop_why is not None:
                # A mover that checks a volume hears nothing; what it does until now is only reading.
                deadline = min(deadline, context.now + context.stop_seconds)
                if context.closing.is_set():
                    break
                stopping = True
        if stopping or context.closing.is_set():
            raise TimedOut(what=f"the check of volume {context.work.volume}", seconds=context.stop_seconds)
        raise DriveStuck(drive=context.work.drive, phase="load", seconds=round(link.phase_seconds, 1))

    def _ending(self) -> bool:
        return self.context.stop_why is not None or self.problem is not None or self.give_way()

    def _over(self) -> bool:
        if self._fault is not None or self._unloaded or self.context.stop_why is not None or self.problem is not None:
            return True
        if self.give_way():
            return True
        if self.outstanding() or self.waiting():
            self._idle_since, self._look_again_at = None, 0.0
            return False
        if self._idle_since is None:
            self._idle_since = self.context.now
            return False
        idle_seconds = self.context.now - self._idle_since
        return self.context.rests if self.stays() else idle_seconds > IDLE_SECONDS

    def _may_have_news(self) -> bool:
        """Whether to ask for work: at every step while there is some, else when the bell rings, and as a net."""
        context = self.context
        if self._idle_since is None or context.bell.is_set() or context.now >= self._look_again_at:
            self._look_again_at = context.now + LOOK_SECONDS
            return True
        return False

    async def _tell_idle(self) -> None:
        """The planner must know which mounts it may end."""
        context = self.context
        since = self._idle_since
        if since is not None and context.now - since < IDLE_SECONDS:
            # Only just, or a turn has only begun: neither is news.
            return
        idle = since is not None and self.stays()
        if idle != context.told_idle:
            epoch = context.work.epoch
            await context.commit(lambda connection: mounts.say_idle(connection, epoch, idle=idle))
            context.told_idle = idle
            context.database.wake(PLANNER)

    async def take_in(self, seconds: float) -> None:
        """Wait so long for the mover's word, and handle all it has said."""
        message = await self.context.link.receive(seconds)
        if message is None:
            self._refuse_stillness()
        while message is not None:
            await self._dispatch(message)
            message = self.context.link.received()

    def _refuse_stillness(self) -> None:
        link = self.context.link
        if link.phase in MOTIONS and link.phase_seconds > self.context.limits.of(link.phase):
            raise DriveStuck(drive=self.context.work.drive, phase=link.phase, seconds=round(link.phase_seconds, 1))

    async def _dispatch(self, message: FromMover) -> None:
        match message:
            case Fault():
                self._fault = MoverFault(fault=message.code, why=message.text)
            case Unloaded():
                self._unloaded = True
            case Alerts():
                self.context.alerts.extend(message.alerts)
            case Progress() | Idle():
                self.heard(message)
            case _:
                await self.handle(message)

    async def _stop(self) -> None:
        """Have the mover finish its present file; take in all it says until it has let go of the drive."""
        context = self.context
        if not self._unloaded:
            await context.link.send(Stop(reason=context.stop_why or self.problem or "done"))
        deadline = context.now + context.stop_seconds
        while not self._unloaded:
            if context.now > deadline:
                await self.record(now=True)
                raise TimedOut(what=f"the end of mount {context.work.epoch}", seconds=context.stop_seconds)
            await self.take_in(0.1)
        await self.record(now=True)
        await self.give_back()
