"""What the pre-stager looks up next and what it concludes from answers; and the rights of a job's token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.model import Action, Grant, grants_cover
from client.messages import CopyLocation, FileLocation, ItemError
from jobserver.batch import BatchState, BatchStatus
from jobserver.batchsync import outcome
from jobserver.grants import JOB_ACTIONS, job_grants
from jobserver.knowledge import Knowledge
from jobserver.states import JobState
from jobserver.store import Input, JobRow, StagedFile

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(number: int, state: JobState = JobState.STAGING, **values: Any) -> JobRow:
    defaults: dict[str, Any] = dict.fromkeys(JobRow.__dataclass_fields__)
    defaults |= {
        "id": number, "name": "x", "owner": "ada", "groups": (), "grants": (), "argv": ("x",), "priority": 0,
        "state": state, "reason": "", "waiting": (), "volumes": (), "attempt": 1, "nonce": "n", "tries": 0,
        "inputs": 1, "bytes": 1, "on_disk": 0, "cancel_wanted": False, "cleaned": False, "submitted_at": NOON,
        "waited_seconds": 0.0, "pin_age_seconds": 0.0,
    }  # fmt: skip
    return JobRow(**defaults | values)


def item(number: int) -> Input:
    return Input(file=number, path=f"/exp/{number}", size=number)


def seen(number: int, locality: str = "TAPE", *, file_id: int | None = None) -> FileLocation:
    copy = CopyLocation(volume="A1", library="east", generation=1, first_block=7, byte_offset=0, readable=True)
    return FileLocation(path=f"/exp/{number}", file_id=file_id or number, size=number, locality=locality, copies=[copy])


def failed(number: int, code: str) -> FileLocation:
    return FileLocation(path=f"/exp/{number}", error=ItemError(code=code, detail="no"))


def asked(number: int, staging: int | None = 1) -> StagedFile:
    return StagedFile(
        file=number, path=f"/exp/{number}", size=number, staging=staging, tries=1, last_error="e", retry_in_seconds=2.0
    )


def knowledge(**inputs: tuple[int, ...]) -> Knowledge:
    found = Knowledge(verify_seconds=5.0, whole_volumes=False, pin_seconds=100.0)
    found.learn_inputs({int(job[1:]): tuple(item(file) for file in files) for job, files in inputs.items()})
    return found


def test_what_was_never_seen_is_looked_up_first_then_what_is_coming_then_what_was_seen_long_ago() -> None:
    known = knowledge(j1=(1, 2, 3, 4))
    known.learn([item(1), item(2), item(3)], [seen(1, "DISK"), seen(2), seen(3, "DISK")], now=0.0)
    wanted = known.to_look_up([row(1)], {2: asked(2)}, now=10.0, limit=10)
    assert [one.file for one in wanted] == [4, 2, 1, 3]
    assert [one.file for one in known.to_look_up([row(1)], {2: asked(2)}, now=1.0, limit=10)] == [4, 2]
    assert [one.file for one in known.to_look_up([row(1)], {2: asked(2)}, now=10.0, limit=2)] == [4, 2]


def test_files_of_running_jobs_are_not_looked_up() -> None:
    assert knowledge(j1=(1,)).to_look_up([row(1, JobState.RUNNING)], {}, now=0.0, limit=10) == []


def test_a_snapshot_waits_until_everything_that_takes_space_was_seen() -> None:
    known = knowledge(j1=(1,), j2=(2,))
    rows = [row(1), row(2, JobState.HELD)]
    assert known.snapshot(rows, {}, libraries_down={}, cache_bytes=1) is None
    known.learn([item(1)], [seen(1)], now=0.0)
    found = known.snapshot(rows, {}, libraries_down={}, cache_bytes=1)
    assert found is not None
    assert [job.job for job in found.jobs] == [1]


def test_a_file_that_failed_or_is_asked_for_shows_it_in_its_view() -> None:
    known = knowledge(j1=(1, 2))
    known.learn([item(1), item(2)], [seen(1), seen(2)], now=0.0)
    found = known.snapshot([row(1)], {1: asked(1), 2: asked(2, None)}, libraries_down={}, cache_bytes=1)
    assert found is not None
    assert (found.files[1].requested, found.files[2].requested) == (True, False)
    assert (found.files[2].tries, found.files[2].retry_in_seconds) == (1, 2.0)


@pytest.mark.parametrize(
    ("answer", "gone"),
    [(failed(1, "not_found"), "removed"), (failed(1, "is_a_directory"), "removed"), (seen(1, file_id=9), "replaced")],
)
def test_a_name_that_is_gone_or_another_file_is_no_input_any_more(answer: FileLocation, gone: str) -> None:
    known = knowledge(j1=(1,))
    known.learn([item(1)], [answer], now=0.0)
    found = known.snapshot([row(1)], {}, libraries_down={}, cache_bytes=1)
    assert found is not None
    assert gone in found.files[1].gone


def test_an_answer_that_says_nothing_changes_nothing() -> None:
    known = knowledge(j1=(1,))
    known.learn([item(1)], [seen(1, "DISK_AND_TAPE")], now=0.0)
    known.learn([item(1)], [failed(1, "unavailable")], now=1.0)
    assert known.on_disk(1)


def test_pins_whose_lease_ran_out_are_no_pins() -> None:
    known = knowledge(j1=(1,))
    known.learn([item(1)], [seen(1, "DISK")], now=0.0)
    found = known.snapshot([row(1, pin_age_seconds=101.0)], {}, libraries_down={}, cache_bytes=1)
    assert found is not None
    assert found.jobs[0].pin_age_seconds is None


def test_a_job_that_is_being_cancelled_is_not_planned_for() -> None:
    known = knowledge(j1=(1,))
    known.learn([item(1)], [seen(1)], now=0.0)
    found = known.snapshot([row(1, cancel_wanted=True)], {}, libraries_down={}, cache_bytes=1)
    assert found is not None
    assert found.jobs == ()


@pytest.mark.parametrize(
    ("state", "values", "expected"),
    [
        (BatchState.ENDED, {"exit_code": 0}, (JobState.DONE, "")),
        (BatchState.ENDED, {"exit_code": 3}, (JobState.FAILED, "it ended with exit code 3")),
        (BatchState.ENDED, {"signal": 9}, (JobState.FAILED, "it was ended by signal 9")),
        (BatchState.ENDED, {"exit_code": 127, "reason": "not found"}, (JobState.FAILED, "not found")),
        (BatchState.LOST, {}, (JobState.FAILED, "the batch system lost it")),
        (BatchState.CANCELLED, {}, (JobState.CANCELLED, "it was cancelled in the batch system")),
    ],
)
def test_how_a_batch_job_ended_is_told_in_state_and_words(
    state: BatchState, values: dict[str, Any], expected: tuple[JobState, str]
) -> None:
    status = BatchStatus(native_id="1", key="k", state=state, **values)
    assert outcome(status, cancel_wanted=False) == expected


OWNED = [Grant(action=action, prefix=prefix) for action in JOB_ACTIONS for prefix in ("/exp/a", "/exp/b/c", "/data")]


def test_few_inputs_are_granted_one_by_one_and_many_by_their_directories() -> None:
    few = job_grants(["/exp/a/1", "/exp/a/2"], OWNED, grants_max=4)
    assert {grant.prefix for grant in few} == {"/exp/a/1", "/exp/a/2"}
    many = job_grants([f"/exp/a/{number}" for number in range(1000)], OWNED, grants_max=4)
    assert {grant.prefix for grant in many} == {"/exp/a"}


PATHS = st.lists(
    st.builds(
        lambda base, parts: "/".join([base, *parts]),
        st.sampled_from(["/exp/a", "/exp/b/c", "/data"]),
        st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@given(PATHS, st.integers(1, 20))
def test_a_jobs_grants_cover_its_inputs_are_bounded_and_never_exceed_the_submitters(
    paths: list[str], grants_max: int
) -> None:
    found = job_grants(paths, OWNED, grants_max=grants_max)
    for path in paths:
        assert all(grants_cover(found, action, path) for action in (Action.READ, Action.STAGE))
    assert all(grants_cover(OWNED, grant.action, grant.prefix) for grant in found)
    assert len(found) <= max(grants_max, len(OWNED))


def coming(number: int, seconds: float | None, recall: str = "queued") -> FileLocation:
    return msgspec.structs.replace(seen(number), recall=recall, expected_seconds=seconds)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([coming(1, 50.0), coming(2, 90.0)], 80.0),
        ([coming(1, 50.0), seen(2, "DISK_AND_TAPE")], 40.0),
        ([coming(1, 50.0), coming(2, None, "claimed")], 40.0),
        ([coming(1, 50.0), coming(2, None)], None),
        ([coming(1, 50.0), seen(2)], None),
        ([coming(1, None, "claimed"), coming(2, None, "claimed")], None),
        ([coming(1, 30.0, "claimed"), coming(2, None, "claimed")], 20.0),
        ([coming(1, 300.0, "claimed"), coming(2, 90.0)], 290.0),
    ],
)
def test_a_job_is_expected_with_its_last_input_if_all_are_known(
    answers: list[FileLocation], expected: float | None
) -> None:
    found = knowledge(j1=(1, 2))
    assert found.expected_seconds(1, now=0.0) is None
    found.learn([item(1), item(2)], answers, now=100.0)
    assert found.expected_seconds(1, now=110.0) == expected
