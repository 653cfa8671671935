"""The planner of the simulator is production's: told the same, in production's words, it decides the same. Pure.

Beside a simulation a `PictureKeeper` is told, as a tape server tells it, what the catalog would say of the same events:
deltas of counters, rows of mounts, ends, charges. It is recorded as production records itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from catalog.counters import Change
from catalog.situations import SeenEnd, SeenPool, Situation
from catalog.usage import Charge
from tapeserver.picturekeeping import PictureKeeper, Surroundings
from tapeserver.planner import Decision, Policy, Share, VolumeView, plan
from tapeserver.planningrecord import Recorder, replay
from tapeserver.simulator.choice import Choice
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.parts import parts_of
from tapeserver.simulator.planned import ROOM_BYTES, Planned
from tapeserver.simulator.policy import Settings
from tapeserver.simulator.running import geometries_of
from tapeserver.simulator.trace import Trace
from tapeserver.simulator.tracefile import parse_trace, trace_lines
from tapeserver.simulator.waiting import Waiting

DRIVES = 3
#: collects, rests, cuts long passes and shares by use: each within the hours of the trace
POLICIES = {
    "default": Policy(),
    "collecting": Policy(recall_files=20, recall_quiet_seconds=300.0, recall_age_seconds=1800.0),
    "shares": Policy(share_drain_seconds=0.0, mount_seconds_max=900.0, deadline_seconds_max=4 * 3600.0),
}


def farm() -> Trace:
    """A busy farm whose times are whole seconds, as the catalog's sums are; with files to be written."""
    lines = list(trace_lines(generate(KINDS["farm"], seed=11, requests=40, drives=DRIVES, load=1.3)))
    whole = []
    for line in lines:
        told = msgspec.json.decode(line)
        if told["type"] == "request":
            number = len(whole)
            told |= {"time": int(told["time"]), "owner": f"u{number % 5}", "group": f"g{number % 3}"}
        whole.append(msgspec.json.encode(told))
    whole += [
        msgspec.json.encode({"type": "archive", "time": 600 * number, "pool": "pool", "bytes": 10**10})
        for number in range(25)
    ]
    return parse_trace(whole)


class Beside(Planned):
    """The simulator's policy; at each decision it is compared with what production would decide."""

    def __init__(self, trace: Trace, policy: Policy, recorder: Recorder) -> None:
        super().__init__(trace, DRIVES, policy)
        self._recorder = recorder
        self.keeper = PictureKeeper("simulated", policy)
        recorder.write("begun", "simulated", policy)
        self.decided: list[tuple[Decision, Decision]] = []
        self._ends: list[SeenEnd] = []
        self._seen_pools: dict[str, tuple[SeenPool, Sequence[str]]] = {}
        self._archived: dict[str, tuple[int, int]] = {}
        self._requests = parts_of(trace)
        self._trace = trace
        self._look(0.0)
        views = [
            VolumeView(
                name=one.name, state="active", pool=one.pool, medium=one.medium,
                capacity_bytes=one.capacity_bytes, written_bytes=one.written_bytes,
            )
            for one in trace.volumes
        ]  # fmt: skip
        self._surround(volumes=views)

    def _tell(self, name: str, *arguments: object) -> None:
        self._recorder.write(name, *arguments)
        getattr(self.keeper, name)(*arguments)

    def _look(self, now: float) -> None:
        mounts, ends, self._ends = list(self.picture.mounts.values()), self._ends, []
        drives = list(self.picture.drives.values())
        self._tell(
            "see", Situation(now=now, library_state="up", library_reason="", drives=drives, mounts=mounts, ends=ends)
        )

    def _surround(self, *, volumes: Sequence[VolumeView] = (), charges: Sequence[Charge] = ()) -> None:
        seen = Surroundings(
            pools=list(self._seen_pools.values()), media=[], suspects=[], volumes=volumes, charges=charges,
            cache_capacity_bytes=ROOM_BYTES, cache_free_bytes=ROOM_BYTES, cache_file_bytes=ROOM_BYTES,
        )  # fmt: skip
        self._tell("surround", seen)

    def _counted(self, kind: str, key: str, share: Share, cohort: int, files: int, size: int, asked: int) -> None:
        came = (files, size, asked) if files > 0 else (0, 0, 0)
        change = Change(
            kind=kind, key=key, owner=share.owner, group=share.group, activity=share.activity, priority=share.priority,
            cohort=cohort, deltas=1, files=files, bytes=size, urgent=0, asked=asked,
            came_files=came[0], came_bytes=came[1], came_asked=came[2],
        )  # fmt: skip
        self._tell("fold", [change])

    def _part(self, part: int, files: int, size: int) -> None:
        request = self._requests.requests[part]
        key, who = (
            self._trace.volumes[self._requests.volumes[part]].name,
            self._trace.who[self._trace.request_who[request]],
        )
        share = Share(who.owner, who.group, who.activity, who.priority)
        cohort = int(self._cohorts[request])
        self._counted("recall", key, share, cohort, files, size, files * int(self._trace.request_times[request]))

    def wanted(self, part: int, now: float) -> None:
        super().wanted(part, now)
        self._part(part, self._requests.files[part], self._requests.bytes[part])

    def served(self, part: int, files: int, size: int, drive: int, now: float) -> None:
        super().served(part, files, size, drive, now)
        self._part(part, -files, -size)

    def mounts(self, drive: int, volume: int, pool: int, now: float) -> None:
        super().mounts(drive, volume, pool, now)
        name = self._trace.volumes[volume].name
        self._tell("planned", [one for one in self.picture.mounts.values() if one.volume == name])

    def collects(self, pool: int, waiting: Waiting, writable: Sequence[int]) -> None:
        super().collects(pool, waiting, writable)
        name = self._trace.pools[pool]
        need = self.picture.archives.get(name)
        before, waits = self._archived.get(name, (0, 0)), (need.files, need.bytes) if need else (0, 0)
        self._archived[name] = waits
        seen = SeenPool(name=name, volumes_open_max=None, oldest_at=need.oldest_at if need else None)
        self._seen_pools[name] = (seen, list(need.writable) if need else [])
        if need and need.newest_at is not None and waits > before:
            # What has come is taken to have come at the last look.
            self._look(need.newest_at)
        if waits != before:
            self._counted("archive", name, Share("", ""), 0, waits[0] - before[0], waits[1] - before[1], 0)
        self._surround()

    def dismounts(self, drive: int, volume: int, gave_way: bool, now: float) -> None:
        [mount] = [one for one in self.picture.mounts.values() if one.volume == self._trace.volumes[volume].name]
        outcome, read = "stopped: gave way" if gave_way else "done", dict(self._read[drive])
        super().dismounts(drive, volume, gave_way, now)
        files = sum(read.values())
        self._ends.append(
            SeenEnd(epoch=mount.epoch, drive=mount.drive, volume=mount.volume, outcome=outcome, files=files, at=now)
        )
        self._look(now)
        charges = [
            Charge(
                group=self._trace.who[who].group, owner=self._trace.who[who].owner, mounts=some / files,
                drive_seconds=(now - mount.began_at) * some / files,
            )
            for who, some in read.items()
        ]  # fmt: skip
        self._surround(charges=charges)

    def choose(self, waiting: Waiting, free: Sequence[int], now: float) -> Choice:
        self._look(now)
        here, there = plan(self.picture, self.policy, now), plan(self.keeper.picture, self.keeper.policy, now)
        self._recorder.write("decided", now, there)
        self.decided.append((here, there))
        return super().choose(waiting, free, now)


@pytest.mark.parametrize("name", POLICIES)
def test_a_farm_is_planned_alike_by_the_simulator_by_production_and_by_the_replay_of_its_recording(
    name: str, tmp_path: Path
) -> None:
    trace, path = farm(), tmp_path / "record.jsonl"
    recorder = Recorder(path)
    beside = Beside(trace, POLICIES[name], recorder)
    outcome = Simulation(trace, geometries_of(trace), beside, Settings(drives=DRIVES)).run()
    recorder.close()
    assert len(outcome.mounts) > 60
    mounts = [mount for here, _ in beside.decided for mount in here.mounts]
    assert {mount.purpose for mount in mounts} == {"recall", "archive"}
    for here, there in beside.decided:
        assert here == there
    replayed = list(replay(path.read_bytes().splitlines()))
    assert len(replayed) == len(beside.decided)
    assert all(one.same for one in replayed)
