"""Expected times know who may have which drive, and how much room there is: cases that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.estimates import estimate, estimating
from tapeserver.expectedtimes import Estimates
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import (
    ArchiveNeed,
    CacheAway,
    DriveLimit,
    DriveView,
    EndView,
    MountView,
    Share,
    VolumeView,
)
from tapeserver.poolestimates import LATER_ARRIVALS

GB = 10**9
HOUR = 3600.0
LTO9 = model_of("LTO-9")
READY = LTO9.robot_seconds + LTO9.load_seconds
NOW = 1000.0
POLICY = Policy()


def picture_of(*drives: str, **media: str) -> Picture:
    """Drives by model, volumes by medium."""
    picture = Picture("east")
    picture.cache_room_bytes = 2**60
    picture.set_drives(
        DriveView(name=f"d{number}", up=True, attached=True, model=model) for number, model in enumerate(drives)
    )
    for name, medium in media.items():
        capacity, written = model_of(medium).capacity_bytes, 0 if name in "WX" else None
        picture.set_volume(
            VolumeView(name=name, state="active", medium=medium, capacity_bytes=capacity, written_bytes=written)
        )
    return picture


def want(picture: Picture, volume: str, *, group: str = "", size: int = GB, files: int = 1, at: float = 0.0) -> None:
    picture.want(volume, Share("anna", group), 0, files, size, at)


def reads(picture: Picture, volume: str, *, began_at: float = 0.0, group: str = "", drive: str = "d0") -> None:
    picture.mount_began(
        MountView(volume=volume, drive=drive, pool=None, purpose="recall", began_at=began_at, group=group)
    )


def begins(found: Estimates, picture: Picture, volume: str) -> float:
    return float(found.begins[picture.volumes.slot(volume)])


def ends(found: Estimates, picture: Picture, volume: str) -> float:
    return found.of(picture.volumes.slot(volume)).ends


def need(**changes: object) -> ArchiveNeed:
    whole = ArchiveNeed(pool="raw", files=10, bytes=GB, urgent=1, oldest_at=0.0, newest_at=1.0, writable=("W",))
    return replace(whole, **changes)  # type: ignore[arg-type]  # fields of ArchiveNeed


def out_again(seconds: float) -> float:
    """Begin of who comes behind a pass that takes so long from now."""
    return NOW + LATER_ARRIVALS * (READY + seconds + LTO9.unload_seconds)


# ------------------------------------------------------------------ limits of drives


def test_no_more_are_read_at_once_than_may_be_and_the_other_drive_is_there_to_write() -> None:
    picture = picture_of("", "", A="LTO-9", B="LTO-9", W="LTO-9")
    want(picture, "A", size=400 * GB)
    want(picture, "B", size=400 * GB, at=50.0)
    picture.set_archives(need(urgent=0, bytes=600 * GB))
    found = estimate(picture, replace(POLICY, reading_drives_max=1), NOW)
    assert begins(found, picture, "A") == NOW + READY
    assert begins(found, picture, "B") > out_again(Geometry(LTO9).pass_seconds(1, 400 * GB))
    assert found.pools["raw"].begins < NOW + 100


def test_no_more_are_written_at_once_than_may_be() -> None:
    picture = picture_of("", "", A="LTO-9", W="LTO-9", X="LTO-9")
    picture.set_archives(need())
    picture.set_archives(need(pool="mc", writable=("X",)))
    want(picture, "A")
    found = estimate(picture, replace(POLICY, writing_drives_max=1), NOW)
    first, second = sorted(one.begins for one in found.pools.values())
    assert second > first + LTO9.unload_seconds
    assert begins(found, picture, "A") == NOW + READY


def test_a_group_waits_for_its_own_drive_and_leaves_the_others_to_others() -> None:
    picture = picture_of("", "", A="LTO-9", B="LTO-9", C="LTO-9")
    picture.limits = {"cms": DriveLimit(reading=1)}
    want(picture, "A", group="cms", size=400 * GB)
    want(picture, "B", group="cms", size=400 * GB)
    want(picture, "C", group="atlas", at=900.0)
    found = estimate(picture, POLICY, NOW)
    assert begins(found, picture, "C") == NOW + READY
    first, second = sorted((begins(found, picture, "A"), begins(found, picture, "B")))
    assert (first, second > out_again(Geometry(LTO9).pass_seconds(1, 400 * GB))) == (NOW + READY, True)


def test_a_group_whose_drives_are_all_in_use_is_expected_when_one_of_them_is_through() -> None:
    """Not behind all that the others want, however much that is."""
    names = [f"O{number:02}" for number in range(40)]
    picture = picture_of("", "", A="LTO-9", B="LTO-9", **dict.fromkeys(names, "LTO-9"))
    picture.limits = {"cms": DriveLimit(reading=1)}
    want(picture, "A", group="cms", size=400 * GB)
    reads(picture, "A", group="cms", began_at=NOW - 500)
    want(picture, "B", group="cms")
    for name in names:
        want(picture, name, group="atlas", at=NOW - 10)
    found = estimate(picture, POLICY, NOW)
    after = ends(found, picture, "A") + LTO9.unload_seconds
    last = max(begins(found, picture, name) for name in names)
    assert after < begins(found, picture, "B") < last / 2


def test_who_is_wanted_by_a_group_without_a_limit_too_waits_for_no_limit() -> None:
    picture = picture_of("", "", A="LTO-9", B="LTO-9")
    picture.limits = {"cms": DriveLimit(reading=0)}
    want(picture, "A", group="cms")
    want(picture, "B", group="cms")
    want(picture, "B", group="atlas")
    found = estimate(picture, POLICY, NOW)
    assert (begins(found, picture, "A"), begins(found, picture, "B")) == (math.inf, NOW + READY)


# ------------------------------------------------------------------ kinds of drives


def test_a_drive_that_is_taken_away_while_times_are_looked_for_stops_nothing() -> None:
    picture = picture_of("LTO-9", "LTO-7", A="LTO-9", B="LTO-7")
    want(picture, "A")
    want(picture, "B")
    parts = estimating(picture, POLICY, NOW)
    next(parts)
    picture.set_drives([DriveView(name="d1", up=True, attached=True, model="LTO-7")])
    *_, found = parts
    assert math.isfinite(begins(found, picture, "B"))


def test_a_medium_waits_for_the_drives_that_read_it_whatever_others_are_idle() -> None:
    picture = picture_of("LTO-9", "LTO-10", A="LTO-9", B="LTO-9", C="LTO-10")
    want(picture, "A", size=400 * GB)
    want(picture, "B", size=400 * GB, at=50.0)
    want(picture, "C", at=900.0)
    found = estimate(picture, POLICY, NOW)
    assert begins(found, picture, "A") == NOW + READY
    assert begins(found, picture, "B") > out_again(Geometry(LTO9).pass_seconds(1, 400 * GB))
    assert begins(found, picture, "C") < NOW + 100


def test_of_drives_that_can_the_one_that_can_do_least_else_is_taken() -> None:
    picture = picture_of("LTO-9", "LTO-8", A="LTO-8", B="LTO-9")
    want(picture, "A", size=400 * GB)
    want(picture, "B", at=900.0)
    found = estimate(picture, POLICY, NOW)
    assert max(begins(found, picture, "A"), begins(found, picture, "B")) < NOW + 100


def test_what_no_working_drive_reads_or_writes_has_no_time() -> None:
    picture = picture_of("LTO-9", A="LTO-10", B="LTO-9", W="LTO-7")
    want(picture, "A")
    want(picture, "B")
    picture.set_archives(need())
    found = estimate(picture, POLICY, NOW)
    assert (begins(found, picture, "A"), begins(found, picture, "B")) == (math.inf, NOW + READY)
    assert not found.pools


# ------------------------------------------------------------------ room, and the cache


def test_what_the_cache_has_no_room_for_has_no_time_and_what_is_late_begins_with_a_part() -> None:
    picture = picture_of("", "", A="LTO-9", B="LTO-9", C="LTO-9")
    picture.cache_room_bytes = 50 * GB
    want(picture, "A", size=100 * GB, files=10, at=NOW - 60)
    want(picture, "B", size=40 * GB, at=NOW - 60)
    want(picture, "C", size=100 * GB, files=10, at=NOW - 4 * HOUR)
    found = estimate(picture, POLICY, NOW)
    known = [math.isfinite(begins(found, picture, name)) for name in "ABC"]
    assert known == [False, True, True]


def test_while_the_cache_is_away_nothing_is_said_but_of_what_is_being_read() -> None:
    picture = picture_of("", "", A="LTO-9", B="LTO-9", W="LTO-9")
    want(picture, "A")
    want(picture, "B")
    reads(picture, "A")
    picture.set_archives(need())
    picture.cache_away = CacheAway(at=NOW - 1, seconds=20.0, why="no answer")
    found = estimate(picture, POLICY, NOW)
    assert (begins(found, picture, "A"), begins(found, picture, "B")) == (NOW, math.inf)
    assert not found.pools
    picture.cache_away = replace(picture.cache_away, at=NOW - 30)
    assert math.isfinite(begins(estimate(picture, POLICY, NOW), picture, "B"))


def test_what_rests_after_a_failure_is_expected_behind_that() -> None:
    picture = picture_of("", A="LTO-9", B="LTO-9")
    want(picture, "A")
    want(picture, "B", at=900.0)
    picture.set_end("A", EndView(drive="d0", kind="failed", why="", at=NOW - 10, fruitless=5))
    found = estimate(picture, replace(POLICY, cooldown_seconds=100.0, cooldown_seconds_max=400.0), NOW)
    assert begins(found, picture, "B") == NOW + READY
    assert begins(found, picture, "A") == NOW - 10 + 400 + READY


def test_what_an_operator_wants_now_does_not_collect() -> None:
    picture = picture_of("", A="LTO-9")
    want(picture, "A", at=NOW)
    policy = replace(POLICY, recall_files=100)
    assert begins(estimate(picture, policy, NOW), picture, "A") > NOW + 100
    picture.hurried.add("A")
    assert begins(estimate(picture, policy, NOW), picture, "A") == NOW + READY


# ------------------------------------------------------------------ long passes


def long_and_short(drives: int) -> Picture:
    picture = picture_of(*[""] * drives, A="LTO-9", B="LTO-9")
    want(picture, "A", size=14_000 * GB, files=100)
    want(picture, "B", at=NOW - 10)
    return picture


def test_a_long_pass_gives_way_to_who_waits_and_is_there_so_much_later() -> None:
    whole = Geometry(LTO9).pass_seconds(100, 14_000 * GB)
    assert whole > 9 * HOUR
    picture = long_and_short(1)
    picture.hurried.add("A")
    found = estimate(picture, POLICY, NOW)
    assert begins(found, picture, "A") == NOW + READY
    assert 4 * HOUR < begins(found, picture, "B") - NOW < 5 * HOUR
    # It rests before it comes again, and is changed twice.
    assert whole + POLICY.remount_seconds < ends(found, picture, "A") - NOW < whole + 3 * HOUR


def test_a_long_pass_that_is_under_way_gives_way_as_well() -> None:
    picture = long_and_short(1)
    reads(picture, "A", began_at=NOW - HOUR)
    found = estimate(picture, POLICY, NOW)
    assert 3 * HOUR < begins(found, picture, "B") - NOW < 4 * HOUR
    whole = Geometry(LTO9).pass_seconds(100, 14_000 * GB)
    assert ends(found, picture, "A") - NOW > whole + POLICY.remount_seconds
    assert begins(found, picture, "A") == NOW


def test_a_long_pass_does_not_give_way_while_nobody_needs_its_drive() -> None:
    picture = long_and_short(2)
    found = estimate(picture, POLICY, NOW)
    assert begins(found, picture, "B") == NOW + READY
    whole = Geometry(LTO9).pass_seconds(100, 14_000 * GB)
    assert ends(found, picture, "A") == pytest.approx(NOW + READY + whole)


def test_a_pool_that_takes_long_gives_way_as_well() -> None:
    picture = picture_of("", A="LTO-9", W="LTO-9")
    picture.set_archives(need(bytes=14_000 * GB))
    want(picture, "A", at=NOW - 10)
    picture.hurried.add("W")
    found = estimate(picture, POLICY, NOW)
    assert 4 * HOUR < begins(found, picture, "A") - NOW < 5 * HOUR
    assert found.pools["raw"].begins < NOW + 100
    assert 10 * HOUR < found.pools["raw"].ends - NOW < 12 * HOUR


def test_passes_that_give_way_again_and_again_come_to_an_end() -> None:
    names = [f"L{number}" for number in range(6)]
    picture = picture_of("", **dict.fromkeys(names, "LTO-9"))
    for name in names:
        want(picture, name, size=17_000 * GB, files=100)
    found = estimate(picture, replace(POLICY, mount_seconds_max=400.0), NOW)
    assert all(math.isfinite(ends(found, picture, name)) for name in names)
