"""The simulator's promises: the same seed gives the same run, each file is read once, no drive does two things."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeserver.drivemodel import Geometry, model_of
from tapeserver.simulator.engine import Simulation
from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.outcome import Outcome
from tapeserver.simulator.peers import PEERS, Peer, PeerSettings
from tapeserver.simulator.policy import Settings, Stuck
from tapeserver.simulator.running import POLICIES, Question, answer
from tapeserver.simulator.stations import Phase
from tapeserver.simulator.trace import Trace
from tapeserver.simulator.tracefile import parse_trace

GB = 10**9
LTO9 = model_of("LTO-9")
VOLUME = '{"type": "volume", "name": "%s", "medium": "LTO-9", "capacity": 18000000000000, "written": 17500000000000}'
HEAD = '{"type": "trace", "version": 1}'


def trace_of(*requests: tuple[float, list[tuple[str, int, int]]], volumes: str = "AB") -> Trace:
    """Requests of (time, files); volumes have one letter."""
    lines = [HEAD]
    lines += [VOLUME % name for name in volumes]
    for at, files in requests:
        shown = ", ".join(f'["{name}", {start}, {size}]' for name, start, size in files)
        lines.append(f'{{"type": "request", "time": {at}, "files": [{shown}]}}')
    return parse_trace(line.encode() for line in lines)


def small(seed: int, requests: int = 120, kind: str = "farm") -> Trace:
    return generate(KINDS[kind], seed=seed, requests=requests, drives=3, load=1.2)


def check(outcome: Outcome, drives: int) -> None:
    """What holds of every run."""
    trace = outcome.trace
    requests = np.repeat(trace.request_times, np.diff(trace.file_offsets))
    assert (outcome.file_done > requests).all()
    busy = defaultdict(list)
    for mount in outcome.mounts:
        busy["drive", mount.drive].append((mount.begins, mount.ends))
        busy["volume", mount.volume].append((mount.begins, mount.ends))
        assert mount.files > 0, "a mount without work"
    for what, times in busy.items():
        times.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times)), what
    assert sum(mount.files for mount in outcome.mounts) == trace.files
    span = (outcome.ended - outcome.began) * drives
    assert sum(outcome.phase_seconds.values()) == pytest.approx(span)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["farm", "interactive"])
def test_every_file_is_read_once_and_no_drive_does_two_things(policy: str, kind: str) -> None:
    outcome = answer(small(1, kind=kind), Question(policy=policy, drives=3))
    check(outcome, 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    first, second = (answer(small(5), Question(policy=policy, drives=3, noise=0.1, seed=9)) for _ in range(2))
    assert np.array_equal(first.file_done, second.file_done)
    assert first.mounts == second.mounts
    assert first.as_json() == second.as_json()


FILES = st.tuples(st.sampled_from("ABCD"), st.integers(0, 17_000), st.integers(0, 50))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 20_000),
            st.lists(FILES, min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from(POLICIES),
    st.integers(1, 3),
)
def test_any_requests_are_served_by_any_policy(
    drawn: list[tuple[float, list[tuple[str, int, int]]]], policy: str, drives: int
) -> None:
    drawn.sort(key=lambda one: one[0])
    requests = [(at, [(name, start * GB, size * GB) for name, start, size in files]) for at, files in drawn]
    check(answer(trace_of(*requests, volumes="ABCD"), Question(policy=policy, drives=drives)), drives)


def test_one_file_in_one_drive_costs_robot_load_locate_and_transfer() -> None:
    outcome = answer(trace_of((100.0, [("A", 0, 4 * GB)])), Question(policy="oldest-first", drives=1))
    gathered = Settings(drives=1).gather_seconds
    assert outcome.request_waits[0] == pytest.approx(gathered + LTO9.robot_seconds + LTO9.load_seconds + 10.0)
    assert outcome.phase_seconds[Phase.TRANSFER] == pytest.approx(10.0)
    unload = Geometry(LTO9).unload_seconds(4 * GB, 4 * GB)
    assert outcome.phase_seconds[Phase.UNLOAD] == pytest.approx(unload)
    assert outcome.ended - outcome.began == pytest.approx(outcome.request_waits[0] + unload)


def test_a_locate_costs_what_the_drive_model_says() -> None:
    outcome = answer(trace_of((0.0, [("A", 9_000 * GB, 0)])), Question(policy="oldest-first", drives=1))
    assert outcome.phase_seconds[Phase.LOCATE] == pytest.approx(Geometry(LTO9).locate_seconds(0, 9_000 * GB))


def test_a_second_volume_waits_for_the_first_to_leave_the_only_drive() -> None:
    trace = trace_of((0.0, [("A", 0, 400 * GB)]), (1.0, [("B", 0, 4 * GB)]))
    outcome = answer(trace, Question(policy="oldest-first", drives=1))
    first, second = outcome.mounts
    assert (first.volume, second.volume) == (0, 1)
    assert second.begins == pytest.approx(first.ends)
    change = Geometry(LTO9).unload_seconds(400 * GB, 400 * GB) + LTO9.robot_seconds + LTO9.load_seconds
    assert outcome.request_done[1] - outcome.request_done[0] == pytest.approx(change + 10.0)


@pytest.mark.parametrize(("drives", "last"), [(1, 0), (2, 1)])
def test_the_way_home_counts_in_a_pass_only_while_no_drive_is_free(drives: int, last: int) -> None:
    """The file that lies near the begin of the tape is read last, when another volume waits for the only drive."""
    trace = trace_of((0.0, [("A", 30 * GB, GB), ("A", 186 * GB, GB)]), (590.0, [("B", 0, GB)]))
    # It waits for ten minutes without arrivals, whatever drives are free: A begins while B still collects.
    outcome = answer(trace, Question(policy="endit-like", drives=drives))
    assert int(outcome.file_done[:2].argmax()) == last


def test_two_drives_work_at_once() -> None:
    trace = trace_of((0.0, [("A", 0, 400 * GB)]), (0.0, [("B", 0, 400 * GB)]))
    outcome = answer(trace, Question(policy="oldest-first", drives=2))
    assert outcome.request_waits[0] == outcome.request_waits[1]


def test_the_same_file_wanted_twice_is_read_once() -> None:
    trace = trace_of((0.0, [("A", 0, 400 * GB)]), (0.0, [("A", 0, 400 * GB)]))
    outcome = answer(trace, Question(policy="oldest-first", drives=1))
    assert outcome.phase_seconds[Phase.TRANSFER] == pytest.approx(1000.0)
    assert outcome.request_waits[0] == outcome.request_waits[1]


def test_what_comes_late_joins_the_running_mount_behind_what_is_handed_out() -> None:
    files = [("A", n * 40 * GB, 40 * GB) for n in range(40)]
    trace = trace_of((0.0, files), (200.0, [("A", 5_000 * GB, GB)]))
    outcome = answer(trace, Question(policy="oldest-first", drives=1))
    assert len(outcome.mounts) == 1
    # 16 files of 100 s are in hand; the late one is wanted by nobody else, and is read with the rest.
    assert outcome.request_done[1] > 16 * 100.0
    assert outcome.mounts[0].files == 41


def test_a_job_has_waited_until_the_last_of_its_requests() -> None:
    lines = [
        HEAD,
        *(VOLUME % name for name in "AB"),
        f'{{"type": "request", "time": 0, "cohort": 5, "files": [["A", 0, {GB}]]}}',
        f'{{"type": "request", "time": 50, "cohort": 5, "files": [["B", 0, {GB}]]}}',
    ]
    outcome = answer(parse_trace(line.encode() for line in lines), Question(policy="oldest-first", drives=1))
    assert outcome.job_waits.tolist() == [outcome.request_done[1]]


def test_an_age_that_never_comes_is_not_waited_for_for_ever() -> None:
    trace = trace_of((0.0, [("A", 0, GB)]))
    never = Peer("cta-like", np.array([0.0, 0.0]), PeerSettings(cta_age_seconds=float("inf")))
    run = Simulation(trace, [Geometry(LTO9)] * 2, never, Settings(drives=1, ask_again_seconds=86_400.0))
    with pytest.raises(Stuck, match="cta-like"):
        run.run()


def test_peers_collect_before_they_mount() -> None:
    trace = trace_of((0.0, [("A", 0, GB)]))
    waits = {name: answer(trace, Question(policy=name, drives=1)).request_waits[0] for name in PEERS}
    assert waits["oldest-first"] < 60
    assert 600 <= waits["endit-like"] < 700
    assert waits["cta-like"] >= PeerSettings().cta_age_seconds
    assert waits["dcache-like"] >= PeerSettings().dcache_expiry_seconds


def test_another_medium_keeps_every_file_within_its_volume() -> None:
    trace = small(2).on_medium("LTO-7", 6_000 * GB)
    assert (trace.file_starts >= 0).all()
    assert (trace.file_starts + trace.file_bytes <= 6_000 * GB).all()
    check(answer(trace, Question(policy="oldest-first", drives=3)), 3)


def test_what_is_to_be_written_is_written_once_and_reads_go_on() -> None:
    lines = [
        HEAD,
        '{"type": "volume", "name": "A", "medium": "LTO-9", "capacity": 18000000000000, "written": 17000000000000}',
        '{"type": "volume", "name": "W", "medium": "LTO-9", "capacity": 1000000000000, "pool": "raw"}',
        '{"type": "volume", "name": "X", "medium": "LTO-9", "capacity": 18000000000000, "pool": "raw"}',
        *(f'{{"type": "archive", "time": {100 * n}, "pool": "raw", "bytes": {300 * GB}}}' for n in range(10)),
        f'{{"type": "request", "time": 200, "files": [["A", {9_000 * GB}, {GB}]]}}',
    ]
    trace = parse_trace(line.encode() for line in lines)
    for policy in POLICIES:
        outcome = answer(trace, Question(policy=policy, drives=2))
        assert (outcome.archive_waits > 0).all(), policy
        assert (outcome.request_waits > 0).all(), policy
        by_volume = [sum(mount.files for mount in outcome.mounts if mount.volume == volume) for volume in range(3)]
        # Three of them fill the small volume.
        assert by_volume == [1, 3, 7], policy
        assert outcome.phase_seconds[Phase.TRANSFER] >= 3_001 * GB / LTO9.native_rate


POOL_VOLUME = VOLUME[:-1] + ', "pool": "raw"}'
READ = '{"type": "request", "time": %s, "files": [["%s", 0, %d]]}'
WRITE = '{"type": "archive", "time": %s, "pool": "raw", "bytes": 1000000000}'


def test_a_volume_that_is_wanted_to_be_read_and_by_its_pool_at_once_is_read_and_the_pool_takes_another() -> None:
    lines = [HEAD, *(POOL_VOLUME % name for name in "AB"), WRITE % 0.0, READ % (0.5, "A", GB)]
    outcome = answer(parse_trace(line.encode() for line in lines), Question(policy="oldest-first", drives=2))
    assert {mount.volume for mount in outcome.mounts} == {0, 1}


def test_a_pool_whose_only_volume_was_being_read_when_its_files_came_is_written_when_that_is_out() -> None:
    lines = [HEAD, POOL_VOLUME % "A", READ % (0.0, "A", 400 * GB), WRITE % 500.0]
    outcome = answer(parse_trace(line.encode() for line in lines), Question(policy="capstan", drives=2))
    assert np.isfinite(outcome.archive_done).all()


def test_a_trace_of_nothing_is_a_run_of_nothing() -> None:
    outcome = answer(trace_of(), Question(policy="capstan", drives=2))
    assert outcome.as_json()["job_waits"]["mean_seconds"] == 0.0
    assert outcome.mounts == []


def test_a_pool_without_room_is_said() -> None:
    lines = [HEAD, VOLUME % "A", f'{{"type": "archive", "time": 1, "pool": "raw", "bytes": {GB}}}']
    for policy in ("oldest-first", "capstan"):
        with pytest.raises(Stuck, match="1 files wait for pool 'raw', none of whose volumes has room"):
            answer(parse_trace(line.encode() for line in lines), Question(policy=policy, drives=1))
