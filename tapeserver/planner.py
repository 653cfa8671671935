"""Which volume next, in which drive, and why not the others. Pure: a snapshot of one library in, a decision out.

The first planner: oldest need first, between reads and writes too; a queued recall makes its volume eligible at once, a
pool becomes so by bytes, files, age, or because somebody waits. A mount that has had its drive for long gives way when
another needs it. It looks at all free drives at once and writes nothing; `tapeserver.planning` takes the snapshot and
carries the decision out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

READABLE_STATES = frozenset({"active", "full", "suspect"})
#: ages in the explanation of what collects are rounded to this part of the limit: it is written on change only
AGE_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    collecting_age_seconds: float
    collecting_bytes: int
    collecting_files: int
    volumes_open_max: int
    volumes_open_bytes: int
    cooldown_seconds: float
    #: the cool-down doubles with each fruitless mount, up to this
    cooldown_seconds_max: float
    #: how long a mount may keep a drive that another needs
    mount_seconds_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveView:
    name: str
    up: bool
    #: a live tape server can use it
    attached: bool
    #: a mount has it
    busy: bool

    @property
    def free(self) -> bool:
        return self.up and self.attached and not self.busy


@dataclass(frozen=True, slots=True, kw_only=True)
class MountView:
    volume: str
    drive: str
    pool: str | None
    #: recall, archive or label
    purpose: str
    #: it was asked to stop, or unloads already: it takes nothing new
    ending: bool = False
    epoch: int = 0
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndView:
    """How the last mount of a volume ended."""

    drive: str
    kind: Literal["well", "failed", "cache_full", "gave_way"]
    why: str
    ago_seconds: float
    #: mounts in a row that brought nothing
    fruitless: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallNeed:
    """What waits to be read from one volume."""

    volume: str
    volume_state: str
    volume_reason: str
    files: int
    bytes: int
    #: None: all of it is backing off
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveNeed:
    """What waits to be written to one pool, and the volumes that could take it, best first."""

    pool: str
    files: int
    bytes: int
    urgent: int
    oldest_seconds: float | None
    #: not mounted; those that cool down too
    writable: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    library: str
    library_state: str
    library_reason: str
    drives: Sequence[DriveView]
    mounts: Sequence[MountView]
    recalls: Sequence[RecallNeed]
    archives: Sequence[ArchiveNeed]
    #: volume -> the end of its last mount, while that is news
    ends: Mapping[str, EndView] = field(default_factory=dict)
    #: room for the next file on the emptiest live cache server
    cache_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMount:
    drive: str
    volume: str
    purpose: str
    pool: str | None
    reason_code: str
    reason_arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """A mount that is to stop, because others wait for its drive."""

    epoch: int
    drive: str
    volume: str
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`kind` volume or pool; code and arguments are those of `catalog.candidates`."""

    kind: str
    key: str
    code: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    mounts: Sequence[PlannedMount]
    candidates: Sequence[Explanation]
    give_way: Sequence[GiveWay] = ()


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


def plan(snapshot: Snapshot, policy: Policy) -> Decision:
    """The mounts to begin now, and an explanation for every volume with recalls and every pool with archives."""
    wishes: list[_Wish] = []
    explained: dict[tuple[str, str], Explanation] = {}
    for recall in snapshot.recalls:
        found = _judge_recall(recall, snapshot, policy)
        _sort_in(found, wishes, explained)
    for archive in snapshot.archives:
        for found in _judge_archive(archive, snapshot, policy):
            _sort_in(found, wishes, explained)
    # Oldest need first; names decide between equals, so that the same picture gives the same plan.
    wishes.sort(key=lambda wish: (-wish.oldest_seconds, wish.kind, wish.key, wish.volume))
    free = sorted(drive.name for drive in snapshot.drives if drive.free)
    mounts: list[PlannedMount] = []
    waiting: dict[str, _Wish] = {}
    taken: set[str] = set()
    for wish in wishes:
        if wish.volume in taken:
            # A volume of a pool that is wanted for reading as well: the one mount serves both.
            explained.setdefault((wish.kind, wish.key), _ready(wish, _drive_of(mounts, wish.volume)))
            continue
        drive = _pick_drive(free, snapshot.ends.get(wish.volume))
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
        give_way=_give_way(list(waiting.values()), snapshot, policy),
    )


def _pick_drive(free: list[str], end: EndView | None) -> str | None:
    """Takes a drive from `free`: another one than that in which the volume failed last, if there is."""
    failed_in = end.drive if end is not None and end.kind == "failed" else None
    drive = next((name for name in free if name != failed_in), free[0] if free else None)
    if drive is not None:
        free.remove(drive)
    return drive


def _give_way(waiting: Sequence[_Wish], snapshot: Snapshot, policy: Policy) -> list[GiveWay]:
    """The longest mounts, as many as others wait for drives that will not come free by themselves."""
    filling = {mount.pool for mount in snapshot.mounts if mount.purpose == "archive" and not mount.ending}
    # Another volume for a pool that is being filled already is no reason to interrupt anybody.
    wanted = sum(wish.purpose == "recall" or wish.pool not in filling for wish in waiting)
    wanted -= sum(mount.ending for mount in snapshot.mounts)
    long = [m for m in snapshot.mounts if not m.ending and m.age_seconds > policy.mount_seconds_max]
    long.sort(key=lambda mount: (-mount.age_seconds, mount.drive))
    return [
        GiveWay(epoch=one.epoch, drive=one.drive, volume=one.volume, age_seconds=one.age_seconds)
        for one in long[: max(0, wanted)]
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
    )


def _judge_archive(need: ArchiveNeed, snapshot: Snapshot, policy: Policy) -> Iterator[_Wish | Explanation]:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="pool", key=need.pool, code=code, arguments=arguments)

    filling = [m for m in snapshot.mounts if m.purpose == "archive" and m.pool == need.pool and not m.ending]
    cooling = [volume for volume in need.writable if _resting_seconds(volume, snapshot, policy) is not None]
    usable = [volume for volume in need.writable if volume not in cooling]
    wanted_volumes = min(policy.volumes_open_max, 1 + need.bytes // max(1, policy.volumes_open_bytes))
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
    writing = next((other for other in wishes if other.volume == wish.volume and other.purpose == "archive"), wish)
    return PlannedMount(
        drive=drive,
        volume=wish.volume,
        purpose=writing.purpose,
        pool=writing.pool,
        reason_code=wish.reason_code,
        reason_arguments=wish.reason_arguments,
    )


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
