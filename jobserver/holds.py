"""Which held job is staged next, from which volumes, and when it is released. Pure: a snapshot in, instructions out.

It makes no request, reads no clock and keeps nothing: prestaging.py takes the snapshot, carries the instructions out,
and asks again. Every instruction is safe to carry out twice, and forgetting one only delays: the next snapshot brings
it again. Sizes are bytes, times are seconds that have passed.

The order of things for one job: held -> Admit (its inputs are pinned, also those not on disk yet, so that none is
evicted between its arrival and the release) -> Stage, one request per volume for all jobs together -> Release, when
the last input is on disk. Choosing whom to admit:

* A job fits while the bytes staged for jobs not yet released stay below `staged_bytes_max` and all pinned bytes below
  the cache's size: otherwise staging would evict what earlier jobs wait for. One job alone is always let in.
* Jobs that need no further volume than those already being read go first: that is the most jobs per mount.
* Who has waited `starve_after_seconds` goes before all of that, oldest first, and nobody passes while it does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from catalog.units import show_bytes
from jobserver.holdmodel import (
    Admit,
    Demote,
    Fail,
    FileView,
    Instruction,
    JobView,
    Plan,
    Policy,
    Release,
    Renew,
    Snapshot,
    Stage,
    TakeBack,
)
from jobserver.states import JobState
from jobserver.volumechoice import choose_volumes
from jobserver.waiting import sentences


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """What to do now, and why each job that has not begun still waits."""
    return _Planning(snapshot, policy).plan()


_PINNED = frozenset({JobState.STAGING, JobState.READY, JobState.RELEASED, JobState.RUNNING})
_UNRELEASED = frozenset({JobState.STAGING, JobState.READY})


@dataclass(slots=True, kw_only=True)
class _Room:
    """Files that take up space: pinned for any job, and of those the ones of jobs not yet released."""

    pinned: set[int]
    staged: set[int]


class _Planning:
    """One call of `plan`: the snapshot and what is being concluded from it."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self._snapshot = snapshot
        self._files = snapshot.files
        self._jobs = snapshot.jobs
        self._cache_bytes = snapshot.cache_bytes
        self._policy = policy
        self._instructions: list[Instruction] = []
        self._missing = {job.job: self._missing_of(job) for job in snapshot.jobs if job.state is not JobState.RUNNING}

    def plan(self) -> Plan:
        failed = {job.job for job in self._jobs if job.state in self._missing_states and self._fails(job)}
        going = [job for job in self._jobs if job.job not in failed]
        for job in going:
            self._renew(job)
            if job.state in (JobState.READY, JobState.RELEASED, JobState.STAGING):
                self._release_or_take_back(job)
        self._stage([job for job in going if job.state is JobState.STAGING and job.pin_age_seconds is not None])
        self._admit(going)
        admitted = {found.job for found in self._instructions if isinstance(found, Admit)}
        return Plan(
            instructions=tuple(self._instructions),
            waiting={
                job.job: tuple(sentences(job, self._snapshot, self._policy, admitted=job.job in admitted))
                for job in going
                if job.state is not JobState.RUNNING
            },
        )

    _missing_states = frozenset({JobState.HELD, JobState.STAGING, JobState.READY})

    def _missing_of(self, job: JobView) -> list[FileView]:
        return [self._files[file] for file in job.inputs if not self._files[file].on_disk]

    # ------------------------------------------------------------------ what can never run

    def _fails(self, job: JobView) -> bool:
        reason = self._why_never(job)
        if reason:
            self._instructions.append(Fail(job=job.job, reason=reason))
        return bool(reason)

    def _why_never(self, job: JobView) -> str:
        for number in job.inputs:
            if self._files[number].gone:
                return self._files[number].gone
        for file in self._missing[job.job]:
            if file.tries >= self._policy.stage_tries_max and not file.requested and not file.blocked:
                return f"{file.path} could not be staged in {file.tries} tries: {file.last_error}"
        if job.tries > self._policy.stage_tries_max:
            return f"its inputs were lost from disk {job.tries} times before it could begin"
        total = self._bytes_of([job])
        if self._cache_bytes is not None and total > self._cache_bytes:
            return f"its inputs are {show_bytes(total)}, and the cache holds {show_bytes(self._cache_bytes)}"
        return ""

    # ------------------------------------------------------------------ pins, release, return

    def _renew(self, job: JobView) -> None:
        old = job.pin_age_seconds is not None and job.pin_age_seconds >= self._policy.pin_renew_seconds
        if old and job.state in _PINNED:
            self._instructions.append(Renew(job=job.job))

    def _release_or_take_back(self, job: JobView) -> None:
        missing = self._missing[job.job]
        if job.state is JobState.RELEASED:
            if missing:
                self._instructions.append(TakeBack(job=job.job))
        elif job.pin_age_seconds is None:
            # The lease may have run out while no server was there: pin first, look again after it.
            self._instructions.append(Renew(job=job.job))
        elif not missing:
            self._instructions.append(Release(job=job.job))
        elif job.state is JobState.READY:
            self._instructions.append(TakeBack(job=job.job))

    # ------------------------------------------------------------------ staging

    def _stage(self, jobs: list[JobView]) -> None:
        wanted = {file.file: file for job in jobs for file in self._missing[job.job] if self._may_be_requested(file)}
        whole = {file.file for job in jobs if job.whole_volumes for file in self._missing[job.job]}
        by_volume: dict[str, list[FileView]] = {}
        volume_of = choose_volumes(wanted.values())
        for file in wanted.values():
            by_volume.setdefault(volume_of.get(file.file, ""), []).append(file)
        for volume, files in sorted(by_volume.items()):
            files.sort(key=lambda file: _position(file, volume))
            for start in range(0, len(files), self._policy.files_per_request_max):
                chunk = files[start : start + self._policy.files_per_request_max]
                everything = bool(volume) and any(file.file in whole for file in chunk)
                self._instructions.append(
                    Stage(volume=volume, files=tuple(file.file for file in chunk), whole_volume=everything)
                )

    @staticmethod
    def _may_be_requested(file: FileView) -> bool:
        return not file.requested and not file.blocked and file.retry_in_seconds <= 0

    # ------------------------------------------------------------------ admission

    def _admit(self, going: list[JobView]) -> None:
        candidates = [job for job in going if job.state is JobState.HELD and not self._is_blocked(job)]
        room = _Room(
            pinned={file for job in going if job.state in _PINNED for file in job.inputs},
            staged={file for job in going if job.state in _UNRELEASED for file in job.inputs},
        )
        waiting = [job for job in going if job.state in self._missing_states]
        volume_of = choose_volumes(file for job in waiting for file in self._missing[job.job])
        volumes = {job.job: {volume_of.get(file.file, "") for file in self._missing[job.job]} for job in waiting}
        busy = {volume for job in waiting if job.state in _UNRELEASED for volume in volumes[job.job]}
        admitted = misfits = 0
        while candidates and admitted < self._policy.admissions_max and misfits < self._policy.misfits_max:
            job = self._first_of(candidates, volumes, busy)
            candidates.remove(job)
            if self._fits(job, room):
                admitted += 1
                self._instructions.append(Admit(job=job.job))
                room.staged.update(job.inputs)
                room.pinned.update(job.inputs)
                busy |= volumes[job.job]
                continue
            misfits += 1
            # Nobody passes one that has waited too long: otherwise small jobs could keep a big one out for ever.
            if self._starves(job):
                break
        if misfits:
            self._demote(going)

    def _first_of(self, candidates: list[JobView], volumes: Mapping[int, set[str]], busy: set[str]) -> JobView:
        starving = [job for job in candidates if self._starves(job)]
        if starving:
            return max(starving, key=lambda job: (job.waited_seconds, -job.job))
        return min(candidates, key=lambda job: (-job.priority, len(volumes[job.job] - busy), job.job))

    def _fits(self, job: JobView, room: _Room) -> bool:
        if not self._missing[job.job]:
            # It needs no space that is not taken already, and goes on at once.
            return True
        if self._cache_bytes is None or self._size_of(room.pinned.union(job.inputs)) > self._cache_bytes:
            return False
        return not room.staged or self._size_of(room.staged.union(job.inputs)) <= self._policy.staged_bytes_max

    def _demote(self, going: list[JobView]) -> None:
        for job in going:
            if job.state is JobState.STAGING and self._is_blocked(job):
                self._instructions.append(Demote(job=job.job))

    def _starves(self, job: JobView) -> bool:
        return job.waited_seconds >= self._policy.starve_after_seconds

    def _is_blocked(self, job: JobView) -> bool:
        return any(file.blocked for file in self._missing[job.job])

    def _size_of(self, files: Iterable[int]) -> int:
        return sum(self._files[file].size for file in files)

    def _bytes_of(self, jobs: Iterable[JobView]) -> int:
        return self._size_of({file for job in jobs for file in job.inputs})


def _position(file: FileView, volume: str) -> tuple[int, int, int]:
    for place in file.places:
        if place.volume == volume:
            return place.first_block, place.byte_offset, file.file
    return 0, 0, file.file
