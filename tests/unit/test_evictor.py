"""Promises of the evictor: when room is made, how much, and who goes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cacheserver.evictor import Usage, bytes_to_free, victims


@dataclass(frozen=True)
class Replica:
    id: int
    size: int
    last_used_at: float


def usage(used: int, *, reserved: int = 0, wanted: int = 0) -> Usage:
    return Usage(capacity_bytes=1000, used_bytes=used, reserved_bytes=reserved, wanted_bytes=wanted, high=0.9, low=0.8)


def test_nothing_goes_between_the_watermarks() -> None:
    assert bytes_to_free(usage(850)) == 0
    assert bytes_to_free(usage(900)) == 0


def test_above_the_high_watermark_room_is_made_down_to_the_low_one() -> None:
    assert bytes_to_free(usage(901)) == 101
    assert bytes_to_free(usage(700, reserved=250)) == 150


def test_a_refused_reservation_makes_room_below_the_high_watermark_too() -> None:
    assert bytes_to_free(usage(850, wanted=200)) == 50
    assert bytes_to_free(usage(850, wanted=150)) == 0


def test_a_wish_larger_than_what_lies_above_the_low_watermark_is_met() -> None:
    assert bytes_to_free(usage(700, wanted=900)) == 600


def test_a_wish_that_can_never_be_met_counts_for_nothing() -> None:
    assert bytes_to_free(usage(700, wanted=1001)) == 0


def test_the_longest_unused_go_first_and_no_more_than_needed() -> None:
    replicas = [Replica(1, 10, 300.0), Replica(2, 10, 100.0), Replica(3, 10, 200.0)]
    assert victims(replicas, 11) == [2, 3]
    assert victims(replicas, 0) == []
    assert victims(replicas, 99) == [2, 3, 1]


@given(
    st.lists(
        st.builds(Replica, st.integers(1, 10**6), st.integers(0, 1000), st.floats(0, 1e9)), unique_by=lambda r: r.id
    ),
    st.integers(0, 5000),
)
def test_victims_are_enough_and_none_is_spared_for_a_younger_one(replicas: list[Replica], wanted: int) -> None:
    chosen = victims(replicas, wanted)
    sizes = {replica.id: replica.size for replica in replicas}
    freed = sum(sizes[id] for id in chosen)
    assert freed >= min(wanted, sum(sizes.values()))
    assert not chosen or freed - sizes[chosen[-1]] < wanted
    ages = {replica.id: (replica.last_used_at, replica.id) for replica in replicas}
    kept = [ages[id] for id in ages if id not in chosen]
    assert not kept or not chosen or max(ages[id] for id in chosen) < min(kept)
