"""What would be worth a mount now, and why the rest is not: the rules, before any drive is given away. Pure.

Recalls are judged in vectors, by slot of volume; pools, and what volumes want for their own sake, one by one: they are
few. Who comes first among the wishes is one number, `key`; see `Tier`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from tapeserver.planner.fits import Fits
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import HOUR, Policy
from tapeserver.planner.resting import cache_pause, rest_seconds, rests, why_resting
from tapeserver.planner.scoring import Booleans, Floats, Scores, background, deadline_seconds, limited, score, urgency
from tapeserver.planner.views import ArchiveNeed, Explanation, MediaNeed, VolumeView
from tapeserver.planner.volumes import READABLE_STATES, UNKNOWN_STATE, change_seconds

#: a label is written on what has none that counts
LABELLED_STATES = frozenset({"blank"})
#: no archive is claimed for it
FINISHED_STATES = frozenset({"full", "closed"})
#: the last index is written on what takes nothing more; after a restore such a mount finds the end of any volume
INDEXED_STATES = FINISHED_STATES | {"active"}
_MEDIA_STATES = {"verify": READABLE_STATES, "label": LABELLED_STATES, "index": INDEXED_STATES}
#: a volume whose mount gave way counts less than the others for so long
GAVE_WAY_SECONDS = 900.0
#: ages in the explanation of what collects are rounded to this part of the limit: it is written on change only
AGE_STEPS = 5
#: of a mount that writes, when nothing is known of the volume it will take
WRITE_CHANGE_SECONDS = 120.0
WRITE_RATE = 300e6


class Tier(IntEnum):
    """Who comes first. Inside a tier the larger key; keys of one tier never reach into the next."""

    #: nobody waits for it: a verify, a full index; only in a drive that would be idle
    IDLE = 0
    #: only Capstan itself waits: a repack, an audit
    BACKGROUND = 1
    #: by the index
    WAITED_FOR = 2
    #: past the absolute deadline, the oldest first: neither shares nor a growing queue move it
    ANCIENT = 3
    #: an operator said so
    NOW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One mount that would be worth it, if there is a drive."""

    kind: str
    #: what the explanation is of
    name: str
    volume: str
    purpose: str
    pool: str | None
    key: float
    reason_code: str
    reason_arguments: Mapping[str, Any]
    #: whose limits of drives it may count against, the first that has room
    groups: tuple[str, ...] = ("",)
    #: room that its files want in the cache
    cache_bytes: float = 0.0
    #: what one of them wants
    file_bytes: float = 0.0
    #: it has waited past its deadline
    late: bool = False

    @property
    def tier(self) -> Tier:
        return Tier(int(self.key))

    @property
    def order(self) -> tuple[float, str, str, str]:
        return (-self.key, self.kind, self.name, self.volume)


@dataclass(frozen=True, slots=True)
class Recalls:
    """What waits to be read, judged. All by slot of volume."""

    #: seconds that the oldest waits; below 0: all of it waits for a pause to end
    wait: Floats
    #: what waits there is of groups that have all the drives they may have
    limited: Booleans
    #: readable, not in a drive, its pause after a failure over, and it collects no longer
    worth: Booleans
    #: of these, those that rest because their last mount was just now …
    resting: Booleans
    #: … and those of them that rest even while a drive is idle
    asleep: Booleans
    #: worth it too, but for the limits of groups
    held: Booleans
    #: who comes first; nobody, when no drive is free
    key: Floats
    drain_seconds: float = 0.0
    #: who has waited so long is late
    deadline_seconds: float = math.inf


def within(tier: Tier, value: float) -> float:
    """`value` (0 to infinity) squeezed into the tier, in the same order."""
    return tier + float(_squeezed(np.array(value)))


def judge_recalls(
    picture: Picture, policy: Policy, now: float, *, ranked: bool = True, fits: Fits | None = None
) -> Recalls:
    """Every volume for reading; `ranked`: who comes first matters."""
    volumes, count = picture.volumes, len(picture.volumes)
    files, size, wait = volumes.files[:count], volumes.bytes[:count], now - volumes.oldest[:count]
    runnable = (files > 0) & volumes.readable[:count]
    readable = (fits or Fits(picture)).readable()
    if readable is not None:
        runnable &= readable
    for volume in picture.mounted:
        runnable[volumes.slot(volume)] = False
    full = limited(picture)
    waiting = runnable & (wait >= 0)
    if full is None:
        full = np.zeros(count, dtype=bool)
    if cache_pause(picture, policy, now) is not None:
        waiting[:] = False
    gave_way = _rest(picture, policy, now, waiting)
    hurried = [slot for slot in map(volumes.find, picture.hurried) if slot is not None]
    worth = waiting
    if policy.recall_files > 1:
        worth = waiting & (
            (size >= policy.recall_bytes)
            | (files >= policy.recall_files)
            | (wait >= policy.recall_age_seconds)
            | (now - volumes.newest[:count] >= policy.recall_quiet_seconds)
        )
        worth[hurried] = waiting[hurried]
    held, worth = worth & full, worth & ~full
    ago = now - volumes.ended[:count]
    resting = worth & (ago >= 0) & (ago < policy.remount_seconds)
    resting[hurried] = False
    asleep = resting & (ago < policy.remount_idle_seconds)
    if not ranked:
        return Recalls(wait, full, worth, resting, asleep, held, np.zeros(count))
    scores = score(picture, policy, now, runnable, picture.working_drives)
    key = _keys(picture, policy, now, scores, wait, gave_way)
    key[hurried] = Tier.NOW + _squeezed(scores.index[hurried])
    deadline = min(scores.deadline_seconds, policy.deadline_seconds_max)
    return Recalls(wait, full, worth, resting, asleep, held, key, scores.drain_seconds, deadline)


def _rest(picture: Picture, policy: Policy, now: float, waiting: Booleans) -> dict[int, float]:
    """Takes out what rests after a failure; answers who gave way, and when."""
    volumes, gave_way = picture.volumes, {}
    for volume, end in picture.troubles.items():
        slot = volumes.find(volume)
        if slot is None or not waiting[slot]:
            continue
        mean = volumes.bytes[slot] / volumes.files[slot]
        if rest_seconds(end, picture, policy, now, file_bytes=mean) is not None:
            waiting[slot] = False
        elif end.kind == "gave_way":
            gave_way[slot] = end.at
    return gave_way


def _keys(
    picture: Picture, policy: Policy, now: float, scores: Scores, wait: Floats, gave_way: Mapping[int, float]
) -> Floats:
    index, queued = scores.index, wait.copy()
    for slot, at in gave_way.items():
        # Behind the others first; but a long pass whose rest came last of all would take many times as long as uncut.
        since = max(0.0, now - at)
        part = min(1.0, since / max(min(wait[slot], GAVE_WAY_SECONDS), 1e-9))
        # Behind all that waited when it gave way, where the bound on every wait is at stake.
        queued[slot] = min(wait[slot], since)
        wait[slot] *= part
        index[slot] *= part
    index = index * urgency(wait, scores.deadline_seconds, scores.costs)
    key = Tier.WAITED_FOR + _squeezed(index)
    own = background(picture, policy, wait)
    if own is not None:
        key = np.where(own, Tier.BACKGROUND + _squeezed(index), key)
    ancient = queued >= policy.deadline_seconds_max
    if ancient.any():
        key = np.where(ancient, Tier.ANCIENT + _squeezed(queued / HOUR), key)
    return key


def _squeezed(values: Floats) -> Floats:
    """0 to infinity into 0 to 1, in the same order; below 0: 0. By the logarithm: else from 1e15 on all would be 1."""
    positive = np.log1p(np.maximum(values, 0.0))
    squeezed: Floats = positive / (1.0 + positive)
    return squeezed


def recall_wish(picture: Picture, recalls: Recalls, policy: Policy, slot: int) -> Wish:
    volumes, shares, demand = picture.volumes, picture.shares, picture.demand
    weights: dict[str, float] = {}
    for row in demand.rows_of(slot):
        group = shares[demand.share[row]].group
        weights[group] = weights.get(group, 0.0) + float(demand.bytes[row]) + 1.0
    return Wish(
        kind="volume",
        name=volumes.names[slot],
        volume=volumes.names[slot],
        purpose="recall",
        pool=None,
        key=float(recalls.key[slot]),
        reason_code="recalls",
        reason_arguments={"files": int(volumes.files[slot]), "bytes": int(volumes.bytes[slot])},
        groups=tuple(sorted(weights, key=lambda group: (-weights[group], group))) or ("",),
        cache_bytes=min(float(volumes.bytes[slot]), policy.cache_mount_bytes),
        file_bytes=float(volumes.bytes[slot] / max(volumes.files[slot], 1.0)),
        late=bool(recalls.wait[slot] > recalls.deadline_seconds),
    )


# ------------------------------------------------------------------ what is to be written


def judge_archive(
    need: ArchiveNeed, picture: Picture, policy: Policy, now: float, drain_seconds: float, fits: Fits | None = None
) -> Iterator[Wish | Explanation]:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="pool", key=need.pool, code=code, arguments=arguments)

    # One whose drive is down, or that no tape server can use, is filled by nobody.
    opened = [m for m in picture.mounts.values() if m.purpose == "archive" and m.pool == need.pool and not m.full]
    opened = [m for m in opened if picture.works(m.drive)]
    filling = [m for m in opened if not m.ending]
    fits = fits or Fits(picture)
    unfit = {volume: why for volume in need.writable if (why := fits.why_none(volume, "archive")) is not None}
    able = [volume for volume in need.writable if volume not in unfit]
    resting = [volume for volume in able if rests(volume, picture, policy, now)]
    usable = [volume for volume in able if volume not in resting and volume not in picture.mounted]
    open_max = policy.volumes_open_max if need.volumes_open_max is None else need.volumes_open_max
    wanted_volumes = max(1, min(open_max, 1 + need.bytes // max(1, policy.volumes_open_bytes)))
    reason = _worth(need, policy, now)
    if picture.library_state != "up":
        yield explain("library_down", **library_arguments(picture))
    elif filling and len(filling) >= wanted_volumes:
        yield explain("mounted", drive=min(mount.drive for mount in filling))
    elif need.oldest_at is None or need.oldest_at > now:
        yield explain("nothing_to_write")
    elif reason is None:
        yield explain("collecting", **_collecting_arguments(need, policy, now))
    elif (pause := cache_pause(picture, policy, now, *need.writable)) is not None:
        yield explain("cache_away", **pause)
    elif opened and len(opened) >= wanted_volumes:
        # It has room, and is there again soon: another one would be one too many.
        yield explain("leaving", drive=min(mount.drive for mount in opened if mount.ending))
    elif unfit and not able:
        code, arguments = unfit[need.writable[0]]
        yield explain(code, **arguments)
    elif not usable:
        in_use = bool(resting or any(mount.pool == need.pool for mount in picture.mounts.values()))
        yield explain("volumes_in_use" if in_use else "no_volume", pool=need.pool)
    else:
        for volume in usable[: wanted_volumes - len(opened)]:
            yield Wish(
                kind="pool",
                name=need.pool,
                volume=volume,
                purpose="archive",
                pool=need.pool,
                key=_archive_key(need, volume, picture, policy, now, wanted_volumes, drain_seconds),
                reason_code=reason,
                reason_arguments={"files": need.files, "bytes": need.bytes},
                groups=tuple(need.groups) or ("",),
            )


def _archive_key(
    need: ArchiveNeed, volume: str, picture: Picture, policy: Policy, now: float, volumes: int, drain_seconds: float
) -> float:
    """As a volume for reading is scored: one cohort a volume, and one more for each file that somebody waits for."""
    wait = now - (now if need.oldest_at is None else need.oldest_at)
    end = picture.troubles.get(volume)
    if end is not None and end.kind == "gave_way":
        wait = min(wait, max(0.0, now - end.at))
    if volume in picture.hurried:
        return within(Tier.NOW, wait)
    if wait >= policy.deadline_seconds_max:
        return within(Tier.ANCIENT, wait / HOUR)
    # Collecting is no waiting, unless somebody does.
    late = wait if need.urgent else max(0.0, wait - policy.collecting_age_seconds)
    soon = float(urgency(np.array(late), deadline_seconds(policy, drain_seconds), np.array(1.0)))
    wait += max(policy.ageing_factor * drain_seconds, policy.ageing_seconds_min)
    slot = picture.volumes.find(volume)
    change = WRITE_CHANGE_SECONDS if slot is None else change_seconds(picture.volumes.geometry(slot))
    # A mount that writes for long gives way in between.
    cost = change + min(need.bytes / max(1, volumes) / WRITE_RATE, policy.mount_seconds_max)
    return within(Tier.WAITED_FOR, (1 + need.urgent) * wait / cost * soon)


def _worth(need: ArchiveNeed, policy: Policy, now: float) -> str | None:
    """Why a mount for this pool is worth it now; None while it collects."""
    if need.urgent:
        return "urgent"
    if need.bytes >= policy.collecting_bytes:
        return "bytes"
    if need.files >= policy.collecting_files:
        return "files"
    if need.oldest_at is not None and now - need.oldest_at >= policy.collecting_age_seconds:
        return "age"
    quiet = policy.collecting_quiet_seconds
    return "quiet" if quiet and need.newest_at is not None and now - need.newest_at >= quiet else None


def _collecting_arguments(need: ArchiveNeed, policy: Policy, now: float) -> dict[str, Any]:
    waited = 0.0 if need.oldest_at is None else now - need.oldest_at
    return {
        "wanted_bytes": need.bytes,
        "target_bytes": policy.collecting_bytes,
        "wanted_files": need.files,
        "target_files": policy.collecting_files,
        "oldest_seconds": in_steps(waited, policy.collecting_age_seconds),
        "target_seconds": policy.collecting_age_seconds,
    }


def in_steps(seconds: float, limit_seconds: float) -> float:
    step = max(limit_seconds / AGE_STEPS, 1.0)
    return round(seconds // step * step, 1)


# ------------------------------------------------------------------ what volumes want for their own sake


def judge_media(
    need: MediaNeed, picture: Picture, policy: Policy, now: float, verifying: int, fits: Fits
) -> Wish | Explanation:
    def explain(code: str, **arguments: Any) -> Explanation:
        return Explanation(kind="volume", key=need.volume, code=code, arguments=arguments)

    view = picture.volumes.views[picture.volumes.slot(need.volume)]
    mount = picture.mount_of(need.volume)
    if picture.library_state != "up":
        return explain("library_down", **library_arguments(picture))
    unusable = why_unusable(view, view.state in _MEDIA_STATES[need.purpose])
    if unusable is not None:
        return explain(unusable[0], **unusable[1])
    if mount is not None:
        return explain("mounted", drive=mount.drive)
    # A mount to write knows that a full volume takes nothing more.
    purpose = "archive" if need.purpose == "index" else need.purpose
    unfit = fits.why_none(need.volume, purpose)
    if unfit is not None:
        return explain(unfit[0], **unfit[1])
    end = picture.troubles.get(need.volume)
    resting = None if end is None else rest_seconds(end, picture, policy, now)
    if end is not None and resting is not None:
        code, arguments = why_resting(end, resting)
        return explain(code, **arguments)
    if need.purpose != "label" and verifying >= policy.verify_drives_max:
        return explain(f"{need.purpose}_waits", verifying=verifying)
    age = max(0.0, now - need.since)
    tier = Tier.IDLE
    if need.purpose == "label":
        tier = Tier.ANCIENT if age >= policy.deadline_seconds_max else Tier.WAITED_FOR
    if need.volume in picture.hurried:
        tier = Tier.NOW
    return Wish(
        kind="volume",
        name=need.volume,
        volume=need.volume,
        purpose=purpose,
        pool=view.pool,
        key=within(tier, age / HOUR),
        reason_code=need.purpose,
        reason_arguments={},
    )


def why_unusable(view: VolumeView, usable: bool) -> tuple[str, dict[str, Any]] | None:
    """Code and arguments, as far as the volume's state is the reason; None: it is not."""
    if view.state == UNKNOWN_STATE:
        return "not_seen", {}
    if usable:
        return None
    return "volume_disabled", {"volume": view.name, "state": view.state, "reason": view.reason or "no reason"}


def library_arguments(picture: Picture) -> dict[str, Any]:
    reason = picture.library_reason or "no reason"
    return {"library": picture.library, "state": picture.library_state, "reason": reason}
