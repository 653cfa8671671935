"""Estimates run the planner's order forward: what is expected of cases that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.estimates import estimate
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import DriveView, MountView, Share, VolumeView
from tapeserver.poolestimates import LATER_ARRIVALS
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.policy import Settings
from tapeserver.simulator.running import Question, geometries_of, policy_of

GB = 10**9
LTO9 = model_of("LTO-9")
READY = LTO9.robot_seconds + LTO9.load_seconds
ANNA = Share("anna", "group")


def picture_of(drives: int, volumes: str = "ABC") -> Picture:
    picture = Picture("east")
    picture.cache_room_bytes = 2**60
    picture.set_drives(DriveView(name=f"d{n}", up=True, attached=True) for n in range(drives))
    for name in volumes:
        picture.set_volume(VolumeView(name=name, state="active", medium="LTO-9", capacity_bytes=LTO9.capacity_bytes))
    return picture


def pass_seconds(files: float, size: int) -> float:
    return Geometry(LTO9).pass_seconds(files, size)


def test_alone_it_takes_a_mount_and_a_pass() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 1, 4 * GB, 100.0)
    found = estimate(picture, Policy(), 100.0)
    assert found.done(picture.volumes.slot("A"), 1) == pytest.approx(100.0 + READY + pass_seconds(1, 4 * GB))


def test_what_lies_near_the_begin_of_the_tape_is_there_sooner_and_out_sooner() -> None:
    picture = picture_of(1)
    for name in "AB":
        view = VolumeView(name=name, state="active", medium="LTO-9", capacity_bytes=LTO9.capacity_bytes)
        picture.set_volume(replace(view, written_bytes=GB))
    picture.want("A", ANNA, 1, 1, GB // 2, 0.0)
    picture.want("B", ANNA, 2, 1, GB // 2, 50.0)
    found = estimate(picture, Policy(), 100.0)
    first, second = (found.of(picture.volumes.slot(name)) for name in "AB")
    assert first.ends < 100.0 + READY + 15
    assert second.begins < 100.0 + LATER_ARRIVALS * (READY + 15 + LTO9.unload_seconds + 10) + READY


def test_part_of_what_waits_is_there_before_all_of_it() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 100, 400 * GB, 100.0)
    found, slot = estimate(picture, Policy(), 100.0), picture.volumes.slot("A")
    assert found.begins[slot] < found.done(slot, 1) < found.done(slot, 50) < found.done(slot, 100)
    # What was asked for together is taken to lie together half, until mounts have told.
    assert found.done(slot, 100) == pytest.approx(100.0 + READY + pass_seconds(1 + 99 / 2, 400 * GB))


def test_the_second_volume_waits_until_the_only_drive_is_changed() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 1, GB, 0.0)
    picture.want("B", ANNA, 2, 1, GB, 50.0)
    found = estimate(picture, Policy(), 60.0)
    first, second = (found.begins[picture.volumes.slot(name)] for name in "AB")
    assert first == pytest.approx(60.0 + READY)
    assert second > first + pass_seconds(1, GB) + LTO9.unload_seconds
    both = found.all_done([(picture.volumes.slot("A"), 1), (picture.volumes.slot("B"), 1)])
    assert both == found.done(picture.volumes.slot("B"), 1)


def test_two_drives_begin_at_once() -> None:
    picture = picture_of(2)
    picture.want("A", ANNA, 1, 1, GB, 0.0)
    picture.want("B", ANNA, 2, 1, GB, 0.0)
    found = estimate(picture, Policy(), 0.0)
    assert found.begins[picture.volumes.slot("A")] == found.begins[picture.volumes.slot("B")] == READY


def test_what_is_being_read_needs_no_mount_and_holds_its_drive() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 10, 40 * GB, 0.0)
    picture.mount_began(MountView(volume="A", drive="d0", pool=None, purpose="recall", began_at=0.0))
    picture.want("B", ANNA, 2, 1, GB, 500.0)
    found = estimate(picture, Policy(), 1000.0)
    slot = picture.volumes.slot("A")
    # What was asked for together is taken to lie together half, as above.
    assert found.done(slot, 10) == pytest.approx(1000.0 + pass_seconds(1 + 9 / 2, 40 * GB))
    busy = pass_seconds(1 + 9 / 2, 40 * GB) + LTO9.unload_seconds
    assert found.begins[picture.volumes.slot("B")] > 1000.0 + LATER_ARRIVALS * busy + READY


def test_without_a_drive_or_a_readable_volume_there_is_no_time() -> None:
    picture = picture_of(0)
    picture.want("A", ANNA, 1, 1, GB, 0.0)
    assert math.isinf(estimate(picture, Policy(), 0.0).done(picture.volumes.slot("A"), 1))
    picture = picture_of(1)
    picture.set_volume(VolumeView(name="B", state="broken", medium="LTO-9"))
    picture.want("B", ANNA, 1, 1, GB, 0.0)
    assert math.isinf(estimate(picture, Policy(), 0.0).done(picture.volumes.slot("B"), 1))


def test_an_estimate_changes_nothing() -> None:
    picture = picture_of(2)
    for number, name in enumerate("ABC"):
        picture.want(name, ANNA, number, 3, GB, float(number))
    first, second = (estimate(picture, Policy(), 10.0) for _ in range(2))
    assert first.begins.tolist() == second.begins.tolist()


def test_estimates_are_held_against_what_came_true() -> None:
    trace = generate(KINDS["farm"], seed=2, requests=150, drives=3, load=0.9)
    policy = policy_of(Question(policy="capstan", drives=3), trace)
    outcome = Simulation(trace, geometries_of(trace), policy, Settings(drives=3, estimate_every=1)).run()
    errors = outcome.estimate_errors
    assert errors is not None
    assert errors.samples == 150
    # Loose: the bench has the figures, over seeds and at one load.
    assert errors.median < 0.4
    assert errors.factor_p90 < 3.0


def test_a_mount_on_its_way_out_holds_its_drive_for_no_more_than_its_mover_has() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 5000, 18_000 * GB, 0.0)
    picture.mount_began(MountView(volume="A", drive="d0", pool=None, purpose="recall", began_at=0.0, ending=True))
    picture.want("B", ANNA, 2, 1, GB, 50.0)
    found = estimate(picture, Policy(), 1000.0)
    assert found.done(picture.volumes.slot("B"), 1) < 1000.0 + 1800.0
    assert found.done(picture.volumes.slot("A"), 5000) < 1000.0 + 1800.0 + pass_seconds(5000, 18_000 * GB)


def test_what_pauses_is_expected_behind_its_pause_and_keeps_no_drive_from_the_others() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 1, GB, 0.0)
    picture.pause("A", 5000.0)
    picture.want("B", ANNA, 2, 1, GB, 50.0)
    found = estimate(picture, Policy(), 100.0)
    begins = {name: found.begins[picture.volumes.slot(name)] for name in "AB"}
    assert begins == {"A": pytest.approx(5000.0 + READY), "B": pytest.approx(100.0 + READY)}


def test_what_collects_is_expected_no_later_than_its_age_allows_and_keeps_no_drive_from_the_others() -> None:
    picture = picture_of(1)
    picture.want("A", ANNA, 1, 1, GB, 0.0)
    picture.want("B", ANNA, 2, 100, GB, 50.0)
    policy = Policy(recall_files=100, recall_quiet_seconds=9000.0, recall_age_seconds=6000.0)
    found = estimate(picture, policy, 100.0)
    begins = {name: found.begins[picture.volumes.slot(name)] for name in "AB"}
    assert begins == {"A": pytest.approx(6000.0 + READY), "B": pytest.approx(100.0 + READY)}
