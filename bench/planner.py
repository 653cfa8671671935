"""Which volume next: waits beside oldest first, the trickle, and how long a decision takes. Simulated, pure.

Traces are the generator's, by seed; a ratio is of the same trace under both policies, and the mean of these ratios
over the seeds is what counts. Settings are the defaults of `Policy`, the same for every trace. The decision with real
rows in a database, under load, is not measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.bundleindex import BundleIndex
from bench.measure import Row
from tapeserver.planner import DriveView, MountView, Picture, Policy, Share, VolumeView, plan
from tapeserver.simulator.engine import Settings, Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.outcome import Outcome, Waits
from tapeserver.simulator.running import geometries_of, simulate
from tapeserver.simulator.trace import Trace

SEEDS, SEEDS_QUICK = 16, 2
#: settings were chosen on others
FIRST_SEED = 1000
DAY, MINUTE = 86_400, 60
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One kind of trace at one load; bounds on the mean of paired ratios, None: only reported."""

    name: str
    kind: str
    drives: int
    requests: int
    load: float
    mean_most: float | None = None
    p95_most: float | None = None
    longest_most: float | None = None


#: loads at which the drives are busy for 99 % of the time under oldest first, as the note of each row says
SCENES = [
    Scene(name="farm, 99 % load, 8 drives", kind="farm", drives=8, requests=3000, load=1.55, mean_most=0.75,
          p95_most=1.1, longest_most=1.5),
    Scene(name="production, 12 drives", kind="production", drives=12, requests=400, load=1.8, mean_most=0.85),
    Scene(name="farm, overload, 8 drives", kind="farm", drives=8, requests=1500, load=2.8, longest_most=1.5),
]  # fmt: skip


def run(quick: bool) -> list[Row]:
    """All rows."""
    rows = []
    for scene in SCENES:
        rows += run_scene(scene, SEEDS_QUICK if quick else SEEDS)
    return [*rows, *run_fit(quick=quick), *run_trickle(quick=quick), *run_decision(quick=quick)]


def run_scene(scene: Scene, seeds: int) -> list[Row]:
    """Jobs' waits of the planner over those of oldest first, trace by trace."""
    ratios: list[tuple[float, float, float]] = []
    busy, mounts = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        trace = generate(KINDS[scene.kind], seed=seed, requests=scene.requests, drives=scene.drives, load=scene.load)
        settings = Settings(drives=scene.drives)
        oldest, ours = (simulate(trace, name, settings) for name in ("oldest-first", "capstan"))
        peer, mine = Waits.of(oldest.job_waits), Waits.of(ours.job_waits)
        ratios.append((mine.mean / peer.mean, mine.p95 / peer.p95, mine.longest / peer.longest))
        busy.append(oldest.busy)
        mounts.append(len(ours.mounts) / len(oldest.mounts))
    note = (
        f"{seeds} seeds; oldest first kept its drives busy for {statistics.fmean(busy):.1%}; "
        f"mounts x {statistics.fmean(mounts):.2f}"
    )
    named = zip(("mean", "p95", "max"), (scene.mean_most, scene.p95_most, scene.longest_most), strict=True)
    return [
        Row(
            name=f"next volume, {scene.name}: {which} of waits / oldest first",
            value=statistics.fmean(ratio[place] for ratio in ratios),
            unit="x",
            of="value",
            at_most=most,
            note=note,
        )
        for place, (which, most) in enumerate(named)
    ]


# ------------------------------------------------------------------ how like a farm the farm trace is

FIT_SEEDS, FIT_SEEDS_QUICK = 4, 1


def run_fit(*, quick: bool) -> list[Row]:
    """What the peers' rules give on the farm trace: it was fitted to what is published of them."""
    scene, seeds = SCENES[0], FIT_SEEDS_QUICK if quick else FIT_SEEDS
    found: dict[str, list[Waits]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        trace = generate(KINDS[scene.kind], seed=seed, requests=scene.requests, drives=scene.drives, load=scene.load)
        settings = Settings(drives=scene.drives)
        for name in ("oldest-first", "cta-like", "most-bytes"):
            found.setdefault(name, []).append(Waits.of(simulate(trace, name, settings).job_waits))
        index = Simulation(trace, geometries_of(trace), BundleIndex(trace), settings).run()
        found.setdefault("bundle index", []).append(Waits.of(index.job_waits))
    return [
        Row(
            name=f"farm trace, {name}: mean wait",
            value=statistics.fmean(one.mean for one in waits) / 3600,
            unit="h",
            note=f"p95 {statistics.fmean(one.p95 for one in waits) / 3600:.1f} h, "
            f"max {statistics.fmean(one.longest for one in waits) / 3600:.1f} h; {seeds} seeds",
        )
        for name, waits in found.items()
    ]


# ------------------------------------------------------------------ the trickle


def run_trickle(*, quick: bool) -> list[Row]:
    """One request a minute for one volume for a day: alone, and while all drives are wanted."""
    seconds = DAY // 12 if quick else DAY
    alone = simulate(with_trickle(None, seconds), "capstan", Settings(drives=8))
    crowd = generate(KINDS["farm"], seed=0, requests=max(20, seconds // 100), drives=8, load=1.6)
    crowd = replace(crowd, request_times=crowd.request_times * (seconds / crowd.request_times[-1]))
    wanted = simulate(with_trickle(crowd, seconds), "capstan", Settings(drives=8))
    mounts = _mounts_of_trickle(wanted)
    hours = seconds / 3600
    return [
        Row(name="trickle, idle drives: mounts of its volume", value=float(_mounts_of_trickle(alone)), unit="mounts",
            of="value", at_most=2, note=f"{hours:.0f} h, a request a minute, 8 drives"),
        Row(name="trickle, idle drives: longest wait", value=float(alone.request_waits.max()) / 60, unit="min",
            of="value", at_most=20),
        Row(name="trickle, all drives wanted: mounts an hour", value=mounts / hours, unit="1/h", of="value", at_most=4,
            note=f"the drives were busy for {wanted.busy:.1%}"),
    ]  # fmt: skip


def with_trickle(crowd: Trace | None, seconds: int) -> Trace:
    """A request a minute for the last volume of the trace, and the crowd's requests."""
    trace = crowd or generate(KINDS["farm"], seed=0, requests=1, drives=8, load=1.0)
    volume, number = len(trace.volumes) - 1, seconds // MINUTE
    times = np.arange(number) * float(MINUTE)
    starts = np.random.default_rng(0).integers(0, trace.volumes[volume].written_bytes - GB, number)
    old = np.arange(trace.requests if crowd else 0)
    order = np.argsort(np.concatenate([trace.request_times[old], times]), kind="stable")
    files = np.concatenate([np.diff(trace.file_offsets)[old], np.ones(number, dtype=np.int64)])
    first = np.concatenate([trace.file_offsets[old], trace.files + np.arange(number)])
    rows = np.concatenate([np.arange(first[one], first[one] + files[one]) for one in order])

    def column(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.concatenate([theirs, ours])[rows]

    return replace(
        trace,
        request_times=np.concatenate([trace.request_times[old], times])[order],
        request_who=np.concatenate([trace.request_who[old], np.zeros(number, dtype=np.int64)])[order],
        request_cohorts=np.zeros(len(order), dtype=np.int64),
        file_offsets=np.concatenate([[0], np.cumsum(files[order])]).astype(np.int64),
        file_volumes=column(np.full(number, volume), trace.file_volumes),
        file_starts=column(starts, trace.file_starts),
        file_bytes=column(np.full(number, GB), trace.file_bytes),
    )


def _mounts_of_trickle(outcome: Outcome) -> int:
    last = len(outcome.trace.volumes) - 1
    return sum(mount.volume == last for mount in outcome.mounts)


# ------------------------------------------------------------------ how long a decision takes

VOLUMES, DRIVES, ENTRIES, SHARES = 20_000, 200, 200_000, 60
DECISION_SECONDS_MAX = 0.005


def run_decision(*, quick: bool) -> list[Row]:
    """`plan` with one free drive of 200, and what keeping the picture costs."""
    volumes, entries = (VOLUMES // 10, ENTRIES // 10) if quick else (VOLUMES, ENTRIES)
    picture, shares = large_picture(volumes, entries)
    policy, began = Policy(), 36_000.0
    times = [_seconds(lambda at=began + turn: plan(picture, policy, at)) for turn in range(20 if quick else 200)]
    names = [f"V{number:05d}" for number in range(0, volumes, 2)]

    def come() -> None:
        for number, name in enumerate(names):
            picture.want(name, shares[number % SHARES], 10**9 + number // 4, 1, GB, began)

    def go() -> None:
        for number, name in enumerate(names):
            picture.unwant(name, shares[number % SHARES], 10**9 + number // 4, 1, GB, began)

    note = f"{volumes} volumes, {DRIVES} drives, {entries} (volume, share) entries; processor time"
    return [
        Row(name="decision, pure: median", value=statistics.median(times) * 1e3, unit="ms", of="value",
            at_most=DECISION_SECONDS_MAX * 1e3, note=note),
        Row(name="decision, pure: p99", value=float(np.percentile(times, 99)) * 1e3, unit="ms", note=note),
        Row(name="picture: one more that waits", value=_seconds(come) / len(names) * 1e6, unit="us"),
        Row(name="picture: one less", value=_seconds(go) / len(names) * 1e6, unit="us"),
    ]  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread: others on the machine are not the planner's."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def large_picture(volumes: int, entries: int) -> tuple[Picture, list[Share]]:
    """A library where all volumes are wanted by many, with all drives but one at work."""
    picture = Picture("large")
    picture.cache_room_bytes = 10**18
    picture.set_drives(DriveView(name=f"d{number:03d}", up=True, attached=True) for number in range(DRIVES))
    shares = [Share(f"user{number}", f"group{number % 8}") for number in range(SHARES)]
    for number in range(volumes):
        picture.set_volume(VolumeView(name=f"V{number:05d}", state="full", medium="LTO-9"))
    draw = np.random.default_rng(0)
    pairs = draw.choice(volumes * SHARES, entries, replace=False).tolist()
    for number, (pair, at) in enumerate(zip(pairs, np.sort(draw.random(entries) * 36_000).tolist(), strict=True)):
        name, share = f"V{pair // SHARES:05d}", shares[pair % SHARES]
        picture.want(name, share, 1 + number // 4, 50, 100 * GB, at)
    for share in shares:
        picture.charge(share, float(draw.random()) * 36_000, 36_000.0)
    for number in range(DRIVES - 1):
        volume, drive = f"V{number:05d}", f"d{number:03d}"
        picture.mount_began(MountView(volume=volume, drive=drive, pool=None, purpose="recall", began_at=35_000.0))
    return picture, shares
