"""The simulator's own numbers: how fast it is, and how far its estimates are off. It uses no site and no disk.

Speed is in processor time of this process, so that what else runs on the machine counts little. What the planner gains
over its peers is measured elsewhere; here only one policy runs, Capstan's own.
"""

from __future__ import annotations

import statistics
import time

from bench.measure import Row
from tapeserver.ordering import warm_up
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.outcome import Outcome
from tapeserver.simulator.policy import Settings
from tapeserver.simulator.running import Question, geometries_of, policy_of

DRIVES = 8
#: offered load -> about so much of the drives' time in use, with mounts that are shared
LOAD_FULL, LOAD_EIGHTY = 1.2, 0.87
JOBS, JOBS_QUICK = 8_000, 300
ESTIMATED_JOBS, ESTIMATED_JOBS_QUICK = 1_500, 200
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
    medians, factors, busy, samples = [], [], [], 0
    for seed in range(SEEDS_QUICK if quick else SEEDS):
        jobs = ESTIMATED_JOBS_QUICK if quick else ESTIMATED_JOBS
        outcome, _ = _simulated("farm", jobs, LOAD_EIGHTY, seed=seed, estimate_every=ESTIMATE_EVERY)
        errors = outcome.estimate_errors
        if errors is not None:
            medians.append(errors.median)
            factors.append(errors.factor_p90)
            busy.append(outcome.busy)
            samples += errors.samples
    note = f"{samples} requests over {len(medians)} seeds, drives {100 * statistics.mean(busy):.0f} % busy"
    return [
        Row(
            name="estimate of a request's wait when it comes: median error",
            value=100 * statistics.mean(medians),
            unit="%",
            of="value",
            at_most=None if quick else 100 * MEDIAN_ERROR_MAX,
            note=note,
        ),
        Row(
            name="the same: nine of ten are within a factor of",
            value=statistics.mean(factors),
            unit="",
            of="value",
            at_most=None if quick else FACTOR_P90_MAX,
            note=note,
        ),
    ]


def _simulated(kind: str, jobs: int, load: float, *, seed: int, estimate_every: int = 0) -> tuple[Outcome, float]:
    trace = generate(KINDS[kind], seed=seed, requests=jobs, drives=DRIVES, load=load)
    policy = policy_of(Question(policy="capstan", drives=DRIVES), trace)
    settings = Settings(drives=DRIVES, estimate_every=estimate_every)
    began = time.process_time()
    outcome = Simulation(trace, geometries_of(trace), policy, settings, seed=seed).run()
    return outcome, time.process_time() - began
