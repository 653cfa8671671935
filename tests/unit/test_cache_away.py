"""Promises about a cache that is away, or has no room: nobody is to blame, and nothing is mounted in a loop."""

from __future__ import annotations

from itertools import pairwise

import pytest

from catalog.candidates import SENTENCES, render
from catalog.counters import Change
from catalog.model import DriveView, MountView
from catalog.situations import SeenEnd, SeenPool, Situation
from tapeserver.outcomes import CACHE_AWAY, end_kind, is_fruitless
from tapeserver.picturekeeping import PictureKeeper, Surroundings
from tapeserver.planner import Explanation, PlannedMount, Policy, VolumeView, explanations, plan

NOT_TAKEN = f"{CACHE_AWAY} take files: the stream with the cache server at 10.0.0.1:80 broke: no route"
NOT_GIVEN = f"{CACHE_AWAY} give files: the stream with the cache server at 10.0.0.1:80 broke: no route"
POLICY = Policy(cooldown_seconds=5.0, cooldown_seconds_max=60.0, collecting_files=1, remount_seconds=0.0)
VOLUMES = tuple(f"A{number}" for number in range(1, 10))


class Library:
    """One library as its keeper is told of it, with files waiting on A1 .. A4 and for pool p, which has A1 .. A9."""

    def __init__(self, drives: int = 1, *, reads: int = 4, writes: int = 0) -> None:
        self.keeper = PictureKeeper("east", POLICY)
        self.drives = [DriveView(name=f"d{number}", up=True, attached=True) for number in range(drives)]
        self.now, self.epoch, self.mounts = 1000.0, 0, list[MountView]()
        self.keeper.fold([waits("recall", volume) for volume in VOLUMES[:reads]])
        self.keeper.fold([waits("archive", "p") for _ in range(writes)])
        self.look()
        self.surround(10**15)

    def surround(self, capacity_bytes: int, *, free: int | None = None, evictable: int | None = None) -> None:
        pool = SeenPool(name="p", volumes_open_max=None, oldest_at=1.0)
        self.keeper.surround(
            Surroundings(
                pools=[(pool, VOLUMES)] if self.keeper.pools else [],
                media=[],
                suspects=[],
                volumes=[VolumeView(name=name, state="active", pool="p", medium="LTO-8") for name in VOLUMES],
                cache_capacity_bytes=capacity_bytes,
                cache_free_bytes=capacity_bytes if free is None else free,
                cache_evictable_bytes=evictable,
                cache_file_bytes=capacity_bytes if free is None else free,
            )
        )

    def look(self, *ends: SeenEnd) -> None:
        self.keeper.see(
            Situation(
                now=self.now, library_state="up", library_reason="", drives=self.drives, mounts=self.mounts,
                ends=list(ends),
            )
        )  # fmt: skip

    def mount(self) -> list[PlannedMount]:
        """Whatever the planner wants mounted now."""
        wanted = plan(self.keeper.picture, self.keeper.policy, self.now).mounts
        for one in wanted:
            self.epoch += 1
            self.mounts.append(
                MountView(
                    epoch=self.epoch, drive=one.drive, volume=one.volume, pool=one.pool, purpose=one.purpose,
                    group=one.group, began_at=self.now,
                )
            )  # fmt: skip
        self.look()
        return list(wanted)

    def end(self, outcome: str, files: int = 0) -> None:
        """All mounts end so."""
        ends = [
            SeenEnd(epoch=one.epoch, drive=one.drive, volume=one.volume, outcome=outcome, files=files, at=self.now)
            for one in self.mounts
        ]
        self.mounts.clear()
        self.look(*ends)

    def said(self) -> dict[str, Explanation]:
        return {one.key: one for one in explanations(self.keeper.picture, self.keeper.policy, self.now)}

    def mounts_within(self, seconds: int, outcome: str) -> list[float]:
        """When mounts begin, if each ends so at once."""
        began = []
        for _ in range(seconds):
            self.now += 1
            self.look()
            if self.mount():
                began.append(self.now)
                self.end(outcome)
        return began


def waits(kind: str, key: str) -> Change:
    return Change(
        kind=kind, key=key, owner="ann", group="cms", activity="", priority=50, cohort=0, files=1, bytes=100, urgent=0,
        asked=10, came_files=1, came_bytes=100, came_asked=10, deltas=1,
    )  # fmt: skip


def test_a_picture_that_is_begun_anew_does_not_take_for_quiet_what_it_has_only_now_heard_of() -> None:
    library = Library(reads=0, writes=3)
    need = library.keeper.picture.archives["p"]
    assert need.newest_at == library.now
    library.now += 10
    library.look()
    library.keeper.fold([waits("archive", "p")])
    assert library.keeper.picture.archives["p"].newest_at == library.now


@pytest.mark.parametrize("outcome", [NOT_TAKEN, NOT_GIVEN])
def test_what_the_cache_did_not_take_or_give_is_no_failure_of_volume_or_drive(outcome: str) -> None:
    assert end_kind(outcome) == "cache_away"
    assert is_fruitless(outcome)
    library = Library(reads=1)
    [first] = library.mount()
    library.end(outcome)
    library.now += 60
    library.look()
    [again] = library.mount()
    # With another drive free, a failed mount would have moved.
    assert (again.volume, again.drive) == (first.volume, first.drive)


def test_a_cache_that_is_away_opens_no_second_volume_for_a_pool() -> None:
    library = Library(drives=3, reads=0, writes=5)
    assert [one.volume for one in library.mount()] == ["A1"]
    library.end(NOT_GIVEN)
    for _ in range(4):
        library.now += 1
        library.look()
        assert library.mount() == []
    assert library.said()["p"].code == "cache_away"
    library.now += 60
    library.look()
    assert [one.volume for one in library.mount()] == ["A1"]


def test_a_cache_that_is_away_is_not_tried_with_one_volume_after_the_other() -> None:
    library = Library(drives=2)
    assert len(library.mount()) == 2
    library.end(NOT_TAKEN)
    library.now += 1
    library.look()
    assert library.mount() == []
    said = library.said()
    assert {one.code for one in said.values()} == {"cache_away"}
    assert "no route" in render("cache_away", said["A4"].arguments)


def test_the_pauses_grow_and_have_a_bound() -> None:
    began = Library().mounts_within(1200, NOT_TAKEN)
    pauses = [second - first for first, second in pairwise(began)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert set(pauses[4:]) == {60}


def test_a_mount_that_moved_something_ends_the_pause_for_all_but_the_volume_that_found_none() -> None:
    library = Library(drives=2)
    tried = {one.volume for one in library.mount()}
    [one, other] = library.mounts
    library.mounts = [other]
    library.look(SeenEnd(epoch=one.epoch, drive=one.drive, volume=one.volume, outcome=NOT_TAKEN, files=0, at=1000.0))
    assert library.mount() == []
    library.end("done", files=3)
    later = {planned.volume for planned in library.mount()}
    assert later
    assert one.volume not in later
    assert tried >= {one.volume}


def test_a_pause_does_not_grow_while_mounts_move_files_between() -> None:
    library = Library()
    for _ in range(6):
        library.mount()
        library.now += 600
        library.end(NOT_TAKEN, files=5000)
        away = library.keeper.picture.cache_away
        assert away is not None
        assert away.seconds == POLICY.cooldown_seconds
        library.now += away.seconds


def test_a_volume_that_was_verified_says_nothing_of_the_cache() -> None:
    library = Library(reads=2)
    library.mount()
    library.end(NOT_TAKEN)
    verify = MountView(
        epoch=99, drive="d0", volume="A9", pool="p", purpose="verify", group="", began_at=library.now, ending=False
    )
    library.mounts.append(verify)
    library.look()
    library.now += 1
    library.end("done", files=300)
    assert library.mount() == []


def test_of_mounts_that_end_together_the_last_says_how_the_cache_is() -> None:
    library = Library(drives=2)
    library.mount()
    ends = [
        SeenEnd(epoch=one.epoch, drive=one.drive, volume=one.volume, outcome=outcome, files=files, at=library.now + at)
        for one, (outcome, files, at) in zip(library.mounts, [(NOT_TAKEN, 0, 9), ("done", 3, 5)], strict=True)
    ]
    library.mounts.clear()
    library.now += 10
    library.look(*ends)
    assert library.mount() == []


def test_a_cache_server_that_comes_back_ends_the_pause_at_once() -> None:
    library = Library()
    library.surround(10**15)
    library.mount()
    library.end(NOT_TAKEN)
    library.surround(0)
    assert library.mount() == []
    library.surround(10**15)
    assert len(library.mount()) == 1


def test_a_picture_that_is_begun_anew_still_pauses() -> None:
    library = Library()
    ends = [SeenEnd(epoch=0, drive="d0", volume="A1", outcome=NOT_TAKEN, files=0, at=999.0)]
    library.keeper.ended_before(ends, {"A1": 1})
    assert library.mount() == []
    library.now += 10
    library.look()
    assert len(library.mount()) == 1


def test_the_sentence_says_that_it_is_the_cache() -> None:
    assert "cache" in SENTENCES["cache_away"]


def test_room_is_what_is_free_and_what_the_servers_say_could_go() -> None:
    library = Library(reads=1)
    library.surround(1000, free=10, evictable=20)
    assert library.mount() == []
    said = library.said()["A1"]
    assert (said.code, said.arguments["short_bytes"]) == ("cache_short", 70)
    library.surround(1000, free=10, evictable=90)
    assert len(library.mount()) == 1


def test_while_a_server_does_not_know_what_could_go_all_counts_until_a_mount_found_no_room() -> None:
    library = Library(reads=1)
    library.surround(1000, free=10)
    assert len(library.mount()) == 1
    library.end("no cache space for 30 s")
    library.now += 30
    library.look()
    library.surround(1000, free=10, evictable=None)
    assert library.mount() == []
    assert library.said()["A1"].code == "cache_short"
    library.now += 60
    library.look()
    library.surround(1000, free=10)
    assert len(library.mount()) == 1
