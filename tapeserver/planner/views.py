"""What the picture of one library is made of, and what a decision is made of. Pure: values only.

Times are seconds on one clock: the catalog's in production, virtual in the simulator. Who keeps these up to date is
not here; what they lead to is `deciding` and `explaining`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from catalog.model import DriveView as DriveView
from catalog.model import MountView as MountView
from catalog.model import PlannedMount as PlannedMount


class Share(NamedTuple):
    """On whose behalf something waits; counters are kept for each."""

    owner: str = ""
    group: str = ""
    activity: str = ""
    priority: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    name: str
    state: str
    reason: str = ""
    pool: str | None = None
    medium: str = ""
    capacity_bytes: int | None = None
    written_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndView:
    """How the last mount of a volume ended."""

    drive: str
    #: cache_full: there was no room; cache_away: none could be reached, which is nobody's fault here
    kind: Literal["well", "failed", "cache_full", "cache_away", "gave_way"]
    why: str
    at: float
    #: mounts in a row that brought nothing
    fruitless: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAway:
    """The last mounts could give the cache nothing, or get nothing from it: none is begun for a while."""

    at: float
    seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveNeed:
    """What waits to be written to one pool, and the volumes that could take it, best first."""

    pool: str
    files: int
    bytes: int
    urgent: int
    #: arrival of the oldest that can be written now; None: there is none
    oldest_at: float | None
    #: of the newest; None: not known
    newest_at: float | None = None
    #: those that rest, or are mounted, too
    writable: Sequence[str]
    #: filled at once; None: as the policy says
    volumes_open_max: int | None = None
    #: for whom, the one with most first
    groups: Sequence[str] = ("",)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaNeed:
    """A volume that wants a mount for its own sake."""

    volume: str
    #: of an index: the volume is full or closed, and lacks its last one
    purpose: Literal["verify", "label", "index"]
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveLimit:
    """How many drives one group may have at once; None: any number."""

    reading: int | None = None
    writing: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """A mount that is to end: others wait for its drive, or it has had nothing to do for too long."""

    epoch: int
    drive: str
    volume: str
    age_seconds: float
    #: rested: nobody waits, it was idle long enough; idle: it has nothing to do and others wait for the drive;
    #: verifies: whatever the others want comes first; long: it has had its drive for so long
    why: Literal["rested", "idle", "verifies", "long"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`kind` volume or pool; code and arguments are those of `catalog.candidates`."""

    kind: str
    key: str
    code: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    mounts: Sequence[PlannedMount] = ()
    give_way: Sequence[GiveWay] = ()
