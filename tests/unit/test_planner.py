"""Promises of the planner: who gets a drive, who waits, and what those who wait are told. Pure."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from catalog.candidates import SENTENCES, render
from tapeserver.planner import (
    ArchiveNeed,
    Decision,
    DriveView,
    MountView,
    Policy,
    RecallNeed,
    Snapshot,
    plan,
)

POLICY = Policy(
    collecting_age_seconds=5,
    collecting_bytes=10**9,
    collecting_files=100,
    volumes_open_max=1,
    volumes_open_bytes=10**9,
    cooldown_seconds=5,
)


def drives(free: int, *, busy: int = 0) -> list[DriveView]:
    return [
        DriveView(name=f"d{number}", up=True, attached=True, busy=number > free) for number in range(1, free + busy + 1)
    ]


def recall(volume: str, *, oldest: float | None = 1.0, state: str = "active", reason: str = "") -> RecallNeed:
    return RecallNeed(
        volume=volume, volume_state=state, volume_reason=reason, files=3, bytes=300, oldest_seconds=oldest
    )


def archive(
    pool: str = "p",
    *,
    oldest: float | None = 1.0,
    bytes: int = 10,
    files: int = 1,
    urgent: int = 0,
    writable: Sequence[str] = ("A1", "A2"),
) -> ArchiveNeed:
    return ArchiveNeed(pool=pool, files=files, bytes=bytes, urgent=urgent, oldest_seconds=oldest, writable=writable)


def snapshot(**fields: object) -> Snapshot:
    values: dict[str, object] = {
        "library": "east",
        "library_state": "up",
        "library_reason": "",
        "drives": drives(2),
        "mounts": [],
        "recalls": [],
        "archives": [],
    }
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]  # the fields are those of the class


def mounted(decision: Decision) -> list[tuple[str, str, str]]:
    return [(one.drive, one.volume, one.purpose) for one in decision.mounts]


def codes(decision: Decision) -> dict[str, str]:
    return {one.key: one.code for one in decision.candidates}


def test_every_queued_recall_makes_its_volume_eligible_at_once() -> None:
    decision = plan(snapshot(recalls=[recall("A1", oldest=0.0)]), POLICY)
    assert mounted(decision) == [("d1", "A1", "recall")]
    assert codes(decision) == {"A1": "ready"}


def test_several_free_drives_get_different_volumes_oldest_need_first() -> None:
    wanted = [recall("A1", oldest=1), recall("A2", oldest=9), recall("A3", oldest=5)]
    decision = plan(snapshot(recalls=wanted), POLICY)
    assert [volume for _, volume, _ in mounted(decision)] == ["A2", "A3"]
    assert codes(decision) == {"A1": "no_free_drive", "A2": "ready", "A3": "ready"}


def test_reads_and_writes_share_the_drives_by_age() -> None:
    old_write = plan(snapshot(drives=drives(1), recalls=[recall("A9", oldest=5)], archives=[archive(oldest=6)]), POLICY)
    assert mounted(old_write) == [("d1", "A1", "archive")]
    old_read = plan(snapshot(drives=drives(1), recalls=[recall("A9", oldest=7)], archives=[archive(oldest=6)]), POLICY)
    assert mounted(old_read) == [("d1", "A9", "recall")]


def test_a_pool_collects_until_bytes_files_age_or_somebody_who_waits() -> None:
    assert codes(plan(snapshot(archives=[archive()]), POLICY)) == {"p": "collecting"}
    for enough in (archive(oldest=5), archive(bytes=10**9), archive(files=100), archive(urgent=1)):
        assert mounted(plan(snapshot(archives=[enough]), POLICY)) == [("d1", "A1", "archive")]


def test_a_volume_wanted_both_ways_is_mounted_once_and_to_write() -> None:
    decision = plan(snapshot(recalls=[recall("A1", oldest=9)], archives=[archive(oldest=6)]), POLICY)
    assert mounted(decision) == [("d1", "A1", "archive")]
    assert codes(decision) == {"A1": "ready", "p": "ready"}
    assert decision.mounts[0].pool == "p"


def test_a_mounted_volume_needs_no_mount_and_a_pool_that_is_being_filled_no_second_one() -> None:
    here = MountView(volume="A1", drive="d2", pool="p", purpose="archive")
    decision = plan(
        snapshot(drives=drives(1, busy=1), mounts=[here], recalls=[recall("A1")], archives=[archive(oldest=60)]), POLICY
    )
    assert mounted(decision) == []
    assert codes(decision) == {"A1": "mounted", "p": "mounted"}


def test_a_pool_opens_more_volumes_only_when_allowed_and_worth_it() -> None:
    policy = dataclasses.replace(POLICY, volumes_open_max=2)
    small = plan(snapshot(archives=[archive(oldest=6, bytes=10)]), policy)
    large = plan(snapshot(archives=[archive(oldest=6, bytes=10**9)]), policy)
    assert len(small.mounts) == 1
    assert [volume for _, volume, _ in mounted(large)] == ["A1", "A2"]


def test_nothing_is_mounted_in_a_library_that_is_not_up() -> None:
    down = snapshot(library_state="down", library_reason="robot", recalls=[recall("A1")], archives=[archive(oldest=60)])
    decision = plan(down, POLICY)
    assert mounted(decision) == []
    assert codes(decision) == {"A1": "library_down", "p": "library_down"}
    [one, _] = decision.candidates
    assert render(one.code, one.arguments) == "library east is down: robot"


def test_a_disabled_volume_a_back_off_a_failed_mount_and_a_full_cache_wait_with_their_reason() -> None:
    wanted = [recall("A1", state="disabled", reason="sticky"), recall("A2", oldest=None), recall("A3"), recall("A4")]
    decision = plan(
        snapshot(recalls=wanted, failed_ago_seconds={"A3": 1.0, "A4": 1.0}, cache_full={"A4": "no cache space"}),
        POLICY,
    )
    assert mounted(decision) == []
    assert codes(decision) == {
        "A1": "volume_disabled", "A2": "backing_off", "A3": "cooling_down", "A4": "cache_full",
    }  # fmt: skip
    later = plan(snapshot(recalls=wanted[2:3], failed_ago_seconds={"A3": 5.0}), POLICY)
    assert len(later.mounts) == 1


def test_writing_avoids_the_volume_whose_mount_has_just_failed() -> None:
    decision = plan(snapshot(archives=[archive(oldest=60)], failed_ago_seconds={"A1": 1.0}), POLICY)
    assert [volume for _, volume, _ in mounted(decision)] == ["A2"]


def test_a_pool_without_room_and_a_library_without_drives_say_so() -> None:
    assert codes(plan(snapshot(archives=[archive(oldest=60, writable=())]), POLICY)) == {"p": "no_volume"}
    down = [DriveView(name="d1", up=False, attached=True, busy=False)]
    assert codes(plan(snapshot(drives=down, recalls=[recall("A1")]), POLICY)) == {"A1": "no_drive"}
    silent = [DriveView(name="d1", up=True, attached=False, busy=False)]
    assert codes(plan(snapshot(drives=silent, recalls=[recall("A1")]), POLICY)) == {"A1": "drive_silent"}


def test_an_explanation_of_what_collects_does_not_change_with_every_look() -> None:
    first = plan(snapshot(archives=[archive(oldest=1.1)]), POLICY)
    second = plan(snapshot(archives=[archive(oldest=1.3)]), POLICY)
    assert first.candidates == second.candidates
    [one] = first.candidates
    assert render(one.code, one.arguments) == "it collects: 10 B of 1.0 GB, 1 of 100 files, oldest 1.0 s of 5.0 s"


_VOLUMES = st.sampled_from([f"A{number}" for number in range(6)])


@st.composite
def pictures(draw: st.DrawFn) -> Snapshot:
    names = [f"d{number}" for number in range(draw(st.integers(0, 4)))]
    views = [DriveView(name=n, up=draw(st.booleans()), attached=draw(st.booleans()), busy=False) for n in names]
    taken = draw(st.lists(_VOLUMES, unique=True, max_size=len(names)))
    live = [
        MountView(volume=volume, drive=drive, pool="p", purpose=draw(st.sampled_from(["recall", "archive"])))
        for volume, drive in zip(taken, names, strict=False)
    ]
    busy = {one.drive for one in live}
    ages = st.one_of(st.none(), st.floats(0, 100))
    wanted = draw(st.lists(_VOLUMES, unique=True))
    writable = [volume for volume in draw(st.lists(_VOLUMES, unique=True)) if volume not in taken]
    return snapshot(
        library_state=draw(st.sampled_from(["up", "up", "down", "unreachable"])),
        drives=[dataclasses.replace(view, busy=view.name in busy) for view in views],
        mounts=live,
        recalls=[
            recall(volume, oldest=draw(ages), state=draw(st.sampled_from(["active", "full", "disabled", "broken"])))
            for volume in wanted
        ],
        archives=[archive(oldest=draw(ages), bytes=draw(st.integers(1, 10**10)), writable=writable)],
        failed_ago_seconds={volume: draw(st.floats(0, 10)) for volume in draw(st.lists(_VOLUMES, unique=True))},
    )


@given(pictures(), st.integers(1, 3))
def test_in_any_picture_no_drive_or_volume_is_used_twice_and_everything_waiting_is_explained(
    picture: Snapshot, open_max: int
) -> None:
    decision = plan(picture, dataclasses.replace(POLICY, volumes_open_max=open_max))
    free = {drive.name for drive in picture.drives if drive.free}
    used = [one.drive for one in decision.mounts]
    volumes = [one.volume for one in decision.mounts]
    assert len(set(used)) == len(used)
    assert set(used) <= free
    assert len(set(volumes)) == len(volumes)
    assert not set(volumes) & {mount.volume for mount in picture.mounts}
    assert {one.key for one in decision.candidates} == {one.volume for one in picture.recalls} | {"p"}
    assert plan(picture, dataclasses.replace(POLICY, volumes_open_max=open_max)) == decision
    for one in decision.candidates:
        assert one.code in SENTENCES
        wanted = {field for _, field, _, _ in string.Formatter().parse(SENTENCES[one.code]) if field}
        assert wanted <= one.arguments.keys()
