"""Promises of time limits: by medium where it is known, an operator's word above what is built in. Pure."""

from __future__ import annotations

import pytest

from tapeserver.timelimits import ANY, PhaseSeconds, limits_of, medium_of

TB = 10**12


@pytest.mark.parametrize(
    ("capacity_bytes", "medium"), [(18 * TB, "LTO-9"), (12 * TB, "LTO-8"), (6 * TB, "LTO-7"), (5 * TB, ANY), (1, ANY)]
)
def test_a_medium_is_known_by_its_native_capacity(capacity_bytes: int, medium: str) -> None:
    assert medium_of(capacity_bytes) == medium


def test_the_library_may_name_the_medium() -> None:
    assert medium_of(18 * TB, "LTO-8") == "LTO-8"


def test_a_first_load_of_lto_9_and_of_what_is_not_known_may_take_two_hours() -> None:
    assert limits_of("LTO-9", {}).load == limits_of(ANY, {}).load == limits_of("DDS", {}).load == 7200.0
    assert limits_of("LTO-8", {}).load < 7200.0


def test_an_operators_word_for_a_medium_is_above_his_word_for_any_and_that_above_what_is_built_in() -> None:
    wanted = {ANY: PhaseSeconds(load=50.0, read=60.0), "LTO-8": PhaseSeconds(load=70.0)}
    found = limits_of("LTO-8", wanted)
    assert (found.load, found.read, found.flush) == (70.0, 60.0, limits_of(ANY, {}).flush)
    assert limits_of("LTO-7", wanted).load == 50.0


def test_what_is_no_motion_of_the_drive_has_no_limit() -> None:
    limits = limits_of(ANY, {})
    assert limits.of("wait") == limits.of("idle") == float("inf")
    assert limits.of("flush") == limits.flush
