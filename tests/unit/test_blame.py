"""Promises of blame: by the evidence of several mounts, drives before volumes, never by one failure. Pure."""

from __future__ import annotations

import pytest

from catalog.failures import Evidence
from tapeserver.blame import Failure, Limits, Verdict, judge

LIMITS = Limits(write_failures_max=2, read_failures_max=3, drive_failures_max=3)


def before(volumes: str = "", drives: str = "", mounts: int = 0) -> Evidence:
    return Evidence(
        volumes_in_drive=frozenset(volumes.split()), drives_of_volume=frozenset(drives.split()), mounts_of_volume=mounts
    )


def verdict(failure: Failure, evidence: Evidence) -> Verdict:
    return judge(failure, evidence, drive="d1", volume="A1", limits=LIMITS)


@pytest.mark.parametrize("failure", list(Failure))
def test_one_failure_alone_points_at_nobody(failure: Failure) -> None:
    assert verdict(failure, before()) is Verdict.NOBODY


@pytest.mark.parametrize("failure", list(Failure))
def test_one_drive_with_one_volume_points_at_nobody_while_another_drive_may_tell_more(failure: Failure) -> None:
    assert verdict(failure, before("A1", "d1", 1)) is Verdict.NOBODY


@pytest.mark.parametrize("failure", list(Failure))
def test_a_drive_that_failed_with_several_volumes_is_to_blame_and_clears_the_volume(failure: Failure) -> None:
    assert verdict(failure, before("A2 A3", "d1 d2", 9)) is Verdict.DRIVE
    assert verdict(failure, before("A1 A2", "d1", 0)) is not Verdict.DRIVE


@pytest.mark.parametrize(("failure", "limit"), [(Failure.WRITE, 2), (Failure.READ, 3)])
def test_a_volume_is_to_blame_when_several_drives_say_so_or_one_says_so_for_twice_as_long(
    failure: Failure, limit: int
) -> None:
    assert verdict(failure, before("A1", "d2", limit - 2)) is Verdict.NOBODY
    assert verdict(failure, before("A1", "d2", limit - 1)) is Verdict.VOLUME
    assert verdict(failure, before("A1", "d1", 2 * limit - 2)) is Verdict.NOBODY
    assert verdict(failure, before("A1", "d1", 2 * limit - 1)) is Verdict.VOLUME


def test_a_volume_with_which_a_second_drive_got_stuck_is_to_blame() -> None:
    assert verdict(Failure.STUCK, before("A1", "d1", 1)) is Verdict.NOBODY
    assert verdict(Failure.STUCK, before("", "d2", 1)) is Verdict.VOLUME
