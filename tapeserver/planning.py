"""The planning loop: one planner per library, by lease. Takes the picture, asks the planner, writes mount rows.

Whether something is worth a mount is `tapeserver.planner`'s; here it is only carried out. Many tape servers may run
this for the same library: whoever holds the lease decides, and writes under the lease's guard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import cacheservers, failures, leases, maintenance, mounts, queues, repairs, volumes
from catalog.database import SESSIONS, Database, is_transient
from catalog.errors import CapstanError
from catalog.leases import Lease
from catalog.mounts import Candidate, NewMount
from tapeserver.config import Config
from tapeserver.picture import (
    ArchiveNeed,
    Decision,
    DriveView,
    EndView,
    MediaNeed,
    MountView,
    Policy,
    RecallNeed,
    Snapshot,
)
from tapeserver.planner import FINISHED_STATES, plan

log = structlog.get_logger(__name__)

LEASE_PREFIX = "planner:"
#: a holder stops believing in its lease this part of it before the end
LEASE_MARGIN = 0.3
CACHE_FULL_OUTCOME = "no cache space"
GAVE_WAY = "gave way"


class HeldLease:
    """A lease as its holder sees it: by his own monotonic clock, counted from before the renewal was sent."""

    def __init__(self, database: Database, name: str, holder: str, *, seconds: float) -> None:
        self._database, self._name, self._holder, self._seconds = database, name, holder, seconds
        self._lease: Lease | None = None
        self._sure_until = 0.0

    async def hold(self) -> Lease | None:
        """The lease, taken or renewed when it is time; None when another has it. Raises CatalogUnreachable."""
        now = asyncio.get_running_loop().time()
        if self._lease is not None and now < self._sure_until - self._seconds / 2:
            return self._lease
        async with self._database.transaction() as connection:
            held = self._lease
            if held is None or not await leases.renew(connection, held, seconds=self._seconds):
                held = await leases.acquire(connection, self._name, self._holder, seconds=self._seconds)
        # Not before the commit: one that was lost on its way has prolonged nothing.
        if held is not None:
            self._sure_until = now + self._seconds * (1 - LEASE_MARGIN)
            if held != self._lease:
                log.info("lease taken", lease=self._name, number=held.number)
        self._lease = held
        return held

    @property
    def sure(self) -> bool:
        """Whether it may still be acted upon."""
        return self._lease is not None and asyncio.get_running_loop().time() < self._sure_until

    async def release(self) -> None:
        if self._lease is not None:
            async with self._database.transaction() as connection:
                await leases.release(connection, self._lease)
            self._lease = None


class PlanningLoop:
    """All libraries whose lease this tape server gets. Run `run` as a task; ring `bell` when there may be news."""

    def __init__(self, database: Database, config: Config, *, closing: asyncio.Event) -> None:
        self._database, self._config, self._closing = database, config, closing
        self.bell = asyncio.Event()
        self._leases: dict[str, HeldLease] = {}

    @property
    def planned_libraries(self) -> list[str]:
        """Libraries that this tape server decides about now."""
        return sorted(name for name, lease in self._leases.items() if lease.sure)

    async def run(self) -> None:
        try:
            while not self._closing.is_set():
                try:
                    await self._round()
                except (CapstanError, OSError) as error:
                    log.warning("planning delayed", why=str(error))
                except Exception as error:
                    if not is_transient(error):
                        log.exception("planning failed")
                await self._rest()
        finally:
            await self._let_go()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._config.planning_interval_seconds):
                await self.bell.wait()
        except TimeoutError:
            return
        self.bell.clear()

    async def _round(self) -> None:
        async with self._database.connection() as connection:
            libraries = [one.name for one in await volumes.list_libraries(connection)]
        for name in libraries:
            await self._database.run(partial(queues.fold_deltas, library=name))
            held = self._leases.get(name)
            if held is None:
                seconds = self._config.lease_seconds
                held = self._leases[name] = HeldLease(
                    self._database, LEASE_PREFIX + name, self._config.name, seconds=seconds
                )
            lease = await held.hold()
            if lease is not None and held.sure:
                await self.plan_library(name, lease)

    async def plan_library(self, library: str, lease: Lease) -> Decision:
        """One decision for one library, carried out under its lease."""
        async with self._database.connection() as connection:
            silence = self._config.drive_silence_seconds
            snapshot = await take_snapshot(connection, library, drive_silence_seconds=silence)
        decision = plan(snapshot, policy_of(self._config))
        epochs = await self._carry_out(library, lease, decision)
        if epochs or decision.give_way:
            self._database.wake(SESSIONS)
        return decision

    async def _carry_out(self, library: str, lease: Lease, decision: Decision) -> list[int]:
        async with self._database.transaction() as connection:
            if not await leases.guard(connection, lease):
                return []
            epochs = []
            for one in decision.mounts:
                epoch = await mounts.plan_mount(
                    connection,
                    NewMount(
                        drive=one.drive,
                        volume=one.volume,
                        purpose=one.purpose,
                        pool=one.pool,
                        reason_code=one.reason_code,
                        reason_arguments=one.reason_arguments,
                    ),
                )
                if epoch is not None:
                    log.info("mount planned", epoch=epoch, drive=one.drive, volume=one.volume, why=one.reason_code)
                    epochs.append(epoch)
            candidates = [
                Candidate(kind=one.kind, key=one.key, code=one.code, arguments=one.arguments)
                for one in decision.candidates
            ]
            await mounts.write_candidates(connection, library, candidates)
            for late in decision.give_way:
                log.info("mount gives way", epoch=late.epoch, drive=late.drive, volume=late.volume)
                others = (
                    "others wait for the drive, or for the volume" if late.verifies else "others wait for the drive"
                )
                why = f"{GAVE_WAY} after {late.age_seconds:.0f} s: {others}"
                await mounts.give_way(connection, late.epoch, why)
        return epochs

    async def _let_go(self) -> None:
        for held in self._leases.values():
            try:
                async with asyncio.timeout(0.5):
                    await held.release()
            except (CapstanError, OSError, TimeoutError):
                # It runs out by itself.
                continue


def policy_of(config: Config) -> Policy:
    return Policy(
        collecting_age_seconds=config.collecting_age_seconds,
        collecting_bytes=config.collecting_bytes,
        collecting_files=config.collecting_files,
        volumes_open_max=config.volumes_open_max,
        volumes_open_bytes=config.volumes_open_bytes,
        cooldown_seconds=config.cooldown_seconds,
        cooldown_seconds_max=config.cooldown_seconds_max,
        mount_seconds_max=config.mount_seconds_max,
        background_seconds_max=config.background_seconds_max,
        verify_drives_max=config.verify_drives_max,
    )


async def take_snapshot(
    connection: AsyncConnection, library: str, *, drive_silence_seconds: float = volumes.DRIVE_HEARTBEAT_SECONDS_MAX
) -> Snapshot:
    """The picture of one library that the planner decides on."""
    [known] = [one for one in await volumes.list_libraries(connection) if one.name == library]
    drives = await volumes.list_drives(connection, library=library, silence_seconds_max=drive_silence_seconds)
    live = [one for one in await mounts.list_mounts(connection) if one.library == library]
    backlog = await queues.backlog(connection)
    suspects: dict[str, frozenset[str]] = {}
    for pair in await failures.suspect_pairs(connection, library):
        suspects[pair.volume] = suspects.get(pair.volume, frozenset()) | {pair.drive}
    ends = await mounts.recent_ends(connection)
    mounted = [one.volume for one in live]
    in_drives = await volumes.list_volumes(connection, vids=mounted, limit=len(mounted)) if mounted else []
    full = {one.vid for one in in_drives if one.state.value in FINISHED_STATES}
    free_bytes = [one.free_bytes for one in await cacheservers.live_servers(connection)]
    return Snapshot(
        library=library,
        library_state=known.state.value,
        library_reason=known.reason,
        drives=_drive_views(drives, live),
        mounts=[
            MountView(
                volume=one.volume,
                drive=one.drive,
                pool=one.pool,
                purpose=one.purpose,
                ending=one.stop_wanted is not None or one.state == "unloading",
                full=one.volume in full,
                epoch=one.epoch,
                age_seconds=one.age_seconds,
            )
            for one in live
        ],
        recalls=await _recall_needs(connection, library, backlog),
        archives=await _archive_needs(connection, library, backlog),
        media=[_media_need(one) for one in await maintenance.volumes_waiting(connection, library)],
        suspects=suspects,
        ends={vid: end_view(end) for vid, end in ends.items()},
        cache_free_bytes=max(free_bytes, default=0),
    )


async def _recall_needs(
    connection: AsyncConnection, library: str, backlog: Sequence[queues.Backlog]
) -> list[RecallNeed]:
    wanted = {one.key: one for one in backlog if one.kind == "recall"}
    media = await volumes.list_volumes(connection, library=library, vids=list(wanted), limit=len(wanted) + 1)
    background = await mounts.background_volumes(connection, repairs.PRIORITY)
    return [
        RecallNeed(
            volume=one.vid,
            volume_state=one.state.value,
            volume_reason=one.reason,
            files=wanted[one.vid].files,
            bytes=wanted[one.vid].bytes,
            oldest_seconds=wanted[one.vid].oldest_seconds,
            background=one.vid in background,
        )
        for one in media
    ]


async def _archive_needs(
    connection: AsyncConnection, library: str, backlog: Sequence[queues.Backlog]
) -> list[ArchiveNeed]:
    pools = await volumes.pools_of(connection, library)
    filling = [one for one in backlog if one.kind == "archive" and one.key in pools]
    writable = await volumes.writable_volumes(connection, [one.key for one in filling]) if filling else {}
    return [
        ArchiveNeed(
            pool=need.key,
            files=need.files,
            bytes=need.bytes,
            urgent=need.urgent,
            oldest_seconds=need.oldest_seconds,
            writable=writable.get(need.key, []),
            volumes_open_max=pools[need.key],
        )
        for need in filling
    ]


def _media_need(waiting: maintenance.VolumeWaiting) -> MediaNeed:
    purpose: Literal["verify", "label", "index"] = "verify"
    if waiting.kind == "label":
        purpose = "label"
    elif waiting.kind == "index":
        purpose = "index"
    return MediaNeed(
        volume=waiting.volume,
        volume_state=waiting.volume_state,
        volume_reason=waiting.volume_reason,
        pool=waiting.pool,
        purpose=purpose,
        age_seconds=waiting.age_seconds,
    )


def end_view(end: mounts.RecentEnd) -> EndView:
    kind: Literal["well", "failed", "cache_full", "gave_way"] = "failed"
    if end.outcome.startswith(f"stopped: {GAVE_WAY}"):
        kind = "gave_way"
    elif end.outcome == "done" or end.outcome.startswith("stopped: "):
        # What somebody stopped did not fail.
        kind = "well"
    elif end.outcome.startswith(CACHE_FULL_OUTCOME):
        kind = "cache_full"
    return EndView(drive=end.drive, kind=kind, why=end.outcome, ago_seconds=end.ago_seconds, fruitless=end.fruitless)


def _drive_views(drives: Sequence[volumes.Drive], live: Sequence[mounts.Mount]) -> list[DriveView]:
    busy = {one.drive for one in live}
    return [
        DriveView(name=one.name, up=one.state == "up", attached=one.attached, busy=one.name in busy) for one in drives
    ]
