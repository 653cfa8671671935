"""jobserver.holds decides who is staged, from where, and when a job is released; no clock, no database, no door."""

from __future__ import annotations

from jobserver.holdmodel import (
    Admit,
    Demote,
    Fail,
    FileView,
    JobView,
    Place,
    Plan,
    Policy,
    Release,
    Renew,
    Snapshot,
    Stage,
    TakeBack,
)
from jobserver.holds import plan
from jobserver.states import JobState
from jobserver.volumechoice import choose_volumes, oldest_waiting

ROOMY = Policy(staged_bytes_max=10_000)


def place(volume: str, *, readable: bool = True, block: int = 0, library: str = "east") -> Place:
    return Place(volume=volume, library=library, readable=readable, first_block=block)


def file(
    number: int, *volumes: str, size: int = 10, on_disk: bool = False, requested: bool = False, block: int = 0
) -> FileView:
    places = tuple(place(volume, block=block) for volume in volumes or ("A1",))
    return FileView(file=number, path=f"/exp/{number}", size=size, on_disk=on_disk, places=places, requested=requested)


def job(
    number: int,
    *inputs: int,
    state: JobState = JobState.HELD,
    pinned: bool | None = None,
    waited: float = 0,
    priority: int = 50,
    whole: bool = False,
) -> JobView:
    has_pins = state is not JobState.HELD if pinned is None else pinned
    return JobView(
        job=number,
        state=state,
        inputs=inputs,
        priority=priority,
        waited_seconds=waited,
        whole_volumes=whole,
        pin_age_seconds=0.0 if has_pins else None,
    )


def decide(
    jobs: list[JobView], files: list[FileView], policy: Policy = ROOMY, cache_bytes: int | None = 100_000
) -> Plan:
    return plan(
        Snapshot(jobs=tuple(jobs), files={found.file: found for found in files}, cache_bytes=cache_bytes), policy
    )


def test_a_held_job_is_admitted_before_anything_is_staged_for_it() -> None:
    found = decide([job(1, 1)], [file(1)])
    assert found.instructions == (Admit(job=1),)


def test_an_admitted_job_has_its_missing_inputs_staged_in_one_request_per_volume_in_tape_order() -> None:
    files = [file(1, "A1", block=9), file(2, "B1"), file(3, "A1", block=2), file(4, "A1", on_disk=True)]
    found = decide([job(1, 1, 2, 3, 4, state=JobState.STAGING)], files)
    assert found.instructions == (Stage(volume="A1", files=(3, 1)), Stage(volume="B1", files=(2,)))


def test_a_file_that_several_jobs_need_is_staged_once() -> None:
    jobs = [job(number, 1, state=JobState.STAGING) for number in (1, 2, 3)]
    assert decide(jobs, [file(1)]).instructions == (Stage(volume="A1", files=(1,)),)


def test_a_file_that_is_being_brought_is_not_asked_for_again() -> None:
    assert decide([job(1, 1, state=JobState.STAGING)], [file(1, requested=True)]).instructions == ()


def test_nothing_is_staged_for_a_job_whose_pins_are_gone_before_they_are_renewed() -> None:
    found = decide([job(1, 1, state=JobState.STAGING, pinned=False)], [file(1)])
    assert found.instructions == (Renew(job=1),)


def test_the_last_input_on_disk_releases_the_job() -> None:
    jobs = [job(1, 1, 2, state=JobState.STAGING)]
    assert decide(jobs, [file(1, on_disk=True), file(2, on_disk=True)]).instructions == (Release(job=1),)


def test_a_job_is_not_released_while_one_input_is_missing() -> None:
    jobs = [job(1, 1, 2, state=JobState.STAGING)]
    assert decide(jobs, [file(1, on_disk=True), file(2, requested=True)]).instructions == ()


def test_a_job_is_not_released_before_its_inputs_are_pinned() -> None:
    assert decide([job(1, 1)], [file(1, on_disk=True)]).instructions == (Admit(job=1),)
    unpinned = job(1, 1, state=JobState.READY, pinned=False)
    assert decide([unpinned], [file(1, on_disk=True)]).instructions == (Renew(job=1),)


def test_a_release_that_was_decided_and_not_carried_out_is_decided_again() -> None:
    assert decide([job(1, 1, state=JobState.READY)], [file(1, on_disk=True)]).instructions == (Release(job=1),)


def test_an_input_lost_after_the_release_takes_the_job_back() -> None:
    for state in (JobState.READY, JobState.RELEASED):
        assert decide([job(1, 1, state=state)], [file(1)]).instructions == (TakeBack(job=1),)


def test_a_job_whose_inputs_were_lost_too_often_fails() -> None:
    lost = JobView(job=1, state=JobState.STAGING, inputs=(1,), pin_age_seconds=0.0, tries=6)
    (found,) = decide([lost], [file(1)]).instructions
    assert isinstance(found, Fail)
    assert "6 times" in found.reason


def test_pins_are_renewed_at_half_of_their_lease_while_the_job_runs() -> None:
    running = JobView(job=1, state=JobState.RUNNING, inputs=(1,), pin_age_seconds=4 * 86400.0)
    assert decide([running], [file(1, on_disk=True)]).instructions == (Renew(job=1),)


def test_bytes_staged_ahead_of_release_stay_below_their_limit() -> None:
    files = [file(number, size=40) for number in range(1, 5)]
    jobs = [job(number, number) for number in range(1, 5)]
    found = decide(jobs, files, Policy(staged_bytes_max=100))
    assert found.instructions == (Admit(job=1), Admit(job=2))
    assert "wait for space" in found.waiting[3][0]


def test_a_shared_file_counts_once_against_the_limit() -> None:
    jobs = [job(number, 1) for number in range(1, 5)]
    found = decide(jobs, [file(1, size=90)], Policy(staged_bytes_max=100))
    assert [instruction.job for instruction in found.instructions if isinstance(instruction, Admit)] == [1, 2, 3, 4]


def test_a_job_larger_than_the_staging_limit_is_let_in_alone() -> None:
    files = [file(1, size=500), file(2, size=10)]
    found = decide([job(1, 1), job(2, 2)], files, Policy(staged_bytes_max=100))
    assert found.instructions[0] == Admit(job=1)
    assert Admit(job=2) not in found.instructions


def test_a_job_that_can_never_fit_the_cache_fails_with_the_sizes() -> None:
    (found,) = decide([job(1, 1)], [file(1, size=2_000_000)], cache_bytes=1_000_000).instructions
    assert found == Fail(job=1, reason="its inputs are 2.0 MB, and the cache holds 1.0 MB")


def test_unknown_cache_size_is_no_space_but_stops_no_job_that_has_everything() -> None:
    found = decide([job(1, 1), job(2, 2)], [file(1), file(2, on_disk=True)], cache_bytes=None)
    assert found.instructions == (Admit(job=2),)
    assert "no cache server" in found.waiting[1][0]


def test_pins_of_running_jobs_take_cache_space_from_those_that_wait() -> None:
    running = job(1, 1, state=JobState.RUNNING)
    found = decide([running, job(2, 2)], [file(1, size=80, on_disk=True), file(2, size=30)], cache_bytes=100)
    assert found.instructions == ()


def test_jobs_that_need_no_further_volume_go_first() -> None:
    files = [file(1, "B1"), file(2, "C1"), file(3, "A1", requested=True), file(4, "A1")]
    jobs = [job(1, 1), job(2, 2), job(3, 3, state=JobState.STAGING), job(4, 4)]
    found = decide(jobs, files, Policy(staged_bytes_max=20))
    assert found.instructions == (Admit(job=4),)


def test_a_higher_priority_goes_first() -> None:
    found = decide([job(1, 1), job(2, 2, priority=90)], [file(1), file(2)], Policy(staged_bytes_max=10))
    assert found.instructions == (Admit(job=2),)


def test_nobody_passes_a_job_that_has_waited_too_long() -> None:
    files = [file(1, size=50, requested=True), file(2, size=80), file(3, size=10)]
    jobs = [job(1, 1, state=JobState.STAGING), job(2, 2, waited=7200), job(3, 3, priority=100)]
    assert decide(jobs, files, Policy(staged_bytes_max=100)).instructions == ()


def test_a_job_with_a_library_down_waits_with_that_reason_and_takes_no_space() -> None:
    blocked = FileView(file=1, path="/exp/1", size=10, places=(place("W1", readable=False, library="west"),))
    found = plan(
        Snapshot(jobs=(job(1, 1),), files={1: blocked}, libraries_down={"west": "down (robot arm)"}, cache_bytes=1000),
        ROOMY,
    )
    assert found.instructions == ()
    assert found.waiting[1][0] == "library west is down (robot arm); no other copy can be read of /exp/1"


def test_an_admitted_job_that_is_blocked_gives_its_space_to_one_that_is_not() -> None:
    blocked = FileView(file=1, path="/exp/1", size=90, places=(place("W1", readable=False, library="west"),))
    jobs = [job(1, 1, state=JobState.STAGING), job(2, 2)]
    assert decide(jobs, [blocked, file(2, size=90)], Policy(staged_bytes_max=100)).instructions == (Demote(job=1),)
    assert decide(jobs[:1], [blocked], Policy(staged_bytes_max=100)).instructions == ()


def test_a_file_that_failed_is_asked_for_again_after_a_pause_and_not_for_ever() -> None:
    def tried(tries: int, pause: float) -> FileView:
        return FileView(
            file=1, path="/exp/1", size=1, places=(place("A1"),), tries=tries, last_error="bad", retry_in_seconds=pause
        )

    staging = [job(1, 1, state=JobState.STAGING)]
    assert decide(staging, [tried(2, 3.0)]).instructions == ()
    assert decide(staging, [tried(2, 0.0)]).instructions == (Stage(volume="A1", files=(1,)),)
    assert decide(staging, [tried(5, 0.0)]).instructions == (
        Fail(job=1, reason="/exp/1 could not be staged in 5 tries: bad"),
    )


def test_a_job_whose_input_is_gone_fails_with_that_reason() -> None:
    gone = FileView(file=1, path="/exp/1", size=1, gone="/exp/1 was removed after the job was submitted")
    assert decide([job(1, 1)], [gone]).instructions == (Fail(job=1, reason=gone.gone),)


def test_whole_volumes_are_staged_for_a_job_that_asks_for_it() -> None:
    found = decide([job(1, 1, state=JobState.STAGING, whole=True)], [file(1)])
    assert found.instructions == (Stage(volume="A1", files=(1,), whole_volume=True),)


def test_a_long_list_of_files_becomes_several_requests() -> None:
    files = [file(number, block=number) for number in range(1, 6)]
    policy = Policy(staged_bytes_max=1000, files_per_request_max=2)
    found = decide([job(1, 1, 2, 3, 4, 5, state=JobState.STAGING)], files, policy)
    assert [instruction.files for instruction in found.instructions if isinstance(instruction, Stage)] == [
        (1, 2), (3, 4), (5,)
    ]  # fmt: skip


def test_files_with_several_copies_come_from_the_volume_that_is_needed_anyway() -> None:
    files = [file(1, "A1"), file(2, "A1", "B1"), file(3, "B1", "C1"), file(4, "B1", "C1", "D1"), file(5, "C1", "D1")]
    assert choose_volumes(files) == {1: "A1", 2: "A1", 3: "C1", 4: "C1", 5: "C1"}


def test_only_readable_copies_count() -> None:
    unreadable = FileView(
        file=1, path="/exp/1", size=1, places=(place("A1", readable=False), place("B1", readable=True))
    )
    assert choose_volumes([unreadable]) == {1: "B1"}


def test_a_file_is_asked_for_in_the_name_of_the_job_that_has_waited_longest_for_it() -> None:
    jobs = [
        job(1, 1, 2, waited=10),
        job(2, 2, 3, waited=30, state=JobState.STAGING),
        job(3, 3, 4, waited=30),
        job(4, 4, 5, waited=99, state=JobState.RUNNING),
    ]
    assert oldest_waiting(jobs, [1, 2, 3, 4, 5, 6]) == {1: 1, 2: 2, 3: 2, 4: 3}
