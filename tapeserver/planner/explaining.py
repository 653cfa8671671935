"""Why each volume and pool with something to do is, or is not, being served: the candidates. Pure.

The same rules as `deciding.plan`, asked of everything instead of the best; it is not on the way of a decision, and
takes some microseconds for each that waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tapeserver.planner.deciding import decide
from tapeserver.planner.outcome import Limit, Outcome
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.resting import cache_pause, rest_seconds, why_resting
from tapeserver.planner.views import Explanation, PlannedMount
from tapeserver.planner.wishes import Tier, Wish, in_steps, library_arguments, why_unusable

#: so many are worked out between two breaths of `explaining`
PART = 20


def explanations(picture: Picture, policy: Policy, now: float) -> list[Explanation]:
    """One for every volume with recalls or wishes of its own and every pool with archives, in the order of names."""
    found = [one for part in explaining(picture, policy, now) for one in part]
    return sorted(found, key=lambda one: (one.kind, one.key))


def explaining(picture: Picture, policy: Policy, now: float) -> Iterator[list[Explanation]]:
    """As `explanations`, in parts that are short and of no order: whoever has other work does it between them.

    The picture may change in between; what is said is then of this moment or of that. Nothing is said twice.
    """
    outcome = decide(picture, policy, now)
    ready = {mount.volume: mount for mount in outcome.mounts}
    others, no_drive = dict(outcome.explained), _no_drive(picture)
    told, wanted = set[str](), list(picture.volumes.wanted())
    yield []
    for first in range(0, len(wanted), PART):
        part = [
            _of_recall(slot, outcome, ready, picture, policy, now, no_drive)
            for slot in wanted[first : first + PART]
            if picture.volumes.files[slot]
        ]
        told.update(one.key for one in part)
        yield part
    for wish in outcome.wishes:
        if (wish.kind, wish.name) not in others:
            others[wish.kind, wish.name] = _of_wish(wish, outcome, ready, picture, policy, no_drive)
    # What waits to be read says more than what a volume wants for its own sake.
    yield [one for one in others.values() if one.kind != "volume" or one.key not in told]


def _of_recall(
    slot: int, outcome: Outcome, ready: dict[str, PlannedMount], picture: Picture, policy: Policy, now: float,
    no_drive: tuple[str, dict[str, Any]],
) -> Explanation:  # fmt: skip
    volumes, recalls = picture.volumes, outcome.recalls
    view = volumes.views[slot]
    name = view.name

    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="volume", key=name, code=code, arguments=arguments)

    mount, end = picture.mount_of(name), picture.troubles.get(name)
    if picture.library_state != "up":
        return explain("library_down", **library_arguments(picture))
    unusable = why_unusable(view, bool(volumes.readable[slot]))
    if unusable is not None:
        return explain(unusable[0], **unusable[1])
    if mount is not None:
        return explain("mounted", drive=mount.drive)
    if name in ready:
        return explain("ready", drive=ready[name].drive)
    unfit = outcome.fits.why_none(name, "recall")
    if unfit is not None:
        return explain(unfit[0], **unfit[1])
    if recalls.wait[slot] < 0:
        return explain("backing_off")
    if end is not None:
        mean = volumes.bytes[slot] / volumes.files[slot]
        resting = rest_seconds(end, picture, policy, now, file_bytes=mean)
        if resting is not None:
            code, arguments = why_resting(end, resting)
            return explain(code, **arguments)
    pause = cache_pause(picture, policy, now)
    if pause is not None:
        return explain("cache_away", **pause)
    if recalls.limited[slot]:
        return _limit("volume", name, Limit("recall", _groups(slot, picture)), policy)
    if not recalls.worth[slot]:
        return explain("collecting_reads", **_collecting_arguments(slot, outcome, picture, policy))
    limit = outcome.limited.get(("volume", name))
    if limit is None and outcome.unread == "limited":
        limit = Limit("recall", frozenset())
    if limit is None and outcome.passed_over and _groups(slot, picture) <= outcome.full_groups:
        limit = Limit("recall", _groups(slot, picture))
    if limit is not None:
        return _limit("volume", name, limit, policy)
    short = outcome.short.get(("volume", name))
    if short is None and (outcome.unread == "short" or outcome.passed_over) and name not in outcome.waiting:
        short = min(float(volumes.bytes[slot]), policy.cache_mount_bytes) - max(outcome.room_bytes, 0.0)
    if short is not None and short > 0:
        return explain("cache_short", short_bytes=int(short))
    if recalls.resting[slot] and (outcome.waiting or not outcome.free or recalls.asleep[slot]):
        return explain("resting", rest_seconds=policy.remount_seconds)
    code, arguments = outcome.fits.why_not_now(name, "recall") or no_drive
    return explain(code, **arguments)


def _of_wish(
    wish: Wish, outcome: Outcome, ready: dict[str, PlannedMount], picture: Picture, policy: Policy,
    no_drive: tuple[str, dict[str, Any]],
) -> Explanation:  # fmt: skip
    drive = ready[wish.volume].drive if wish.volume in ready else None
    if wish.kind == "pool":
        # It may have got another volume than its best, and another pool that one.
        drive = outcome.filled.get(wish.name)
    if drive is not None:
        return Explanation(kind=wish.kind, key=wish.name, code="ready", arguments={"drive": drive})
    limited = outcome.limited.get((wish.kind, wish.name))
    if limited is not None:
        return _limit(wish.kind, wish.name, limited, policy)
    if wish.tier is Tier.IDLE and no_drive[0] == "no_free_drive":
        code = "no_idle_drive" if wish.purpose == "verify" else "no_idle_drive_index"
        return Explanation(kind=wish.kind, key=wish.name, code=code, arguments={"library": picture.library})
    code, arguments = outcome.fits.why_not_now(wish.volume, wish.purpose) or no_drive
    return Explanation(kind=wish.kind, key=wish.name, code=code, arguments=arguments)


def _groups(slot: int, picture: Picture) -> frozenset[str]:
    """Those for whom anything waits there."""
    return frozenset(picture.shares[picture.demand.share[row]].group for row in picture.demand.rows_of(slot))


def _limit(kind: str, name: str, limit: Limit, policy: Policy) -> Explanation:
    if limit.groups:
        arguments: dict[str, Any] = {"group": ", ".join(sorted(limit.groups))}
        return Explanation(kind=kind, key=name, code="drive_quota", arguments=arguments)
    reads = limit.purpose == "recall"
    most, doing = (policy.reading_drives_max, "read") if reads else (policy.writing_drives_max, "write")
    return Explanation(kind=kind, key=name, code="drive_limit", arguments={"drives": most, "doing": doing})


def _no_drive(picture: Picture) -> tuple[str, dict[str, Any]]:
    """Code and arguments of what has only no drive; the same for all."""
    up = [drive for drive in picture.drives.values() if drive.up]
    attached = sum(drive.attached for drive in up)
    if attached:
        return "no_free_drive", {"library": picture.library, "drives": attached}
    return "drive_silent" if up else "no_drive", {"library": picture.library}


def _collecting_arguments(slot: int, outcome: Outcome, picture: Picture, policy: Policy) -> dict[str, Any]:
    return {
        "wanted_bytes": int(picture.volumes.bytes[slot]),
        "target_bytes": policy.recall_bytes,
        "wanted_files": int(picture.volumes.files[slot]),
        "target_files": policy.recall_files,
        "oldest_seconds": in_steps(float(outcome.recalls.wait[slot]), policy.recall_age_seconds),
        "target_seconds": policy.recall_age_seconds,
        "quiet_seconds": policy.recall_quiet_seconds,
    }
