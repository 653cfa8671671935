"""Promises of bundling: everything is written once, what belongs together lies together, limits hold, drives stream."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeserver.bundling import MEMBER_OVERHEAD_BYTES, Limits, tape_files
from tapeserver.config import Config
from tapeserver.tapeaccount import TapeFile, account

LIMITS = Limits(member_bytes_max=1000, bytes_max=10 * (100 + MEMBER_OVERHEAD_BYTES), files_max=20)


@dataclass(frozen=True)
class File:
    size: int


@dataclass(frozen=True)
class Archive:
    number: int
    file: File
    collocation: str
    urgent: bool = False


@st.composite
def claims(draw: st.DrawFn) -> list[Archive]:
    """As a claim gives them: urgent ones first, then whole groups."""
    sizes = st.integers(0, 2000)
    found: list[Archive] = []
    for size in draw(st.lists(sizes, max_size=5)):
        found.append(Archive(len(found), File(size), draw(st.sampled_from("abc")), urgent=True))
    for key in draw(st.permutations("abcdef")):
        for size in draw(st.lists(sizes, max_size=25)):
            found.append(Archive(len(found), File(size), key))
    return found


@given(claims())
def test_each_archive_is_in_exactly_one_tape_file(claimed: list[Archive]) -> None:
    written = [one for members in tape_files(claimed, LIMITS) for one in members]
    assert sorted(written, key=lambda one: one.number) == claimed


@given(claims())
def test_the_files_of_a_group_are_neighbours(claimed: list[Archive]) -> None:
    written = [one for members in tape_files(claimed, LIMITS) for one in members if not one.urgent]
    keys = [key for key, _ in groupby(written, key=lambda one: one.collocation)]
    assert len(keys) == len(set(keys))


@given(claims())
def test_large_files_are_alone_and_bundles_keep_their_limits(claimed: list[Archive]) -> None:
    for members in tape_files(claimed, LIMITS):
        if any(one.file.size >= LIMITS.member_bytes_max for one in members):
            assert len(members) == 1
        length = sum(one.file.size + MEMBER_OVERHEAD_BYTES for one in members)
        assert len(members) == 1 or length <= LIMITS.bytes_max
        assert 0 < len(members) <= LIMITS.files_max


@given(claims())
def test_urgent_files_come_first_and_wait_for_no_others(claimed: list[Archive]) -> None:
    urgent = [{one.urgent for one in members} for members in tape_files(claimed, LIMITS)]
    assert all(len(kinds) == 1 for kinds in urgent)
    assert urgent == sorted(urgent, key=lambda kinds: kinds != {True})


@given(claims())
def test_the_order_within_a_group_is_that_of_the_claim(claimed: list[Archive]) -> None:
    written = [one for members in tape_files(claimed, LIMITS) for one in members]
    for large in (True, False):
        for key in "abcdef":
            numbers = [
                one.number
                for one in written
                if not one.urgent and one.collocation == key and (one.file.size >= LIMITS.member_bytes_max) is large
            ]
            assert numbers == sorted(numbers)


def test_small_groups_share_a_bundle_and_one_that_fits_in_a_bundle_is_not_torn_for_little() -> None:
    small = [Archive(number, File(10), "abc"[number // 3]) for number in range(9)]
    assert len(list(tape_files(small, LIMITS))) == 1
    two = [Archive(number, File(100), "ab"[number // 8]) for number in range(16)]
    assert [len(members) for members in tape_files(two, LIMITS)] == [8, 8]


def test_a_remainder_is_written_and_one_file_alone_is_no_bundle() -> None:
    assert [len(members) for members in tape_files([Archive(1, File(0), "a")], LIMITS)] == [1]
    assert list(tape_files([], LIMITS)) == []


KIB, MIB, GIB = 1024, 1024**2, 1024**3


@pytest.mark.parametrize(
    ("size", "count", "least"),
    [(10 * KIB, 3_000_000, 0.80), (1 * MIB, 60_000, 0.9), (10 * MIB, 6000, 0.9), (100 * MIB, 600, 0.9), (GIB, 60, 0.9)],
)
def test_a_drive_that_is_never_kept_waiting_streams_with_the_settings_as_they_are(
    size: int, count: int, least: float
) -> None:
    config = Config()
    limits = Limits(
        member_bytes_max=config.bundle_member_bytes_max,
        bytes_max=config.bundle_bytes_max,
        files_max=config.bundle_files_max,
    )
    # Ten thousand archives are claimed at a time.
    files = min(count, config.archives_files_max)
    one_claim = [len(members) for members in tape_files([Archive(0, File(size), "a")] * files, limits)]
    plan = [TapeFile(sizes=[size] * members, bundle=members > 1) for members in one_claim] * (count // files)
    found = account(
        plan, flush_bytes=config.flush_bytes, flush_files=config.flush_files, flush_seconds=config.flush_seconds
    )
    assert found.share_of_native() >= least
