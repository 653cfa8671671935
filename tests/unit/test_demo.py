"""The demo's own arithmetic: what it expects of its jobs must be what standard tools compute."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from capstan.demo.checks import Checks, adler32_of, same_bytes
from capstan.demo.jobs import DemoJob, Work, twelve
from capstan.demo.screen import View, summary
from capstan.demo.tree import LARGE_BYTES_MAX, LARGE_BYTES_MIN, Original, Tree, large_bytes
from catalog.units import GB, MB


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    files = []
    for name in ("a.py", "a/x.py", "a-b/x.py", "B/é.py", "a/empty.py", "a/deeper/y.py"):
        source = tmp_path / "one" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        text = "" if "empty" in name else f"def {name}():\n    undefined = def_ = 1  # def\r\n\x0cno end of line: def"
        source.write_bytes(text.encode())
        files.append(Original(source=source, path=f"/demo/one/{name}", size=source.stat().st_size, storage_class="one"))
    random.Random(1).shuffle(files)
    return Tree(root=tmp_path, files=tuple(files))


@pytest.mark.parametrize("work", [Work.LINES, Work.SHA256, Work.FUNCTIONS])
def test_what_is_expected_of_a_job_is_what_the_shell_computes(tree: Tree, tmp_path: Path, work: Work) -> None:
    job = DemoJob(name="any", work=work, patterns=("/demo/one/*.py", "/demo/one/*/*"), storage_class="one")
    inputs = job.inputs(tree)
    assert len(inputs) == 5
    listed = tmp_path / "list"
    random.Random(2).shuffle(inputs)
    listed.write_text("".join(f"{file.path}\t{file.source}\n" for file in inputs))
    done = subprocess.run(
        job.argv, env=os.environ | {"CAPSTAN_INPUT_LIST": str(listed)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == job.expected(tree)


def test_the_two_halves_of_the_jobs_share_no_input_and_each_half_has_jobs_of_both_classes() -> None:
    first, second = twelve("/demo")
    assert len(first) + len(second) == 12
    patterns = [pattern for job in first + second for pattern in job.patterns]
    assert len(set(patterns)) == len(patterns)
    for half in (first, second):
        assert {job.storage_class for job in half} == {"one", "two"}
    assert all(f"/{job.storage_class}/" in pattern for job in first + second for pattern in job.patterns)


def test_the_large_files_shrink_when_space_is_short_and_do_not_vanish() -> None:
    assert large_bytes(100 * GB) == LARGE_BYTES_MAX
    assert LARGE_BYTES_MIN < large_bytes(5 * GB) < LARGE_BYTES_MAX
    assert large_bytes(1 * GB) == LARGE_BYTES_MIN


def test_a_claim_that_does_not_hold_spoils_the_whole_and_shows_what_was_seen() -> None:
    checks = Checks()
    assert not checks.good
    checks.claim(True, "it is so")
    assert checks.good
    checks.claim_none([f"/f{number}" for number in range(7)], "all are there")
    assert not checks.good
    assert checks.broken == ["all are there: NOT SO: /f0; /f1; /f2; /f3; /f4 and 2 more"]


def test_checksum_and_comparison_see_a_single_changed_byte(tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    left.write_bytes(b"Wikipedia")
    right.write_bytes(b"Wikipedis")
    assert adler32_of(left) == "11e60398"
    assert not same_bytes(left, right)
    assert same_bytes(left, left)


def test_the_line_for_a_pipe_counts_jobs_by_state_and_names_what_is_mounted_and_down() -> None:
    view = View(
        queue={
            "mounts": [{"drive": "east-1", "purpose": "recall", "volume": "E00001"}],
            "drives": [{"name": "west-1", "state": "down"}, {"name": "east-1", "state": "up"}],
            "recalls": [{"files": 1200, "bytes": 5 * MB}],
        },
        jobs=[{"state": "held"}, {"state": "held"}, {"state": "done"}],
    )
    assert summary(view) == (
        "drives: east-1 recall E00001, west-1 down; queue: 0 to write, 1,200 to read; jobs: 1 done, 2 held"
    )
