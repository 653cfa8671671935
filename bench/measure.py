"""How things are measured here: rows, interleaved pairs, medians, processor time of other processes.

It knows nothing of Capstan or of any peer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAIRS = 9
PAIRS_MIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table and of results.json.

    `ratio` is value / peer. `target` says what must be reached, and of which number; None: only reported.
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    #: what the target is compared with: "ratio" or "value"
    of: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        measured = self.ratio if self.of == "ratio" else self.value
        if measured is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )

    @property
    def target(self) -> str | None:
        if self.at_least is not None:
            return f"{self.of} >= {self.at_least:g}"
        return f"{self.of} <= {self.at_most:g}" if self.at_most is not None else None

    def as_json(self) -> dict[str, Any]:
        # Without its peer a row with a target is only reported: there is nothing to hold it against.
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "peer": _rounded(self.peer),
            "ratio": _rounded(self.ratio),
            "target": self.target if self.met is not None else None,
            "met": self.met,
            "note": self.note,
        }


@dataclass(slots=True)
class Pairs:
    """What interleaved rounds of ours and the peer's gave; `notes` says how many, and how much they scattered."""

    ours: list[float] = field(default_factory=list)
    peers: list[float] = field(default_factory=list)
    wanted: int = PAIRS

    @property
    def value(self) -> float:
        return statistics.median(self.ours)

    @property
    def peer(self) -> float | None:
        return statistics.median(self.peers) if self.peers else None

    @property
    def note(self) -> str:
        kind = "pairs" if self.peers else "rounds"
        short = "" if len(self.ours) >= self.wanted else f" of {self.wanted}: out of time"
        return f"{len(self.ours)} {kind}{short}, ours {min(self.ours):.3g} to {max(self.ours):.3g}"


def interleaved(
    ours: Callable[[int], float], peer: Callable[[int], float] | None, *, rounds: int, budget_seconds: float
) -> Pairs:
    """Run ours, peer, ours, peer, …, each second round the other way about, and collect what they return.

    Round 0 of each is a warming-up that does not count. Stops early, but not before PAIRS_MIN pairs, when the next
    pair would end beyond the budget.
    """
    found = Pairs(wanted=rounds)
    began = time.monotonic()
    ours(0)
    if peer is not None:
        peer(0)
    longest = 0.0
    for number in range(1, rounds + 1):
        started = time.monotonic()
        if len(found.ours) >= min(PAIRS_MIN, rounds) and started + longest > began + budget_seconds:
            break
        gc.collect()
        if peer is not None and number % 2 == 0:
            found.peers.append(peer(number))
            found.ours.append(ours(number))
        else:
            found.ours.append(ours(number))
            if peer is not None:
                found.peers.append(peer(number))
        longest = max(longest, time.monotonic() - started)
    return found


@contextlib.contextmanager
def stopwatch() -> Any:
    """`with stopwatch() as took: …`, then `took()`: seconds."""
    began = time.perf_counter()
    ended: list[float] = []
    try:
        yield lambda: (ended[0] if ended else time.perf_counter()) - began
    finally:
        ended.append(time.perf_counter())


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes with all their threads, ended threads included; 0 for one that is gone.

    Every process has a clock of its CPU time; its number is the one's complement of the id, shifted, and the kind
    (`CPUCLOCK_SCHED`, 2): what clock_getcpuclockid(3) computes.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def cpu_seconds_of_ended_children(pid: int) -> float:
    """User and system time of the children of the process, and of theirs, that ended and were waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
