"""When are the inputs of held jobs expected, of which nothing is asked for yet? Pure: the queue of jobs is run forward.

A job is let in when enough of those before it have all their inputs, in the order of `holds`, and takes as long then as
the jobs that are staging now take in all: from being let in to their last input. Which volumes it needs, and what the
planner will have to do then, is not looked at; that jobs pass others, because they need no further volume or less
space, is not either. So it is rougher than what is said of files that are asked for, and is replaced by that as soon as
they are.
"""

from __future__ import annotations

import heapq
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobserver.holdmodel import JobView, Policy, Snapshot
from jobserver.states import JobState

#: states whose jobs keep space that is meant for what is staged ahead, and all that keep any
_AHEAD = frozenset({JobState.STAGING, JobState.READY})
_PINNED = _AHEAD | {JobState.RELEASED, JobState.RUNNING}

BEFORE_UNKNOWN = "when is not known: nothing is known of the jobs that are staged before it"
SPACE_UNKNOWN = "when is not known: jobs keep the space until they end"


@dataclass(frozen=True, slots=True)
class HeldTime:
    """Until the last input is expected on disk; None: not known, and why, if that is not said anyway."""

    seconds: float | None
    why: str = ""


class _Space:
    """Bytes of the files of some jobs, each file once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._files = snapshot.files
        self._jobs = Counter[int]()
        self.bytes = 0

    def with_job(self, job: JobView) -> int:
        return self.bytes + sum(self._files[file].size for file in set(job.inputs) if not self._jobs[file])

    def add(self, job: JobView) -> None:
        self.bytes = self.with_job(job)
        self._jobs.update(set(job.inputs))

    def remove(self, job: JobView) -> None:
        for file in set(job.inputs):
            self._jobs[file] -= 1
            if not self._jobs[file]:
                self.bytes -= self._files[file].size


def expected_of_held(snapshot: Snapshot, policy: Policy, known: Mapping[int, float | None]) -> dict[int, HeldTime]:
    """job -> when, of all that are held. `known`: of jobs that are staging, seconds until their last input."""
    pinned, ahead = _Space(snapshot), _Space(snapshot)
    leaves: list[tuple[float, int, JobView]] = []
    blind = False
    for job in snapshot.jobs:
        if job.state in _PINNED:
            pinned.add(job)
        if job.state in _AHEAD:
            ahead.add(job)
            seconds = known.get(job.job) if job.state is JobState.STAGING else 0.0
            blind |= seconds is None
            if seconds is not None:
                heapq.heappush(leaves, (seconds, job.job, job))
    typical = _typical_seconds(snapshot.jobs, known)
    found, now = dict[int, HeldTime](), 0.0
    for job in _in_order(snapshot.jobs, policy):
        missing = [snapshot.files[file] for file in job.inputs if not snapshot.files[file].on_disk]
        if any(file.blocked or file.gone for file in missing):
            found[job.job] = HeldTime(None)
            continue
        if snapshot.cache_bytes is None or pinned.with_job(job) > snapshot.cache_bytes:
            found[job.job] = HeldTime(None, SPACE_UNKNOWN)
            continue
        while leaves and ahead.bytes and ahead.with_job(job) > policy.staged_bytes_max:
            now, _, gone = heapq.heappop(leaves)
            ahead.remove(gone)
        if typical is None or (blind and ahead.bytes and ahead.with_job(job) > policy.staged_bytes_max):
            found[job.job] = HeldTime(None, BEFORE_UNKNOWN)
            continue
        found[job.job] = HeldTime(now + typical)
        pinned.add(job)
        ahead.add(job)
        heapq.heappush(leaves, (now + typical, job.job, job))
    return found


def _typical_seconds(jobs: Sequence[JobView], known: Mapping[int, float | None]) -> float | None:
    """What the jobs that are staging take in all, the middle one; None: not known of any."""
    whole = [
        (job.pin_age_seconds or 0.0) + seconds
        for job in jobs
        if job.state is JobState.STAGING and (seconds := known.get(job.job)) is not None
    ]
    return statistics.median(whole) if whole else None


def _in_order(jobs: Sequence[JobView], policy: Policy) -> list[JobView]:
    """As `holds` lets them in, as far as volumes make no difference."""

    def place(job: JobView) -> tuple[bool, float, int]:
        starves = job.waited_seconds >= policy.starve_after_seconds
        return (not starves, -job.waited_seconds if starves else -job.priority, job.job)

    return sorted((job for job in jobs if job.state is JobState.HELD), key=place)
