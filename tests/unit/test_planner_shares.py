"""Promises of fair shares: who counts how much more or less for what he has used. Pure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapeserver.planner import Allotment, DriveView, Picture, Policy, Share, VolumeView, plan
from tapeserver.planner.usage import Usage

NOW = 1_000_000.0
DAY = 86_400.0
POLICY = Policy(share_drain_seconds=0.0)


class Used:
    """Principals (group, owner) with what each has used, in seconds, and how much each counts now."""

    def __init__(self, **groups: dict[str, float]) -> None:
        self.usage = Usage()
        self.names = [(group, owner) for group, owners in groups.items() for owner in owners]
        for group, owner in self.names:
            self.usage.charge(group, owner, groups[group][owner], at=NOW, half_life_seconds=DAY)

    def counts(
        self, *runnable: str, policy: Policy = POLICY, now: float = NOW, drain: float = math.inf
    ) -> dict[str, float]:
        wanted = np.array([owner in runnable for _, owner in self.usage.principals], dtype=bool)
        found = self.usage.corrections(wanted, policy, now, drain)
        return {
            owner: float(found[self.usage.number(group, owner)]) for group, owner in self.names if owner in runnable
        }


def test_who_has_used_less_of_his_group_than_another_counts_more_and_equal_users_count_the_same() -> None:
    found = Used(cms={"ann": 3000.0, "bob": 1000.0}).counts("ann", "bob")
    # Half is each one's part; three quarters and one quarter were used.
    assert found["bob"] == pytest.approx(math.exp(0.25 / POLICY.share_tolerance))
    assert found["ann"] == pytest.approx(math.exp(-0.25 / POLICY.share_tolerance))
    assert Used(cms={"ann": 500.0, "bob": 500.0}).counts("ann", "bob") == pytest.approx({"ann": 1.0, "bob": 1.0})


def test_groups_share_by_their_weights_however_many_users_they_have() -> None:
    used = Used(cms={"ann": 1000.0}, atlas={"bob": 1000.0, "eve": 1000.0})
    assert set(map(round, used.counts("ann", "bob", "eve").values())) != {1}
    used.usage.allot("atlas", "", Allotment(weight=2.0))
    assert used.counts("ann", "bob", "eve") == pytest.approx({"ann": 1.0, "bob": 1.0, "eve": 1.0})


def test_users_share_what_their_group_has_by_their_own_weights() -> None:
    used = Used(cms={"ann": 3000.0, "bob": 1000.0})
    used.usage.allot("cms", "ann", Allotment(weight=3.0))
    assert used.counts("ann", "bob") == pytest.approx({"ann": 1.0, "bob": 1.0})


def test_what_those_have_used_who_want_nothing_now_is_nobodys_to_make_up_for() -> None:
    used = Used(cms={"ann": 100.0, "bob": 1e9}, atlas={"eve": 100.0}, lhcb={"ida": 1e9})
    assert used.counts("ann", "eve") == pytest.approx({"ann": 1.0, "eve": 1.0})


def test_who_is_over_his_allotment_has_the_small_part_of_his_share_until_it_has_decayed() -> None:
    used = Used(cms={"ann": 1000.0, "bob": 1000.0})
    used.usage.allot("cms", "ann", Allotment(seconds=600.0))
    over = used.counts("ann", "bob")
    # A tenth of the weight: his part is 0.1 of 1.1 instead of a half.
    assert over["ann"] == pytest.approx(math.exp((0.1 / 1.1 - 0.5) / POLICY.share_tolerance))
    assert used.counts("ann", "bob", now=NOW + DAY) == pytest.approx({"ann": 1.0, "bob": 1.0})


def test_a_group_over_its_allotment_has_the_small_part_of_its_share() -> None:
    used = Used(cms={"ann": 500.0, "bob": 500.0}, atlas={"eve": 1000.0})
    used.usage.allot("cms", "", Allotment(seconds=999.0))
    found = used.counts("ann", "bob", "eve")
    assert found["ann"] == found["bob"] == pytest.approx(math.exp((0.1 / 1.1 - 0.5) / POLICY.share_tolerance))
    used.usage.allot("cms", "", Allotment(seconds=1001.0))
    assert used.counts("ann", "bob", "eve") == pytest.approx({"ann": 1.0, "bob": 1.0, "eve": 1.0})


def test_use_is_forgotten_by_half_each_half_life() -> None:
    usage = Usage()
    usage.charge("cms", "ann", 800.0, at=NOW, half_life_seconds=DAY)
    usage.charge("cms", "ann", 100.0, at=NOW + DAY, half_life_seconds=DAY)
    assert usage.seconds(NOW + DAY, DAY).tolist() == [500.0]
    assert usage.seconds(NOW + 3 * DAY, DAY).tolist() == [125.0]


def test_shares_count_less_with_a_short_queue_and_never_beyond_the_largest_factor() -> None:
    used = Used(cms={"ann": 1.0}, atlas={"eve": 0.0})
    policy = Policy(share_drain_seconds=48 * 3600.0, share_tolerance=0.05, correction_max=1000.0)
    # All was used by one of two: half of the drives' time more than his part, at e for each twentieth.
    assert used.counts("ann", "eve", policy=policy)["eve"] == pytest.approx(1000.0)
    assert used.counts("ann", "eve", policy=policy)["ann"] == pytest.approx(0.001)
    assert used.counts("ann", "eve", policy=policy, drain=24 * 3600.0)["eve"] == pytest.approx(math.exp(0.5 / 0.1))


def test_of_equals_the_first_by_name_is_mounted_and_for_the_first_group_by_name_in_whatever_order_they_were_told() -> (
    None
):
    volumes, shares = ["A", "B", "C", "D"], [Share("ann", "cms"), Share("eve", "atlas")]
    for turned in (False, True):
        made = Picture("east")
        made.cache_room_bytes = 10**18
        made.set_drives([DriveView(name=f"d{number}", up=True, attached=True) for number in range(2)])
        for name in reversed(volumes) if turned else volumes:
            made.set_volume(VolumeView(name=name, state="full", medium="LTO-8"))
        for name in reversed(volumes) if turned else volumes:
            for share in reversed(shares) if turned else shares:
                made.want(name, share, 0, 1, 10**9, NOW - 100)
        found = [(one.volume, one.drive, one.group) for one in plan(made, Policy(), NOW).mounts]
        assert found == [("A", "d0", "atlas"), ("B", "d1", "atlas")]
