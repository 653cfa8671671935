"""What waits to be written is expected as what waits to be read is: cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catalog.model import FLUSH_SECONDS, InHand, WritingTime
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.estimates import estimate
from tapeserver.pace import IN_LIFE, WRITE_PART
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import ArchiveNeed, DriveView, MountView, Share, VolumeView
from tapeserver.poolestimates import LATER_ARRIVALS
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.policy import Settings
from tapeserver.simulator.running import Question, geometries_of, policy_of

GB = 10**9
LTO9 = model_of("LTO-9")
GEOMETRY = Geometry(LTO9)
READY = LTO9.robot_seconds + LTO9.load_seconds
WRITTEN = 900 * GB
TO_END = GEOMETRY.locate_seconds(0, WRITTEN)
POLICY = Policy(collecting_age_seconds=600.0)
NEED = ArchiveNeed(
    pool="raw", files=10, bytes=400 * GB, urgent=0, oldest_at=0.0, newest_at=100.0, writable=("W1", "W2")
)
WRITING = 400 * GB / (WRITE_PART * LTO9.native_rate)


def picture_of(drives: int, need: ArchiveNeed | None = NEED) -> Picture:
    picture = Picture("east")
    picture.cache_room_bytes = 2**60
    picture.set_drives(DriveView(name=f"d{n}", up=True, attached=True) for n in range(drives))
    for name in ("R1", "R2", "W1", "W2"):
        picture.set_volume(
            VolumeView(
                name=name,
                state="active",
                medium="LTO-9",
                capacity_bytes=LTO9.capacity_bytes,
                written_bytes=WRITTEN,
                pool="raw" if name.startswith("W") else None,
            )
        )
    if need is not None:
        picture.set_archives(need)
    return picture


def writing(picture: Picture, volume: str, *, drive: str = "d0", **changes: object) -> None:
    mount = MountView(volume=volume, drive=drive, pool="raw", purpose="archive", began_at=-1000.0)
    picture.mount_began(replace(mount, **changes))  # type: ignore[arg-type]  # fields of MountView


def want(picture: Picture, volume: str, at: float = 0.0) -> int:
    picture.want(volume, Share("anna", "group"), 0, 1, GB, at)
    return picture.volumes.slot(volume)


def test_a_pool_that_collects_is_written_when_its_time_has_come() -> None:
    found = estimate(picture_of(1), POLICY, 100.0).pools["raw"]
    assert found.begins == pytest.approx(600.0 + READY + TO_END)
    assert found.writing == pytest.approx(WRITING, rel=0.02)
    assert found.ends == found.begins + found.writing


def test_what_somebody_waits_for_is_written_at_once_and_first() -> None:
    found = estimate(picture_of(1, replace(NEED, urgent=1)), POLICY, 100.0).pools["raw"]
    assert found.begins == pytest.approx(100.0 + READY + TO_END)
    first, last = found.safe(100.0, urgent=True), found.safe(100.0, urgent=False)
    assert first == pytest.approx(found.begins + found.writing / 10)
    assert last == pytest.approx(found.ends)


def test_reads_and_writes_wait_for_each_other_in_the_planner_s_order() -> None:
    """The read is worth more than the pool, which has just collected enough; then the other way round."""
    picture = picture_of(1, replace(NEED, bytes=600 * GB, oldest_at=990.0, newest_at=1000.0))
    slot = want(picture, "R1")
    found = estimate(picture, POLICY, 1000.0)
    read = GEOMETRY.pass_seconds(1, GB) + LTO9.unload_seconds
    assert found.begins[slot] == pytest.approx(1000.0 + READY)
    assert found.pools["raw"].begins > 1000.0 + LATER_ARRIVALS * read + READY + TO_END
    picture = picture_of(1, replace(NEED, files=1, bytes=GB, urgent=1))
    slot = want(picture, "R1", 999.0)
    found = estimate(picture, POLICY, 1000.0)
    assert found.pools["raw"].begins == pytest.approx(1000.0 + READY + TO_END)
    assert found.begins[slot] > found.pools["raw"].ends + LTO9.unload_seconds + READY


def test_collecting_keeps_no_drive_from_others() -> None:
    picture = picture_of(1)
    slot = want(picture, "R1", 99.0)
    found = estimate(picture, POLICY, 100.0)
    assert found.begins[slot] == pytest.approx(100.0 + READY)
    assert found.pools["raw"].begins == pytest.approx(600.0 + READY + TO_END)


def test_two_volumes_at_once_take_half_the_time_each() -> None:
    found = estimate(picture_of(2, replace(NEED, urgent=1, volumes_open_max=2, bytes=600 * GB)), POLICY, 0.0)
    assert found.pools["raw"].writing == pytest.approx(IN_LIFE.writing_seconds(GEOMETRY, 10, 600 * GB) / 2)


def test_what_the_mount_has_in_hand_comes_before_what_waits_and_holds_its_drive() -> None:
    picture = picture_of(1)
    writing(picture, "W1")
    slot = want(picture, "R1")
    hands = {"W1": InHand(files_written=10, bytes_written=100 * GB)}
    found = estimate(picture, POLICY, 1000.0, hands)
    pool = found.pools["raw"]
    in_hand = 100 * GB / (WRITE_PART * LTO9.native_rate)
    assert pool.begins == 1000.0
    assert pool.in_hand == pytest.approx(in_hand, rel=0.02)
    assert 1000.0 + in_hand / 3 < pool.handed() < 1000.0 + in_hand + 1
    assert pool.ends == pytest.approx(1000.0 + in_hand + WRITING, rel=0.02)
    assert found.begins[slot] > 1000.0 + LATER_ARRIVALS * (in_hand + WRITING)


def test_a_pool_whose_volume_is_on_its_way_out_waits_for_that() -> None:
    picture = picture_of(2, replace(NEED, writable=()))
    writing(picture, "W1", ending=True)
    unload = GEOMETRY.unload_seconds(20 * GB, LTO9.capacity_bytes / 2)
    assert estimate(picture, POLICY, 1000.0).pools["raw"].begins > 1000.0 + unload + READY


def test_of_a_volume_of_which_nothing_is_known_the_end_is_looked_for_half_way_along_the_tape() -> None:
    found = estimate(picture_of(1, replace(NEED, urgent=1, writable=("W3",))), POLICY, 1000.0).pools["raw"]
    along = GEOMETRY.locate_seconds(0, GEOMETRY.wrap_bytes * 0.5)
    assert found.begins == pytest.approx(1000.0 + READY + along, abs=20)


def test_of_what_cannot_be_written_nothing_is_said() -> None:
    assert not estimate(picture_of(0), POLICY, 1000.0).pools
    assert not estimate(picture_of(1, replace(NEED, writable=())), POLICY, 1000.0).pools
    # No cache server has its bytes now.
    assert not estimate(picture_of(1, replace(NEED, oldest_at=None)), POLICY, 1000.0).pools
    picture = picture_of(1)
    picture.library_state = "down"
    slot = want(picture, "R1")
    found = estimate(picture, POLICY, 1000.0)
    assert not found.pools
    assert np.isinf(found.begins[slot])


def test_what_came_first_is_safe_first_and_nothing_before_its_flush() -> None:
    time = WritingTime(begins=100.0, in_hand=50.0, writing=1000.0, files=10, urgent=2, oldest=0.0, newest=80.0)
    when = [time.safe(came, urgent=False) for came in (-5.0, 0.0, 40.0, 70.0, 80.0, 90.0)]
    # Two of ten come first, whatever their age.
    assert when[:2] == [150 + 200 + FLUSH_SECONDS / 2] * 2
    assert when[2] == 150 + 600 + FLUSH_SECONDS / 2
    assert when[-3:] == [150 + 900 + FLUSH_SECONDS / 2, time.ends, time.ends]
    assert time.safe(80.0, urgent=True) == 350.0
    assert replace(time, oldest=None).safe(0.0, urgent=True) is None


def test_what_a_mover_has_in_hand_to_read_comes_before_what_waits() -> None:
    picture = picture_of(1, None)
    slot = want(picture, "R1")
    picture.mount_began(MountView(volume="R1", drive="d0", pool=None, purpose="recall", began_at=-1000.0))
    hands = {"R1": InHand(files_read=4, bytes_read=40 * GB)}
    found = estimate(picture, POLICY, 1000.0, hands, claimed_waits=False).of(slot)
    assert 1000.0 < found.handed(1) < found.handed(4) == 1000.0 + found.in_hand < found.done(1) == found.ends
    assert found.in_hand > 40 * GB / LTO9.native_rate
    # Nothing waits any more, and what it has still takes its time.
    picture.unwant("R1", Share("anna", "group"), 0, 1, GB, 0.0)
    alone = estimate(picture, POLICY, 1000.0, hands, claimed_waits=False).of(slot)
    assert (alone.files, alone.handed(4)) == (0, found.handed(4))
    # However many small files it has: it is given no more than it can read in some minutes.
    many = {"R1": InHand(files_read=4000, bytes_read=GB)}
    assert estimate(picture, POLICY, 1000.0, many, claimed_waits=False).of(slot).in_hand <= 300.0


def test_expected_times_of_archives_are_held_against_what_came_true() -> None:
    trace = generate(KINDS["farm"], seed=2, requests=60, drives=3, load=0.6)
    times = np.linspace(trace.request_times[0], trace.request_times[-1], 200)
    fresh = [replace(trace.volumes[0], name=f"W{n}", pool="pool", written_bytes=0) for n in range(3)]
    none = np.zeros(len(times), dtype=np.int64)
    trace = replace(
        trace, volumes=[*trace.volumes, *fresh], archive_times=times, archive_who=none, archive_pools=none,
        archive_bytes=none + 2 * GB,
    )  # fmt: skip
    policy = policy_of(Question(policy="capstan", drives=3), trace)
    outcome = Simulation(trace, geometries_of(trace), policy, Settings(drives=3, estimate_every=1)).run()
    errors = outcome.archive_estimate_errors
    assert errors is not None
    assert errors.samples > 150
    # Loose, as for reads.
    assert errors.median < 0.4
    assert errors.factor_p90 < 3.0
