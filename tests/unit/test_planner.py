"""Promises of the planner: who gets a drive, who waits, and what those who wait are told. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from catalog.candidates import render
from catalog.model import WeightRule
from tapeserver.planner import (
    ArchiveNeed,
    Decision,
    DriveLimit,
    DriveView,
    EndView,
    Explanation,
    MediaNeed,
    MountView,
    Picture,
    Policy,
    Share,
    VolumeView,
    deciding,
    explanations,
    plan,
)
from tapeserver.planner.volumes import change_seconds
from tapeserver.planner.wishes import Wish, recall_wish

NOW = 1_000_000.0
POLICY = Policy(
    collecting_age_seconds=5,
    collecting_bytes=10**9,
    collecting_files=100,
    volumes_open_max=1,
    volumes_open_bytes=10**9,
    cooldown_seconds=5,
    cooldown_seconds_max=60,
    mount_seconds_max=1000,
    dismount_delay_seconds=100,
    spare_part=0,
)
ALICE, BOB = Share("alice", "atlas"), Share("bob", "cms")
CAPSTAN = Share("capstan", "capstan", priority=10)


@dataclasses.dataclass(frozen=True)
class Recall:
    """What waits on one volume."""

    volume: str
    oldest: float = 1.0
    state: str = "active"
    reason: str = ""
    share: Share = ALICE
    files: int = 3
    bytes: int = 300
    cohort: int = 0


def recall(volume: str, **fields: Any) -> Recall:
    return Recall(volume, **fields)


def drives(free: int, *, busy: int = 0) -> list[DriveView]:
    return [DriveView(name=f"d{number}", up=True, attached=True) for number in range(1, free + busy + 1)]


def mount(volume: str, drive: str, purpose: str = "recall", *, age: float = 1.0, **fields: Any) -> MountView:
    values: dict[str, Any] = {"pool": None, "epoch": int(age)}
    return MountView(volume=volume, drive=drive, purpose=purpose, began_at=NOW - age, **{**values, **fields})


def archive(
    pool: str = "p",
    *,
    oldest: float | None = 1.0,
    bytes: int = 10,
    files: int = 1,
    urgent: int = 0,
    writable: Sequence[str] = ("A1", "A2"),
    **fields: Any,
) -> ArchiveNeed:
    since = None if oldest is None else NOW - oldest
    values = {"pool": pool, "files": files, "bytes": bytes, "urgent": urgent, "writable": tuple(writable)}
    return ArchiveNeed(oldest_at=since, **{**values, **fields})


def ended(kind: str, ago: float, *, drive: str = "d1", fruitless: int = 0) -> EndView:
    return EndView(drive=drive, kind=kind, why=f"{kind} it did", at=NOW - ago, fruitless=fruitless)  # type: ignore[arg-type]  # one of its four


def media(volume: str, *, purpose: str = "verify", age: float = 99999.0) -> MediaNeed:
    return MediaNeed(volume=volume, purpose=purpose, since=NOW - age)  # type: ignore[arg-type]  # one of its three


def volume(name: str, state: str = "active", *, reason: str = "", pool: str | None = "p") -> VolumeView:
    return VolumeView(name=name, state=state, reason=reason, pool=pool, medium="LTO-8")


def picture(
    *,
    on: Sequence[DriveView] | None = None,
    mounts: Sequence[MountView] = (),
    recalls: Sequence[Recall] = (),
    archives: Sequence[ArchiveNeed] = (),
    media: Sequence[MediaNeed] = (),
    volumes: Sequence[VolumeView] = (),
    ends: dict[str, EndView] | None = None,
    suspects: dict[str, frozenset[str]] | None = None,
    state: str = "up",
    reason: str = "",
    room: int = 10**15,
) -> Picture:
    """A library with two drives that are free, and what is named."""
    made = Picture("east")
    made.library_state, made.library_reason, made.cache_room_bytes = state, reason, room
    made.set_drives(drives(2) if on is None else on)
    for one in recalls:
        made.set_volume(volume(one.volume, one.state, reason=one.reason))
    for view in volumes:
        made.set_volume(view)
    for one in recalls:
        made.want(one.volume, one.share, one.cohort, one.files, one.bytes, NOW - one.oldest)
    for live in mounts:
        made.mount_began(live)
    for need in archives:
        made.set_archives(need)
    made.set_media(media)
    for name, end in (ends or {}).items():
        made.set_end(name, end)
    made.suspects.update(suspects or {})
    return made


def decided(seen: Picture, policy: Policy = POLICY) -> Decision:
    return plan(seen, policy, NOW)


def mounted(seen: Picture, policy: Policy = POLICY) -> list[tuple[str, str, str]]:
    return [(one.drive, one.volume, one.purpose) for one in decided(seen, policy).mounts]


def explained(seen: Picture, policy: Policy = POLICY) -> dict[str, Explanation]:
    return {one.key: one for one in explanations(seen, policy, NOW)}


def codes(seen: Picture, policy: Policy = POLICY) -> dict[str, str]:
    return {key: one.code for key, one in explained(seen, policy).items()}


def said(seen: Picture, key: str, policy: Policy = POLICY) -> str:
    one = explained(seen, policy)[key]
    return render(one.code, one.arguments)


def test_every_queued_recall_makes_its_volume_eligible_at_once() -> None:
    seen = picture(recalls=[recall("A1", oldest=0.0)])
    assert mounted(seen) == [("d1", "A1", "recall")]
    assert codes(seen) == {"A1": "ready"}


def test_several_free_drives_get_different_volumes_the_longest_waiting_first_of_equals() -> None:
    seen = picture(recalls=[recall("A1", oldest=10), recall("A2", oldest=90), recall("A3", oldest=50)])
    assert [name for _, name, _ in mounted(seen)] == ["A2", "A3"]
    assert codes(seen) == {"A1": "no_free_drive", "A2": "ready", "A3": "ready"}


def test_reads_and_writes_share_the_drives_by_how_long_they_wait() -> None:
    old_write = picture(on=drives(1), recalls=[recall("A9", oldest=50)], archives=[archive(oldest=600)])
    assert mounted(old_write) == [("d1", "A1", "archive")]
    old_read = picture(on=drives(1), recalls=[recall("A9", oldest=700)], archives=[archive(oldest=60)])
    assert mounted(old_read) == [("d1", "A9", "recall")]


def test_a_pool_collects_until_bytes_files_age_or_somebody_who_waits() -> None:
    assert codes(picture(archives=[archive()])) == {"p": "collecting"}
    for enough in (archive(oldest=5), archive(bytes=10**9), archive(files=100), archive(urgent=1)):
        assert mounted(picture(archives=[enough])) == [("d1", "A1", "archive")]


def test_a_pool_may_be_written_when_no_more_comes() -> None:
    policy = dataclasses.replace(POLICY, collecting_quiet_seconds=2)
    assert codes(picture(archives=[archive(oldest=4, newest_at=NOW - 1)]), policy) == {"p": "collecting"}
    assert codes(picture(archives=[archive(oldest=4, newest_at=NOW - 2)]), policy) == {"p": "ready"}


def test_a_volume_wanted_both_ways_is_mounted_once_and_to_write() -> None:
    seen = picture(recalls=[recall("A1", oldest=9)], archives=[archive(oldest=6)])
    assert mounted(seen) == [("d1", "A1", "archive")]
    assert codes(seen) == {"A1": "ready", "p": "ready"}
    assert decided(seen).mounts[0].pool == "p"


def test_a_volume_on_its_way_out_is_still_the_one_that_its_pool_fills() -> None:
    here = mount("A1", "d2", "archive", pool="p", ending=True)
    seen = picture(mounts=[here], archives=[archive(oldest=60, writable=["A2"])])
    assert mounted(seen) == []
    assert codes(seen) == {"p": "leaving"}
    full = mount("A1", "d2", "archive", pool="p", ending=True, full=True)
    assert mounted(picture(mounts=[full], archives=[archive(oldest=60, writable=["A2"])])) == [("d1", "A2", "archive")]


def test_a_volume_that_its_drive_keeps_holds_up_neither_its_pool_nor_who_waits_for_a_drive() -> None:
    on = [*drives(1), DriveView(name="d2", up=False, attached=True)]
    kept = mount("A1", "d2", "archive", pool="p", age=9000, ending=True)
    assert mounted(picture(on=on, mounts=[kept], archives=[archive(oldest=60, writable=["A2"])])) == [
        ("d1", "A2", "archive")
    ]
    long = mount("A5", "d1", age=5000)
    seen = picture(on=on, mounts=[kept, long], recalls=[recall("A5"), recall("A9", oldest=3000)])
    assert [one.drive for one in decided(seen).give_way] == ["d1"]


def test_a_mounted_volume_needs_no_mount_and_a_pool_that_is_being_filled_no_second_one() -> None:
    here = mount("A1", "d2", "archive", pool="p")
    seen = picture(mounts=[here], recalls=[recall("A1")], archives=[archive(oldest=60)])
    assert mounted(seen) == []
    assert codes(seen) == {"A1": "mounted", "p": "mounted"}


def test_a_pool_opens_more_volumes_only_when_allowed_and_worth_it() -> None:
    policy = dataclasses.replace(POLICY, volumes_open_max=2)
    assert len(mounted(picture(archives=[archive(oldest=6, bytes=10)]), policy)) == 1
    large = mounted(picture(archives=[archive(oldest=6, bytes=10**9)]), policy)
    assert [name for _, name, _ in large] == ["A1", "A2"]


def test_a_pool_may_say_itself_how_many_volumes_it_fills() -> None:
    need = archive(oldest=6, bytes=10**10, writable=["A1", "A2", "A3"], volumes_open_max=2)
    assert len(mounted(picture(on=drives(3), archives=[need]))) == 2


def test_nothing_is_mounted_in_a_library_that_is_not_up() -> None:
    down = picture(state="down", reason="robot", recalls=[recall("A1")], archives=[archive(oldest=60)])
    assert mounted(down) == []
    assert codes(down) == {"A1": "library_down", "p": "library_down"}
    assert said(down, "A1") == "library east is down: robot"


def test_a_disabled_volume_a_pause_a_failed_mount_and_a_full_cache_wait_with_their_reason() -> None:
    wanted = [recall("A1", state="disabled", reason="sticky"), recall("A2", oldest=-5), recall("A3"), recall("A4")]
    seen = picture(recalls=wanted, ends={"A3": ended("failed", 1.0), "A4": ended("cache_full", 1.0)})
    assert mounted(seen) == []
    assert codes(seen) == {"A1": "volume_disabled", "A2": "backing_off", "A3": "cooling_down", "A4": "cache_full"}
    assert len(mounted(picture(recalls=wanted[2:3], ends={"A3": ended("failed", 5.0)}))) == 1


def test_writing_avoids_the_volume_whose_mount_has_just_failed() -> None:
    seen = picture(archives=[archive(oldest=60)], ends={"A1": ended("failed", 1.0)})
    assert [name for _, name, _ in mounted(seen)] == ["A2"]


def test_a_pool_without_room_and_a_library_without_drives_say_so() -> None:
    assert codes(picture(archives=[archive(oldest=60, writable=())])) == {"p": "no_volume"}
    down = [DriveView(name="d1", up=False, attached=True)]
    assert codes(picture(on=down, recalls=[recall("A1")])) == {"A1": "no_drive"}
    silent = [DriveView(name="d1", up=True, attached=False)]
    assert codes(picture(on=silent, recalls=[recall("A1")])) == {"A1": "drive_silent"}


def test_an_explanation_of_what_collects_does_not_change_with_every_look() -> None:
    first, second = (explained(picture(archives=[archive(oldest=age)])) for age in (1.1, 1.3))
    assert first == second
    seen = picture(archives=[archive(oldest=1.1)])
    assert said(seen, "p") == "it collects: 10 B of 1.0 GB, 1 of 100 files, oldest 1.0 s of 5.0 s"


def test_a_volume_that_failed_is_tried_in_another_drive_if_there_is_one() -> None:
    failed = {"A1": ended("failed", 9.0, drive="d1")}
    assert mounted(picture(recalls=[recall("A1")], ends=failed)) == [("d2", "A1", "recall")]
    assert mounted(picture(on=drives(1), recalls=[recall("A1")], ends=failed)) == [("d1", "A1", "recall")]


def test_a_suspect_pair_is_avoided_while_another_drive_is_free() -> None:
    suspects = {"A": frozenset({"d1"})}
    assert mounted(picture(recalls=[recall("A")], suspects=suspects)) == [("d2", "A", "recall")]
    assert mounted(picture(on=drives(1), recalls=[recall("A")], suspects=suspects)) == [("d1", "A", "recall")]


def test_a_volume_rests_twice_as_long_after_each_mount_that_brought_nothing_up_to_a_bound() -> None:
    def rests(ago: float, fruitless: int) -> bool:
        return not mounted(picture(recalls=[recall("A1")], ends={"A1": ended("failed", ago, fruitless=fruitless)}))

    assert rests(4.9, 1)
    assert not rests(5.1, 1)
    assert rests(9.9, 2)
    assert rests(39.0, 4)
    assert rests(59.0, 99)
    assert not rests(61.0, 99)


def test_a_volume_that_found_no_cache_space_is_tried_again_as_soon_as_there_is_room_for_a_file() -> None:
    ends = {"A1": ended("cache_full", 6.0, fruitless=4)}
    full = picture(recalls=[recall("A1")], ends=ends)
    full.cache_file_bytes = 99
    assert codes(full) == {"A1": "cache_full"}
    assert said(full, "A1").startswith("the cache has no room: cache_full it did; ")
    full.cache_file_bytes = 100
    assert mounted(full)


def test_a_volume_under_repacking_is_read() -> None:
    assert mounted(picture(recalls=[recall("A", state="repacking")])) == [("d1", "A", "recall")]
    assert mounted(picture(recalls=[recall("A", state="closed")])) == [("d1", "A", "recall")]


# ------------------------------------------------------------------ mounts that end


def ends_of(seen: Picture, policy: Policy = POLICY) -> list[tuple[str, str]]:
    return [(one.volume, one.why) for one in decided(seen, policy).give_way]


def test_a_mount_gives_way_when_it_has_been_long_and_its_drive_is_wanted_elsewhere() -> None:
    mounts = [mount("A1", "d1", age=1500), mount("A2", "d2", age=2000), mount("A3", "d3", age=999)]
    full = {"on": drives(3), "recalls": [recall("A1"), recall("A9")]}
    assert ends_of(picture(mounts=mounts, **full)) == [("A2", "long")]
    assert ends_of(picture(on=drives(3), mounts=mounts, recalls=[recall("A1")])) == []
    assert ends_of(picture(on=drives(4), mounts=mounts, recalls=[recall("A1"), recall("A9")])) == []
    one_ends = [*mounts[:2], dataclasses.replace(mounts[2], ending=True)]
    assert ends_of(picture(mounts=one_ends, **full)) == []


def test_no_mount_gives_way_for_a_second_volume_of_a_pool_that_is_being_filled() -> None:
    policy = dataclasses.replace(POLICY, volumes_open_max=2)
    filling = mount("A1", "d1", "archive", age=2000, pool="p")
    seen = picture(on=drives(1), mounts=[filling], archives=[archive(oldest=9, bytes=10**10, writable=("A2",))])
    assert codes(seen, policy) == {"p": "no_free_drive"}
    assert ends_of(seen, policy) == []


def test_who_gave_way_comes_after_those_who_waited_then() -> None:
    wanted = [recall("A1", oldest=9000), recall("A2", oldest=300)]
    gave_way = {"A1": ended("gave_way", 2.0)}
    policy = dataclasses.replace(POLICY, remount_seconds=0)
    assert mounted(picture(on=drives(1), recalls=wanted, ends=gave_way), policy) == [("d1", "A2", "recall")]
    assert mounted(picture(on=drives(1), recalls=wanted[:1], ends=gave_way), policy) != []


def test_a_mount_with_nothing_to_do_stays_while_nobody_wants_its_drive_and_not_for_ever() -> None:
    idle = mount("A1", "d1", age=5000, idle_since=NOW - 50)
    assert ends_of(picture(on=drives(1), mounts=[idle])) == []
    assert ends_of(picture(on=drives(1), mounts=[idle], recalls=[recall("A2")])) == [("A1", "idle")]
    assert ends_of(picture(on=drives(2), mounts=[idle], recalls=[recall("A2")])) == []
    long_idle = dataclasses.replace(idle, idle_since=NOW - 100)
    assert ends_of(picture(on=drives(1), mounts=[long_idle])) == [("A1", "rested")]


def test_what_nobody_came_back_for_leaves_its_drive_while_few_are_empty() -> None:
    policy = dataclasses.replace(POLICY, spare_part=0.5)
    cold, warm = mount("A1", "d1", age=50, idle_since=NOW - 1), mount("A2", "d2", age=50, idle_since=NOW - 2)
    seen = picture(mounts=[cold, warm])
    seen.want("A2", ALICE, 0, 1, 10, NOW - 20)
    seen.unwant("A2", ALICE, 0, 1, 10, NOW - 20)
    assert ends_of(seen, policy) == [("A1", "rested")]
    assert ends_of(picture(on=drives(3), mounts=[cold]), policy) == []


def test_a_mount_whose_volume_is_wanted_again_is_not_idle() -> None:
    idle = mount("A1", "d1", idle_since=NOW - 5000)
    assert ends_of(picture(on=drives(1), mounts=[idle], recalls=[recall("A1"), recall("A2")])) == []


def test_an_idle_mount_ends_before_one_that_works() -> None:
    idle, long = mount("A1", "d1", idle_since=NOW - 1), mount("A2", "d2", age=5000)
    assert ends_of(picture(mounts=[idle, long], recalls=[recall("A9")])) == [("A1", "idle")]


# ------------------------------------------------------------------ what nobody waits for


def test_a_verify_takes_a_drive_that_nobody_else_wants_and_only_so_many() -> None:
    full = [volume("V1", "full"), volume("V2", "full")]
    seen = picture(on=drives(3), volumes=full, media=[media("V1"), media("V2")], recalls=[recall("A")])
    assert mounted(seen) == [("d1", "A", "recall"), ("d2", "V1", "verify")]
    assert said(seen, "V2") == "it is to be verified after others: 1 are in drives for that"


def test_a_verify_waits_for_an_idle_drive_and_says_so() -> None:
    seen = picture(on=drives(1), volumes=[volume("V1")], media=[media("V1")], recalls=[recall("A", oldest=0.1)])
    assert mounted(seen) == [("d1", "A", "recall")]
    assert said(seen, "V1") == "it is to be verified when a drive of library east is idle"


def test_a_verify_gives_way_at_once_and_before_any_long_mount() -> None:
    mounts = [mount("L", "d2", age=5000), mount("V1", "d1", "verify")]
    assert ends_of(picture(mounts=mounts, recalls=[recall("A")])) == [("V1", "verifies")]


def test_nothing_gives_way_to_a_verify() -> None:
    seen = picture(on=drives(1), mounts=[mount("L", "d1", age=5000)], volumes=[volume("V1")], media=[media("V1")])
    assert ends_of(seen) == []


def test_a_pool_whose_only_volume_is_verified_gets_it_back_though_drives_are_free() -> None:
    verifying = mount("V1", "d2", "verify", pool="p")
    assert ends_of(picture(mounts=[verifying], archives=[archive(writable=[], oldest=9)])) == [("V1", "verifies")]


def test_a_volume_out_of_use_is_not_verified() -> None:
    seen = picture(volumes=[volume("V1", "disabled")], media=[media("V1")])
    assert mounted(seen) == []
    assert said(seen, "V1") == "volume V1 is disabled: no reason"


def test_one_mount_serves_who_reads_and_the_verify_comes_later() -> None:
    assert mounted(picture(media=[media("V1")], recalls=[recall("V1")])) == [("d1", "V1", "recall")]


def test_a_label_that_is_asked_for_is_a_mount_of_its_own() -> None:
    seen = picture(volumes=[volume("B1", "blank")], media=[media("B1", purpose="label")])
    assert mounted(seen) == [("d1", "B1", "label")]


def test_what_only_capstan_wants_comes_behind_until_it_has_waited_too_long() -> None:
    policy = dataclasses.replace(POLICY, background_seconds_max=1000)

    def first(oldest: float) -> str:
        own = recall("R", oldest=oldest, share=CAPSTAN)
        return mounted(picture(on=drives(1), recalls=[own, recall("A", oldest=1)]), policy)[0][1]

    assert (first(999), first(1001)) == ("A", "R")


def test_a_full_index_that_is_missing_is_written_by_a_mount_of_its_own_in_an_idle_drive() -> None:
    seen = picture(volumes=[volume("F1", "full")], media=[media("F1", purpose="index")])
    assert mounted(seen) == [("d1", "F1", "archive")]
    assert [one.reason_code for one in decided(seen).mounts] == ["index"]


def test_a_full_index_takes_no_drive_that_anybody_waits_for() -> None:
    wanted = {"volumes": [volume("F1", "full")], "media": [media("F1", purpose="index")]}
    seen = picture(on=drives(1), recalls=[recall("A1", oldest=0.0)], **wanted)  # type: ignore[arg-type]  # its own
    assert mounted(seen) == [("d1", "A1", "recall")]
    assert codes(seen)["F1"] == "no_idle_drive_index"


def test_a_full_volume_that_is_wanted_for_reading_gets_its_index_in_the_same_mount() -> None:
    seen = picture(media=[media("F1", purpose="index")], recalls=[recall("F1", state="full")])
    assert mounted(seen) == [("d1", "F1", "archive")]
    assert [one.reason_code for one in decided(seen).mounts] == ["recalls"]


def test_a_mount_that_writes_the_last_index_keeps_no_other_volume_of_its_pool_from_being_filled() -> None:
    ending = mount("F1", "d3", "archive", pool="p", full=True)
    seen = picture(on=drives(2, busy=1), mounts=[ending], archives=[archive(urgent=1)])
    assert mounted(seen) == [("d1", "A1", "archive")]


def test_one_drive_at_a_time_works_for_capstan_alone() -> None:
    full = [volume("F1", "full"), volume("F2", "full")]
    seen = picture(volumes=full, media=[media("F1", purpose="index"), media("F2", purpose="index")])
    assert mounted(seen) == [("d1", "F1", "archive")]
    assert codes(seen)["F2"] == "index_waits"


# ------------------------------------------------------------------ eligibility for reading


def test_a_volume_collects_reads_until_bytes_files_age_or_quiet_when_the_operator_wants_that() -> None:
    policy = dataclasses.replace(
        POLICY, recall_bytes=1000, recall_files=10, recall_age_seconds=60, recall_quiet_seconds=20
    )
    assert codes(picture(recalls=[recall("A1", oldest=19)]), policy) == {"A1": "collecting_reads"}
    assert said(picture(recalls=[recall("A1", oldest=19)]), "A1", policy) == (
        "it collects: 300 B of 1.0 kB, 3 of 10 files, oldest 12 s of 1 min, no arrival for 20 s"
    )
    for enough in (recall("A1", oldest=20), recall("A1", bytes=1000), recall("A1", files=10)):
        assert codes(picture(recalls=[enough]), policy) == {"A1": "ready"}
    trickle = [recall("A1", oldest=age) for age in (59, 1)]
    assert codes(picture(recalls=trickle), policy) == {"A1": "collecting_reads"}
    trickle = [recall("A1", oldest=age) for age in (60, 1)]
    assert codes(picture(recalls=trickle), policy) == {"A1": "ready"}


def test_a_volume_that_was_mounted_just_now_rests_while_others_want_the_drives() -> None:
    wanted, ends = [recall("A1", oldest=5000), recall("A2", oldest=1)], {"A1": ended("well", 10)}
    busy = picture(on=drives(1), recalls=wanted, ends=ends)
    assert mounted(busy) == [("d1", "A2", "recall")]
    assert said(busy, "A1") == "it was mounted just now, and others want the drives; it rests 15 min after a mount"
    assert [name for _, name, _ in mounted(picture(recalls=wanted, ends=ends))] == ["A2", "A1"]


def test_an_operators_now_comes_before_everything_and_waits_for_nothing() -> None:
    policy = dataclasses.replace(POLICY, recall_files=100)
    seen = picture(
        on=drives(1), recalls=[recall("A1", oldest=1), recall("A2", oldest=10**6)], ends={"A1": ended("well", 10)}
    )
    assert mounted(seen, policy) == [("d1", "A2", "recall")]
    seen.hurried.add("A1")
    assert mounted(seen, policy) == [("d1", "A1", "recall")]


# ------------------------------------------------------------------ who comes first


def test_the_last_volume_of_a_job_comes_before_one_of_many() -> None:
    many = [recall(f"A{n}", cohort=1, oldest=100) for n in range(4)]
    last = recall("Z1", cohort=2, oldest=100)
    assert mounted(picture(on=drives(1), recalls=[*many, last])) == [("d1", "Z1", "recall")]


def test_a_volume_in_a_drive_is_no_longer_missing() -> None:
    jobs = [recall(f"A{n}", cohort=1, oldest=100) for n in range(2)]
    jobs += [recall(f"B{n}", cohort=2, oldest=100) for n in range(2)]
    assert mounted(picture(on=drives(1), recalls=jobs)) == [("d1", "A0", "recall")]
    seen = picture(on=drives(2), recalls=jobs, mounts=[mount("B0", "d2")])
    assert mounted(seen) == [("d1", "B1", "recall")]


def test_a_volume_long_past_its_deadline_comes_before_one_that_serves_more() -> None:
    policy = dataclasses.replace(POLICY, deadline_factor=0)
    crowd = [recall("A1", cohort=number, oldest=700) for number in range(1, 30)]
    late = recall("Z1", cohort=99, oldest=3 * POLICY.deadline_seconds_min)
    assert mounted(picture(on=drives(1), recalls=[*crowd, late]), policy) == [("d1", "Z1", "recall")]
    in_time = dataclasses.replace(late, oldest=POLICY.deadline_seconds_min - 1)
    assert mounted(picture(on=drives(1), recalls=[*crowd, in_time]), policy) == [("d1", "A1", "recall")]


def test_of_two_users_who_want_as_much_the_one_comes_first_who_has_used_less() -> None:
    seen = picture(on=drives(1), recalls=[recall("A1", share=ALICE), recall("B1", share=BOB)])
    assert mounted(seen) == [("d1", "A1", "recall")]
    seen.charge(ALICE, 3600, NOW)
    assert mounted(seen) == [("d1", "B1", "recall")]


def test_shares_count_less_while_the_queue_is_short() -> None:
    def first(library: int) -> str:
        many = [recall("A1", share=ALICE, cohort=number) for number in range(1, 6)]
        one = recall("B1", share=BOB, cohort=99)
        own = Share("alice", "atlas", "more")
        rest = [recall(f"Z{n:04d}", share=own, cohort=1000 + n, oldest=0) for n in range(library)]
        seen = picture(on=drives(1), recalls=[*many, one, *rest])
        seen.charge(ALICE, 3600, NOW)
        return mounted(seen)[0][1]

    assert first(0) == "A1"
    assert first(200) == "B1"


def test_nobody_is_charged_for_the_use_of_one_who_wants_nothing_now() -> None:
    seen = picture(on=drives(1), recalls=[recall("A1", share=ALICE)])
    seen.charge(ALICE, 3600, NOW)
    assert mounted(seen) == [("d1", "A1", "recall")]


def test_rules_of_the_operator_turn_activities_into_weights() -> None:
    wanted = [
        recall("A1", share=Share("x", "g", "analysis")),
        recall("B1", share=Share("x", "g", "T0 export")),
    ]
    assert mounted(picture(on=drives(1), recalls=wanted)) == [("d1", "A1", "recall")]
    policy = dataclasses.replace(POLICY, rules=[WeightRule(activity="T0*", weight=3), WeightRule(weight=1)])
    assert mounted(picture(on=drives(1), recalls=wanted), policy) == [("d1", "B1", "recall")]


# ------------------------------------------------------------------ limits and the cache


def test_a_group_reads_and_writes_with_no_more_drives_than_it_may() -> None:
    seen = picture(on=drives(3), recalls=[recall("B1", share=BOB), recall("B2", share=BOB), recall("A1")])
    seen.limits["cms"] = DriveLimit(reading=1, writing=0)
    assert sorted(name for _, name, _ in mounted(seen)) == ["A1", "B1"]
    assert said(seen, "B2") == "drive quota of cms reached"
    writing = picture(archives=[archive(oldest=60, groups=("cms",))])
    writing.limits["cms"] = DriveLimit(writing=0)
    assert said(writing, "p") == "drive quota of cms reached"


def test_a_volume_is_mounted_for_another_group_when_one_is_at_its_limit() -> None:
    seen = picture(recalls=[recall("M1", share=BOB, bytes=900), recall("M1", share=ALICE)])
    seen.limits["cms"] = DriveLimit(reading=0)
    [one] = decided(seen).mounts
    assert (one.volume, one.group) == ("M1", "atlas")


def test_only_so_many_drives_read_and_write() -> None:
    policy = dataclasses.replace(POLICY, reading_drives_max=1)
    seen = picture(recalls=[recall("A1", oldest=9), recall("A2")])
    assert mounted(seen, policy) == [("d1", "A1", "recall")]
    assert said(seen, "A2", policy) == "all 1 drives that may read at once do so"


def test_a_volume_waits_for_room_in_the_cache_and_says_how_much_is_missing() -> None:
    seen = picture(recalls=[recall("A1", bytes=500, oldest=50), recall("A2", bytes=450)], room=600)
    assert mounted(seen) == [("d1", "A1", "recall")]
    assert said(seen, "A2") == "cache short of 350 B"
    reading = picture(recalls=[recall("A1", bytes=500), recall("A2", bytes=450)], mounts=[mount("A1", "d1")], room=600)
    assert said(reading, "A2") == "cache short of 350 B"


def test_what_is_larger_than_any_room_begins_with_a_part() -> None:
    policy = dataclasses.replace(POLICY, cache_mount_bytes=600)
    assert mounted(picture(recalls=[recall("A1", bytes=10**9)], room=600), policy) == [("d1", "A1", "recall")]


def test_small_wishes_do_not_take_the_room_for_ever_from_one_past_its_deadline() -> None:
    late = recall("A1", files=1, bytes=700, oldest=POLICY.deadline_seconds_min + 1)
    seen = picture(recalls=[late, recall("A2", bytes=100)], room=600)
    assert mounted(seen) == []
    in_time = dataclasses.replace(late, oldest=10)
    assert mounted(picture(recalls=[in_time, recall("A2", bytes=100)], room=600)) == [("d1", "A2", "recall")]


def test_a_volume_past_its_deadline_begins_with_the_room_there_is() -> None:
    late = recall("A1", files=7, bytes=700, oldest=POLICY.deadline_seconds_min + 1)
    seen = picture(recalls=[late, recall("A2", bytes=100)], room=600)
    assert mounted(seen) == [("d1", "A1", "recall")]
    assert codes(seen)["A2"] == "cache_short"


@pytest.mark.parametrize("cohort", [0, 7])
def test_what_is_taken_back_leaves_nothing_behind(cohort: int) -> None:
    seen = picture(recalls=[recall("A1", cohort=cohort, oldest=50), recall("A2", cohort=cohort, oldest=7)])
    assert seen.unwant("A1", ALICE, cohort, 3, 300, 3 * (NOW - 50))
    assert mounted(seen) == [("d1", "A2", "recall")]
    assert seen.unwant("A2", ALICE, cohort, 3, 300, 3 * (NOW - 7))
    assert mounted(seen) == []
    assert codes(seen) == {}
    assert not seen.unwant("A2", ALICE, cohort, 3, 300, 3 * (NOW - 7))


def test_how_files_of_a_cohort_lie_is_learnt_from_what_mounts_take() -> None:
    together, scattered = _taught(0.0), _taught(1.0)
    assert together < 0.1
    assert scattered > 0.9


def test_a_mount_that_ends_is_taken_to_unload_for_as_long_as_its_cost_has_it() -> None:
    picture = Picture("east")
    picture.set_volume(VolumeView(name="A00001", state="active", medium="LTO-9"))
    geometry = picture.volumes.geometry(0)
    ready = geometry.model.robot_seconds + geometry.load_seconds()
    assert ready + picture.volumes.unload_seconds(0) == pytest.approx(change_seconds(geometry))


def _taught(scatter: float) -> float:
    """What a picture believes after mounts of 50 files of one job that cost so much of the locates of single files."""
    picture, share = Picture("east"), Share("anna", "atlas")
    picture.set_drives([DriveView(name="d0", up=True, attached=True)])
    picture.set_volume(VolumeView(name="A00001", state="active", medium="LTO-9"))
    slot = picture.volumes.slot("A00001")
    for number in range(100):
        at = number * 10_000.0
        picture.want("A00001", share, number + 1, 50, 100 * 10**9, at)
        picture.mount_began(MountView(volume="A00001", drive="d0", pool=None, purpose="recall", began_at=at))
        geometry = picture.volumes.geometry(slot)
        read = geometry.pass_seconds(1 + scatter * 49, 100 * 10**9)
        ready = geometry.model.robot_seconds + geometry.load_seconds()
        picture.unwant("A00001", share, number + 1, 50, 100 * 10**9, 50 * at)
        end = at + ready + read + picture.volumes.unload_seconds(slot)
        picture.mount_ended("A00001", EndView(drive="d0", kind="well", why="done", at=end))
    return picture.volumes.scatter


def test_a_volume_that_nobody_has_looked_up_yet_is_not_called_disabled() -> None:
    picture = Picture("east")
    picture.set_drives([DriveView(name="d0", up=True, attached=True)])
    picture.want("A00001", Share("anna", "atlas"), 0, 1, 10, NOW)
    [one] = explanations(picture, POLICY, NOW)
    assert one.code == "not_seen"
    assert plan(picture, POLICY, NOW).mounts == []


def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slots of volumes for which a wish is made from here on, one by one."""
    asked = list[int]()

    def counted(*arguments: Any) -> Wish:
        asked.append(arguments[-1])
        return recall_wish(*arguments)

    monkeypatch.setattr(deciding, "recall_wish", counted)
    return asked


@pytest.mark.parametrize(("room", "reading", "code"), [(0, None, "cache_short"), (10**15, 1, "drive_limit")])
def test_who_cannot_be_mounted_whatever_it_is_is_not_asked_one_by_one_and_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, room: int, reading: int | None, code: str
) -> None:
    asked = asked_for(monkeypatch)
    many = [recall(f"A{number:03d}", bytes=100) for number in range(500)]
    seen = picture(on=drives(2, busy=1), mounts=[mount("B1", "d3")], recalls=many, room=room)
    policy = dataclasses.replace(POLICY, reading_drives_max=reading)
    assert mounted(seen, policy) == []
    assert len(asked) < 10
    assert {one for key, one in codes(seen, policy).items() if key != "B1"} == {code}
    if code == "cache_short":
        assert "100 B" in said(seen, "A007", policy)


def test_the_smaller_ones_are_mounted_though_the_larger_ones_have_no_room() -> None:
    seen = picture(recalls=[recall("A1", bytes=900, oldest=50), recall("A2", bytes=100)], room=500)
    assert mounted(seen) == [("d1", "A2", "recall")]
    assert codes(seen) == {"A1": "cache_short", "A2": "ready"}
