"""What a run gave: mounts, waits and the drives' time, as numbers. Pure; `report` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapeserver.simulator.stations import MountRecord, Phase
from tapeserver.simulator.trace import Floats, Trace

#: another mount of a volume so soon after its last is one to avoid (a site survey's measure)
REMOUNT_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    mean: float
    median: float
    p95: float
    longest: float

    @classmethod
    def of(cls, seconds: Floats) -> Waits:
        if not len(seconds):
            return cls(mean=0.0, median=0.0, p95=0.0, longest=0.0)
        median, p95 = np.percentile(seconds, (50, 95))
        return cls(mean=float(seconds.mean()), median=float(median), p95=float(p95), longest=float(seconds.max()))

    def as_json(self) -> dict[str, float]:
        return {
            "mean_seconds": round(self.mean, 3),
            "median_seconds": round(self.median, 3),
            "p95_seconds": round(self.p95, 3),
            "max_seconds": round(self.longest, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateErrors:
    """How far expected waits were off the true ones, whichever side."""

    samples: int
    #: parts of the true wait
    median: float
    #: nine of ten estimates are within this factor of the true wait
    factor_p90: float
    #: expected over true, the middle one: below 1, it took longer than was said
    bias: float

    @classmethod
    def of(cls, expected: Floats, true: Floats) -> EstimateErrors:
        ratio = expected / np.maximum(true, 1e-9)
        return cls(
            samples=len(ratio),
            median=float(np.median(np.abs(ratio - 1.0))),
            factor_p90=float(np.percentile(np.maximum(ratio, 1.0 / ratio), 90)),
            bias=float(np.median(ratio)),
        )

    def as_json(self) -> dict[str, float]:
        return {
            "samples": self.samples,
            "median_error": round(self.median, 4),
            "factor_p90": round(self.factor_p90, 3),
            "bias": round(self.bias, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    policy: str
    trace: Trace
    #: of the first arrival and the last event
    began: float
    ended: float
    #: when each file was read
    file_done: Floats
    #: when each archive was on tape
    archive_done: Floats
    mounts: Sequence[MountRecord]
    #: by drive
    seconds: Sequence[Mapping[Phase, float]]
    decisions: int = 0
    #: (request, when it was expected to be done when it came)
    expected: Sequence[tuple[int, float]] = ()
    #: the same of archives
    expected_archives: Sequence[tuple[int, float]] = ()

    @property
    def request_done(self) -> Floats:
        if not self.trace.requests:
            return self.trace.request_times
        done: Floats = np.maximum.reduceat(self.file_done, self.trace.file_offsets[:-1])
        return done

    @property
    def request_waits(self) -> Floats:
        waits: Floats = self.request_done - self.trace.request_times
        return waits

    @property
    def archive_waits(self) -> Floats:
        waits: Floats = self.archive_done - self.trace.archive_times
        return waits

    @property
    def job_waits(self) -> Floats:
        """From a job's first request to the end of its last; a request without a cohort is a job of its own."""
        cohorts = self.trace.request_cohorts
        if not cohorts.any():
            return self.request_waits
        keys = np.where(cohorts > 0, cohorts, -1 - np.arange(len(cohorts)))
        _, inverse = np.unique(keys, return_inverse=True)
        ends = np.full(int(inverse.max()) + 1, -np.inf)
        begins = np.full(len(ends), np.inf)
        np.maximum.at(ends, inverse, self.request_done)
        np.minimum.at(begins, inverse, self.trace.request_times)
        waits: Floats = ends - begins
        return waits

    @property
    def estimate_errors(self) -> EstimateErrors | None:
        return _errors(self.expected, self.trace.request_times, self.request_waits)

    @property
    def archive_estimate_errors(self) -> EstimateErrors | None:
        return _errors(self.expected_archives, self.trace.archive_times, self.archive_waits)

    @property
    def phase_seconds(self) -> dict[Phase, float]:
        return {phase: sum(drive[phase] for drive in self.seconds) for phase in Phase}

    @property
    def busy(self) -> float:
        """Part of the drives' time, from the first arrival to the last event, that is not idle."""
        phases = self.phase_seconds
        total = sum(phases.values())
        return 1.0 - phases[Phase.IDLE] / total if total else 0.0

    @property
    def remounts(self) -> int:
        """Mounts of a volume within a quarter of an hour after its last."""
        last: dict[int, float] = {}
        soon = 0
        for mount in sorted(self.mounts, key=lambda one: one.begins):
            soon += mount.begins - last.get(mount.volume, -np.inf) < REMOUNT_SECONDS
            last[mount.volume] = mount.ends
        return soon

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "drives": len(self.seconds),
            "requests": self.trace.requests,
            "files": self.trace.files,
            "seconds": round(self.ended - self.began, 3),
            "mounts": len(self.mounts),
            "remounts_soon": self.remounts,
            "decisions": self.decisions,
            "request_waits": Waits.of(self.request_waits).as_json(),
            "job_waits": Waits.of(self.job_waits).as_json(),
            "drive_seconds": {str(phase): round(value, 3) for phase, value in self.phase_seconds.items()},
            "busy": round(self.busy, 4),
            **({"archive_waits": Waits.of(self.archive_waits).as_json()} if self.trace.archives else {}),
            **({"estimates": errors.as_json()} if (errors := self.estimate_errors) else {}),
            **({"archive_estimates": errors.as_json()} if (errors := self.archive_estimate_errors) else {}),
        }


def _errors(expected: Sequence[tuple[int, float]], times: Floats, waits: Floats) -> EstimateErrors | None:
    known = [(row, at) for row, at in expected if np.isfinite(at)]
    if not known:
        return None
    rows = np.array([row for row, _ in known])
    return EstimateErrors.of(np.maximum(np.array([at for _, at in known]) - times[rows], 1.0), waits[rows])
