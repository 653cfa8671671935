"""The picture that the planner decides on, and what a decision is made of. Pure: values only.

Ages are seconds at the moment of the picture. Who takes it is `tapeserver.planning`, what it leads to
`tapeserver.planner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


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
    #: what only Capstan itself waits for counts like any other need after so long
    background_seconds_max: float = 3600.0
    #: drives of one library that verify at once
    verify_drives_max: int = 1


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
    #: recall, archive, label or verify
    purpose: str
    #: it was asked to stop, or unloads already: it takes nothing new
    ending: bool = False
    #: the volume is full or closed: nothing but its index is written
    full: bool = False
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
    #: only Capstan itself waits for it, for a repack or an audit
    background: bool = False


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
    #: filled at once; None: as the policy says
    volumes_open_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaNeed:
    """A volume that wants a mount for its own sake."""

    volume: str
    volume_state: str
    volume_reason: str
    pool: str | None
    #: of an index: the volume is full or closed, and lacks its last one
    purpose: Literal["verify", "label", "index"]
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    library: str
    library_state: str
    library_reason: str
    drives: Sequence[DriveView]
    mounts: Sequence[MountView]
    recalls: Sequence[RecallNeed]
    archives: Sequence[ArchiveNeed]
    #: to be labelled, indexed or verified, the oldest first
    media: Sequence[MediaNeed] = ()
    #: volume -> drives in which it failed, as far as that still counts
    suspects: Mapping[str, frozenset[str]] = field(default_factory=dict)
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
    #: it verifies: whatever the others want comes first
    verifies: bool = False


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
