"""Which volume next, in which drive, and why not the others. Pure: a snapshot of one library in, a decision out.

The first planner: oldest need first, between reads and writes too; a queued recall makes its volume eligible at once, a
pool becomes so by bytes, files, age, or because somebody waits. What only Capstan itself wants comes behind, last of
all a verify or a full index that is missing, in a drive that nobody else wants. A mount that has had its drive for long
gives way when another needs it, one that verifies at once. It looks at all free drives at once and writes nothing;
`tapeserver.planning` takes the snapshot and carries the decision out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.states import READABLE_VOLUME_STATES
from tapeserver.picture import (
    ArchiveNeed,
    Decision,
    EndView,
    Explanation,
    GiveWay,
    MediaNeed,
    PlannedMount,
    Policy,
    RecallNeed,
    Snapshot,
)

READABLE_STATES = frozenset(str(state) for state in READABLE_VOLUME_STATES)
#: a label is written on what has none that counts
LABELLED_STATES = frozenset({"blank"})
#: no archive is claimed for it
FINISHED_STATES = frozenset({"full", "closed"})
#: the last index is written on what takes nothing more; after a restore such a mount finds the end of any volume
INDEXED_STATES = FINISHED_STATES | {"active"}
_MEDIA_STATES = {"verify": READABLE_STATES, "label": LABELLED_STATES, "index": INDEXED_STATES}
_WAITED_FOR, _BACKGROUND, _IDLE = 0, 1, 2
#: ages in the explanation of what collects are rounded to this part of the limit: it is written on change only
AGE_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """One mount that would be worth it, if there is a drive."""

    kind: str
    key: str
    volume: str
    purpose: str
    pool: str | None
    oldest_seconds: float
    reason_code: str
    reason_arguments: Mapping[str, Any]
    #: who comes first: what somebody waits for, then what only Capstan does, then what may wait for an idle drive
    rank: int = 0


def plan(snapshot: Snapshot, policy: Policy) -> Decision:
    """The mounts to begin now, and an explanation for every volume with recalls and every pool with archives."""
    wishes, explained = _judge(snapshot, policy)
    # Oldest need first; names decide between equals, so that the same picture gives the same plan.
    wishes.sort(key=lambda wish: (wish.rank, -wish.oldest_seconds, wish.kind, wish.key, wish.volume))
    free = sorted(drive.name for drive in snapshot.drives if drive.free)
    mounts: list[PlannedMount] = []
    waiting: dict[str, _Wish] = {}
    taken: set[str] = set()
    for wish in wishes:
        if wish.volume in taken:
            # A volume of a pool that is wanted for reading as well: the one mount serves both.
            explained.setdefault((wish.kind, wish.key), _ready(wish, _drive_of(mounts, wish.volume)))
            continue
        if wish.rank == _IDLE and waiting:
            # A drive that is free in vain now (a pair that is suspect, a mount that ends) is not idle.
            explained.setdefault((wish.kind, wish.key), _without_drive(wish, snapshot))
            continue
        drive = _pick_drive(free, snapshot.ends.get(wish.volume), snapshot.suspects.get(wish.volume, frozenset()))
        if drive is None:
            waiting.setdefault(wish.volume, wish)
            explained.setdefault((wish.kind, wish.key), _without_drive(wish, snapshot))
            continue
        taken.add(wish.volume)
        mounts.append(_mount(wish, drive, wishes))
        explained.setdefault((wish.kind, wish.key), _ready(wish, drive))
    return Decision(
        mounts=mounts,
        candidates=[explained[key] for key in sorted(explained)],
        give_way=_give_way(list(waiting.values()), _blocked_pools(explained), snapshot, policy),
    )


def _judge(snapshot: Snapshot, policy: Policy) -> tuple[list[_Wish], dict[tuple[str, str], Explanation]]:
    """Mounts that would be worth it, and why the others are not."""
    wishes: list[_Wish] = []
    explained: dict[tuple[str, str], Explanation] = {}
    for recall in snapshot.recalls:
        found = _judge_recall(recall, snapshot, policy)
        _sort_in(found, wishes, explained)
    for archive in snapshot.archives:
        for found in _judge_archive(archive, snapshot, policy):
            _sort_in(found, wishes, explained)
    verifying = sum(
        mount.purpose == "verify" or (mount.full and mount.purpose == "archive") for mount in snapshot.mounts
    )
    for need in snapshot.media:
        found = _judge_media(need, snapshot, policy, verifying)
        verifying += isinstance(found, _Wish) and found.rank == _IDLE
        if isinstance(found, _Wish) or (found.kind, found.key) not in explained:
            _sort_in(found, wishes, explained)
    return wishes, explained


def _pick_drive(free: list[str], end: EndView | None, suspects: frozenset[str]) -> str | None:
    """Takes a drive from `free`: another one than those in which the volume failed, if there is."""
    failed_in = suspects | ({end.drive} if end is not None and end.kind == "failed" else frozenset())
    drive = next((name for name in free if name not in failed_in), free[0] if free else None)
    if drive is not None:
        free.remove(drive)
    return drive


def _give_way(waiting: Sequence[_Wish], blocked: frozenset[str], snapshot: Snapshot, policy: Policy) -> list[GiveWay]:
    """As many mounts as others wait for drives that will not come free by themselves: verifies, then the longest."""
    filling = {m.pool for m in snapshot.mounts if m.purpose == "archive" and not m.ending and not m.full}
    # Another volume for a pool that is being filled already is no reason to interrupt anybody.
    wanted = sum(wish.rank < _IDLE and (wish.purpose != "archive" or wish.pool not in filling) for wish in waiting)
    wanted -= sum(mount.ending for mount in snapshot.mounts)
    verifying = [m for m in snapshot.mounts if not m.ending and m.purpose == "verify"]
    long = [
        m for m in snapshot.mounts
        if not m.ending and m.purpose != "verify" and m.age_seconds > policy.mount_seconds_max
    ]  # fmt: skip
    long.sort(key=lambda mount: (-mount.age_seconds, mount.drive))
    verifying.sort(key=lambda mount: (mount.pool not in blocked, mount.drive))
    # A pool whose only volume with room is being verified waits for that volume, whatever drives are free.
    wanted = max(wanted, sum(mount.pool in blocked for mount in verifying))
    return [
        GiveWay(
            epoch=one.epoch,
            drive=one.drive,
            volume=one.volume,
            age_seconds=one.age_seconds,
            verifies=one.purpose == "verify",
        )
        for one in [*verifying, *long][: max(0, wanted)]
    ]


def _resting_seconds(volume: str, snapshot: Snapshot, policy: Policy, *, file_bytes: float = 0.0) -> float | None:
    """How long in all the volume rests after its last mount; None when it does not, or has."""
    end = snapshot.ends.get(volume)
    if end is None or end.kind not in ("failed", "cache_full"):
        return None
    doublings = min(max(end.fruitless - 1, 0), 30)
    if end.kind == "cache_full" and snapshot.cache_free_bytes >= file_bytes:
        doublings = 0
    longest = max(policy.cooldown_seconds, policy.cooldown_seconds_max)
    seconds: float = min(policy.cooldown_seconds * 2**doublings, longest)
    return seconds if end.ago_seconds < seconds else None


def _need_seconds(volume: str, oldest_seconds: float, snapshot: Snapshot) -> float:
    """By which needs are ordered: a volume that gave way is behind those that waited when it did."""
    end = snapshot.ends.get(volume)
    return min(oldest_seconds, end.ago_seconds) if end is not None and end.kind == "gave_way" else oldest_seconds


def _judge_recall(need: RecallNeed, snapshot: Snapshot, policy: Policy) -> _Wish | Explanation:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="volume", key=need.volume, code=code, arguments=arguments)

    mount = next((mount for mount in snapshot.mounts if mount.volume == need.volume), None)
    if snapshot.library_state != "up":
        return explain("library_down", **_library_arguments(snapshot))
    if need.volume_state not in READABLE_STATES:
        return explain(
            "volume_disabled", volume=need.volume, state=need.volume_state, reason=need.volume_reason or "no reason"
        )
    if mount is not None:
        # The session takes late arrivals by itself.
        return explain("mounted", drive=mount.drive)
    if need.oldest_seconds is None:
        return explain("backing_off")
    resting = _resting_seconds(need.volume, snapshot, policy, file_bytes=need.bytes / max(1, need.files))
    if resting is not None:
        end = snapshot.ends[need.volume]
        if end.kind == "cache_full":
            return explain("cache_full", why=end.why, cooldown_seconds=resting)
        return explain("cooling_down", cooldown_seconds=resting)
    return _Wish(
        kind="volume",
        key=need.volume,
        volume=need.volume,
        purpose="recall",
        pool=None,
        oldest_seconds=_need_seconds(need.volume, need.oldest_seconds, snapshot),
        reason_code="recalls",
        reason_arguments={"files": need.files, "bytes": need.bytes},
        rank=_BACKGROUND if need.background and need.oldest_seconds < policy.background_seconds_max else _WAITED_FOR,
    )


def _judge_media(need: MediaNeed, snapshot: Snapshot, policy: Policy, verifying: int) -> _Wish | Explanation:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="volume", key=need.volume, code=code, arguments=arguments)

    mount = next((mount for mount in snapshot.mounts if mount.volume == need.volume), None)
    if snapshot.library_state != "up":
        return explain("library_down", **_library_arguments(snapshot))
    if need.volume_state not in _MEDIA_STATES[need.purpose]:
        reason = need.volume_reason or "no reason"
        return explain("volume_disabled", volume=need.volume, state=need.volume_state, reason=reason)
    if mount is not None:
        return explain("mounted", drive=mount.drive)
    resting = _resting_seconds(need.volume, snapshot, policy)
    if resting is not None:
        return explain("cooling_down", cooldown_seconds=resting)
    if need.purpose != "label" and verifying >= policy.verify_drives_max:
        return explain(f"{need.purpose}_waits", verifying=verifying)
    return _Wish(
        kind="volume",
        key=need.volume,
        volume=need.volume,
        # A mount to write knows that a full volume takes nothing more.
        purpose="archive" if need.purpose == "index" else need.purpose,
        pool=need.pool,
        oldest_seconds=need.age_seconds,
        reason_code=need.purpose,
        reason_arguments={},
        rank=_WAITED_FOR if need.purpose == "label" else _IDLE,
    )


def _judge_archive(need: ArchiveNeed, snapshot: Snapshot, policy: Policy) -> Iterator[_Wish | Explanation]:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="pool", key=need.pool, code=code, arguments=arguments)

    filling = [
        m for m in snapshot.mounts if m.purpose == "archive" and m.pool == need.pool and not m.ending and not m.full
    ]
    cooling = [volume for volume in need.writable if _resting_seconds(volume, snapshot, policy) is not None]
    usable = [volume for volume in need.writable if volume not in cooling]
    open_max = policy.volumes_open_max if need.volumes_open_max is None else need.volumes_open_max
    wanted_volumes = min(open_max, 1 + need.bytes // max(1, policy.volumes_open_bytes))
    reason = _worth(need, policy)
    if snapshot.library_state != "up":
        yield explain("library_down", **_library_arguments(snapshot))
    elif filling and len(filling) >= wanted_volumes:
        yield explain("mounted", drive=filling[0].drive)
    elif need.oldest_seconds is None:
        yield explain("nothing_to_write")
    elif reason is None:
        yield explain("collecting", **_collecting_arguments(need, policy))
    elif not usable:
        mounted = [mount for mount in snapshot.mounts if mount.pool == need.pool]
        in_use = bool(cooling or mounted)
        yield explain("volumes_in_use" if in_use else "no_volume", pool=need.pool)
    else:
        for volume in usable[: wanted_volumes - len(filling)]:
            yield _Wish(
                kind="pool",
                key=need.pool,
                volume=volume,
                purpose="archive",
                pool=need.pool,
                oldest_seconds=_need_seconds(volume, need.oldest_seconds, snapshot),
                reason_code=reason,
                reason_arguments={"files": need.files, "bytes": need.bytes},
            )


def _worth(need: ArchiveNeed, policy: Policy) -> str | None:
    """Why a mount for this pool is worth it now; None while it collects."""
    if need.urgent:
        return "urgent"
    if need.bytes >= policy.collecting_bytes:
        return "bytes"
    if need.files >= policy.collecting_files:
        return "files"
    if need.oldest_seconds is not None and need.oldest_seconds >= policy.collecting_age_seconds:
        return "age"
    return None


def _sort_in(found: _Wish | Explanation, wishes: list[_Wish], explained: dict[tuple[str, str], Explanation]) -> None:
    if isinstance(found, _Wish):
        wishes.append(found)
    else:
        explained[found.kind, found.key] = found


def _mount(wish: _Wish, drive: str, wishes: Sequence[_Wish]) -> PlannedMount:
    # A volume that is wanted both ways is mounted to write: such a mount serves its recalls first.
    # A label that is asked for by itself may have to be forced, which a mount to write never does.
    others = [] if wish.purpose == "label" else wishes
    writing = next((other for other in others if other.volume == wish.volume and other.purpose == "archive"), wish)
    return PlannedMount(
        drive=drive,
        volume=wish.volume,
        purpose=writing.purpose,
        pool=writing.pool,
        reason_code=wish.reason_code,
        reason_arguments=wish.reason_arguments,
    )


def _blocked_pools(explained: Mapping[tuple[str, str], Explanation]) -> frozenset[str]:
    """Pools with something to write and no volume for it that is not in a drive or resting."""
    return frozenset(key for (kind, key), one in explained.items() if kind == "pool" and one.code == "volumes_in_use")


def _drive_of(mounts: Sequence[PlannedMount], volume: str) -> str:
    return next(mount.drive for mount in mounts if mount.volume == volume)


def _ready(wish: _Wish, drive: str) -> Explanation:
    return Explanation(kind=wish.kind, key=wish.key, code="ready", arguments={"drive": drive})


def _without_drive(wish: _Wish, snapshot: Snapshot) -> Explanation:
    up = [drive for drive in snapshot.drives if drive.up]
    attached = [drive for drive in up if drive.attached]
    arguments: dict[str, Any] = {"library": snapshot.library}
    if attached:
        arguments["drives"] = len(attached)
    if wish.rank == _IDLE and attached:
        code = "no_idle_drive" if wish.purpose == "verify" else "no_idle_drive_index"
        return Explanation(kind=wish.kind, key=wish.key, code=code, arguments={"library": snapshot.library})
    code = "no_free_drive" if attached else "drive_silent" if up else "no_drive"
    return Explanation(kind=wish.kind, key=wish.key, code=code, arguments=arguments)


def _library_arguments(snapshot: Snapshot) -> dict[str, Any]:
    reason = snapshot.library_reason or "no reason"
    return {"library": snapshot.library, "state": snapshot.library_state, "reason": reason}


def _collecting_arguments(need: ArchiveNeed, policy: Policy) -> dict[str, Any]:
    step = max(policy.collecting_age_seconds / AGE_STEPS, 1.0)
    return {
        "wanted_bytes": need.bytes,
        "target_bytes": policy.collecting_bytes,
        "wanted_files": need.files,
        "target_files": policy.collecting_files,
        "oldest_seconds": round((need.oldest_seconds or 0.0) // step * step, 1),
        "target_seconds": policy.collecting_age_seconds,
    }
