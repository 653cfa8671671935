"""One drive of this tape server: its mover kept alive, its leftovers cleaned up, its planned mounts carried out.

A loop per drive, one mount at a time. A drive that is attached to several tape servers is worked by the one that holds
it; the others stand by. It asks the catalog what to do and tells it that the drive can be used; which volume comes next
is the planner's.
"""

from __future__ import annotations

import asyncio

import structlog

from catalog import endings, mounts, volumes
from catalog.attempts import attempt
from catalog.database import Database
from catalog.mounts import Mount
from catalog.states import MountState
from tapeserver.config import Config
from tapeserver.fleet import MoverLink
from tapeserver.outcomes import STOPPED
from tapeserver.sessions import Session, unload

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
#: a mover is pinged twice a second; silent for longer, it does not answer
MOVER_ANSWER_SECONDS_MAX = 2.0
#: between attempts to get a volume out of a drive that keeps it
CLEAN_UP_SECONDS = 2.0


class DriveLoop:
    """Run `run` as a task; ring `bell` when mount rows may have changed."""

    def __init__(self, database: Database, config: Config, drive: str, *, closing: asyncio.Event) -> None:
        self._database, self._config, self.drive = database, config, drive
        self._closing = closing
        self.bell = asyncio.Event()
        self._link: MoverLink | None = None
        #: a killed mover did not go: nothing can be done with this drive until it does
        self.stuck = False
        self._cleaned = False

    @property
    def usable(self) -> bool:
        """Whether planned mounts would be carried out: what the drive's heartbeat says."""
        return self._cleaned and not self.stuck and self._link is not None and self._link.alive

    @property
    def mover_pid(self) -> int | None:
        return self._link.pid if self._link is not None and self._link.alive else None

    @property
    def mover_answers(self) -> bool:
        """Whether the mover has answered a ping lately."""
        return self._link is not None and self._link.alive and self._link.silent_seconds < MOVER_ANSWER_SECONDS_MAX

    @property
    def phase(self) -> tuple[str, float]:
        """What the mover is doing, and for how many seconds."""
        return (self._link.phase, self._link.phase_seconds) if self._link is not None else ("down", 0.0)

    async def run(self) -> None:
        try:
            while not self._closing.is_set():
                # One drive's trouble is not the others'.
                if not await attempt("drive loop", self._step, drive=self.drive):
                    await self._rest(POLL_SECONDS)
        finally:
            if self._link is not None:
                await self._link.close()

    async def _step(self) -> None:
        link = await self._mover()
        if link is None:
            await self._rest(self._config.mover_restart_seconds)
            return
        async with self._database.transaction() as connection:
            silence = self._config.drive_silence_seconds
            held = await volumes.hold_drive(connection, self.drive, self._config.name, silence_seconds_max=silence)
            found = await mounts.list_mounts(connection, drives=[self.drive]) if held else []
        if not held:
            # Another tape server works it; this one stands by.
            self._cleaned = False
            await self._rest(POLL_SECONDS)
            return
        mount = found[0] if found else None
        if mount is not None and mount.state is not MountState.PLANNED:
            self._cleaned = False
            await self._clean_up(mount)
            return
        self._cleaned = True
        if mount is None:
            await self._rest(POLL_SECONDS)
            return
        if await self._refuse(mount):
            return
        session = Session(self._database, self._config, link, bell=self.bell, closing=self._closing)
        self._cleaned = await session.run(mount)

    async def _mover(self) -> MoverLink | None:
        """The running mover; a new one in place of one that is gone. None while the old one is stuck in the kernel."""
        if self._link is not None and not self._link.alive:
            self.stuck = not await self._link.close()
            if self.stuck:
                return None
            self._link = None
        if self._link is None:
            silence = self._config.mover_silence_seconds
            self._link = await MoverLink.start(self.drive, silence_seconds_max=silence)
        return self._link

    async def _clean_up(self, mount: Mount) -> None:
        """A mount that nobody runs: of a former life of this tape server, of one that has fallen silent, or one whose
        volume did not come out."""
        async with self._database.connection() as connection:
            work = await mounts.work_of(connection, mount.epoch)
        mine = mount.tapeserver == self._config.name
        why = "the tape server was restarted" if mine else f"tape server {mount.tapeserver} fell silent"
        if work is not None and not await unload(self._database, self._config, work, why):
            await self._rest(CLEAN_UP_SECONDS)

    async def _refuse(self, mount: Mount) -> bool:
        """A planned mount that has lost its reason to be: it never began, so its row just goes."""
        async with self._database.transaction() as connection:
            reasons = await mounts.reasons_to_stop(connection, [mount.epoch])
            why = reasons.get(mount.epoch)
            if why is not None:
                await endings.end_mount(connection, mount.epoch, f"{STOPPED}{why}")
        return why is not None

    async def _rest(self, seconds: float) -> None:
        """Until the bell, the end of the tape server, or `seconds` are over."""
        try:
            async with asyncio.timeout(seconds):
                await self.bell.wait()
        except TimeoutError:
            return
        self.bell.clear()
