"""Any process killed, any medium, drive, changer or clock failing, in any order, under load: nothing that was
acknowledged is lost, stuck, doubled or leaked, and what is called safe is on the medium.

The short run of the fault soak: each kind of process is killed, power is lost and a tape ends early while it is
written, a volume is repacked, given up and labelled again, the catalog is restored from an older backup, and in the
end made again from the tapes. `make soak SECONDS=3600` is the long one. CAPSTAN_TEST_SEED=N repeats a run's steps.
"""

from __future__ import annotations

import os
import random
import sys

import pytest

from tests.scenario.soak import soak

#: the steps that every run takes are done whatever this is
SECONDS = float(os.environ.get("CAPSTAN_SOAK_SECONDS", "1"))
pytestmark = pytest.mark.timeout(5 * SECONDS + 1200)


def test_whatever_fails_under_load_nothing_is_lost_stuck_doubled_or_leaked(capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("CAPSTAN_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    with capsys.disabled():
        # To stderr: one of several test processes has no other way to the terminal.
        print(f"\n[soak: CAPSTAN_TEST_SEED={seed} CAPSTAN_SOAK_SECONDS={SECONDS:g}]", file=sys.stderr, flush=True)
    soak(SECONDS, seed, say=print)
