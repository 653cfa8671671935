"""Promises of the planner: who gets a drive, who waits, and what those who wait are told. Pure."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from catalog.candidates import SENTENCES, render
from tapeserver.picture import (
    ArchiveNeed,
    Decision,
    DriveView,
    EndView,
    MediaNeed,
    MountView,
    Policy,
    RecallNeed,
    Snapshot,
)
from tapeserver.planner import plan

POLICY = Policy(
    collecting_age_seconds=5,
    collecting_bytes=10**9,
    collecting_files=100,
    volumes_open_max=1,
    volumes_open_bytes=10**9,
    cooldown_seconds=5,
    cooldown_seconds_max=60,
    mount_seconds_max=1000,
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


def ended(kind: str, ago: float, *, drive: str = "d1", fruitless: int = 0) -> EndView:
    return EndView(drive=drive, kind=kind, why=f"{kind} it did", ago_seconds=ago, fruitless=fruitless)  # type: ignore[arg-type]  # one of its four


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
        snapshot(recalls=wanted, ends={"A3": ended("failed", 1.0), "A4": ended("cache_full", 1.0)}),
        POLICY,
    )
    assert mounted(decision) == []
    assert codes(decision) == {
        "A1": "volume_disabled", "A2": "backing_off", "A3": "cooling_down", "A4": "cache_full",
    }  # fmt: skip
    later = plan(snapshot(recalls=wanted[2:3], ends={"A3": ended("failed", 5.0)}), POLICY)
    assert len(later.mounts) == 1


def test_writing_avoids_the_volume_whose_mount_has_just_failed() -> None:
    decision = plan(snapshot(archives=[archive(oldest=60)], ends={"A1": ended("failed", 1.0)}), POLICY)
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


def test_a_volume_that_failed_is_tried_in_another_drive_if_there_is_one() -> None:
    failed = {"A1": ended("failed", 9.0, drive="d1")}
    assert mounted(plan(snapshot(recalls=[recall("A1")], ends=failed), POLICY)) == [("d2", "A1", "recall")]
    only = plan(snapshot(drives=drives(1), recalls=[recall("A1")], ends=failed), POLICY)
    assert mounted(only) == [("d1", "A1", "recall")]


def test_a_volume_rests_twice_as_long_after_each_mount_that_brought_nothing_up_to_a_bound() -> None:
    def rests(ago: float, fruitless: int) -> bool:
        ends = {"A1": ended("failed", ago, fruitless=fruitless)}
        return not plan(snapshot(recalls=[recall("A1")], ends=ends), POLICY).mounts

    assert rests(4.9, 1)
    assert not rests(5.1, 1)
    assert rests(9.9, 2)
    assert rests(39.0, 4)
    assert rests(59.0, 99)
    assert not rests(61.0, 99)


def test_a_volume_that_found_no_cache_space_is_tried_again_as_soon_as_there_is_room_for_a_file() -> None:
    ends = {"A1": ended("cache_full", 6.0, fruitless=4)}
    full = plan(snapshot(recalls=[recall("A1")], ends=ends, cache_free_bytes=99), POLICY)
    assert codes(full) == {"A1": "cache_full"}
    [one] = full.candidates
    assert render(one.code, one.arguments).startswith("the cache has no room: cache_full it did; ")
    assert plan(snapshot(recalls=[recall("A1")], ends=ends, cache_free_bytes=100), POLICY).mounts


def long_mount(volume: str, drive: str, age: float, **fields: object) -> MountView:
    values: dict[str, object] = {"pool": None, "purpose": "recall", "epoch": int(age)}
    return MountView(volume=volume, drive=drive, age_seconds=age, **{**values, **fields})  # type: ignore[arg-type]  # its own


def test_a_mount_gives_way_when_it_has_been_long_and_its_drive_is_wanted_elsewhere() -> None:
    mounts = [long_mount("A1", "d1", 1500), long_mount("A2", "d2", 2000), long_mount("A3", "d3", 999)]
    full = snapshot(drives=drives(0, busy=3), mounts=mounts, recalls=[recall("A1"), recall("A9")])
    assert [one.volume for one in plan(full, POLICY).give_way] == ["A2"]
    nobody = dataclasses.replace(full, recalls=[recall("A1")])
    assert plan(nobody, POLICY).give_way == []
    free = dataclasses.replace(full, drives=drives(1, busy=3))
    assert plan(free, POLICY).give_way == []
    one_ends = dataclasses.replace(full, mounts=[*mounts[:2], dataclasses.replace(mounts[2], ending=True)])
    assert plan(one_ends, POLICY).give_way == []


def test_no_mount_gives_way_for_a_second_volume_of_a_pool_that_is_being_filled() -> None:
    policy = dataclasses.replace(POLICY, volumes_open_max=2)
    filling = long_mount("A1", "d1", 2000, pool="p", purpose="archive")
    picture = snapshot(
        drives=drives(0, busy=1), mounts=[filling], archives=[archive(oldest=9, bytes=10**10, writable=("A2",))]
    )
    assert codes(plan(picture, policy)) == {"p": "no_free_drive"}
    assert plan(picture, policy).give_way == []


def test_who_gave_way_comes_after_those_who_waited_then() -> None:
    wanted = [recall("A1", oldest=9000), recall("A2", oldest=300)]
    gave_way = {"A1": ended("gave_way", 2.0)}
    decision = plan(snapshot(drives=drives(1), recalls=wanted, ends=gave_way), POLICY)
    assert mounted(decision) == [("d1", "A2", "recall")]
    assert mounted(plan(snapshot(drives=drives(1), recalls=wanted[:1], ends=gave_way), POLICY)) != []


_VOLUMES = st.sampled_from([f"A{number}" for number in range(6)])
_POOLS = ("p", "q")


@st.composite
def pictures(draw: st.DrawFn) -> Snapshot:
    names = [f"d{number}" for number in range(draw(st.integers(0, 4)))]
    views = [DriveView(name=n, up=draw(st.booleans()), attached=draw(st.booleans()), busy=False) for n in names]
    taken = draw(st.lists(_VOLUMES, unique=True, max_size=len(names)))
    live = [
        MountView(
            volume=volume,
            drive=drive,
            pool=draw(st.sampled_from(_POOLS)),
            purpose=draw(st.sampled_from(["recall", "archive"])),
            ending=draw(st.booleans()),
            epoch=number,
            age_seconds=draw(st.floats(0, 5000)),
        )
        for number, (volume, drive) in enumerate(zip(taken, names, strict=False))
    ]
    busy = {one.drive for one in live}
    ages = st.one_of(st.none(), st.floats(0, 100))
    writable = [volume for volume in draw(st.lists(_VOLUMES, unique=True)) if volume not in taken]
    kinds = st.sampled_from(["well", "failed", "cache_full", "gave_way"])
    return snapshot(
        library_state=draw(st.sampled_from(["up", "up", "up", "down", "unreachable"])),
        drives=[dataclasses.replace(view, busy=view.name in busy) for view in views],
        mounts=live,
        recalls=[
            recall(volume, oldest=draw(ages), state=draw(st.sampled_from(["active", "full", "disabled", "broken"])))
            for volume in draw(st.lists(_VOLUMES, unique=True))
        ],
        archives=[
            archive(
                pool,
                oldest=draw(ages),
                bytes=draw(st.integers(1, 10**10)),
                urgent=draw(st.integers(0, 1)),
                writable=[volume for number, volume in enumerate(writable) if number % 2 == half],
            )
            for half, pool in enumerate(_POOLS)
            if draw(st.booleans())
        ],
        ends={
            volume: ended(
                draw(kinds), draw(st.floats(0, 100)), drive=draw(st.sampled_from(["d0", "d1"])),
                fruitless=draw(st.integers(0, 2000)),
            )
            for volume in draw(st.lists(_VOLUMES, unique=True))
        },
        cache_free_bytes=draw(st.integers(0, 200)),
    )  # fmt: skip


_POLICIES = st.builds(
    lambda open_max, mount_seconds: dataclasses.replace(
        POLICY, volumes_open_max=open_max, mount_seconds_max=mount_seconds
    ),
    st.integers(1, 3),
    st.sampled_from([0.0, 1000.0]),
)


@given(pictures(), _POLICIES)
def test_in_any_picture_no_drive_or_volume_is_used_twice(picture: Snapshot, policy: Policy) -> None:
    decision = plan(picture, policy)
    free = {drive.name for drive in picture.drives if drive.free}
    used = [one.drive for one in decision.mounts]
    volumes = [one.volume for one in decision.mounts]
    assert len(set(used)) == len(used)
    assert set(used) <= free
    assert len(set(volumes)) == len(volumes)
    assert not set(volumes) & {mount.volume for mount in picture.mounts}


@given(pictures(), _POLICIES)
def test_in_any_picture_nothing_is_mounted_without_work_that_may_be_done_now(picture: Snapshot, policy: Policy) -> None:
    reads = {one.volume: one for one in picture.recalls}
    writes = {one.pool: one for one in picture.archives}
    for mount in plan(picture, policy).mounts:
        assert picture.library_state == "up"
        read = reads.get(mount.volume)
        may_read = read is not None and read.oldest_seconds is not None and read.volume_state in ("active", "full")
        write = writes.get(mount.pool or "")
        may_write = write is not None and write.oldest_seconds is not None and mount.volume in write.writable
        assert may_write if mount.purpose == "archive" else may_read


@given(pictures(), _POLICIES)
def test_in_any_picture_all_that_waits_is_explained_in_words_and_a_drive_is_idle_only_for_a_reason(
    picture: Snapshot, policy: Policy
) -> None:
    decision = plan(picture, policy)
    assert {(one.kind, one.key) for one in decision.candidates} == {
        *(("volume", one.volume) for one in picture.recalls), *(("pool", one.pool) for one in picture.archives)
    }  # fmt: skip
    for one in decision.candidates:
        assert one.code in SENTENCES
        wanted = {field for _, field, _, _ in string.Formatter().parse(SENTENCES[one.code]) if field}
        assert wanted <= one.arguments.keys()
    if {drive.name for drive in picture.drives if drive.free} - {one.drive for one in decision.mounts}:
        assert not any(one.code == "no_free_drive" for one in decision.candidates)


@given(pictures(), _POLICIES)
def test_in_any_picture_only_long_mounts_give_way_and_no_more_than_are_waited_for(
    picture: Snapshot, policy: Policy
) -> None:
    decision = plan(picture, policy)
    live = {mount.epoch: mount for mount in picture.mounts}
    assert all(live[one.epoch].age_seconds > policy.mount_seconds_max for one in decision.give_way)
    assert not any(live[one.epoch].ending for one in decision.give_way)
    if decision.give_way:
        assert any(one.code in ("no_free_drive", "no_drive", "drive_silent", "ready") for one in decision.candidates)
    free = {drive.name for drive in picture.drives if drive.free}
    assert not decision.give_way or free == {one.drive for one in decision.mounts}


@given(pictures(), _POLICIES, st.randoms())
def test_the_same_picture_gives_the_same_plan_in_whatever_order_it_is_told(
    picture: Snapshot, policy: Policy, random: Random
) -> None:
    def shuffled(items: Sequence[object]) -> list[object]:
        return random.sample(list(items), len(items))

    told_otherwise = dataclasses.replace(
        picture,
        drives=shuffled(picture.drives),
        recalls=shuffled(picture.recalls),
        archives=shuffled(picture.archives),
    )
    assert plan(told_otherwise, policy) == plan(picture, policy)


# ------------------------------------------------------------------ what nobody waits for


def media(volume: str, *, purpose: str = "verify", state: str = "full", pool: str = "p") -> MediaNeed:
    return MediaNeed(
        volume=volume,
        volume_state=state,
        volume_reason="",
        pool=pool,
        purpose=purpose,
        age_seconds=99999.0,  # type: ignore[arg-type]  # one of its two
    )


def verifying(volume: str, *, drive: str = "d1", age: float = 1.0, pool: str = "p") -> MountView:
    return MountView(volume=volume, drive=drive, pool=pool, purpose="verify", epoch=7, age_seconds=age)


def said(decision: Decision, key: str) -> str:
    return next(render(one.code, one.arguments) for one in decision.candidates if one.key == key)


def test_a_verify_takes_a_drive_that_nobody_else_wants_and_only_so_many() -> None:
    decision = plan(snapshot(drives=drives(3), media=[media("V1"), media("V2")], recalls=[recall("A")]), POLICY)
    assert mounted(decision) == [("d1", "A", "recall"), ("d2", "V1", "verify")]
    assert said(decision, "V2") == "it is to be verified after others: 1 are in drives for that"


def test_a_verify_waits_for_an_idle_drive_and_says_so() -> None:
    decision = plan(snapshot(drives=drives(1), media=[media("V1")], recalls=[recall("A", oldest=0.1)]), POLICY)
    assert mounted(decision) == [("d1", "A", "recall")]
    assert said(decision, "V1") == "it is to be verified when a drive of library east is idle"


def test_a_verify_gives_way_at_once_and_before_any_long_mount() -> None:
    long = MountView(volume="L", drive="d2", pool=None, purpose="recall", epoch=8, age_seconds=5000)
    picture = snapshot(drives=drives(0, busy=2), mounts=[long, verifying("V1")], recalls=[recall("A")])
    assert [one.epoch for one in plan(picture, POLICY).give_way] == [7]


def test_nothing_gives_way_to_a_verify() -> None:
    long = MountView(volume="L", drive="d1", pool=None, purpose="recall", epoch=8, age_seconds=5000)
    assert plan(snapshot(drives=drives(0, busy=1), mounts=[long], media=[media("V1")]), POLICY).give_way == []


def test_a_pool_whose_only_volume_is_verified_gets_it_back_though_drives_are_free() -> None:
    picture = snapshot(
        drives=drives(1, busy=1), mounts=[verifying("V1", drive="d2")], archives=[archive(writable=[], oldest=9)]
    )
    decision = plan(picture, POLICY)
    assert [one.volume for one in decision.give_way] == ["V1"]


def test_a_volume_out_of_use_is_not_verified() -> None:
    decision = plan(snapshot(media=[media("V1", state="disabled")]), POLICY)
    assert mounted(decision) == []
    assert said(decision, "V1") == "volume V1 is disabled: no reason"


def test_one_mount_serves_who_reads_and_the_verify_comes_later() -> None:
    assert mounted(plan(snapshot(media=[media("V1")], recalls=[recall("V1")]), POLICY)) == [("d1", "V1", "recall")]


def test_a_label_that_is_asked_for_is_a_mount_of_its_own() -> None:
    picture = snapshot(media=[media("B1", purpose="label", state="blank")])
    assert mounted(plan(picture, POLICY)) == [("d1", "B1", "label")]


def test_what_only_capstan_wants_comes_behind_until_it_has_waited_too_long() -> None:
    policy = dataclasses.replace(POLICY, background_seconds_max=1000)

    def first(oldest: float) -> str:
        background = dataclasses.replace(recall("R", oldest=oldest), background=True)
        return plan(snapshot(drives=drives(1), recalls=[background, recall("A", oldest=1)]), policy).mounts[0].volume

    assert (first(999), first(1001)) == ("A", "R")


def test_a_suspect_pair_is_avoided_while_another_drive_is_free() -> None:
    suspects = {"A": frozenset({"d1"})}
    assert mounted(plan(snapshot(recalls=[recall("A")], suspects=suspects), POLICY)) == [("d2", "A", "recall")]
    alone = snapshot(recalls=[recall("A")], suspects=suspects, drives=drives(1))
    assert mounted(plan(alone, POLICY)) == [("d1", "A", "recall")]


def test_a_pool_may_say_itself_how_many_volumes_it_fills() -> None:
    need = dataclasses.replace(archive(bytes=10**10, writable=["A1", "A2", "A3"]), volumes_open_max=2)
    assert len(plan(snapshot(drives=drives(3), archives=[need]), POLICY).mounts) == 2


def test_a_volume_under_repacking_is_read() -> None:
    assert mounted(plan(snapshot(recalls=[recall("A", state="repacking")]), POLICY)) == [("d1", "A", "recall")]
    assert mounted(plan(snapshot(recalls=[recall("A", state="closed")]), POLICY)) == [("d1", "A", "recall")]


# ------------------------------------------------------------------ full indexes


def index(volume: str = "F1", *, state: str = "full") -> MediaNeed:
    return MediaNeed(volume=volume, volume_state=state, volume_reason="", pool="p", purpose="index", age_seconds=100.0)


def test_a_full_index_that_is_missing_is_written_by_a_mount_of_its_own_in_an_idle_drive() -> None:
    decision = plan(snapshot(media=[index()]), POLICY)
    assert mounted(decision) == [("d1", "F1", "archive")]
    assert [one.reason_code for one in decision.mounts] == ["index"]


def test_a_full_index_takes_no_drive_that_anybody_waits_for() -> None:
    decision = plan(snapshot(drives=drives(1), media=[index()], recalls=[recall("A1", oldest=0.0)]), POLICY)
    assert mounted(decision) == [("d1", "A1", "recall")]
    assert codes(decision)["F1"] == "no_idle_drive_index"


def test_a_full_volume_that_is_wanted_for_reading_gets_its_index_in_the_same_mount() -> None:
    decision = plan(snapshot(media=[index()], recalls=[recall("F1", state="full")]), POLICY)
    assert mounted(decision) == [("d1", "F1", "archive")]
    assert [one.reason_code for one in decision.mounts] == ["recalls"]


def test_a_mount_that_writes_the_last_index_keeps_no_other_volume_of_its_pool_from_being_filled() -> None:
    ending = MountView(volume="F1", drive="d3", pool="p", purpose="archive", full=True)
    decision = plan(snapshot(drives=drives(2, busy=1), mounts=[ending], archives=[archive(urgent=1)]), POLICY)
    assert mounted(decision) == [("d1", "A1", "archive")]


def test_one_drive_at_a_time_works_for_capstan_alone() -> None:
    decision = plan(snapshot(media=[index("F1"), index("F2")]), POLICY)
    assert mounted(decision) == [("d1", "F1", "archive")]
    assert codes(decision)["F2"] == "index_waits"
