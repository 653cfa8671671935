"""The event loop: a trace, drives and a policy in virtual time. Deterministic: no clock, one generator by seed.

Requests wait for their volumes; whenever a drive is free and something changed, the policy is asked; a mount takes all
that waits for its volume, and what arrives meanwhile joins behind the files already handed out. Failures of drives and
volumes, the cache's room and the changer's queue are not simulated (docs/simulator.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapeserver.drivemodel import Geometry
from tapeserver.simulator.agenda import Agenda, Event
from tapeserver.simulator.outcome import Outcome
from tapeserver.simulator.parts import Parts, has_repeats, parts_of
from tapeserver.simulator.passes import Reader
from tapeserver.simulator.policy import Listener, Policy, Settings, Stuck
from tapeserver.simulator.stations import FREE_STATES, MountRecord, Phase, State, Station
from tapeserver.simulator.trace import Floats, Integers, Trace
from tapeserver.simulator.waiting import Waiting
from tapeserver.simulator.writing import Writing

LOADED, JOIN, DONE, UNLOADED, KEPT_LONG, LONG, ASK = range(7)


class Simulation:
    """One run; `run` may be called once."""

    def __init__(
        self, trace: Trace, geometries: Sequence[Geometry], policy: Policy, settings: Settings, *, seed: int = 0
    ) -> None:
        """`geometries`: one a volume."""
        self.trace, self.geometries, self.policy, self.settings = trace, geometries, policy, settings
        self.parts: Parts = parts_of(trace)
        self.waiting = Waiting(len(trace.volumes), len(trace.pools))
        self.writing = Writing(trace)
        self.stations = [Station(number) for number in range(settings.drives)]
        self.mounts: list[MountRecord] = []
        self.decisions = 0
        self._listener = policy if isinstance(policy, Listener) else Listener()
        self._listens = isinstance(policy, Listener)
        draw = np.random.default_rng(seed)
        self._reader = Reader(trace.file_starts, trace.file_bytes, draw, settings.noise, has_repeats(trace))
        self._queues: list[list[int]] = [[] for _ in trace.volumes]
        #: rows that a mount gave back before it read them
        self._left: dict[int, Integers] = {}
        self._station_of = [-1] * len(trace.volumes)
        #: of the trace's files, and behind them of its archives
        self._sizes = np.concatenate([trace.file_bytes, trace.archive_bytes])
        self._done: Floats = np.full(len(self._sizes), np.nan)
        #: by pool: the drive that writes it
        self._writer = [-1] * len(trace.pools)
        self._agenda = Agenda()
        self._expected: list[tuple[int, float]] = []
        self._expected_archives: list[tuple[int, float]] = []
        self._asks, self._asks_at = False, np.inf
        self._free = settings.drives
        #: mounts that have lasted long
        self._long = 0
        self._handlers = {
            LOADED: self._loaded,
            JOIN: self._join,
            DONE: self._finish,
            UNLOADED: self._unloaded,
            KEPT_LONG: self._unload,
        }

    def run(self) -> Outcome:
        all_times = np.concatenate([self.trace.request_times, self.trace.archive_times])
        arrivals = np.argsort(all_times, kind="stable").tolist()
        times, requests = np.sort(all_times).tolist(), self.trace.requests
        arrived, number = 0, len(times)
        now = began = times[0] if times else 0.0
        for station in self.stations:
            station.kept_since = began
        while True:
            if arrived < number and times[arrived] <= self._agenda.next_at:
                now = times[arrived]
                if arrivals[arrived] < requests:
                    self._arrive(arrivals[arrived], now)
                else:
                    self._arrive_archive(arrivals[arrived] - requests, now)
                arrived += 1
            elif self._agenda:
                event = self._agenda.pop()
                now = event.at
                self._happen(event)
            elif self.waiting.files.any():
                raise Stuck(f"{self.writing.what_waits(self.waiting)}, and {self.policy.name} mounts nothing")
            else:
                break
            if self._asks and (self._free or self._long):
                self._decide(now)
            if arrived == number and number and now > times[-1] + self.settings.stuck_seconds:
                raise Stuck(
                    f"{self.writing.what_waits(self.waiting)}, long after all has come, under {self.policy.name}"
                )
        # Not the last event: that may be one that was void when it came.
        return self._outcome(began, max([began, *times[-1:], *(mount.ends for mount in self.mounts)]))

    def _happen(self, event: Event) -> None:
        now, _, kind, number, turn = event
        if kind == ASK:
            if now >= self._asks_at:
                self._asks, self._asks_at = True, np.inf
            return
        station = self.stations[number]
        if kind == LONG:
            self._grew_long(station, now, mount=turn)
        elif turn == station.turn:
            self._handlers[kind](station, now)

    def _arrive(self, request: int, now: float) -> None:
        parts = self.parts
        for part in range(parts.offsets[request], parts.offsets[request + 1]):
            volume = parts.volumes[part]
            self._queues[volume].append(part)
            self.waiting.add(volume, parts.files[part], parts.bytes[part], now)
            if self._listens:
                self._listener.wanted(part, now)
            number = self._station_of[volume]
            if number < 0:
                self._ask_soon(now)
                continue
            station = self.stations[number]
            if station.state is State.KEPT:
                self._resume(station, now)
            elif station.state is State.WORKING and not station.joins:
                self._join_later(station, now)
        every = self.settings.estimate_every
        if every and request % every == 0:
            self._expected.append((request, self._listener.expected(request, now)))

    def _arrive_archive(self, archive: int, now: float) -> None:
        pool = self.writing.pools[archive]
        self.writing.queues[pool].append(archive)
        self.waiting.add(len(self.trace.volumes) + pool, 1, self.writing.size(archive), now)
        self._tell_pool(pool)
        number = self._writer[pool]
        if number < 0:
            self._ask_soon(now)
        elif self.stations[number].state is State.KEPT:
            self._resume(self.stations[number], now)
        every = self.settings.estimate_every
        if every and archive % every == 0:
            self._expected_archives.append((archive, self._listener.expected_archive(pool, now)))

    def _tell_pool(self, pool: int) -> None:
        if self.writing.is_hopeless(pool):
            raise Stuck(self.writing.what_waits(self.waiting))
        if self._listens:
            self._listener.collects(pool, self.waiting, self.writing.writable(pool, self._station_of))

    def _resume(self, station: Station, now: float) -> None:
        self._listener.resumes(station.number, station.volume, now)
        self._free += station.move(State.WORKING, now)
        self._work(station, now)

    def _ask_soon(self, now: float) -> None:
        if self._free:
            self._ask_at(now + self.settings.gather_seconds)
        elif self._long:
            self._ask_at(now + self.settings.ask_again_seconds)

    def _ask_at(self, at: float) -> None:
        if at < self._asks_at:
            self._asks_at = at
            self._agenda.add(at, ASK)

    def _next(self, station: Station, at: float, kind: int) -> None:
        """The one thing that comes next for a drive; what was to come is void."""
        station.turn += 1
        self._agenda.add(at, kind, station.number, station.turn)

    # --- deciding

    def _decide(self, now: float) -> None:
        self._asks = False
        if not self.waiting.elsewhere:
            # Nothing waits outside of the drives; what is kept for long leaves by itself.
            return
        free = [station.number for station in self.stations if station.state in FREE_STATES]
        # An empty drive is taken before one whose volume may be wanted again; of those the one that waits longest.
        free.sort(key=lambda n: (self.stations[n].state is State.KEPT, self.stations[n].kept_since, n))
        if self._listens:
            for station in self.stations:
                if station.work is not None:
                    self._tell(station, station.work.done(now), now)
        self.decisions += 1
        choice = self.policy.choose(self.waiting, free, now)
        for number in choice.give_way:
            self._give_way(self.stations[number], now)
        # What is to be read first: a pool can do with another volume.
        for number, need in sorted(choice.mounts, key=lambda one: one[1] >= len(self.trace.volumes)):
            self._mount(self.stations[number], need, now)
        if self._free and self.waiting.files.any():
            self._ask_at(now + self.settings.ask_again_seconds)

    def _mount(self, station: Station, need: int, now: float) -> None:
        volume, pool = need, need - len(self.trace.volumes)
        if pool >= 0:
            if not (writable := self.writing.writable(pool, self._station_of)):
                return
            volume = writable[0]
            self._writer[pool] = station.number
            self.waiting.mounted[need] = True
        if not station.free or self._station_of[volume] >= 0:
            raise ValueError(f"{self.policy.name} mounts volume {volume} in drive {station.number}: one is in use")
        self._station_of[volume] = station.number
        self.waiting.mounted[volume] = True
        self._listener.mounts(station.number, volume, max(pool, -1), now)
        station.next_volume, station.next_pool = volume, max(pool, -1)
        if station.state is State.KEPT:
            self._unload(station, now)
        else:
            self._load(station, now)

    def _give_way(self, station: Station, now: float) -> None:
        """It stops behind what is handed out; an idle one at once."""
        if station.state is State.KEPT:
            self._unload(station, now)
        elif station.state is State.WORKING and not station.stops:
            station.stops = True
            if not station.joins:
                self._join_later(station, now)

    def _grew_long(self, station: Station, now: float, *, mount: int) -> None:
        if station.mount == mount and station.volume >= 0:
            station.long = True
            self._long += 1
            self._asks = True

    # --- one mount

    def _load(self, station: Station, now: float) -> None:
        geometry = self.geometries[station.next_volume]
        self._free += station.move(State.LOADING, now)
        station.volume, station.next_volume = station.next_volume, -1
        station.pool, station.next_pool = station.next_pool, -1
        station.head = station.moved = station.files = 0
        station.mounted_at = now
        station.mount += 1
        if self.policy.long_mount_seconds < np.inf:
            self._agenda.add(now + self.policy.long_mount_seconds, LONG, station.number, station.mount)
        seconds = geometry.ready_seconds()
        station.seconds[Phase.LOAD] += seconds
        self._next(station, now + seconds, LOADED)

    def _loaded(self, station: Station, now: float) -> None:
        self._free += station.move(State.WORKING, now)
        self._work(station, now)

    def _take(self, volume: int) -> Integers:
        """The rows of all that waits for a volume; they wait no longer."""
        parts = self.parts
        rows = [parts.rows[parts.firsts[part] : parts.lasts[part]] for part in self._queues[volume]]
        self._queues[volume] = []
        left = self._left.pop(volume, None)
        if left is not None:
            rows.append(left)
        self.waiting.clear(volume)
        return np.concatenate(rows) if len(rows) != 1 else rows[0]

    def _work(self, station: Station, now: float) -> None:
        """All that waits for the mounted volume is read from here on, then what is to be written on it."""
        if self._queues[station.volume] or station.volume in self._left:
            self._begin(station, self._take(station.volume), now)
        elif station.pool >= 0 and self.writing.queues[station.pool]:
            self._write(station, now)
        else:
            self._free += station.move(State.KEPT, now)
            self._listener.kept(station.number, station.volume, now)
            self._next(station, now + self.policy.keep_seconds, KEPT_LONG)
            self._asks = True

    def _write(self, station: Station, now: float) -> None:
        archives = self.writing.take(station.pool, station.volume)
        if not archives:
            # Full: another volume of the pool is next.
            self._unload(station, now)
            return
        queue, size = self.writing.queues[station.pool], sum(map(self.writing.size, archives))
        oldest = self.writing.times[queue[0]] if queue else np.inf
        self.waiting.take(len(self.trace.volumes) + station.pool, len(archives), size, oldest)
        self._tell_pool(station.pool)
        station.work = self.writing.write(self.geometries[station.volume], archives, station.volume, station.head, now)
        station.joins = False
        self._listener.writes(station.volume, len(archives), size, now, float(station.work.ends[-1]))
        self._next(station, float(station.work.ends[-1]), DONE)

    def _begin(self, station: Station, rows: Integers, now: float) -> None:
        home = not self._free and self.waiting.elsewhere
        station.work = self._reader.read(self.geometries[station.volume], rows, station.head, now, home=home)
        station.joins = False
        self._next(station, float(station.work.ends[-1]), DONE)

    def _join_later(self, station: Station, now: float) -> None:
        """Late arrivals join behind what is handed out; if that is all there is, at its end by themselves."""
        work = station.work
        assert work is not None
        if work.writes:
            return
        step = self.settings.handed_out_files
        last = -(-work.begun(now) // step) * step
        if last < len(work.rows):
            station.joins = True
            self._next(station, float(work.ends[last - 1]), JOIN)

    def _join(self, station: Station, now: float) -> None:
        """Everything not handed out is ordered anew with what came since."""
        rest = self._cut(station, now)
        if station.stops:
            self._give_back(station.volume, rest)
            self._unload(station, now)
            return
        self._begin(station, np.concatenate([rest, self._take(station.volume)]), now)

    def _give_back(self, volume: int, rows: Integers) -> None:
        """What a mount that gave way has not read waits again."""
        self._left[volume] = rows
        requests = [self.parts.requests[part] for part in np.unique(self.parts.of_file[rows]).tolist()]
        times = self.trace.request_times[requests]
        self.waiting.add(volume, len(rows), int(self.trace.file_bytes[rows].sum()), float(times.min()))

    def _cut(self, station: Station, now: float) -> Integers:
        """Ends the pass where it is now, at the end of a file; the rows that were not read."""
        work = station.work
        assert work is not None
        done = work.done(now)
        self._tell(station, done, now)
        locate = float(work.locates[:done].sum())
        station.seconds[Phase.LOCATE] += locate
        station.seconds[Phase.TRANSFER] += now - work.begins - locate
        station.head = int(work.heads[done - 1])
        station.moved += int(self._sizes[work.rows[:done]].sum())
        station.work = None
        return work.rows[done:]

    def _tell(self, station: Station, done: int, now: float) -> None:
        """What is done up to now is known."""
        work = station.work
        assert work is not None
        if done == work.told:
            return
        rows = work.rows[work.told : done]
        self._done[rows] = work.ends[work.told : done]
        station.files += done - work.told
        work.told = done
        if self._listens and not work.writes:
            for part, files, size in self.parts.share_out(rows, self.trace.file_bytes):
                self._listener.served(part, files, size, station.number, now)

    def _finish(self, station: Station, now: float) -> None:
        self._cut(station, now)
        if station.stops:
            self._unload(station, now)
        else:
            self._work(station, now)

    def _unload(self, station: Station, now: float) -> None:
        self._free += station.move(State.UNLOADING, now)
        seconds = self.geometries[station.volume].unload_seconds(station.moved, station.head)
        station.seconds[Phase.UNLOAD] += seconds
        self._next(station, now + seconds, UNLOADED)

    def _unloaded(self, station: Station, now: float) -> None:
        volume = station.volume
        self.mounts.append(MountRecord(station.number, volume, station.mounted_at, now, station.files))
        self._station_of[volume] = -1
        self.waiting.mounted[volume] = False
        self.waiting.ended[volume] = now
        self._listener.dismounts(station.number, volume, station.stops, now)
        self._long -= station.long
        if station.pool >= 0:
            need = len(self.trace.volumes) + station.pool
            self._writer[station.pool], self.waiting.mounted[need], self.waiting.ended[need] = -1, False, now
        if (pool := self.writing.pool_of[volume]) >= 0 and self.writing.queues[pool]:
            self._tell_pool(pool)
        station.volume = station.pool = -1
        station.stops = station.long = station.joins = False
        self._asks = True
        self._free += station.move(State.EMPTY, now)
        if station.next_volume >= 0:
            self._load(station, now)

    def _outcome(self, began: float, ended: float) -> Outcome:
        for station in self.stations:
            self._free += station.move(station.state, ended)
        return Outcome(
            policy=self.policy.name, trace=self.trace, began=began, ended=ended,
            file_done=self._done[: self.trace.files],
            archive_done=self._done[self.trace.files :],
            mounts=self.mounts,
            seconds=[station.seconds for station in self.stations],
            decisions=self.decisions,
            expected=self._expected,
            expected_archives=self._expected_archives,
        )  # fmt: skip
