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

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from catalog.units import show_bytes
from jobserver.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tape copy of a file."""

    volume: str
    library: str
    readable: bool
    first_block: int = 0
    byte_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    file: int
    path: str
    size: int
    on_disk: bool = False
    #: the name is gone or is another file now: the job can never have this input
    gone: str = ""
    places: tuple[Place, ...] = ()
    #: a stage request of ours is bringing it
    requested: bool = False
    #: stage requests that failed, and the last answer
    tries: int = 0
    last_error: str = ""
    #: a failed one is asked for again only after a pause
    retry_in_seconds: float = 0.0

    @property
    def blocked(self) -> bool:
        """Copies there are, and none of them can be read now."""
        return not self.on_disk and bool(self.places) and not any(place.readable for place in self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    job: int
    state: JobState
    inputs: tuple[int, ...]
    priority: int = 50
    waited_seconds: float = 0.0
    whole_volumes: bool = False
    #: age of its pins; None: it has none
    pin_age_seconds: float | None = None
    #: how often an input was lost again before it began
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    jobs: tuple[JobView, ...]
    files: Mapping[int, FileView]
    #: libraries that are not up -> why
    libraries_down: Mapping[str, str] = field(default_factory=dict)
    #: what the cache can hold; None: unknown, which is no space (rule 8 of planning)
    cache_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    staged_bytes_max: int
    stage_tries_max: int = 5
    starve_after_seconds: float = 3600.0
    pin_renew_seconds: float = 3.5 * 86400
    files_per_request_max: int = 10_000
    #: of one plan; the next one comes at once
    admissions_max: int = 50
    #: jobs that did not fit, after which a plan looks no further for smaller ones
    misfits_max: int = 100
    whole_volumes: bool = False
    paths_in_a_sentence_max: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Pin all inputs of the job for it; then it is staging."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Pin all inputs of the job again: half of the lease is over."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demote:
    """Unpin: what it waits for cannot come now, and another job could use the space."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Ask for these files in one request, in the order in which they lie; `volume` is "" where no copy is known."""

    volume: str
    files: tuple[int, ...]
    whole_volume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Look once more that every input is on disk, then let the job start before others."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """An input was lost before the job began: hold it again, and stage what is missing."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    job: int
    reason: str


Instruction = Admit | Renew | Demote | Stage | Release | TakeBack | Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    instructions: tuple[Instruction, ...]
    #: job -> sentences on what it waits for; never empty for a job that has not begun
    waiting: Mapping[int, tuple[str, ...]]


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
        self._files = snapshot.files
        self._jobs = snapshot.jobs
        self._libraries_down = snapshot.libraries_down
        self._cache_bytes = snapshot.cache_bytes
        self._policy = policy
        self._instructions: list[Instruction] = []
        self._waiting: dict[int, list[str]] = {}
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
        self._explain(going)
        return Plan(
            instructions=tuple(self._instructions),
            waiting={job: tuple(sentences) for job, sentences in self._waiting.items()},
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
        if job.state in _PINNED and job.pin_age_seconds is not None:
            if job.pin_age_seconds >= self._policy.pin_renew_seconds:
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
                everything = self._policy.whole_volumes or any(file.file in whole for file in chunk)
                self._instructions.append(
                    Stage(
                        volume=volume,
                        files=tuple(file.file for file in chunk),
                        whole_volume=bool(volume) and everything,
                    )
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

    # ------------------------------------------------------------------ why it still waits

    def _explain(self, going: list[JobView]) -> None:
        admitted = {instruction.job for instruction in self._instructions if isinstance(instruction, Admit)}
        for job in going:
            if job.state is JobState.RUNNING:
                continue
            sentences = self._waiting.setdefault(job.job, [])
            if job.state is JobState.RELEASED:
                sentences.append("all inputs are on disk; it waits for a free slot")
                continue
            missing = self._missing[job.job]
            if not missing:
                sentences.append("all inputs are on disk; it is about to be released")
                continue
            sentences.append(f"{len(job.inputs) - len(missing)} of {len(job.inputs)} inputs are on disk")
            sentences += self._about_blocked(missing)
            sentences += self._about_tries(missing)
            if job.state is JobState.STAGING or job.job in admitted:
                sentences += self._about_volumes(missing)
            elif not self._is_blocked(job):
                sentences.append(self._about_space(job))

    def _about_blocked(self, missing: list[FileView]) -> list[str]:
        volumes: dict[tuple[str, str], list[str]] = {}
        for file in missing:
            if file.blocked:
                place = min(file.places, key=lambda place: (place.library, place.volume))
                volumes.setdefault((place.library, place.volume), []).append(file.path)
        sentences = []
        for (library, volume), paths in sorted(volumes.items())[: self._policy.paths_in_a_sentence_max]:
            why = self._libraries_down.get(library)
            state = f"library {library} is {why}" if why else f"volume {volume} in library {library} cannot be read now"
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            sentences.append(f"{state}; no other copy can be read of {paths[0]}{more}")
        return sentences

    def _about_tries(self, missing: list[FileView]) -> list[str]:
        tried = [file for file in missing if file.tries and file.last_error]
        return [
            f"{file.path} failed {file.tries} of {self._policy.stage_tries_max} times: {file.last_error}"
            for file in tried[: self._policy.paths_in_a_sentence_max]
        ]

    def _about_volumes(self, missing: list[FileView]) -> list[str]:
        counts = Counter(volume for volume in choose_volumes(missing).values())
        return [
            f"{count} {'is' if count == 1 else 'are'} being brought from volume {volume}"
            for volume, count in sorted(counts.items())
        ]

    def _about_space(self, job: JobView) -> str:
        if self._cache_bytes is None:
            return "no cache server says how much space it has"
        return (
            f"its {show_bytes(self._bytes_of([job]))} wait for space: at most "
            f"{show_bytes(min(self._policy.staged_bytes_max, self._cache_bytes))} are staged ahead of release at a time"
        )


def choose_volumes(files: Iterable[FileView]) -> dict[int, str]:
    """For each missing file that can be read, the volume to read it from, so that few volumes bring all.

    Volumes that hold the only readable copy of something are needed anyway and take what else they hold; the rest
    goes to the volume that holds most of it, again and again. Which copy is read in the end is the planner's choice.
    """
    open_files: dict[int, set[str]] = {}
    for file in files:
        readable = {place.volume for place in file.places if place.readable}
        if readable and not file.on_disk:
            open_files[file.file] = readable
    chosen: dict[int, str] = {}
    counts = Counter(volume for volumes in open_files.values() for volume in volumes)
    needed = {next(iter(volumes)) for volumes in open_files.values() if len(volumes) == 1}
    while open_files:
        pool = needed.intersection(counts) or set(counts)
        best = max(sorted(pool), key=lambda volume: counts[volume])
        needed.discard(best)
        for file_id in [file_id for file_id, volumes in open_files.items() if best in volumes]:
            chosen[file_id] = best
            counts.subtract(open_files.pop(file_id))
        counts = +counts
    return chosen


def _position(file: FileView, volume: str) -> tuple[int, int, int]:
    for place in file.places:
        if place.volume == volume:
            return place.first_block, place.byte_offset, file.file
    return 0, 0, file.file
