"""Who rests after a mount that came to nothing, how long: a volume by itself, or all while no cache answers. Pure.

What rests for other reasons (a mount that was just now) is `wishes`' matter.
"""

from __future__ import annotations

from typing import Any

from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import EndView


def rest_seconds(
    end: EndView, picture: Picture, policy: Policy, now: float, *, file_bytes: float = 0.0
) -> float | None:
    """How long in all the volume rests after a mount that came to nothing; None when it does not, or has."""
    if end.kind not in ("failed", "cache_full", "cache_away"):
        return None
    doublings = min(max(end.fruitless - 1, 0), 30)
    room = picture.cache_room_bytes if picture.cache_file_bytes is None else picture.cache_file_bytes
    if end.kind == "cache_full" and room >= file_bytes:
        doublings = 0
    seconds: float = min(policy.cooldown_seconds * 2**doublings, longest_rest(policy))
    # A clock that was put back ends it: it would rest for as long as that was.
    return seconds if 0 <= now - end.at < seconds else None


def longest_rest(policy: Policy) -> float:
    return max(policy.cooldown_seconds, policy.cooldown_seconds_max)


def cache_pause(picture: Picture, policy: Policy, now: float, *volumes: str) -> dict[str, Any] | None:
    """The arguments of `cache_away`: while nothing is mounted that needs the cache, or while one of these volumes rests
    because it found none, which another volume in its place would not either. None: the cache is tried."""
    away = picture.cache_away
    if away is not None and 0 <= now - away.at < away.seconds:
        return {"why": away.why, "cooldown_seconds": away.seconds}
    for volume in volumes:
        end = picture.troubles.get(volume)
        if end is not None and end.kind == "cache_away":
            seconds = rest_seconds(end, picture, policy, now)
            if seconds is not None:
                return {"why": end.why, "cooldown_seconds": seconds}
    return None


def rests(volume: str, picture: Picture, policy: Policy, now: float) -> bool:
    end = picture.troubles.get(volume)
    return end is not None and rest_seconds(end, picture, policy, now) is not None


def why_resting(end: EndView, seconds: float) -> tuple[str, dict[str, Any]]:
    """Code and arguments of a volume that rests for so long after this end."""
    if end.kind in ("cache_full", "cache_away"):
        return end.kind, {"why": end.why, "cooldown_seconds": seconds}
    return "cooling_down", {"cooldown_seconds": seconds}
