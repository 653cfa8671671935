"""The index of bundles, as published measurements of a farm describe it: made traces are fitted by it.

Each volume counts the sum over the parts that wait there of (1 + (wait / tau)^2) / (volumes that the job still
misses), over change and pass seconds; the highest is next. How much it wins over oldest first depends on how unlike the
jobs are, which neither oldest first nor most bytes show: where it wins as much as was published, jobs are of that kind.
"""

from __future__ import annotations

import numpy as np

from tapeserver.simulator.choice import Choice
from tapeserver.simulator.parts import parts_of
from tapeserver.simulator.policy import Listener
from tapeserver.simulator.trace import Trace
from tapeserver.simulator.waiting import Waiting

TAU_SECONDS = 3600.0
#: of the published measurement: a change, and of our drive model: a locate among many, and the transfer
CHANGE_SECONDS, LOCATE_SECONDS, RATE = 130.0, 20.0, 300e6


class BundleIndex(Listener):
    """For one run over one trace."""

    name = "bundle-index"
    keep_seconds = 0.0
    long_mount_seconds = np.inf

    def __init__(self, trace: Trace) -> None:
        parts = parts_of(trace)
        self._volumes = len(trace.volumes)
        self._volume = np.array(parts.volumes)
        self._request = np.array(parts.requests)
        self._files_of, self._bytes_of = parts.files, parts.bytes
        self._asked = trace.request_times
        self._files = np.zeros(len(self._volume))
        self._bytes = np.zeros(len(self._volume))
        self._missing = np.zeros(trace.requests)

    def wanted(self, part: int, now: float) -> None:
        self._files[part], self._bytes[part] = self._files_of[part], self._bytes_of[part]
        self._missing[self._request[part]] += 1

    def served(self, part: int, files: int, size: int, drive: int, now: float) -> None:
        self._files[part] -= files
        self._bytes[part] -= size
        if self._files[part] == 0:
            self._missing[self._request[part]] -= 1

    def choose(self, waiting: Waiting, free: list[int], now: float) -> Choice:
        some = np.flatnonzero(self._files > 0)
        volume, request = self._volume[some], self._request[some]
        worth = (1 + ((now - self._asked[request]) / TAU_SECONDS) ** 2) / self._missing[request]

        def total(of_part: np.ndarray) -> np.ndarray:
            return np.bincount(volume, of_part, self._volumes)

        seconds = CHANGE_SECONDS + LOCATE_SECONDS * total(self._files[some]) + total(self._bytes[some]) / RATE
        index = total(worth) / seconds
        index[waiting.mounted[: self._volumes] | (waiting.files[: self._volumes] <= 0)] = 0.0
        best = np.argsort(-index, kind="stable")[: len(free)]
        return Choice(mounts=[(drive, int(one)) for drive, one in zip(free, best, strict=False) if index[one] > 0])
