"""Promises of the planner where limits, kinds of work and odd numbers meet. Pure."""

from __future__ import annotations

import dataclasses

import pytest

from tapeserver.planner import DriveLimit, DriveView, Picture, Policy, VolumeView, explanations, plan
from tapeserver.planner.wishes import Tier, judge_recalls
from tests.unit.test_planner import (
    ALICE,
    BOB,
    NOW,
    POLICY,
    archive,
    asked_for,
    codes,
    drives,
    ended,
    ends_of,
    media,
    mount,
    mounted,
    picture,
    recall,
    said,
    volume,
)

# ------------------------------------------------------------------ limits


@pytest.mark.parametrize("why", ["idle", "long"])
def test_who_waits_for_a_limit_is_made_room_for_as_who_waits_for_a_drive(why: str) -> None:
    """Else a volume for which something always comes keeps the only drive that may read for ever."""
    here = mount("A1", "d1", age=5000, idle_since=NOW - 1 if why == "idle" else None)
    wanted = [recall("A9")] if why == "idle" else [recall("A1"), recall("A9")]
    policy = dataclasses.replace(POLICY, reading_drives_max=1)
    seen = picture(mounts=[here], recalls=wanted)
    assert mounted(seen, policy) == []
    assert ends_of(seen, policy) == [("A1", why)]


@pytest.mark.parametrize("why", ["idle", "long"])
def test_who_waits_for_his_groups_limit_is_made_room_for_by_his_group(why: str) -> None:
    idle_since = NOW - 1 if why == "idle" else None
    here = mount("A1", "d1", age=5000, idle_since=idle_since, group="cms")
    other = mount("A2", "d2", age=9000, idle_since=idle_since, group="atlas")
    wanted = [recall("A9", share=BOB)] if why == "idle" else [recall("A1", share=BOB), recall("A9", share=BOB)]
    seen = picture(on=drives(3), mounts=[here, other], recalls=wanted)
    seen.limits["cms"] = DriveLimit(reading=1)
    assert mounted(seen) == []
    assert ends_of(seen) == [("A1", why)]
    leaving = dataclasses.replace(here, ending=True)
    seen = picture(on=drives(3), mounts=[leaving, other], recalls=wanted)
    seen.limits["cms"] = DriveLimit(reading=1)
    assert ends_of(seen) == []


@pytest.mark.parametrize("why", ["idle", "long"])
def test_nobody_ends_for_who_would_find_no_room_below_his_groups_limit(why: str) -> None:
    """As for a drive: else each request for the one that is mounted would be a mount, for as long as pins last."""
    here = mount("A1", "d1", age=5000, idle_since=NOW - 1 if why == "idle" else None, group="cms")
    wanted = [recall("A9", share=BOB, bytes=500)]
    wanted += [] if why == "idle" else [recall("A1", share=BOB, bytes=10)]
    for limited in (False, True):
        seen = picture(on=drives(1), mounts=[here], recalls=wanted, room=100)
        if limited:
            seen.limits["cms"] = DriveLimit(reading=1)
        assert ends_of(seen) == []


@pytest.mark.parametrize("why", ["idle", "long"])
def test_a_pool_that_waits_for_the_limit_of_writing_is_made_room_for(why: str) -> None:
    here = mount("A1", "d1", "archive", age=5000, idle_since=NOW - 1 if why == "idle" else None, pool="q")
    policy = dataclasses.replace(POLICY, writing_drives_max=1)
    seen = picture(mounts=[here], archives=[archive(oldest=60, writable=["A2"])])
    assert mounted(seen, policy) == []
    assert ends_of(seen, policy) == [("A1", why)]


def test_a_limit_of_none_at_all_ends_nobody() -> None:
    seen = picture(mounts=[mount("A1", "d1", idle_since=NOW - 1)], recalls=[recall("A9", share=BOB)])
    seen.limits["cms"] = DriveLimit(reading=0)
    assert ends_of(seen) == []


def test_who_is_kept_by_his_groups_limit_is_not_told_that_all_who_may_read_do() -> None:
    policy = dataclasses.replace(POLICY, reading_drives_max=5)
    seen = picture(on=drives(3), recalls=[recall("B1", share=BOB), recall("B2", share=BOB)])
    seen.limits["cms"] = DriveLimit(reading=1)
    assert said(seen, "B2", policy) == "drive quota of cms reached"


# ------------------------------------------------------------------ pools


def test_two_pools_that_could_take_the_same_blank_volume_get_one_each() -> None:
    blank = [volume("B1", "blank", pool=None), volume("B2", "blank", pool=None)]
    needs = [archive("p", oldest=60, writable=["B1", "B2"]), archive("q", oldest=50, writable=["B1", "B2"])]
    seen = picture(volumes=blank, archives=needs)
    assert sorted(mounted(seen)) == [("d1", "B1", "archive"), ("d2", "B2", "archive")]
    assert codes(seen) == {"p": "ready", "q": "ready"}
    assert said(seen, "q") != said(seen, "p")


def test_two_pools_and_one_blank_volume_is_told_to_the_one_that_does_not_get_it() -> None:
    blank = [volume("B1", "blank", pool=None)]
    needs = [archive("p", oldest=60, writable=["B1"]), archive("q", oldest=50, writable=["B1"])]
    seen = picture(volumes=blank, archives=needs)
    assert mounted(seen) == [("d1", "B1", "archive")]
    assert codes(seen) == {"p": "ready", "q": "volumes_in_use"}


def test_a_pool_takes_another_volume_when_no_free_drive_fits_its_best() -> None:
    on = [
        DriveView(name="d8", up=True, attached=True, model="LTO-8"),
        DriveView(name="d9", up=True, attached=True, model="LTO-10"),
    ]
    seen = picture(
        on=on,
        mounts=[mount("X", "d8")],
        volumes=[
            VolumeView(name="A8", state="active", pool="p", medium="LTO-8"),
            VolumeView(name="B9", state="blank", pool="p", medium="LTO-10"),
        ],
        archives=[archive(oldest=60, writable=["A8", "B9"])],
    )
    assert mounted(seen) == [("d9", "B9", "archive")]
    assert codes(seen)["p"] == "ready"


def test_a_long_read_of_the_only_volume_of_a_pool_gives_way_to_what_is_to_be_written() -> None:
    here = mount("A1", "d1", age=5000, pool="p")
    seen = picture(mounts=[here], recalls=[recall("A1")], archives=[archive(oldest=60, writable=[])])
    assert ends_of(seen) == [("A1", "long")]


def test_more_volumes_for_pools_that_are_filled_do_not_hide_who_waits_for_an_idle_drive() -> None:
    policy = dataclasses.replace(POLICY, volumes_open_max=4)
    seen = picture(
        on=drives(0, busy=2),
        mounts=[mount("P1", "d1", "archive", pool="p"), mount("A5", "d2", idle_since=NOW - 5)],
        recalls=[recall("A9", oldest=1)],
        archives=[archive(oldest=5000, bytes=10**10, writable=["P2", "P3", "P4"])],
    )
    assert ends_of(seen, policy) == [("A5", "idle")]


def test_a_volume_in_a_drive_that_nobody_serves_does_not_hold_up_its_pool() -> None:
    on = [*drives(1), DriveView(name="d2", up=True, attached=False)]
    lost = mount("A1", "d2", "archive", pool="p")
    seen = picture(on=on, mounts=[lost], archives=[archive(oldest=60, writable=["A2"])])
    assert mounted(seen) == [("d1", "A2", "archive")]


# ------------------------------------------------------------------ mounts again and again


def test_a_verify_that_is_not_its_turn_takes_no_idle_mount_out() -> None:
    """A trickle would be a mount for each request, as long as the library is being verified."""
    here = mount("A1", "d1", idle_since=NOW - 1)
    seen = picture(on=drives(3), mounts=[here, mount("V1", "d2", "verify")], media=[media("V1"), media("A1")])
    seen.want("A1", ALICE, 0, 1, 10, NOW - 0.5)
    seen.unwant("A1", ALICE, 0, 1, 10, NOW - 0.5)
    assert ends_of(seen) == []


def test_a_verify_waits_for_a_mount_that_somebody_has_come_back_for() -> None:
    here = mount("A1", "d1", age=50, idle_since=NOW - 1)
    seen = picture(on=drives(3), mounts=[here], media=[media("A1")])
    assert ends_of(seen) == [("A1", "idle")]
    seen.want("A1", ALICE, 0, 1, 10, NOW - 20)
    seen.unwant("A1", ALICE, 0, 1, 10, NOW - 20)
    assert ends_of(seen) == []


def test_no_idle_mount_ends_for_a_resting_volume_that_its_drive_cannot_read() -> None:
    on = [
        DriveView(name="d1", up=True, attached=True, model="LTO-8"),
        DriveView(name="d2", up=True, attached=True, model="LTO-10"),
    ]
    seen = picture(
        on=on, mounts=[mount("A1", "d1", idle_since=NOW - 1), mount("A2", "d2")], ends={"A9": ended("well", 10)}
    )
    seen.set_volume(VolumeView(name="A9", state="active", medium="LTO-10"))
    seen.want("A9", ALICE, 0, 1, 10, NOW - 5)
    assert ends_of(seen) == []


def test_one_idle_mount_ends_for_one_volume_that_rests_and_not_the_next_as_well_while_it_is_on_its_way_out() -> None:
    mounts = [mount("A1", "d1", idle_since=NOW - 9), mount("A2", "d2", idle_since=NOW - 1)]
    seen = picture(mounts=mounts, recalls=[recall("A9")], ends={"A9": ended("well", 10)})
    assert ends_of(seen) == [("A1", "idle")]
    mounts[0] = dataclasses.replace(mounts[0], ending=True)
    assert ends_of(picture(mounts=mounts, recalls=[recall("A9")], ends={"A9": ended("well", 10)})) == []


# ------------------------------------------------------------------ room in the cache


def test_files_of_no_bytes_need_no_room() -> None:
    seen = picture(recalls=[recall("A1", bytes=0)], mounts=[mount("A2", "d2")], room=0)
    seen.want("A2", ALICE, 0, 1, 10, NOW)
    assert mounted(seen) == [("d1", "A1", "recall")]


def test_being_late_never_makes_a_mount_need_more_room() -> None:
    """A file larger than what a mount begins with would hold up all others for ever."""
    policy = dataclasses.replace(POLICY, cache_mount_bytes=100)
    late = recall("A1", files=1, bytes=700, oldest=POLICY.deadline_seconds_min + 1)
    for one in (late, dataclasses.replace(late, oldest=10)):
        assert mounted(picture(recalls=[one], room=150), policy) == [("d1", "A1", "recall")]
    seen = picture(recalls=[late, recall("A2", bytes=10)], room=150)
    assert [name for _, name, _ in mounted(seen, policy)] == ["A1", "A2"]


@pytest.mark.parametrize("narrow", ["room", "group"])
def test_when_little_room_or_a_limit_is_left_the_rest_is_not_asked_one_by_one(
    monkeypatch: pytest.MonkeyPatch, narrow: str
) -> None:
    asked = asked_for(monkeypatch)
    many = [recall(f"A{number:04d}", bytes=100, share=BOB, oldest=50) for number in range(2000)]
    small = recall("Z1", bytes=1, oldest=0)
    seen = picture(on=drives(3), recalls=[*many, small], room=150 if narrow == "room" else 10**15)
    if narrow == "group":
        seen.limits["cms"] = DriveLimit(reading=1)
    assert [name for _, name, _ in mounted(seen)] == ["A0000", "Z1"]
    assert len(asked) < 200
    found = codes(seen)
    assert {one for key, one in found.items() if key not in ("A0000", "Z1")} == {
        "cache_short" if narrow == "room" else "drive_quota"
    }
    if narrow == "room":
        assert "50 B" in said(seen, "A0007")


# ------------------------------------------------------------------ odd numbers


def test_an_index_of_any_size_stays_in_its_tier_and_in_order() -> None:
    """A day of outage, large jobs, weights: the key must still tell one volume from another."""
    crowds = [recall("A1", files=10**6, oldest=90_000), recall("Z1", files=2 * 10**6, oldest=90_000)]
    seen = picture(on=drives(1), recalls=crowds)
    policy = dataclasses.replace(POLICY, deadline_factor=0.0, deadline_seconds_min=1.0)
    keys = judge_recalls(seen, policy, NOW).key
    assert Tier.WAITED_FOR < keys[0] < keys[1] < Tier.ANCIENT
    assert mounted(seen, policy) == [("d1", "Z1", "recall")]


def test_a_label_that_has_waited_past_the_absolute_deadline_comes_before_any_queue() -> None:
    many = [recall("A1", cohort=number, oldest=100_000) for number in range(1, 5000)]
    label = media("B1", purpose="label", age=POLICY.deadline_seconds_max + 1)
    seen = picture(on=drives(1), recalls=many, volumes=[volume("B1", "blank")], media=[label])
    assert mounted(seen) == [("d1", "B1", "label")]


def test_a_clock_that_was_put_back_makes_nothing_rest_for_so_long() -> None:
    ends = {"A1": ended("failed", -3600.0), "A2": ended("cache_away", -3600.0)}
    seen = picture(recalls=[recall("A1"), recall("A2")], ends=ends)
    assert len(mounted(seen)) == 2


def test_an_empty_library_decides_nothing_and_explains_nothing() -> None:
    seen = Picture("east")
    assert plan(seen, Policy(), 0.0).mounts == []
    assert explanations(seen, Policy(), 0.0) == []
    seen.set_drives(drives(2))
    seen.hurried.add("nobody")
    assert plan(seen, Policy(), 1e12).mounts == []


def test_what_a_drive_that_nobody_serves_was_to_read_takes_no_room_from_the_others() -> None:
    on = [*drives(1), DriveView(name="d2", up=True, attached=False)]
    seen = picture(
        on=on, recalls=[recall("A1", bytes=900), recall("A2", bytes=500)], mounts=[mount("A1", "d2")], room=1000
    )
    assert mounted(seen) == [("d1", "A2", "recall")]


def test_a_pool_that_may_fill_no_volume_fills_one_all_the_same_and_says_so() -> None:
    """Whatever the setting: what waits is explained, and there is no such thing as a pool that takes nothing."""
    policy = dataclasses.replace(POLICY, volumes_open_max=0)
    seen = picture(archives=[archive(oldest=60)])
    assert mounted(seen, policy) == [("d1", "A1", "archive")]
    assert codes(seen, policy) == {"p": "ready"}
