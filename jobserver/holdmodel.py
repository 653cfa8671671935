"""What pre-staging is decided on, and what can be decided: views of jobs and files, instructions. Pure data.

Sizes are bytes; times are seconds that have passed, never instants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
