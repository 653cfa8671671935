"""The drives of a simulation: what each does now, and where its seconds went. Pure.

It decides nothing and knows no time of its own; `engine` moves the drives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tapeserver.simulator.passes import Pass


class Phase(StrEnum):
    """What a drive's time is spent on."""

    LOAD = "load"
    LOCATE = "locate"
    TRANSFER = "transfer"
    UNLOAD = "unload"
    IDLE = "idle"


class State(StrEnum):
    EMPTY = "empty"
    LOADING = "loading"
    WORKING = "working"
    #: a volume is in it, and there is nothing to do for it
    KEPT = "kept"
    UNLOADING = "unloading"


#: takes another volume at once
FREE_STATES = frozenset({State.EMPTY, State.KEPT})


@dataclass(slots=True)
class Station:
    """One drive."""

    number: int
    state: State = State.EMPTY
    #: in it or on its way to it; -1: none
    volume: int = -1
    #: the pool that is written; -1: it reads
    pool: int = -1
    #: comes next, while the volume before is taken out
    next_volume: int = -1
    next_pool: int = -1
    head: int = 0
    #: bytes since the load: some drives rewind longer the more was moved
    moved: int = 0
    mounted_at: float = 0.0
    kept_since: float = 0.0
    work: Pass | None = None
    #: events of an older turn are void
    turn: int = 0
    #: number of the mount, from 1
    mount: int = 0
    #: it stops at the end of what is handed out
    stops: bool = False
    #: it has lasted so long that it may have to give way
    long: bool = False
    #: a moment at which late arrivals join is coming
    joins: bool = False
    files: int = 0
    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))

    @property
    def free(self) -> bool:
        return self.state in FREE_STATES

    def move(self, state: State, now: float) -> int:
        """To another state, with its idle seconds counted; 1 when it comes free by that, -1 when it is taken."""
        was = self.free
        if was:
            self.seconds[Phase.IDLE] += now - self.kept_since
        self.state = state
        if self.free:
            self.kept_since = now
        return self.free - was


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One mount that ended: from the moment the volume was on its way until it was out of the drive."""

    drive: int
    volume: int
    begins: float
    ends: float
    files: int
