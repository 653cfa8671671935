"""The JSON bodies of /api/jobs/v1, as the job server and its clients both use them. No behaviour here."""

from __future__ import annotations

import msgspec

from client.messages import Answer, OurRequest

JOB_ARGV_MAX = 1_000
OUTPUT_WAIT_SECONDS_MAX = 30.0
#: of a job's output answer: the job's state when the bytes were read
JOB_STATE_HEADER = "Capstan-Job-State"
JOB_STATES_ENDED = frozenset({"done", "failed", "cancelled"})


class SubmitBody(OurRequest):
    argv: list[str]
    name: str = ""
    #: namespace paths or globs; a glob matches files only
    inputs: list[str] = []
    priority: int = 0
    #: None: as the site has it
    whole_volumes: bool | None = None


class Submitted(Answer):
    job_id: int


class JobInputs(Answer):
    total: int = 0
    on_disk: int = 0
    bytes: int = 0


class Job(Answer):
    """Times are seconds since 1970, None until they happen."""

    id: int
    name: str
    owner: str
    #: accepted, held, staging, ready, released, running, done, failed, cancelled
    state: str
    argv: list[str]
    reason: str = ""
    inputs: JobInputs = msgspec.field(default_factory=JobInputs)
    priority: int = 0
    submitted_at: float | None = None
    released_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    #: sentences: what it waits for
    waiting: list[str] = []
    #: volumes that its missing inputs are read from
    volumes: list[str] = []
    #: until its last input is expected on disk and it is released; None: not known
    expected_seconds: float | None = None


class Jobs(Answer):
    jobs: list[Job]
    #: give it as `after` for the next page; None at the end
    next: int | None = None
