"""What jobserver.holds promises whatever happens, in a small world that hypothesis drives through trouble."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from jobserver.holdmodel import (
    Admit,
    Demote,
    Fail,
    FileView,
    Instruction,
    JobView,
    Place,
    Policy,
    Release,
    Renew,
    Snapshot,
    Stage,
    TakeBack,
)
from jobserver.holds import plan
from jobserver.states import MOVES, JobState

CACHE_BYTES = 300
POLICY = Policy(staged_bytes_max=100, stage_tries_max=1000, starve_after_seconds=40.0, admissions_max=3)


@dataclass(slots=True)
class Job:
    inputs: tuple[int, ...]
    priority: int
    state: JobState = JobState.HELD
    pinned: bool = False
    age: int = 0
    failed: str = ""


@dataclass(slots=True)
class World:
    """Carries instructions out as the pre-stager does, and lets things happen in between."""

    random: Random
    sizes: dict[int, int]
    volumes: dict[int, tuple[str, ...]]
    jobs: dict[int, Job]
    on_disk: set[int] = field(default_factory=set)
    requested: set[int] = field(default_factory=set)
    down: set[str] = field(default_factory=set)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            jobs=tuple(
                JobView(
                    job=number,
                    state=job.state,
                    inputs=job.inputs,
                    priority=job.priority,
                    waited_seconds=float(job.age),
                    pin_age_seconds=0.0 if job.pinned else None,
                )
                for number, job in self.jobs.items()
                if job.state not in (JobState.DONE, JobState.FAILED)
            ),
            files={
                number: FileView(
                    file=number,
                    path=f"/{number}",
                    size=size,
                    on_disk=number in self.on_disk,
                    requested=number in self.requested,
                    places=tuple(
                        Place(volume=volume, library=volume[0], readable=volume[0] not in self.down)
                        for volume in self.volumes[number]
                    ),
                )
                for number, size in self.sizes.items()
            },
            cache_bytes=CACHE_BYTES,
        )

    def round(self) -> None:
        snapshot = self.snapshot()
        found = plan(snapshot, POLICY)
        for job in snapshot.jobs:
            if job.state is not JobState.RUNNING and not any(
                isinstance(instruction, Fail) and instruction.job == job.job for instruction in found.instructions
            ):
                assert found.waiting[job.job], "every job that has not begun has a reason"
        for instruction in found.instructions:
            self.carry_out(instruction)
        self.check_space()

    def move(self, number: int, state: JobState) -> None:
        job = self.jobs[number]
        assert state in MOVES[job.state], f"{job.state} -> {state}"
        job.state = state

    def carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Admit(job=number):
                self.jobs[number].pinned = True
                self.move(number, JobState.STAGING)
            case Renew(job=number):
                self.jobs[number].pinned = True
            case Demote(job=number):
                self.jobs[number].pinned = False
                self.move(number, JobState.HELD)
            case Stage(files=files):
                wanted = {file for job in self.jobs.values() if job.pinned for file in job.inputs}
                assert not self.requested.intersection(files), "a file is asked for once"
                assert wanted.issuperset(files), "nothing is staged that is not pinned"
                self.requested.update(files)
            case Release(job=number):
                job = self.jobs[number]
                assert job.pinned
                assert self.on_disk.issuperset(job.inputs), "never released before every input is on disk"
                if job.state is JobState.STAGING:
                    self.move(number, JobState.READY)
                self.move(number, JobState.RELEASED)
            case TakeBack(job=number):
                self.move(number, JobState.STAGING)
            case Fail(job=number, reason=reason):
                self.jobs[number].failed = reason
                self.jobs[number].pinned = False
                self.move(number, JobState.FAILED)

    def check_space(self) -> None:
        staging = [job for job in self.jobs.values() if job.state in (JobState.STAGING, JobState.READY)]
        missing = [job for job in staging if not self.on_disk.issuperset(job.inputs)]
        held = {file for job in missing for file in job.inputs}
        taken_back = self.random_losses
        assert taken_back or len(missing) <= 1 or sum(self.sizes[file] for file in held) <= POLICY.staged_bytes_max

    random_losses: bool = False

    def happen(self, *, calm: bool) -> None:
        for job in self.jobs.values():
            job.age += 1
            if job.state is JobState.RELEASED and self.random.random() < 0.5:
                job.state = JobState.RUNNING
            elif job.state is JobState.RUNNING and self.random.random() < 0.5:
                job.state, job.pinned = JobState.DONE, False
        for file in sorted(self.requested):
            readable = any(volume[0] not in self.down for volume in self.volumes[file])
            if readable and self.random.random() < 0.6:
                self.requested.discard(file)
                # In trouble a request may end without its file.
                if calm or self.random.random() < 0.8:
                    self.on_disk.add(file)
        self.evict_unpinned()
        if calm:
            self.down.clear()
            return
        if self.on_disk and self.random.random() < 0.1:
            self.on_disk.discard(self.random.choice(sorted(self.on_disk)))
            self.random_losses = True
        if self.random.random() < 0.1:
            self.down ^= {self.random.choice("EW")}

    def evict_unpinned(self) -> None:
        pinned = {file for job in self.jobs.values() if job.pinned for file in job.inputs}
        for file in sorted(self.on_disk - pinned):
            if self.random.random() < 0.3:
                self.on_disk.discard(file)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    files = draw(st.integers(1, 12))
    names = st.sampled_from(["E1", "E2", "W1", "W2"])
    sizes = {number: draw(st.integers(0, 90)) for number in range(files)}
    volumes = {number: tuple(draw(st.sets(names, min_size=1, max_size=2))) for number in range(files)}
    inputs = st.lists(st.integers(0, files - 1), min_size=0, max_size=5, unique=True)
    jobs = {
        number: Job(inputs=tuple(draw(inputs)), priority=draw(st.sampled_from([10, 50, 90])))
        for number in range(1, draw(st.integers(1, 8)) + 1)
    }
    return World(random=Random(draw(st.integers(0, 2**32))), sizes=sizes, volumes=volumes, jobs=jobs)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(0, 40))
def test_through_any_trouble_no_job_is_released_early_and_afterwards_every_one_ends(world: World, trouble: int) -> None:
    for _ in range(trouble):
        world.round()
        world.happen(calm=False)
    for _ in range(400):
        world.round()
        world.happen(calm=True)
        if all(job.state in (JobState.DONE, JobState.FAILED) for job in world.jobs.values()):
            break
    for job in world.jobs.values():
        fits = sum(world.sizes[file] for file in job.inputs) <= CACHE_BYTES
        assert job.state is (JobState.DONE if fits else JobState.FAILED), "no job starves"
        assert fits or "the cache holds" in job.failed


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_a_big_job_gets_its_turn_under_an_endless_stream_of_small_ones(world: World) -> None:
    world.sizes = {**world.sizes, 100: 95, 101: 20}
    world.volumes = {**world.volumes, 100: ("E1",), 101: ("W1",)}
    world.jobs = {0: Job(inputs=(100,), priority=10)}
    for number in range(1, 300):
        world.jobs[number] = Job(inputs=(101,) if number % 2 else (101, 100 - 100), priority=90)
        world.round()
        world.happen(calm=True)
        if world.jobs[0].state is JobState.DONE:
            return
    raise AssertionError("starved")
