"""Which replicas may go, and how many bytes should. Pure: given usage, wishes and candidates by age, names victims.

Never deletes and never asks the disk. Whether a replica may go at all (safe, unpinned, not asked for) the catalog
has said before, and says again, under a lock, when it happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Candidate(Protocol):
    """A replica that may go, as far as is known. Bytes; seconds on any clock that all candidates share."""

    @property
    def id(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def last_used_at(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one cache server, in bytes. `wanted`: the largest reservation that was refused."""

    capacity_bytes: int
    used_bytes: int
    reserved_bytes: int
    wanted_bytes: int
    #: parts of the capacity
    high: float
    low: float


def bytes_to_free(usage: Usage) -> int:
    """Nothing below the high watermark while nobody was refused; else down to the low one, or as far as the wish needs.

    A wish larger than the whole capacity is nobody's to fulfil and counts for nothing.
    """
    filled = usage.used_bytes + usage.reserved_bytes
    wanted = usage.wanted_bytes if usage.wanted_bytes <= usage.capacity_bytes else 0
    refused = filled + wanted > usage.capacity_bytes
    if filled <= usage.high * usage.capacity_bytes and not refused:
        return 0
    target = min(int(usage.low * usage.capacity_bytes), usage.capacity_bytes - wanted)
    return max(0, filled - target)


def victims(candidates: Iterable[Candidate], wanted_bytes: int) -> list[int]:
    """The longest unused first, until they make up `wanted_bytes`; replica ids. Empty files go along with their age."""
    chosen: list[int] = []
    left = wanted_bytes
    for candidate in sorted(candidates, key=lambda candidate: (candidate.last_used_at, candidate.id)):
        if left <= 0:
            break
        chosen.append(candidate.id)
        left -= candidate.size
    return chosen
