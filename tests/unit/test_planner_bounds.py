"""Promises of the planner against the worst that can arrive, one situation each. Pure.

`test_planner_properties` draws pictures and arrivals at random, which seldom are the worst ones; here they are made so.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tapeserver.planner import (
    ArchiveNeed,
    DriveLimit,
    DriveView,
    EndView,
    MediaNeed,
    MountView,
    Picture,
    Policy,
    Share,
    VolumeView,
    explanations,
    plan,
)
from tests.unit.test_planner_properties import play

NOW = 500_000.0
ANN, BOB = Share("ann", "atlas"), Share("bob", "cms")


def picture(*volumes: str, drives: int = 1) -> Picture:
    made = Picture("east")
    made.cache_room_bytes = 10**18
    made.set_drives(DriveView(name=f"d{number}", up=True, attached=True) for number in range(drives))
    for name in volumes:
        made.set_volume(VolumeView(name=name, state="active", pool="p", medium="LTO-8"))
    return made


def writes(*writable: str, oldest_at: float | None, urgent: int = 0) -> ArchiveNeed:
    return ArchiveNeed(pool="p", files=3, bytes=10**12, urgent=urgent, oldest_at=oldest_at, writable=writable)


@pytest.mark.parametrize(("drives", "volumes"), [(1, 3), (1, 12), (1, 40), (3, 40)])
def test_one_old_file_of_who_has_used_far_too_much_is_read_within_the_bound_though_all_others_are_wanted_each_minute(
    drives: int, volumes: int
) -> None:
    """The bound of `deciding`'s docstring, without the rest between mounts that would let others in."""
    policy = Policy(
        deadline_seconds_max=3000.0, deadline_factor=1e6, remount_seconds=0.0, share_drain_seconds=0.0,
        share_tolerance=0.01,
    )  # fmt: skip
    library = play(drives, volumes, policy)
    library.want("V00", ANN, 0.0)
    library.picture.charge(ANN, 10**6, 0.0)
    # A mount takes 300 s, and a decision is made once a minute.
    bound = policy.deadline_seconds_max + (math.ceil(volumes / drives) + 1) * 360.0
    now = 0.0
    while not any(volume == "V00" for _, volume, _ in library.served):
        assert now <= bound
        for number in range(1, volumes):
            for _ in range(5):
                library.want(f"V{number:02d}", BOB, now)
        library.step(now)
        now += 60.0
    # It does wait for its deadline: otherwise this would say nothing of the bound.
    assert now >= policy.deadline_seconds_max


def test_of_those_past_the_absolute_age_the_oldest_comes_first_whatever_the_others_are_worth() -> None:
    made = picture("OLD", "DEAR")
    made.want("OLD", ANN, 1, 1, 10**9, NOW - 9000)
    for cohort in range(2, 50):
        made.want("DEAR", BOB, cohort, 1, 10**6, NOW - 8000)
    policy = Policy(deadline_seconds_max=7000.0, deadline_seconds_min=1e6)
    assert [one.volume for one in plan(made, policy, NOW).mounts] == ["OLD"]
    assert [one.volume for one in plan(made, replace(policy, deadline_seconds_max=1e6), NOW).mounts] == ["DEAR"]


def test_a_pool_past_the_absolute_age_comes_before_whatever_is_worth_more() -> None:
    made = picture("TO-READ", "TO-WRITE")
    for cohort in range(1, 200):
        made.want("TO-READ", BOB, cohort, 1, 10**6, NOW - 3000)
    made.set_archives(writes("TO-WRITE", oldest_at=NOW - 5000))
    policy = Policy(deadline_seconds_max=4000.0, deadline_seconds_min=1e6)
    assert [one.volume for one in plan(made, policy, NOW).mounts] == ["TO-WRITE"]
    assert [one.volume for one in plan(made, replace(policy, deadline_seconds_max=1e6), NOW).mounts] == ["TO-READ"]


def test_what_gave_way_comes_behind_those_past_the_absolute_age_that_waited_then() -> None:
    made = picture("CUT", "WAITED")
    made.want("CUT", ANN, 1, 1, 10**9, NOW - 40_000)
    made.want("WAITED", BOB, 2, 1, 10**9, NOW - 5000)
    made.set_end("CUT", EndView(drive="d0", kind="gave_way", why="", at=NOW - 3000))
    policy = Policy(deadline_seconds_max=2000.0, remount_seconds=0.0)
    assert [one.volume for one in plan(made, policy, NOW).mounts] == ["WAITED"]


@pytest.mark.parametrize("purpose", ["recall", "archive", "verify", "label"])
def test_a_volume_in_a_drive_is_mounted_for_nothing_else_in_another(purpose: str) -> None:
    made = picture("A", drives=3)
    mount = MountView(volume="A", drive="d0", pool="p", purpose=purpose, began_at=NOW - 100, epoch=1)  # type: ignore[arg-type]  # one of the literals
    for ending in (False, True):
        made.mount_began(replace(mount, ending=ending))
        made.want("A", ANN, 1, 1, 10**9, NOW - 9000)
        made.set_archives(writes("A", oldest_at=NOW - 9000, urgent=1))
        made.set_media([MediaNeed(volume="A", purpose="verify", since=0)])
        assert plan(made, Policy(), NOW).mounts == []
        made.set_media([MediaNeed(volume="A", purpose="index", since=0)])
        made.hurried = {"A"}
        assert plan(made, Policy(), NOW).mounts == []
        made.hurried = set()


def test_what_may_be_written_only_later_is_no_work_now() -> None:
    made = picture("A")
    made.set_archives(writes("A", oldest_at=NOW + 60, urgent=1))
    assert plan(made, Policy(), NOW).mounts == []
    made.set_archives(writes("A", oldest_at=None, urgent=1))
    assert plan(made, Policy(), NOW).mounts == []
    assert plan(made, Policy(), NOW + 60).mounts == []
    made.set_archives(writes("A", oldest_at=NOW + 60, urgent=1))
    assert [one.volume for one in plan(made, Policy(), NOW + 60).mounts] == ["A"]


def test_who_has_waited_past_the_deadline_comes_before_what_is_worth_more_by_itself() -> None:
    """Lateness multiplies: by the fourth power of the wait over the deadline, and by what the pass costs."""
    made = picture("LATE", "DEAR", *(f"CHEAP{number}" for number in range(6)))
    for number in range(6):
        made.want(f"CHEAP{number}", BOB, 100 + number, 1, 10**6, NOW - 1)
    made.want("LATE", ANN, 1, 1, 10**6, NOW - 20_000)
    for cohort in range(2, 12):
        made.want("DEAR", BOB, cohort, 1, 10**6, NOW - 9000)
    late, not_late = Policy(deadline_seconds_min=5000.0, deadline_factor=0.0), Policy(deadline_seconds_min=1e6)
    assert [one.volume for one in plan(made, late, NOW).mounts] == ["LATE"]
    assert [one.volume for one in plan(made, not_late, NOW).mounts] == ["DEAR"]


def test_a_long_pass_is_late_as_soon_as_a_short_one() -> None:
    made = picture("LONG", "SHORT", *(f"CHEAP{number}" for number in range(30)))
    for number in range(30):
        made.want(f"CHEAP{number}", BOB, 100 + number, 1, 10**6, NOW - 1)
    # Worth the same; the pass of the long one costs some ten times as much, and it is later by half.
    made.want("LONG", ANN, 1, 1, 10**12, NOW - 15_000)
    made.want("SHORT", BOB, 2, 1, 10**6, NOW - 10_000)
    late, not_late = Policy(deadline_seconds_min=1000.0, deadline_factor=0.0), Policy(deadline_seconds_min=1e6)
    assert [one.volume for one in plan(made, late, NOW).mounts] == ["LONG"]
    assert [one.volume for one in plan(made, not_late, NOW).mounts] == ["SHORT"]


def test_what_waits_only_for_a_group_with_all_its_drives_says_so_while_drives_are_free() -> None:
    made = picture("A", "B", drives=3)
    made.limits = {"atlas": DriveLimit(reading=1, writing=None)}
    made.want("A", ANN, 1, 1, 10**9, NOW - 100)
    made.want("B", ANN, 2, 1, 10**9, NOW - 100)
    made.mount_began(MountView(volume="A", drive="d0", pool=None, purpose="recall", began_at=NOW - 50, group="atlas"))
    assert plan(made, Policy(), NOW).mounts == []
    said = {one.key: (one.code, dict(one.arguments)) for one in explanations(made, Policy(), NOW)}
    assert said["B"] == ("drive_quota", {"group": "atlas"})
    # Somebody else wants it too: then it is read for him.
    made.want("B", BOB, 3, 1, 10**9, NOW - 50)
    assert [(one.volume, one.group) for one in plan(made, Policy(), NOW).mounts] == [("B", "cms")]


def test_of_two_pools_the_one_whose_files_wait_longer_is_written_first_whatever_they_are_called() -> None:
    made = picture("A", "B")
    made.set_archives(ArchiveNeed(pool="early", files=3, bytes=10**12, oldest_at=NOW - 700, writable=("A",), urgent=0))
    made.set_archives(ArchiveNeed(pool="late", files=3, bytes=10**12, oldest_at=NOW - 9000, writable=("B",), urgent=0))
    assert [one.pool for one in plan(made, Policy(), NOW).mounts] == ["late"]
    made.set_archives(ArchiveNeed(pool="late", files=3, bytes=10**12, oldest_at=NOW - 600, writable=("B",), urgent=0))
    assert [one.pool for one in plan(made, Policy(), NOW).mounts] == ["early"]


def test_what_a_group_with_all_its_drives_wants_makes_no_volume_worth_more() -> None:
    made = picture("X", "MUCH", "MORE", drives=2)
    made.limits = {"atlas": DriveLimit(reading=1, writing=None)}
    made.want("X", ANN, 1, 1, 10**6, NOW - 100)
    made.mount_began(MountView(volume="X", drive="d0", pool=None, purpose="recall", began_at=NOW - 50, group="atlas"))
    for cohort in range(2, 40):
        made.want("MUCH", ANN, cohort, 1, 10**6, NOW - 100)
    made.want("MUCH", BOB, 50, 1, 10**6, NOW - 100)
    for cohort in range(51, 54):
        made.want("MORE", BOB, cohort, 1, 10**6, NOW - 100)
    assert [one.volume for one in plan(made, Policy(), NOW).mounts] == ["MORE"]
    made.limits = {}
    assert [one.volume for one in plan(made, Policy(), NOW).mounts] == ["MUCH"]


def test_a_label_wants_a_drive_that_writes_and_what_fits_all_drives_waits_for_any() -> None:
    made = picture()
    made.set_drives([DriveView(name="d0", up=True, attached=True, model="LTO-7")])
    made.set_volume(VolumeView(name="OLD", state="blank", pool="p", medium="LTO-5"))
    made.set_volume(VolumeView(name="NEW", state="active", pool="p", medium="LTO-7"))
    made.set_volume(VolumeView(name="BUSY", state="active", pool="p", medium="LTO-7"))
    made.set_media([MediaNeed(volume="OLD", purpose="label", since=0)])
    assert plan(made, Policy(), NOW).mounts == []
    made.want("NEW", ANN, 1, 1, 10**6, NOW - 100)
    made.mount_began(MountView(volume="BUSY", drive="d0", pool=None, purpose="recall", began_at=NOW - 50))
    said = {one.key: one.code for one in explanations(made, Policy(), NOW)}
    assert said == {"OLD": "no_compatible_drive", "NEW": "no_free_drive"}


def test_a_pool_that_must_take_another_volume_than_its_best_takes_none_that_is_in_a_drive_or_given_away() -> None:
    """The two pools have the same best blank volume, and behind it one that is mounted and one that is free."""
    made = picture("FIRST", "IN-DRIVE", "FREE", drives=4)
    mount = MountView(volume="IN-DRIVE", drive="d0", pool=None, purpose="recall", began_at=NOW - 50, epoch=1)
    made.mount_began(mount)
    for pool in ("p", "q", "r"):
        made.set_archives(
            ArchiveNeed(
                pool=pool, files=3, bytes=10**12, urgent=0, oldest_at=NOW - 9000,
                writable=("FIRST", "IN-DRIVE", "FREE"),
            )
        )  # fmt: skip
    found = plan(made, Policy(), NOW).mounts
    assert [(one.pool, one.volume) for one in found] == [("p", "FIRST"), ("q", "FREE")]
