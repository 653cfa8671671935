"""A run from names: a trace, a medium, a policy by name. What the command, the benchmarks and the tests call."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.planner.policy import Policy as PlannerPolicy
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.outcome import Outcome
from tapeserver.simulator.peers import PEERS, Peer, PeerSettings
from tapeserver.simulator.planned import Planned
from tapeserver.simulator.policy import Policy, Settings
from tapeserver.simulator.trace import BadTrace, Trace

#: every policy by its name, as `--policy` takes it
POLICIES = ("capstan", *PEERS)


#: so many files are worth a mount, quiet or not, when a quiet time is asked for
COLLECTED_FILES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What if. None: as the trace, or the policy, has it."""

    policy: str
    drives: int
    medium: str | None = None
    quiet_seconds: float | None = None
    deadline_seconds: float | None = None
    seed: int = 0
    noise: float = 0.0
    #: an expected time is asked for at every so manyth arrival; 0: none
    estimate_every: int = 0


def answer(trace: Trace, question: Question) -> Outcome:
    """One run. Raises BadTrace for a medium that is not known."""
    if question.medium is not None:
        model = model_of(question.medium)
        trace = trace.on_medium(model.name, model.capacity_bytes)
    geometries = geometries_of(trace)
    policy = policy_of(question, trace)
    settings = Settings(drives=question.drives, noise=question.noise, estimate_every=question.estimate_every)
    return Simulation(trace, geometries, policy, settings, seed=question.seed).run()


def geometries_of(trace: Trace) -> list[Geometry]:
    """One a volume; volumes of the same medium and capacity share theirs. Raises BadTrace for an unknown medium."""
    known: dict[tuple[str, int], Geometry] = {}
    for volume in trace.volumes:
        key = volume.medium, volume.capacity_bytes
        if key not in known:
            try:
                known[key] = Geometry(model_of(volume.medium), volume.capacity_bytes)
            except ValueError as problem:
                raise BadTrace(f"volume {volume.name}: {problem}; or give --media") from problem
    return [known[volume.medium, volume.capacity_bytes] for volume in trace.volumes]


def policy_of(question: Question, trace: Trace) -> Policy:
    if question.policy == "capstan":
        return Planned(trace, question.drives, _planner_policy(question))
    written = np.array([volume.written_bytes for volume in trace.volumes], dtype=np.float64)
    return Peer(question.policy, written, _peer_settings(question))


def _planner_policy(question: Question) -> PlannerPolicy:
    policy = PlannerPolicy()
    if question.quiet_seconds is not None:
        # Collecting until it is quiet: a single file is no longer enough, and age counts from twice the time on.
        policy = replace(
            policy,
            recall_files=COLLECTED_FILES,
            recall_quiet_seconds=question.quiet_seconds,
            recall_age_seconds=max(policy.recall_age_seconds, 2 * question.quiet_seconds),
        )
    if question.deadline_seconds is not None:
        policy = replace(policy, deadline_seconds_max=question.deadline_seconds)
    return policy


def _peer_settings(question: Question) -> PeerSettings:
    settings = PeerSettings()
    if question.quiet_seconds is not None:
        settings = replace(
            settings, dcache_quiet_seconds=question.quiet_seconds, endit_quiet_seconds=question.quiet_seconds
        )
    if question.deadline_seconds is not None:
        settings = replace(
            settings,
            cta_age_seconds=question.deadline_seconds,
            dcache_expiry_seconds=question.deadline_seconds,
            endit_age_seconds=question.deadline_seconds,
        )
    return settings


def simulate(trace: Trace, policy: str, settings: Settings, *, seed: int = 0) -> Outcome:
    """One run of the trace under the policy of that name, as it comes."""
    chosen = policy_of(Question(policy=policy, drives=settings.drives), trace)
    return Simulation(trace, geometries_of(trace), chosen, settings, seed=seed).run()
