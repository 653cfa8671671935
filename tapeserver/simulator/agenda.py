"""What comes next in virtual time: a heap of events. Pure; it knows nothing of what they mean."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple


class Event(NamedTuple):
    at: float
    #: of equals the one that was put in first comes first
    sequence: int
    kind: int
    #: of the drive; -1: none
    number: int
    #: of the drive's events only the one of its last turn counts
    turn: int


class Agenda:
    def __init__(self) -> None:
        self._events: list[Event] = []
        self._sequence = 0

    @property
    def next_at(self) -> float:
        return self._events[0].at if self._events else math.inf

    def add(self, at: float, kind: int, number: int = -1, turn: int = 0) -> None:
        self._sequence += 1
        heapq.heappush(self._events, Event(at, self._sequence, kind, number, turn))

    def pop(self) -> Event:
        return heapq.heappop(self._events)

    def __bool__(self) -> bool:
        return bool(self._events)
