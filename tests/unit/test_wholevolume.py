"""tapeserver.wholevolume: which files are worth reading while their volume is mounted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tapeserver.drivemodel import MODELS, Geometry
from tapeserver.wholevolume import worth_reading

LTO9 = Geometry(MODELS["LTO-9"])
GB = 10**9


def worth(sizes_gb: list[float], wanted: set[int], chance: float) -> set[int]:
    lengths = np.array([size * GB for size in sizes_gb], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    mask = np.array([number in wanted for number in range(len(lengths))])
    return set(np.flatnonzero(worth_reading(LTO9, starts, lengths, mask, chance=chance)).tolist())


def test_what_is_wanted_is_read_whatever_the_chance_of_the_rest() -> None:
    assert worth([10, 10, 10], {1}, 0.0) == {1}
    assert worth([10, 10, 10], set(), 0.0) == set()
    assert worth([10, 10, 10], {1}, 1.0) == {0, 1, 2}


def test_a_file_is_worth_it_while_it_takes_less_than_coming_back_times_the_chance() -> None:
    # Coming back costs some 200 to 300 s, which is 80 to 120 GB of reading.
    assert worth([1, 300, 1, 5, 20], set(), 0.1) == {0, 2, 3}
    assert worth([1, 300, 1, 5, 20], set(), 0.3) == {0, 2, 3, 4}
    assert worth([0.01, 1], set(), 0.001) == {0}


def test_what_lies_between_two_that_are_read_is_read_when_that_is_no_slower_than_locating() -> None:
    assert worth([5, 0.5, 5], {0, 2}, 0.0) == {0, 1, 2}
    assert worth([5, 30, 5], {0, 2}, 0.0) == {0, 2}
    assert worth([0.5, 5, 0.5], {1}, 0.0) == {1}


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_volume_without_files_has_none_that_are_worth_it(chance: float) -> None:
    assert worth([], set(), chance) == set()


def test_the_higher_the_chance_the_more_is_worth_it() -> None:
    sizes = np.random.default_rng(7).lognormal(1, 2, 300).tolist()
    chosen = [worth(sizes, {3, 50}, chance) for chance in (0.0, 0.01, 0.1, 0.5, 1.0)]
    assert all(less <= more for less, more in itertools.pairwise(chosen))
    assert len(chosen[0]) < len(chosen[-1])
