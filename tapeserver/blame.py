"""Who is to blame for a mount that failed: the drive, the volume, or nobody yet, by the mounts before it.

`judge` is pure; `Blame` asks the catalog for the evidence and takes out of use what it points at, with the reason.
Files are never blamed here: what is the file's own is counted by the queues.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, volumes
from catalog.database import PLANNER, Database, is_transient
from catalog.errors import CapstanError
from catalog.mounts import Evidence, MountWork
from catalog.states import DriveState, VolumeState
from tapeserver.config import Config

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

WHO = "capstan"
#: for whatever is said to the catalog when a session fails
LAST_WORDS_SECONDS = 2.0


class Failure(enum.StrEnum):
    """How a mount failed; the outcome in history begins with it."""

    WRITE = "write failed"
    READ = "read failed"
    #: the drive did not move, or the process that works it did not end
    STUCK = "drive stuck"


class Verdict(enum.Enum):
    NOBODY = enum.auto()
    DRIVE = enum.auto()
    VOLUME = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    #: mounts of one volume that failed to write, after which it is closed
    write_failures_max: int
    #: mounts of one volume that could read nothing, in two drives or more, after which it is disabled
    read_failures_max: int
    #: volumes on which one drive failed, after which it goes down
    drive_failures_max: int


def judge(failure: Failure, before: Evidence, *, drive: str, volume: str, limits: Limits) -> Verdict:
    """Whom this failure and those before it point at. A drive that fails with many volumes clears the volumes."""
    if len(before.volumes_in_drive | {volume}) >= limits.drive_failures_max:
        return Verdict.DRIVE
    mounts_failed = before.mounts_of_volume + 1
    several_drives = len(before.drives_of_volume | {drive}) > 1
    match failure:
        case Failure.WRITE:
            return Verdict.VOLUME if mounts_failed >= limits.write_failures_max else Verdict.NOBODY
        case Failure.READ:
            # With one drive only, the evidence is half as good: it takes twice as much.
            enough = limits.read_failures_max * (1 if several_drives else 2)
            return Verdict.VOLUME if mounts_failed >= enough else Verdict.NOBODY
        case Failure.STUCK:
            # The drive is taken out of use in any case: this is about the volume that was in it.
            return Verdict.VOLUME if several_drives else Verdict.NOBODY


class Blame:
    """The judge's clerk for one tape server."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._limits = Limits(
            write_failures_max=config.write_failures_max,
            read_failures_max=config.read_failures_max,
            drive_failures_max=config.drive_failures_max,
        )

    async def mount_failed(self, work: MountWork, failure: Failure, why: str) -> None:
        """Take out of use what this failure and those before it point at. To be called before the mount's end."""
        before = await say(
            self._database,
            lambda connection: mounts.evidence(connection, drive=work.drive, volume=work.volume, outcome=failure.value),
        )
        if before is None:
            return
        verdict = judge(failure, before, drive=work.drive, volume=work.volume, limits=self._limits)
        doing = {Failure.WRITE: "writing", Failure.READ: "reading", Failure.STUCK: "the drive"}[failure]
        if verdict is Verdict.DRIVE and failure is not Failure.STUCK:
            on = ", ".join(sorted(before.volumes_in_drive | {work.volume}))
            reason = f"{doing} failed on {on}, the last time: {why}"
            await set_state(self._database, "drive", work.drive, DriveState.DOWN.value, reason)
        elif verdict is Verdict.VOLUME:
            drives = ", ".join(sorted(before.drives_of_volume | {work.drive}))
            reason = f"{doing} failed {before.mounts_of_volume + 1} times (drives {drives}), the last time: {why}"
            # What is on a volume that only cannot be written stays good; one that cannot be read is looked at first.
            state = VolumeState.FULL if failure is Failure.WRITE else VolumeState.DISABLED
            await set_state(self._database, "volume", work.volume, state.value, reason)

    async def drive_stuck(self, work: MountWork, why: str) -> None:
        """The drive goes down at once; its volume is disabled too when another drive was stuck with it before."""
        await set_state(self._database, "drive", work.drive, DriveState.DOWN.value, f"{Failure.STUCK}: {why}")
        await self.mount_failed(work, Failure.STUCK, why)


async def set_state(database: Database, kind: str, name: str, wanted: str, reason: str) -> None:
    """Move a drive or a volume, in Capstan's own name; not done when it may not move there any more."""

    async def change(connection: AsyncConnection) -> bool:
        return await volumes.set_state(connection, kind, name, wanted, who=WHO, reason=reason[:500])

    try:
        await say(database, change)
    except CapstanError as error:
        # An operator may have been there before; his word stands.
        log.warning("state not changed", kind=kind, name=name, wanted=wanted, why=str(error))
    database.wake(PLANNER)


async def say(database: Database, function: Callable[[AsyncConnection], Awaitable[_T]]) -> _T | None:
    """Tell the catalog, for some seconds if need be; None when it does not listen: the next clean-up says it again."""
    deadline = asyncio.get_running_loop().time() + LAST_WORDS_SECONDS
    while True:
        try:
            async with database.transaction() as connection:
                return await function(connection)
        except Exception as error:
            if not is_transient(error):
                raise
            if asyncio.get_running_loop().time() > deadline:
                log.warning("catalog not told", why=str(error))
                return None
        await asyncio.sleep(0.1)
