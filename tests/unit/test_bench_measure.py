"""How benchmarks judge and repeat."""

from __future__ import annotations

import os
import time

import pytest

from bench.measure import PAIRS_MIN, Row, cpu_seconds, interleaved


def test_a_ratio_target_is_met_by_the_ratio_and_not_by_the_value() -> None:
    row = Row(name="get", value=3.0, unit="GB/s", peer=4.0, at_least=0.75)
    assert row.as_json() == {
        "name": "get", "value": 3.0, "unit": "GB/s", "peer": 4.0, "ratio": 0.75, "target": "ratio >= 0.75", "met": True,
        "note": "",
    }  # fmt: skip
    assert Row(name="get", value=2.9, unit="GB/s", peer=4.0, at_least=0.75).met is False


def test_a_row_whose_peer_is_missing_is_only_reported() -> None:
    row = Row(name="get", value=3.0, unit="GB/s", at_least=0.75).as_json()
    assert (row["peer"], row["ratio"], row["target"], row["met"]) == (None, None, None, None)


def test_a_value_target_needs_no_peer() -> None:
    row = Row(name="release", value=0.4, unit="s", of="value", at_most=1.0)
    assert (row.target, row.met) == ("value <= 1", True)
    assert Row(name="release", value=1.4, unit="s", of="value", at_most=1.0).met is False


def test_a_row_without_a_target_is_only_reported() -> None:
    row = Row(name="small", value=700.0, unit="files/s", peer=900.0).as_json()
    assert (row["target"], row["met"], row["ratio"]) == (None, None, 0.7778)


def test_rounds_alternate_and_the_warming_up_does_not_count() -> None:
    calls: list[str] = []

    def measured(who: str, number: int) -> float:
        calls.append(f"{who}{number}")
        return float(number)

    pairs = interleaved(
        lambda number: measured("o", number), lambda number: measured("p", number), rounds=3, budget_seconds=60
    )
    assert calls == ["o0", "p0", "o1", "p1", "p2", "o2", "o3", "p3"]
    assert (pairs.ours, pairs.value, pairs.peer) == ([1.0, 2.0, 3.0], 2.0, 2.0)
    assert pairs.note.startswith("3 pairs, ")


def test_without_time_only_the_least_number_of_pairs_is_run_and_the_row_says_so() -> None:
    pairs = interleaved(lambda number: time.sleep(0.001) or 1.0, lambda number: 1.0, rounds=9, budget_seconds=0.0)
    assert len(pairs.ours) == len(pairs.peers) == PAIRS_MIN
    assert "3 pairs of 9: out of time" in pairs.note


def test_processor_time_of_a_process_is_what_the_process_itself_sees() -> None:
    assert cpu_seconds([os.getpid()]) == pytest.approx(time.process_time(), abs=0.05)
    assert cpu_seconds([2**22 - 1]) == 0.0
