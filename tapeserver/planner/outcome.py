"""A decision with all that explains it: what was wanted, who got which drive, and what kept the others. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tapeserver.planner.fits import Fits
from tapeserver.planner.views import Explanation, GiveWay, PlannedMount
from tapeserver.planner.wishes import Recalls, Wish


class Limit(NamedTuple):
    """Drives that may do something at once, all of them in use."""

    purpose: str
    #: whose; none: everybody's
    groups: frozenset[str]


@dataclass(slots=True)
class Outcome:
    recalls: Recalls
    fits: Fits
    wishes: Sequence[Wish]
    explained: dict[tuple[str, str], Explanation]
    mounts: list[PlannedMount] = field(default_factory=list)
    give_way: list[GiveWay] = field(default_factory=list)
    #: pools that get a volume, and the drive of the first of these
    filled: dict[str, str] = field(default_factory=dict)
    #: wishes that found no drive, by volume; of recalls only the first of them
    waiting: dict[str, Wish] = field(default_factory=dict)
    #: volumes that rest, and would be mounted if a drive were empty: no more of each medium than could matter
    resting: list[str] = field(default_factory=list)
    #: (kind, name) -> bytes missing in the cache
    short: dict[tuple[str, str], float] = field(default_factory=dict)
    #: (kind, name) -> whose limit of drives keeps it
    limited: dict[tuple[str, str], Limit] = field(default_factory=dict)
    #: limits for which somebody waits
    held: set[Limit] = field(default_factory=set)
    #: bytes that reads may still bring to the cache
    room_bytes: float = 0.0
    #: why reads that were not looked at would have found nothing: no room, or all the drives that may read do
    unread: Literal["", "short", "limited"] = ""
    #: reads that the room left, or the limits of their groups, would not have let begin were not looked at
    passed_over: bool = False
    #: groups that read with all the drives they may have, once all drives are given away
    full_groups: frozenset[str] = frozenset()
    #: drives left free
    free: list[str] = field(default_factory=list)
