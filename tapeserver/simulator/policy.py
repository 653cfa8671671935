"""What the engine asks of a policy, and what it tells one; and how a run is set. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tapeserver.simulator.choice import Choice
from tapeserver.simulator.waiting import Waiting


class Policy(Protocol):
    """Which volume next. The engine asks when a drive is free or an asked for moment has come."""

    name: str
    #: how long a volume stays in a drive that has nothing more to do for it and that nobody wants
    keep_seconds: float
    #: a mount that lasts longer is a reason to ask, for it may have to give way; inf: none is
    long_mount_seconds: float

    def choose(self, waiting: Waiting, free: Sequence[int], now: float) -> Choice:
        """What to mount now; `free` are drives that are empty or keep a volume without work."""
        ...


class Listener:
    """What else a policy may want to hear; does nothing."""

    def wanted(self, part: int, now: float) -> None:
        """A part (a request's files on one volume) begins to wait."""

    def served(self, part: int, files: int, size: int, drive: int, now: float) -> None:
        """So many files of it are done."""

    def mounts(self, drive: int, volume: int, pool: int, now: float) -> None:
        """A volume is on its way to a drive."""

    def writes(self, volume: int, files: int, size: int, now: float, until: float) -> None:
        """So much of what waited for its pool is being written to it."""

    def kept(self, drive: int, volume: int, now: float) -> None:
        """A mounted volume has no work left."""

    def resumes(self, drive: int, volume: int, now: float) -> None:
        """A kept volume has work again."""

    def collects(self, pool: int, waiting: Waiting, writable: Sequence[int]) -> None:
        """What waits for a pool has changed, or the volumes, best first, that could take it."""

    def expected(self, request: int, now: float) -> float:
        """When it is expected to be done; nan: no estimate."""
        return math.nan

    def expected_archive(self, pool: int, now: float) -> float:
        """When what has just come for a pool is expected to be on tape; nan: no estimate."""
        return math.nan

    def dismounts(self, drive: int, volume: int, gave_way: bool, now: float) -> None:
        """A volume left its drive."""


class Stuck(RuntimeError):
    """Something waits and the policy mounts nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    drives: int
    #: sigma of the lognormal factor on locates
    noise: float = 0.0
    #: files a mover has in hand: late arrivals join behind them
    handed_out_files: int = 16
    #: the policy is asked again after so long while something waits and a drive is free
    ask_again_seconds: float = 30.0
    #: arrivals within so long lead to one decision
    gather_seconds: float = 1.0
    #: a wait longer than this after the last arrival means that the policy is stuck
    stuck_seconds: float = 30 * 86_400.0
    #: an estimate is asked for at every so manyth arrival; 0: none
    estimate_every: int = 0
