"""Runs beside each other: the rows of a table, and one document for programs. Pure; printing is the command's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catalog.units import show_seconds
from tapeserver.simulator.outcome import EstimateErrors, Outcome, Waits
from tapeserver.simulator.running import Question
from tapeserver.simulator.stations import Phase

COLUMNS = {
    "run": "run",
    "mounts": "mounts",
    "again": "again in 15 min",
    "request_mean": "request: mean",
    "request_p95": "p95",
    "request_max": "max",
    "job_mean": "job: mean",
    "job_p95": "p95 ",
    "job_max": "max ",
    **{str(phase): str(phase) for phase in Phase},
}
#: from its arrival until a file is on tape, in traces that have files to be written
ARCHIVE_COLUMNS = {"archive_mean": "archive: mean", "archive_p95": " p95", "archive_max": " max"}
#: how far expected times were off, when they were asked for
ESTIMATE_COLUMNS = {
    "expected_median": "expected: off by",
    "expected_p90": "9 of 10 within",
    "archives_median": "archives: off by",
    "archives_p90": "9 of 10 within ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One outcome and what was asked for: policy, drives, medium and what else differs between the runs."""

    label: str
    question: Question
    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        return {"run": self.label, **asdict(self.question), **self.outcome.as_json()}


def rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One a run, every value as text, by the names of the columns above."""
    found = []
    for run in runs:
        requests, jobs = Waits.of(run.outcome.request_waits), Waits.of(run.outcome.job_waits)
        archives = Waits.of(run.outcome.archive_waits) if len(run.outcome.archive_waits) else None
        phases = run.outcome.phase_seconds
        total = sum(phases.values()) or 1.0
        found.append(
            {
                "run": run.label,
                "mounts": str(len(run.outcome.mounts)),
                "again": str(run.outcome.remounts),
                **_waits("request", requests),
                **_waits("job", jobs),
                **{str(phase): f"{100 * seconds / total:.1f} %" for phase, seconds in phases.items()},
                **(_waits("archive", archives) if archives else dict.fromkeys(ARCHIVE_COLUMNS, "")),
                **_errors("expected", run.outcome.estimate_errors),
                **_errors("archives", run.outcome.archive_estimate_errors),
            }
        )
    return found


def _errors(name: str, errors: EstimateErrors | None) -> dict[str, str]:
    if errors is None:
        return {f"{name}_median": "", f"{name}_p90": ""}
    return {f"{name}_median": f"{100 * errors.median:.0f} %", f"{name}_p90": f"factor {errors.factor_p90:.2f}"}


def _waits(name: str, waits: Waits) -> dict[str, str]:
    return {
        f"{name}_mean": show_seconds(waits.mean),
        f"{name}_p95": show_seconds(waits.p95),
        f"{name}_max": show_seconds(waits.longest),
    }
