"""Promises of a library with drives and media of several generations: nothing goes where it does not fit."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.candidates import render
from tapeserver.compatibility import can
from tapeserver.planner import (
    ArchiveNeed,
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

NOW = 1_000_000.0
POLICY = Policy(collecting_age_seconds=0.0, spare_part=0.0, volumes_open_max=2)
ANN = Share("ann", "cms")


def library(drives: dict[str, str], volumes: dict[str, str], *, down: str = "") -> Picture:
    """Drives by model, volumes by medium; a file waits on every volume, on the first longest."""
    made = Picture("east")
    made.cache_room_bytes = 10**18
    made.set_drives(DriveView(name=name, up=name != down, attached=True, model=model) for name, model in drives.items())
    for number, (name, medium) in enumerate(volumes.items()):
        made.set_volume(VolumeView(name=name, state="active", pool="p", medium=medium))
        made.want(name, ANN, number + 1, 1, 10**9, NOW - 1000 + number)
    return made


def pairs(picture: Picture) -> dict[str, str]:
    return {one.volume: one.drive for one in plan(picture, POLICY, NOW).mounts}


def said(picture: Picture, key: str) -> tuple[str, str]:
    one = next(one for one in explanations(picture, POLICY, NOW) if one.key == key)
    return one.code, render(one.code, one.arguments)


def test_a_volume_goes_to_a_drive_that_can_read_it_and_the_others_are_for_the_others() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-8"}, {"A7": "LTO-7", "A8": "LTO-8", "A9": "LTO-9"})
    assert pairs(seen) == {"A7": "d2", "A8": "d1"}


def test_the_drive_that_can_do_least_else_is_taken_first() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-8"}, {"A8": "LTO-8", "A9": "LTO-9"})
    assert pairs(seen) == {"A8": "d2", "A9": "d1"}


def test_a_free_drive_is_not_idle_because_those_before_do_not_fit_it() -> None:
    old = {f"A{number:04d}": "LTO-7" for number in range(300)}
    seen = library({"d1": "LTO-7", "d2": "LTO-9"}, {**old, "B1": "LTO-9"})
    assert pairs(seen) == {"A0000": "d1", "B1": "d2"}


def test_what_no_drive_can_read_is_said_to_be_so_and_waits_for_none() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-8"}, {"A6": "LTO-6"})
    assert pairs(seen) == {}
    assert said(seen, "A6") == ("no_compatible_drive", "no drive of library east can read LTO-6 media")


def test_a_drive_that_could_read_it_and_is_down_is_said_too() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-7"}, {"A6": "LTO-6"}, down="d2")
    assert pairs(seen) == {}
    assert said(seen, "A6")[0] == "compatible_drives_down"


def test_what_waits_for_a_drive_that_fits_is_told_so_though_others_are_free() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-7"}, {"A7": "LTO-7"})
    seen.mount_began(
        MountView(volume="X", drive="d2", pool=None, purpose="recall", began_at=NOW - 1, epoch=1, group="cms")
    )
    assert pairs(seen) == {}
    assert said(seen, "A7") == (
        "no_free_compatible_drive",
        "it waits for a drive that can read LTO-7 media: all 1 that are up are in use",
    )


def test_only_a_mount_in_a_drive_that_fits_gives_way() -> None:
    seen = library({"d1": "LTO-9", "d2": "LTO-7"}, {"A7": "LTO-7"})
    for drive in ("d1", "d2"):
        seen.mount_began(
            MountView(
                volume=f"X{drive}", drive=drive, pool=None, purpose="recall", began_at=NOW - 50, epoch=int(drive[1]),
                group="cms", idle_since=NOW - 10,
            )
        )  # fmt: skip
    assert [one.drive for one in plan(seen, POLICY, NOW).give_way] == ["d2"]


def writing(picture: Picture, *writable: str) -> Picture:
    picture.set_archives(ArchiveNeed(pool="p", files=1, bytes=10, urgent=1, oldest_at=NOW - 10, writable=writable))
    return picture


def test_a_pool_is_written_to_volumes_that_some_drive_can_write() -> None:
    seen = writing(library({"d1": "LTO-7"}, {}), "A5", "A6")
    for name, medium in (("A5", "LTO-5"), ("A6", "LTO-6")):
        seen.set_volume(VolumeView(name=name, state="active", pool="p", medium=medium))
    assert pairs(seen) == {"A6": "d1"}
    seen = writing(library({"d1": "LTO-7"}, {}), "A5")
    seen.set_volume(VolumeView(name="A5", state="active", pool="p", medium="LTO-5"))
    assert said(seen, "p") == ("no_compatible_drive", "no drive of library east can write LTO-5 media")


def test_a_volume_wanted_both_ways_is_only_read_where_it_cannot_be_written() -> None:
    seen = writing(library({"d1": "LTO-7", "d2": "LTO-6"}, {"A5": "LTO-5"}, down="d2"), "A5")
    [one] = plan(seen, POLICY, NOW).mounts
    assert (one.drive, one.purpose) == ("d1", "recall")


def test_what_nobody_knows_the_kind_of_fits() -> None:
    seen = library({"d1": "", "d2": "VIRTUAL"}, {"A6": "LTO-6", "A9": "any"})
    assert len(pairs(seen)) == 2


DRIVES = st.sampled_from(["", "LTO-7", "LTO-8", "LTO-9", "LTO-10", "TS1160"])
MEDIA = st.sampled_from(["", "any", "LTO-5", "LTO-7", "LTO-8", "LTO-9", "LTO-10", "TS1160", "TS1170"])


@st.composite
def mixed(draw: st.DrawFn) -> Picture:
    drives = [
        DriveView(name=f"d{number}", up=draw(st.integers(0, 5)) > 0, attached=draw(st.integers(0, 5)) > 0, model=model)
        for number, model in enumerate(draw(st.lists(DRIVES, min_size=1, max_size=6)))
    ]
    media = draw(st.lists(MEDIA, min_size=1, max_size=12))
    seen = Picture("east")
    seen.cache_room_bytes = 10**18
    seen.set_drives(drives)
    names = [f"V{number:02d}" for number in range(len(media))]
    for name, medium in zip(names, media, strict=True):
        state = draw(st.sampled_from(["active", "active", "full"]))
        seen.set_volume(VolumeView(name=name, state=state, pool="p", medium=medium))
    for number, name in enumerate(names):
        if draw(st.booleans()):
            seen.want(name, ANN, number, 1, 10**9, NOW - draw(st.sampled_from([1.0, 500.0, 10**6])))
    busy = draw(st.lists(st.sampled_from(drives), unique_by=lambda one: one.name, max_size=3))
    for number, drive in enumerate(busy):
        seen.mount_began(
            MountView(
                volume=f"X{number}", drive=drive.name, pool=None, purpose="recall", began_at=NOW - 90_000,
                epoch=number + 1, group="cms", ending=draw(st.booleans()),
                idle_since=draw(st.sampled_from([None, NOW - 1])),
            )
        )  # fmt: skip
    if draw(st.booleans()):
        writing(seen, *draw(st.permutations(names)))
    seen.set_media(
        MediaNeed(volume=name, purpose="verify", since=0.0)
        for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
    )
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=2)):
        seen.set_end(name, EndView(drive="d0", kind="failed", why="it did", at=NOW - 3600))
    return seen


@settings(max_examples=200, deadline=None)
@given(mixed())
def test_no_plan_ever_pairs_a_volume_and_a_drive_that_do_not_fit(seen: Picture) -> None:
    mounts = plan(seen, POLICY, NOW).mounts
    for one in mounts:
        view = seen.volumes.views[seen.volumes.slot(one.volume)]
        doing = "write" if one.purpose in ("archive", "label") else "read"
        assert can(doing, seen.drives[one.drive].model, view.medium)
    # No drive is left free that could read what waits.
    planned = {one.drive: one.volume for one in mounts}
    free = [one for one in seen.drives.values() if one.up and one.attached and one.name not in {*planned, *seen.mounts}]
    for slot in seen.volumes.wanted():
        view = seen.volumes.views[slot]
        if view.name not in {*planned.values(), *seen.mounted}:
            assert not any(can("read", one.model, view.medium) for one in free)


@settings(max_examples=100, deadline=None)
@given(mixed())
def test_a_volume_without_any_drive_that_fits_is_explained_and_no_other_is_so(seen: Picture) -> None:
    codes = {(one.kind, one.key): one.code for one in explanations(seen, POLICY, NOW)}
    works = [one for one in seen.drives.values() if one.up and one.attached]
    for slot in seen.volumes.wanted():
        view = seen.volumes.views[slot]
        there = any(can("read", one.model, view.medium) for one in seen.drives.values())
        if works and view.name not in seen.mounted:
            assert (codes["volume", view.name] == "no_compatible_drive") == (not there)


@settings(max_examples=100, deadline=None)
@given(mixed())
def test_a_mount_gives_way_only_for_what_its_drive_can_do(seen: Picture) -> None:
    decision = plan(seen, POLICY, NOW)
    taken = {one.volume for one in decision.mounts}
    waiting = [seen.volumes.views[slot].medium for slot in seen.volumes.wanted()]
    waiting += [
        seen.volumes.views[seen.volumes.slot(name)].medium for need in seen.archives.values() for name in need.writable
    ]
    for one in decision.give_way:
        assert one.why != "long" or any(can("read", seen.drives[one.drive].model, medium) for medium in waiting)
    assert taken <= set(seen.volumes.names)


def test_the_same_library_decides_the_same_when_all_fit_as_when_nothing_is_known() -> None:
    volumes = {f"A{number:02d}": "LTO-8" for number in range(20)}
    known = library({"d1": "LTO-8", "d2": "LTO-9"}, volumes)
    unknown = library({"d1": "", "d2": ""}, volumes)
    assert plan(known, POLICY, NOW) == plan(unknown, POLICY, NOW)
    assert dataclasses.replace(known.drives["d1"], model="") == unknown.drives["d1"]


def test_a_long_mount_gives_way_to_what_fits_its_drive_however_much_waits_that_does_not() -> None:
    newer = {f"A{number:04d}": "LTO-10" for number in range(300)}
    seen = library({"d1": "LTO-10", "d2": "LTO-8"}, {**newer, "B1": "LTO-8", "B2": "LTO-8"})
    seen.mount_began(MountView(volume="A0000", drive="d1", purpose="recall", pool=None, began_at=NOW - 10.0))
    seen.mount_began(MountView(volume="B1", drive="d2", purpose="recall", pool=None, began_at=0.0))
    assert [one.drive for one in plan(seen, POLICY, NOW).give_way] == ["d2"]
