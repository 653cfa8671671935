"""Who is to blame for a mount that failed: the drive, the volume, or nobody yet, by the suspect matrix.

`judge` is pure; `Blame` keeps the evidence, asks for what there was before, and takes out of use what it points at,
with the reason. A verdict uses its evidence up. What a single copy is to blame for is in `catalog.failures`, not here.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import failures, volumes
from catalog.database import PLANNER, Database, is_transient
from catalog.errors import CapstanError
from catalog.failures import READING, WRITING, Evidence, Kind
from catalog.mounts import MountWork
from catalog.states import DriveState, VolumeState
from tapeserver.changer import in_thread
from tapeserver.config import Config
from tapeserver.library import open_library
from tapeserver.outcomes import DRIVE_STUCK, READ_FAILED, WRITE_FAILED

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

WHO = "capstan"
#: for whatever is said to the catalog when a session fails
LAST_WORDS_SECONDS = 2.0
#: for the library to say whether a drive works
PROBE_SECONDS = 30.0


class Failure(enum.StrEnum):
    """How a mount failed; the outcome in history begins with it."""

    WRITE = WRITE_FAILED
    READ = READ_FAILED
    #: the drive did not move, or the process that works it did not end
    STUCK = DRIVE_STUCK


_KINDS: dict[Failure, Kind] = {Failure.WRITE: "write", Failure.READ: "read", Failure.STUCK: "stuck"}
_DOING = {Failure.WRITE: "writing", Failure.READ: "reading", Failure.STUCK: "the drive"}


class Verdict(enum.Enum):
    NOBODY = enum.auto()
    DRIVE = enum.auto()
    VOLUME = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    #: mounts of one volume that failed to write, in two drives or more, after which it is closed
    write_failures_max: int
    #: mounts of one volume that could not read, in two drives or more, after which it is disabled
    read_failures_max: int
    #: volumes on which one drive failed, after which it goes down
    drive_failures_max: int


def judge(failure: Failure, before: Evidence, *, drive: str, volume: str, limits: Limits) -> Verdict:
    """Whom this failure and those before it point at. A drive that fails with many volumes clears the volumes.

    One drive with one failing volume is nobody's fault yet: either may be. Only when that goes on for twice as long as
    two drives would take, because no other drive is there, is it held against the volume.
    """
    if len(before.volumes_in_drive | {volume}) >= limits.drive_failures_max:
        return Verdict.DRIVE
    several_drives = len(before.drives_of_volume | {drive}) > 1
    if failure is Failure.STUCK:
        # The drive is taken out of use in any case: this is about the volume that was in it.
        return Verdict.VOLUME if several_drives else Verdict.NOBODY
    limit = limits.write_failures_max if failure is Failure.WRITE else limits.read_failures_max
    enough = limit * (1 if several_drives else 2)
    return Verdict.VOLUME if before.mounts_of_volume + 1 >= enough else Verdict.NOBODY


class Blame:
    """The judge's clerk for one tape server."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._lifetime_seconds = config.failure_hours * 3600.0
        self._limits = Limits(
            write_failures_max=config.write_failures_max,
            read_failures_max=config.read_failures_max,
            drive_failures_max=config.drive_failures_max,
        )

    async def mount_failed(self, work: MountWork, failure: Failure, why: str, *, kind: Kind | None = None) -> None:
        """Keep the failure, and take out of use what it and those before it point at. Before the mount's end.

        `kind` says more of where it failed than `failure` does: a volume that could not even be loaded.
        """
        if failure is not Failure.STUCK and await self._reported_broken(work):
            return
        before = await self._keep(work, failure, kind or _KINDS[failure], why)
        if before is None:
            return
        verdict = judge(failure, before, drive=work.drive, volume=work.volume, limits=self._limits)
        # What never got as far as its files was not read: its label, say, could not be written.
        doing = "loading" if kind in ("load", "readback") else _DOING[failure]
        if verdict is Verdict.DRIVE and failure is not Failure.STUCK:
            await self._drive_down(work.drive, before.volumes_in_drive | {work.volume}, doing, why)
        elif verdict is Verdict.VOLUME:
            drives = ", ".join(sorted(before.drives_of_volume | {work.drive}))
            count = before.mounts_of_volume + 1
            reason = f"{doing} failed {count} times (drives {drives}), the last time: {why}"
            # What is on a volume that only cannot be written stays good; one that cannot be read is looked at first.
            writes = failure is Failure.WRITE and work.volume_state != VolumeState.BLANK
            state = VolumeState.CLOSED if writes else VolumeState.DISABLED
            await set_state(self._database, "volume", work.volume, state.value, reason)
            await say(self._database, lambda connection: failures.clear(connection, volume=work.volume))

    async def mount_went_well(self, work: MountWork, *, read: bool, wrote: bool) -> None:
        """Something was read, or written, and nothing failed: what was held against the pair is taken back."""
        kinds = {*(READING if read else ()), *(WRITING if wrote else ())}
        if not wrote:
            # Behind the catalog's end nobody looked.
            kinds.discard("readback")
        if kinds:
            await say(
                self._database,
                lambda connection: failures.take_back(connection, drive=work.drive, volume=work.volume, kinds=kinds),
            )

    async def copies_read_elsewhere(self, work: MountWork, drives: Collection[str]) -> None:
        """Copies were read well that had failed in these drives: several volumes of that kind, and one is down."""
        for drive in sorted(drives):
            before = await say(self._database, _evidence(drive, work.volume, READING))
            if before is not None and len(before.volumes_in_drive) >= self._limits.drive_failures_max:
                await self._drive_down(drive, before.volumes_in_drive, "reading", "other drives read them well")

    async def drive_stuck(self, work: MountWork, why: str) -> None:
        """The drive goes down at once; its volume is disabled too when another drive was stuck with it before."""
        await set_state(self._database, "drive", work.drive, DriveState.DOWN.value, f"{Failure.STUCK}: {why}")
        await self.mount_failed(work, Failure.STUCK, why)

    async def _keep(self, work: MountWork, failure: Failure, kind: Kind, why: str) -> Evidence | None:
        """What there was before; with the catalog away, None, and nothing is kept."""
        asked: tuple[Kind, ...] = ("write",) if failure is Failure.WRITE else READING

        async def keep(connection: AsyncConnection) -> Evidence:
            before = await failures.evidence(connection, drive=work.drive, volume=work.volume, kinds=asked)
            await failures.record(
                connection,
                library=work.library,
                drive=work.drive,
                volume=work.volume,
                kind=kind,
                epoch=work.epoch,
                why=why,
                lifetime_seconds=self._lifetime_seconds,
            )
            return before

        return await say(self._database, keep)

    async def _drive_down(self, drive: str, volumes_failed: Collection[str], doing: str, why: str) -> None:
        reason = f"{doing} failed on {', '.join(sorted(volumes_failed))}, the last time: {why}"
        await set_state(self._database, "drive", drive, DriveState.DOWN.value, reason)
        await say(self._database, lambda connection: failures.clear(connection, drive=drive))

    async def _reported_broken(self, work: MountWork) -> bool:
        """Whether the library itself says that the drive does not work: then that is down, and nobody else to blame."""
        try:
            library = open_library(work.library_spec)
            inventory = await in_thread(library.inventory, f"inventory of {work.library}", PROBE_SECONDS)
        except CapstanError as error:
            log.warning("library does not say whether the drive works", drive=work.drive, why=str(error))
            return False
        status = next((one for one in inventory.drives if one.drive == work.drive), None)
        if status is None or status.working:
            return False
        reason = f"the library reports it broken: {status.detail}"
        await set_state(self._database, "drive", work.drive, DriveState.DOWN.value, reason)
        return True


def _evidence(drive: str, volume: str, kinds: Collection[Kind]) -> Callable[[AsyncConnection], Awaitable[Evidence]]:
    return lambda connection: failures.evidence(connection, drive=drive, volume=volume, kinds=kinds)


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


async def distrust(database: Database, volume: str, reason: str) -> None:
    """What is on the volume is not what the catalog says: its copies count no more."""
    await say(database, lambda connection: volumes.distrust(connection, volume, who=WHO, reason=reason[:500]))
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
