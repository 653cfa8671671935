"""Promises of the planner in any picture, and over time against arrivals that would rather break them. Pure."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.candidates import SENTENCES
from tapeserver.planner import (
    Allotment,
    ArchiveNeed,
    DriveLimit,
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

NOW = 50_000.0
SHARES = [Share("alice", "atlas"), Share("bob", "cms"), Share("carol", "cms", "T0"), Share("own", "capstan", "", 10)]
VOLUMES = [f"A{number}" for number in range(7)]
POOLS = ("p", "q")
MOSTLY = st.sampled_from([True, True, True, True, False])
POLICIES = st.builds(
    Policy,
    recall_files=st.sampled_from([1, 4]),
    remount_seconds=st.sampled_from([0.0, 900.0]),
    volumes_open_max=st.integers(1, 3),
    volumes_open_bytes=st.just(10**9),
    collecting_bytes=st.just(10**9),
    mount_seconds_max=st.sampled_from([0.0, 1000.0]),
    reading_drives_max=st.sampled_from([None, None, 1]),
    writing_drives_max=st.sampled_from([None, None, 1]),
    spare_part=st.sampled_from([0.0, 0.5]),
)


@dataclasses.dataclass(frozen=True)
class Told:
    """Everything that a picture is told."""

    drives: list[DriveView]
    mounts: list[MountView]
    volumes: list[VolumeView]
    wants: list[tuple[str, Share, int, int, int, float]]
    archives: list[ArchiveNeed]
    media: list[MediaNeed]
    ends: dict[str, EndView]
    limits: dict[str, DriveLimit]
    hurried: set[str]
    library_state: str
    room: int
    charged: float

    def picture(self, shuffled: Callable[[list], list] = list) -> Picture:  # type: ignore[type-arg]  # of anything
        made = Picture("east")
        made.library_state, made.cache_room_bytes = self.library_state, self.room
        made.set_drives(shuffled(self.drives))
        for view in shuffled(self.volumes):
            made.set_volume(view)
        for want in shuffled(self.wants):
            made.want(*want)
        for mount in shuffled(self.mounts):
            made.mount_began(mount)
        for need in shuffled(self.archives):
            made.set_archives(need)
        made.set_media(self.media)
        for volume, end in self.ends.items():
            made.set_end(volume, end)
        made.limits, made.hurried = dict(self.limits), set(self.hurried)
        made.charge(SHARES[0], self.charged, NOW - 10)
        return made


@st.composite
def told(draw: st.DrawFn) -> Told:
    drives = [
        DriveView(name=f"d{number}", up=draw(MOSTLY), attached=draw(MOSTLY))
        for number in range(draw(st.integers(0, 5)))
    ]
    taken = draw(st.lists(st.sampled_from(VOLUMES), unique=True, max_size=len(drives)))
    mounts = [
        MountView(
            volume=volume,
            drive=drive.name,
            pool=draw(st.sampled_from(POOLS)),
            purpose=draw(st.sampled_from(["recall", "archive", "verify"])),
            began_at=NOW - draw(st.integers(0, 5000)),
            epoch=number,
            group=draw(st.sampled_from(["atlas", "cms"])),
            ending=draw(st.booleans()),
            idle_since=draw(st.sampled_from([None, NOW - 5, NOW - 5000])),
        )
        for number, (volume, drive) in enumerate(zip(taken, drives, strict=False))
    ]
    # What is in a drive is told as writable until the next look.
    writable = draw(st.permutations(VOLUMES))[: draw(st.integers(0, 7))]
    state = st.sampled_from(["active", "active", "full", "disabled", "broken"])
    wants = st.tuples(
        st.sampled_from(VOLUMES), st.sampled_from(SHARES), st.integers(0, 3), st.integers(1, 6),
        st.integers(1, 10**6), st.integers(-50, 40_000).map(lambda ago: NOW - ago),
    )  # fmt: skip
    ends = st.builds(
        EndView, drive=st.sampled_from(["d0", "d1"]), why=st.just("so"),
        kind=st.sampled_from(["well", "failed", "cache_full", "gave_way"]),
        at=st.integers(0, 2000).map(lambda ago: NOW - ago), fruitless=st.integers(0, 2000),
    )  # fmt: skip
    return Told(
        drives=drives,
        mounts=mounts,
        volumes=[VolumeView(name=name, state=draw(state), pool="p", medium="LTO-8") for name in VOLUMES],
        wants=draw(st.lists(wants, max_size=12)),
        archives=[
            ArchiveNeed(
                pool=pool, files=3, bytes=draw(st.sampled_from([10, 10**10])), urgent=draw(st.integers(0, 1)),
                oldest_at=draw(st.sampled_from([None, NOW + 60, NOW - 1, NOW - 9000])),
                # Those of one pool each, or blank ones that any pool may take.
                writable=writable if draw(st.booleans()) else writable[half::2],
                groups=(draw(st.sampled_from(["atlas", "cms"])),),
            )
            for half, pool in enumerate(POOLS)
            if draw(st.booleans())
        ],
        media=[
            MediaNeed(volume=volume, purpose=draw(st.sampled_from(["verify", "index"])), since=0)  # type: ignore[arg-type]  # literals
            for volume in draw(st.lists(st.sampled_from(VOLUMES), unique=True, max_size=3))
        ],
        ends=draw(st.dictionaries(st.sampled_from(VOLUMES), ends, max_size=4)),
        limits=draw(
            st.dictionaries(
                st.sampled_from(["atlas", "cms"]),
                st.builds(DriveLimit, reading=st.sampled_from([None, 0, 1]), writing=st.sampled_from([None, 0, 1])),
            )
        ),
        hurried=draw(st.sets(st.sampled_from(VOLUMES), max_size=2)),
        library_state=draw(st.sampled_from(["up", "up", "up", "down"])),
        room=draw(st.sampled_from([0, 10**6, 10**15])),
        charged=draw(st.sampled_from([0.0, 10_000.0])),
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES)
def test_in_any_picture_no_drive_or_volume_is_used_twice_and_only_what_is_free(seen: Told, policy: Policy) -> None:
    decision = plan(seen.picture(), policy, NOW)
    busy = {mount.drive for mount in seen.mounts}
    free = {drive.name for drive in seen.drives if drive.up and drive.attached} - busy
    used, volumes = [one.drive for one in decision.mounts], [one.volume for one in decision.mounts]
    assert len(set(used)) == len(used)
    assert set(used) <= free
    assert len(set(volumes)) == len(volumes)
    assert not set(volumes) & {mount.volume for mount in seen.mounts}


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES)
def test_in_any_picture_nothing_is_mounted_without_work_that_may_be_done_now(seen: Told, policy: Policy) -> None:
    states = {view.name: view.state for view in seen.volumes}
    writes = {need.pool: need for need in seen.archives}
    for mount in plan(seen.picture(), policy, NOW).mounts:
        assert seen.library_state == "up"
        state = states[mount.volume]
        reads = any(volume == mount.volume and at <= NOW for volume, _, _, _, _, at in seen.wants)
        need = writes.get(mount.pool or "")
        may = {
            "recall": reads and state in ("active", "full"),
            "archive": (need is not None and (need.oldest_at or math.inf) <= NOW and mount.volume in need.writable)
            or (mount.reason_code == "index" or ("index", mount.volume) in {(m.purpose, m.volume) for m in seen.media}),
            "verify": any(one.volume == mount.volume for one in seen.media) and state in ("active", "full"),
        }
        assert may[mount.purpose]


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES)
def test_in_any_picture_all_that_waits_is_explained_in_words_and_a_drive_is_idle_only_for_a_reason(
    seen: Told, policy: Policy
) -> None:
    picture = seen.picture()
    candidates = explanations(picture, policy, NOW)
    named = [(one.kind, one.key) for one in candidates]
    assert named == sorted(set(named))
    assert set(named) == {
        *(("volume", want[0]) for want in seen.wants), *(("volume", one.volume) for one in seen.media),
        *(("pool", need.pool) for need in seen.archives),
    }  # fmt: skip
    for one in candidates:
        wanted = {field for _, field, _, _ in string.Formatter().parse(SENTENCES[one.code]) if field}
        assert wanted <= one.arguments.keys()
    decision = plan(picture, policy, NOW)
    ready = {one.arguments["drive"] for one in candidates if one.code == "ready"}
    # Of several volumes that one pool gets at once, one is told.
    taken = {mount.drive: mount.pool if mount.purpose == "archive" else mount.volume for mount in decision.mounts}
    assert ready <= taken.keys()
    assert {taken[drive] for drive in ready} == set(taken.values())
    busy = {mount.drive for mount in seen.mounts}
    free = {drive.name for drive in seen.drives if drive.up and drive.attached} - busy - taken.keys()
    if free:
        assert not any(one.code == "no_free_drive" for one in candidates)


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES)
def test_in_any_picture_no_limit_is_exceeded(seen: Told, policy: Policy) -> None:
    decision = plan(seen.picture(), policy, NOW)
    for purpose, most in (("recall", policy.reading_drives_max), ("archive", policy.writing_drives_max)):
        fresh = [
            one for one in decision.mounts if one.purpose == purpose and one.reason_code not in ("index", "recalls")
        ]
        if purpose == "recall":
            fresh = [one for one in decision.mounts if one.purpose == purpose]
        live = [one for one in seen.mounts if one.purpose == purpose]
        for group, limit in seen.limits.items():
            allowed = limit.reading if purpose == "recall" else limit.writing
            added = sum(one.group == group for one in fresh)
            assert not added or allowed is None or added + sum(one.group == group for one in live) <= allowed
        assert not fresh or most is None or len(fresh) + len(live) <= most


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES)
def test_in_any_picture_only_idle_verifying_or_long_mounts_end(seen: Told, policy: Policy) -> None:
    live = {mount.epoch: mount for mount in seen.mounts}
    for one in plan(seen.picture(), policy, NOW).give_way:
        mount = live[one.epoch]
        assert not mount.ending
        assert {
            "rested": mount.idle_since is not None,
            "idle": mount.idle_since is not None,
            "verifies": mount.purpose == "verify",
            "long": NOW - mount.began_at > policy.mount_seconds_max,
        }[one.why]


@settings(max_examples=50, deadline=None)
@given(told(), POLICIES, st.randoms(use_true_random=False))
def test_the_same_picture_gives_the_same_plan_in_whatever_order_it_was_told(
    seen: Told, policy: Policy, random: Random
) -> None:
    def shuffled(items: list[object]) -> list[object]:
        return random.sample(items, len(items))

    first, second = seen.picture(), seen.picture(shuffled)
    assert plan(second, policy, NOW) == plan(first, policy, NOW)
    assert plan(first, policy, NOW) == plan(first, policy, NOW)
    assert explanations(second, policy, NOW) == explanations(first, policy, NOW)


@settings(max_examples=50, deadline=None)
@given(told(), st.data())
def test_what_comes_and_goes_leaves_the_picture_as_it_was(seen: Told, data: st.DataObject) -> None:
    kept, passing = seen.picture(), seen.picture()
    more = data.draw(
        st.lists(
            st.tuples(st.sampled_from(VOLUMES), st.sampled_from(SHARES), st.integers(4, 6), st.just(2), st.just(20)),
            max_size=10,
        )
    )
    for volume, share, cohort, files, size in more:
        passing.want(volume, share, cohort, files, size, NOW - 7)
    for volume, share, cohort, files, size in data.draw(st.permutations(more)):
        assert passing.unwant(volume, share, cohort, files, size, files * (NOW - 7))
    for name in VOLUMES:
        mine, theirs = passing.volumes.slot(name), kept.volumes.slot(name)
        assert passing.volumes.files[mine] == kept.volumes.files[theirs]
        assert passing.volumes.bytes[mine] == kept.volumes.bytes[theirs]
        assert passing.volumes.oldest[mine] == kept.volumes.oldest[theirs]
        sums = [
            [
                sum(float(column[row]) for row in picture.demand.rows_of(picture.volumes.slot(name)))
                for column in (picture.demand.count, picture.demand.first)
            ]
            for picture in (passing, kept)
        ]
        assert all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-3) for one, other in zip(*sums, strict=True))


# ------------------------------------------------------------------ over time


@dataclasses.dataclass
class Play:
    """A library whose mounts all take `mount_seconds`; asked once a minute."""

    picture: Picture
    policy: Policy
    mount_seconds: float
    ends: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    served: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    wanted: dict[str, list[tuple[Share, int, float]]] = dataclasses.field(default_factory=dict)
    cohort: int = 0

    def want(self, volume: str, share: Share, now: float) -> None:
        self.cohort += 1
        self.wanted.setdefault(volume, []).append((share, self.cohort, now))
        self.picture.want(volume, share, self.cohort, 1, 10**9, now)

    def step(self, now: float) -> None:
        for drive, (end, volume) in sorted(self.ends.items()):
            if end <= now:
                del self.ends[drive]
                # It takes what came before its end.
                for share, cohort, at in self.wanted.pop(volume, []):
                    self.picture.unwant(volume, share, cohort, 1, 10**9, at)
                self.picture.mount_ended(volume, EndView(drive=drive, kind="well", why="", at=now))
        for one in plan(self.picture, self.policy, now).mounts:
            self.served.append((now, one.volume, one.group))
            for share in {share for share, _, _ in self.wanted[one.volume]}:
                self.picture.charge(share, self.mount_seconds, now)
            self.ends[one.drive] = (now + self.mount_seconds, one.volume)
            self.picture.mount_began(
                MountView(
                    volume=one.volume, drive=one.drive, pool=None, purpose="recall", began_at=now, group=one.group
                )
            )


def play(drives: int, volumes: int, policy: Policy, mount_seconds: float = 300.0) -> Play:
    made = Picture("east")
    made.cache_room_bytes = 10**18
    made.set_drives(DriveView(name=f"d{number}", up=True, attached=True) for number in range(drives))
    for number in range(volumes):
        made.set_volume(VolumeView(name=f"V{number:02d}", state="full", medium="LTO-8"))
    return Play(made, policy, mount_seconds)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(2, 12), st.integers(0, 30), st.randoms(use_true_random=False))
def test_nobody_starves_whatever_arrives(drives: int, volumes: int, crowd: int, random: Random) -> None:
    """The bound of `deciding`'s docstring, against many users who want all the others again every minute."""
    policy = Policy(deadline_seconds_max=3000.0, deadline_factor=100.0, remount_seconds=random.choice([0.0, 900.0]))
    library = play(drives, volumes, policy)
    library.want("V00", SHARES[0], 0.0)
    library.picture.charge(SHARES[0], 10**6, 0.0)
    bound = max(policy.deadline_seconds_max, policy.remount_seconds) + (math.ceil(volumes / drives) + 1) * 360.0
    now = 0.0
    while not any(volume == "V00" for _, volume, _ in library.served):
        assert now <= bound
        for _ in range(crowd):
            library.want(f"V{random.randrange(1, volumes):02d}", random.choice(SHARES[:3]), now)
        library.step(now)
        now += 60.0


def test_fair_share_converges_between_groups_though_one_asks_for_ten_times_as_much() -> None:
    """Off by no more than the tolerance allows: tolerance x log of how much more the greedy one's volumes are worth."""
    policy = Policy(remount_seconds=0.0, deadline_factor=100.0, share_drain_seconds=0.0)
    library = play(2, 40, policy)
    library.picture.allot("cms", "", Allotment(weight=2.0))
    for minute in range(1500):
        now = minute * 60.0
        for number in range(40):
            # Volumes of one group each; the greedy one wants ten files of each where the other wants one.
            greedy = number % 2 == 0
            if len(library.wanted.get(f"V{number:02d}", [])) < (10 if greedy else 1):
                library.want(f"V{number:02d}", SHARES[0] if greedy else SHARES[1], now)
        library.step(now)
    late = [group for at, _, group in library.served if at > 30_000]
    assert abs(late.count("cms") / len(late) - 2 / 3) <= policy.share_tolerance


def test_a_share_that_nobody_uses_goes_to_who_has_work() -> None:
    library = play(2, 10, Policy(remount_seconds=0.0))
    library.picture.allot("cms", "", Allotment(weight=100.0))
    for minute in range(200):
        for number in range(10):
            library.want(f"V{number:02d}", SHARES[0], minute * 60.0)
        library.step(minute * 60.0)
    assert len(library.served) >= 2 * 200 * 60 / 300 - 2
