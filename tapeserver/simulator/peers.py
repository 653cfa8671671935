"""Which volume next, as others decide it: the policies that Capstan is compared with. Pure.

Each is written from what the peers' documentation says of their rules (docs/simulator.md names them); none is a copy of
their code, and what they leave to an operator has their default here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tapeserver.simulator.choice import Choice
from tapeserver.simulator.trace import Floats
from tapeserver.simulator.waiting import Waiting

GB = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """The peers' own defaults, as far as they have any."""

    #: CTA: a mount is worth it from so many bytes or files on, or when something waits so long
    cta_bytes: int = 500 * GB
    cta_files: int = 10_000
    cta_age_seconds: float = 14_400.0
    #: dCache: no arrival for so long, and so much of a volume wanted, or the oldest expired
    dcache_quiet_seconds: float = 120.0
    dcache_volume_part: float = 0.8
    dcache_expiry_seconds: float = 7_200.0
    #: ENDIT: so long without arrivals, so long at most, and no second mount of a volume within
    endit_quiet_seconds: float = 600.0
    endit_age_seconds: float = 7_200.0
    endit_remount_seconds: float = 7_200.0


#: in: what waits, the volumes' written bytes, settings, now. Out: a number a need, the highest is mounted next;
#: -inf: it is not eligible yet
Rank = Callable[[Waiting, Floats, PeerSettings, float], Floats]


def oldest_first(waiting: Waiting, written: Floats, settings: PeerSettings, now: float) -> Floats:
    """Whatever waits longest."""
    return -waiting.oldest


def most_bytes_first(waiting: Waiting, written: Floats, settings: PeerSettings, now: float) -> Floats:
    """Whatever gives the drive most to do."""
    return np.where(waiting.files > 0, waiting.bytes, -np.inf)


def cta_like(waiting: Waiting, written: Floats, settings: PeerSettings, now: float) -> Floats:
    """Eligible by bytes, files or age; of these the oldest."""
    worth = (
        (waiting.bytes >= settings.cta_bytes)
        | (waiting.files >= settings.cta_files)
        | (now - waiting.oldest >= settings.cta_age_seconds)
    )
    return np.where(worth, -waiting.oldest, -np.inf)


def dcache_like(waiting: Waiting, written: Floats, settings: PeerSettings, now: float) -> Floats:
    """The expired, the oldest of them first; then those that nobody adds to any more, the fullest first."""
    expired = now - waiting.oldest >= settings.dcache_expiry_seconds
    quiet = now - waiting.newest >= settings.dcache_quiet_seconds
    part = np.zeros(len(waiting.files))
    part[: waiting.volumes] = waiting.bytes[: waiting.volumes] / np.maximum(written, 1)
    worth = quiet & (part >= settings.dcache_volume_part)
    return np.where(expired, 1e12 - waiting.oldest, np.where(worth & (waiting.files > 0), part, -np.inf))


def endit_like(waiting: Waiting, written: Floats, settings: PeerSettings, now: float) -> Floats:
    """When arrivals have stopped or the oldest waited long enough, unless it was mounted lately; the oldest first."""
    quiet = now - waiting.newest >= settings.endit_quiet_seconds
    late = now - waiting.oldest >= settings.endit_age_seconds
    rested = now - waiting.ended >= settings.endit_remount_seconds
    return np.where((quiet | late) & rested & (waiting.files > 0), -waiting.oldest, -np.inf)


PEERS: dict[str, Rank] = {
    "oldest-first": oldest_first,
    "most-bytes": most_bytes_first,
    "cta-like": cta_like,
    "dcache-like": dcache_like,
    "endit-like": endit_like,
}


class Peer:
    """A peer's rule as the engine asks it. It unloads a drive as soon as it has nothing more to do there."""

    keep_seconds = 0.0
    #: it reads on for as long as more arrives
    long_mount_seconds = np.inf

    def __init__(self, name: str, written: Floats, settings: PeerSettings | None = None) -> None:
        self.name = name
        self._rank = PEERS[name]
        self._written = written
        self._settings = settings or PeerSettings()

    def choose(self, waiting: Waiting, free: Sequence[int], now: float) -> Choice:
        """At most one mount for each free drive."""
        rank = self._rank(waiting, self._written, self._settings, now)
        rank = np.where(waiting.mounted, -np.inf, rank)
        if len(free) == 1:
            best = int(rank.argmax())
            return Choice(mounts=[(free[0], best)] if rank[best] > -np.inf else [])
        # Stable: between equals the first named, so that the same trace gives the same mounts.
        best_first = np.argsort(-rank, kind="stable")[: len(free)]
        chosen = zip(free, best_first.tolist(), strict=False)
        return Choice(mounts=[(drive, need) for drive, need in chosen if rank[need] > -np.inf])
