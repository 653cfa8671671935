"""The simulator's own numbers: how fast it is, and how far its estimates are off. It uses no site and no disk.

Speed is in processor time of this process, so that what else runs on the machine counts little. What the planner gains
over its peers is measured elsewhere; here only one policy runs, Capstan's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.measure import Row
from tapeserver.ordering import warm_up
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.outcome import EstimateErrors, Outcome
from tapeserver.simulator.policy import Settings
from tapeserver.simulator.running import Question, geometries_of, policy_of
from tapeserver.simulator.trace import Trace, TraceVolume

DRIVES = 8
#: offered load -> about so much of the drives' time in use, with mounts that are shared
LOAD_FULL, LOAD_EIGHTY = 1.55, 1.15
JOBS, JOBS_QUICK = 8_000, 300
ESTIMATED_JOBS, ESTIMATED_JOBS_QUICK = 1_500, 200
#: offered load of reads beside the archives: as many files of 2 GB a second, which come in runs of so many
LOAD_WITH_ARCHIVES, ARCHIVES_PER_SECOND, ARCHIVES_A_RUN = 0.95, 0.05, 50
ARCHIVE_BYTES, ARCHIVE_SECONDS = 2 * 10**9, 2.0
WRITTEN_JOBS, FRESH_VOLUMES = 500, 100
SEEDS, SEEDS_QUICK = 3, 1
ESTIMATE_EVERY = 4
#: a million in five minutes
FILES_PER_MINUTE_MIN = 200_000
MEDIAN_ERROR_MAX = 0.25
FACTOR_P90_MAX = 2.0


def run(quick: bool) -> list[Row]:
    # Compiling is once a machine, and no matter of a simulation's speed.
    compiled = warm_up()
    return [_speed(quick, compiled), *_estimates(quick)]


def _speed(quick: bool, compiled: bool) -> Row:
    outcome, seconds = _simulated("farm", JOBS_QUICK if quick else JOBS, LOAD_FULL, seed=1)
    files = outcome.trace.files
    return Row(
        name="simulated files wanted per minute of processor",
        value=60 * files / seconds,
        unit="files/min",
        of="value",
        at_least=None if quick else FILES_PER_MINUTE_MIN,
        note=f"{outcome.trace.requests} requests of {files} files, {len(outcome.mounts)} mounts, {DRIVES} drives "
        f"{100 * outcome.busy:.0f} % busy, orders {'compiled' if compiled else 'plain'}; "
        f"{60 * outcome.trace.requests / seconds:.0f} stage requests a minute",
    )  # fmt: skip


def _estimates(quick: bool) -> list[Row]:
    reads, writes = list[Outcome](), list[Outcome]()
    for seed in range(SEEDS_QUICK if quick else SEEDS):
        jobs = ESTIMATED_JOBS_QUICK if quick else ESTIMATED_JOBS
        reads.append(_simulated("farm", jobs, LOAD_EIGHTY, seed=seed, estimate_every=ESTIMATE_EVERY)[0])
        jobs = ESTIMATED_JOBS_QUICK if quick else WRITTEN_JOBS
        trace = generate(KINDS["farm"], seed=seed, requests=jobs, drives=DRIVES, load=LOAD_WITH_ARCHIVES)
        writes.append(_run(_with_archives(trace, seed), seed, estimate_every=ESTIMATE_EVERY)[0])
    return [
        *_errors("a request", reads, [one.estimate_errors for one in reads], quick),
        *_errors("an archive", writes, [one.archive_estimate_errors for one in writes], quick),
    ]


def _errors(whose: str, outcomes: Sequence[Outcome], errors: Sequence[EstimateErrors | None], quick: bool) -> list[Row]:
    found = [one for one in errors if one is not None]
    busy = statistics.mean(outcome.busy for outcome in outcomes)
    note = f"{sum(one.samples for one in found)} samples over {len(found)} seeds, drives {100 * busy:.0f} % busy"
    return [
        Row(
            name=f"estimate of {whose}'s wait when it comes: median error",
            value=100 * statistics.mean(one.median for one in found),
            unit="%",
            of="value",
            at_most=None if quick else 100 * MEDIAN_ERROR_MAX,
            note=note,
        ),
        Row(
            name=f"the same of {whose}: nine of ten are within a factor of",
            value=statistics.mean(one.factor_p90 for one in found),
            unit="",
            of="value",
            at_most=None if quick else FACTOR_P90_MAX,
            note=note,
        ),
    ]


def _with_archives(trace: Trace, seed: int) -> Trace:
    """Files come to be written in runs, as experiments put them, all to one pool with volumes enough."""
    draw = np.random.default_rng(seed)
    began, ended = float(trace.request_times[0]), float(trace.request_times[-1])
    runs = max(1, int((ended - began) * ARCHIVES_PER_SECOND / ARCHIVES_A_RUN))
    starts = began + draw.random(runs) * (ended - began)
    times = np.sort((starts[:, None] + ARCHIVE_SECONDS * np.arange(ARCHIVES_A_RUN)).ravel())
    none, like = np.zeros(len(times), dtype=np.int64), trace.volumes[0]
    fresh = [
        TraceVolume(name=f"NEW{n:03}", medium=like.medium, capacity_bytes=like.capacity_bytes, pool="new")
        for n in range(FRESH_VOLUMES)
    ]
    return replace(
        trace, volumes=[*trace.volumes, *fresh], pools=["new"], archive_times=times, archive_who=none,
        archive_pools=none, archive_bytes=none + ARCHIVE_BYTES,
    )  # fmt: skip


def _simulated(kind: str, jobs: int, load: float, *, seed: int, estimate_every: int = 0) -> tuple[Outcome, float]:
    trace = generate(KINDS[kind], seed=seed, requests=jobs, drives=DRIVES, load=load)
    return _run(trace, seed, estimate_every=estimate_every)


def _run(trace: Trace, seed: int, *, estimate_every: int = 0) -> tuple[Outcome, float]:
    policy = policy_of(Question(policy="capstan", drives=DRIVES), trace)
    settings = Settings(drives=DRIVES, estimate_every=estimate_every)
    began = time.process_time()
    outcome = Simulation(trace, geometries_of(trace), policy, settings, seed=seed).run()
    return outcome, time.process_time() - began
