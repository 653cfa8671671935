"""Who has used how much of the drives, and whose turn that makes it. Pure: decayed drive-seconds in, weights out.

A principal is (group, owner). Groups share the drives by their allotments' weights, the owners of a group share what
it has; only those with something that could be read now take part, so no drive is left idle for an absent one. Who has
used less of it than his part counts more and the other way round, until they have what is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeserver.planner.policy import Policy

Floats = NDArray[np.float64]
INITIAL_PRINCIPALS = 64
TINY = 1e-300


class Principal(NamedTuple):
    group: str
    #: empty: the group as such
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What a group, or an owner inside his group, may use, relative to the others."""

    weight: float = 1.0
    #: decayed drive-seconds above which he has less; None: no bound
    seconds: float | None = None


class Usage:
    """Drive-seconds per principal, each decayed since its own last charge."""

    def __init__(self) -> None:
        self.principals: list[Principal] = []
        self.groups: list[str] = []
        self._number_of: dict[Principal, int] = {}
        self._group_number_of: dict[str, int] = {}
        self._group = np.zeros(INITIAL_PRINCIPALS, dtype=np.int64)
        self._seconds = np.zeros(INITIAL_PRINCIPALS)
        self._at = np.zeros(INITIAL_PRINCIPALS)
        self._allotments: dict[Principal, Allotment] = {}
        self._weights = np.ones(INITIAL_PRINCIPALS)
        self._bounds = np.full(INITIAL_PRINCIPALS, np.inf)
        self._group_weights: list[float] = []
        self._group_bounds: list[float] = []
        #: some allotment has a bound
        self._bounded = False
        #: anything was ever charged
        self.used = False

    def number(self, group: str, owner: str) -> int:
        principal = Principal(group, owner)
        found = self._number_of.get(principal)
        if found is not None:
            return found
        number = self._number_of[principal] = len(self.principals)
        self.principals.append(principal)
        if number == len(self._seconds):
            self._grow()
        if group not in self._group_number_of:
            self._group_number_of[group] = len(self.groups)
            self.groups.append(group)
            allotment = self._allotments.get(Principal(group, ""), Allotment())
            self._group_weights.append(allotment.weight)
            self._group_bounds.append(_bound(allotment))
        self._group[number] = self._group_number_of[group]
        own = self._allotments.get(principal, Allotment()) if owner else Allotment()
        self._weights[number], self._bounds[number] = own.weight, _bound(own)
        return number

    def allot(self, group: str, owner: str, allotment: Allotment) -> None:
        """Of an owner in his group; with no owner: of the group."""
        self._allotments[Principal(group, owner)] = allotment
        self._bounded |= allotment.seconds is not None
        number = self.number(group, owner)
        if owner:
            self._weights[number], self._bounds[number] = allotment.weight, _bound(allotment)
        else:
            of_group = self._group_number_of[group]
            self._group_weights[of_group], self._group_bounds[of_group] = allotment.weight, _bound(allotment)

    def charge(self, group: str, owner: str, seconds: float, *, at: float, half_life_seconds: float) -> None:
        """Add drive-seconds; what was there has decayed since."""
        number, self.used = self.number(group, owner), True
        past = max(0.0, at - self._at[number])
        self._seconds[number] = self._seconds[number] * 0.5 ** (past / half_life_seconds) + seconds
        self._at[number] = max(at, self._at[number])

    def seconds(self, now: float, half_life_seconds: float) -> Floats:
        """Decayed drive-seconds by number of principal."""
        count = len(self.principals)
        past = np.maximum(0.0, now - self._at[:count])
        decayed: Floats = self._seconds[:count] * 0.5 ** (past / half_life_seconds)
        return decayed

    def corrections(
        self, runnable: NDArray[np.bool_], policy: Policy, now: float, drain_seconds: float = np.inf
    ) -> Floats:
        """By number of principal: how much more or less he counts for what he has used, among those with work."""
        count, groups = len(self.principals), len(self.groups)
        group, used = self._group[:count], self.seconds(now, policy.usage_half_life_seconds)
        weights, group_weights = self._weights[:count], np.array(self._group_weights)
        if self._bounded:
            over = policy.over_allotment_factor
            of_group = np.bincount(group, weights=used, minlength=groups)
            weights = weights * np.where(used > self._bounds[:count], over, 1.0)
            group_weights = group_weights * np.where(of_group > np.array(self._group_bounds), over, 1.0)
        weights = np.where(runnable, weights, 0.0)
        group_part = _normal(group_weights * (np.bincount(group[runnable], minlength=groups) > 0))
        part_inside = weights / np.maximum(np.bincount(group, weights=weights, minlength=groups), TINY)[group]
        # The time used by who has nothing to run now is nobody's to make up for.
        used = np.where(runnable, used, 0.0)
        used_group = np.bincount(group, weights=used, minlength=groups)
        used_inside = used / np.maximum(used_group, TINY)[group]
        behind = np.where(used_group[group] > 0, part_inside - used_inside, 0.0)
        if used_group.any():
            behind += (group_part - _normal(used_group))[group]
        most = np.log(policy.correction_max)
        # While the queue is short everybody is served soon, and order by shares would only make the mean longer.
        tolerance = policy.share_tolerance * max(1.0, policy.share_drain_seconds / max(drain_seconds, 1e-9))
        corrections: Floats = np.exp(np.clip(behind / tolerance, -most, most))
        return corrections

    def _grow(self) -> None:
        for name in ("_group", "_seconds", "_at"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self._weights = np.concatenate([self._weights, np.ones_like(self._weights)])
        self._bounds = np.concatenate([self._bounds, np.full_like(self._bounds, np.inf)])


def _bound(allotment: Allotment) -> float:
    return np.inf if allotment.seconds is None else allotment.seconds


def _normal(values: NDArray[Any]) -> Floats:
    """Parts of the whole; nothing of nothing."""
    parts: Floats = values / max(float(values.sum()), TINY)
    return parts
