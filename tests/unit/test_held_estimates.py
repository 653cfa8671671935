"""Jobs of whose inputs none is asked for yet are told a time too, from the queue of jobs, or why there is none."""

from __future__ import annotations

from jobserver.heldestimates import BEFORE_UNKNOWN, SPACE_UNKNOWN, HeldTime, expected_of_held
from jobserver.holdmodel import FileView, JobView, Place, Policy, Snapshot
from jobserver.states import JobState

SIZE = 40
#: room for two jobs of one file each
TWO = Policy(staged_bytes_max=100)


def file(number: int, *, on_disk: bool = False, readable: bool = True) -> FileView:
    place = Place(volume="A1", library="east", readable=readable)
    return FileView(file=number, path=f"/exp/{number}", size=SIZE, on_disk=on_disk, places=(place,))


def job(
    number: int, *inputs: int, state: JobState = JobState.HELD, since: float | None = None, **more: float
) -> JobView:
    return JobView(job=number, state=state, inputs=inputs or (number,), pin_age_seconds=since, **more)  # type: ignore[arg-type]  # fields of JobView


def staging(number: int, *inputs: int, since: float = 0.0) -> JobView:
    return job(number, *inputs, state=JobState.STAGING, since=since)


def times(
    jobs: list[JobView],
    known: dict[int, float | None],
    *,
    files: dict[int, FileView] | None = None,
    cache_bytes: int | None = 100_000,
) -> dict[int, HeldTime]:
    numbers = {number for one in jobs for number in one.inputs}
    views = {number: file(number) for number in numbers} | (files or {})
    return expected_of_held(Snapshot(jobs=tuple(jobs), files=views, cache_bytes=cache_bytes), TWO, known)


def test_a_held_job_is_let_in_when_another_is_through_and_takes_as_long_as_those_before_it() -> None:
    jobs = [staging(1, since=100.0), staging(2, since=300.0), job(3), job(4), job(5)]
    found = times(jobs, {1: 500.0, 2: 700.0})
    # They take 600 and 1000 in all; the first leaves after 500, the second after 700, the third after 1300.
    assert {number: one.seconds for number, one in found.items()} == {3: 1300.0, 4: 1500.0, 5: 2100.0}


def test_the_order_is_that_in_which_jobs_are_let_in() -> None:
    jobs = [staging(1), staging(2), job(3), job(4, priority=60), job(5, waited_seconds=4000.0)]
    found = times(jobs, {1: 500.0, 2: 700.0})
    assert sorted(found, key=lambda number: found[number].seconds or 0.0) == [5, 4, 3]


def test_inputs_that_are_there_already_or_shared_take_no_more_space() -> None:
    jobs = [staging(1, 1, 2), job(3, 1, 2)]
    assert times(jobs, {1: 500.0})[3].seconds == 500.0


def test_where_nothing_is_known_of_the_jobs_before_it_a_job_is_told_so() -> None:
    assert times([staging(1), staging(2), job(3)], {1: None, 2: None})[3] == HeldTime(None, BEFORE_UNKNOWN)
    # One of two is known: the space of the other does not come free.
    jobs = [staging(1), staging(2), *(job(number) for number in (3, 4))]
    found = times(jobs, {1: 500.0, 2: None})
    assert (found[3].seconds, found[4].seconds) == (1000.0, 1500.0)


def test_space_that_running_jobs_keep_comes_free_nobody_knows_when() -> None:
    jobs = [job(1, state=JobState.RUNNING), staging(2), job(3)]
    assert times(jobs, {2: 500.0}, cache_bytes=100)[3] == HeldTime(None, SPACE_UNKNOWN)
    assert times(jobs, {2: 500.0}, cache_bytes=None)[3] == HeldTime(None, SPACE_UNKNOWN)


def test_what_cannot_be_read_now_has_no_time_and_holds_up_no_other() -> None:
    jobs = [staging(1), job(2), job(3)]
    found = times(jobs, {1: 500.0}, files={2: file(2, readable=False)})
    assert (found[2], found[3].seconds) == (HeldTime(None), 500.0)
