"""A run from names: a trace, a medium, a policy by name. What the command, the benchmarks and the tests call."""

from __future__ import annotations

import numpy as np

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.simulator.engine import Policy, Settings, Simulation
from tapeserver.simulator.outcome import Outcome
from tapeserver.simulator.peers import PEERS, Peer
from tapeserver.simulator.trace import Trace

#: every policy by its name, as `--policy` takes it
POLICIES = (*PEERS,)


def geometries_of(trace: Trace) -> list[Geometry]:
    """One a volume; volumes of the same medium and capacity share theirs. Raises ValueError for an unknown medium."""
    known: dict[tuple[str, int], Geometry] = {}
    for volume in trace.volumes:
        key = volume.medium, volume.capacity_bytes
        if key not in known:
            known[key] = Geometry(model_of(volume.medium), volume.capacity_bytes)
    return [known[volume.medium, volume.capacity_bytes] for volume in trace.volumes]


def policy_of(name: str, trace: Trace) -> Policy:
    return Peer(name, np.array([volume.written_bytes for volume in trace.volumes], dtype=np.float64))


def simulate(trace: Trace, policy: str, settings: Settings, *, seed: int = 0) -> Outcome:
    """One run of the trace under the policy of that name."""
    return Simulation(trace, geometries_of(trace), policy_of(policy, trace), settings, seed=seed).run()
