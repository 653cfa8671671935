"""`capstan simulate`: what it prints, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from capstan.main import main
from tapeserver.simulator.chart import chart
from tapeserver.simulator.report import Run
from tapeserver.simulator.running import Question, answer
from tapeserver.simulator.tracefile import parse_trace

SMALL = ["simulate", "--generate", "farm", "--requests", "40", "--drives", "2"]


def test_runs_stand_beside_each_other_in_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--policy", "oldest-first,cta-like", "--media", "LTO-8,LTO-9", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in document["runs"]] == [
        "oldest-first, LTO-8", "cta-like, LTO-8", "oldest-first, LTO-9", "cta-like, LTO-9",
    ]  # fmt: skip
    assert document["trace"]["requests"] == 40
    assert set(document["runs"][0]["drive_seconds"]) == {"load", "locate", "transfer", "unload", "idle"}


def test_a_table_and_a_chart_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "chart.svg"
    assert main([*SMALL, "--policy", "oldest-first", "--svg", str(chart)]) == 0
    assert "oldest-first" in capsys.readouterr().out
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")


def test_how_far_expected_times_were_off_is_told_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--estimates", "2"]) == 0
    assert "expected: off by" in capsys.readouterr().out
    assert main([*SMALL, "--estimates", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["estimates"]["samples"] == 20
    assert main([*SMALL]) == 0
    assert "expected" not in capsys.readouterr().out


def test_a_saved_trace_gives_the_same_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl.gz"
    assert main([*SMALL, "--policy", "oldest-first", "--save-trace", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["runs"]
    assert main(["simulate", "--trace", str(path), "--drives", "2", "--policy", "oldest-first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == made


def test_a_bad_trace_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"type": "trace", "version": 1}\nrubbish\n')
    assert main(["simulate", "--trace", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bad.jsonl: line 2: " in error


def test_a_medium_of_the_trace_that_is_not_known_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(
        '{"type": "trace", "version": 1}\n{"type": "volume", "name": "A", "medium": "wax", "capacity": 5}\n'
        '{"type": "request", "time": 0, "files": [["A", 0, 1]]}\n'
    )
    assert main(["simulate", "--trace", str(path)]) == 2
    assert "--media" in capsys.readouterr().err
    assert main(["simulate", "--trace", str(path), "--media", "LTO-9"]) == 0


def test_a_trace_that_cannot_come_to_an_end_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace"
    path.write_text(
        '{"type": "trace", "version": 1}\n'
        '{"type": "volume", "name": "A", "medium": "LTO-9", "capacity": 1000, "written": 900, "pool": "raw"}\n'
        '{"type": "archive", "time": 0, "pool": "raw", "bytes": 500}\n'
    )
    assert main(["simulate", "--trace", str(path), "--drives", "1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "1 files wait for pool 'raw', none of whose volumes has room" in line


def test_a_refusal_is_one_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("rubbish\n")
    assert main(["simulate", "--trace", str(path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "bad_trace"
    assert "line 1" in document["error"]["detail"]


def test_how_long_files_waited_to_be_written_is_told_of_traces_that_have_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    path.write_text(
        '{"type": "trace", "version": 1}\n'
        '{"type": "volume", "name": "A", "medium": "LTO-9", "capacity": 18000000000000, "pool": "raw"}\n'
        '{"type": "archive", "time": 0, "pool": "raw", "bytes": 500}\n'
    )
    assert main(["simulate", "--trace", str(path), "--drives", "1"]) == 0
    title, heading, _ = capsys.readouterr().out.splitlines()
    assert title == "1 file to be written in 0.0 s, 1 drive"
    assert "archive: mean" in heading
    assert main(SMALL) == 0
    assert "archive" not in capsys.readouterr().out


def test_a_place_for_the_chart_that_is_not_there_is_said_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("tapeserver.simulator.running.answer", never)
    assert main([*SMALL, "--svg", str(tmp_path / "none" / "chart.svg")]) == 4
    assert "none/chart.svg: No such file" in capsys.readouterr().err


def test_runs_with_long_names_are_told_apart_in_the_chart() -> None:
    question = Question(policy="oldest-first", drives=1)
    nothing = answer(parse_trace([b'{"type": "trace", "version": 1}']), question)
    labels = [f"dcache-like, 10 drives, LTO-9-HH, quiet 10 min, deadline {hours} h" for hours in (4, 8)]
    drawn = chart([Run(label=one, question=question, outcome=nothing) for one in labels], "two runs")
    texts = [found.text for found in ElementTree.fromstring(drawn).iter() if found.tag.endswith("text")]
    assert set(labels) <= set(texts)


def test_a_trace_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", str(tmp_path / "none.jsonl")]) in (1, 4)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--generate", "farm", "--trace", "x"],
        ["--generate", "barn"],
        ["--generate", "farm", "--policy", "best"],
        ["--generate", "farm", "--media", "wax"],
        ["--generate", "farm", "--drives", "0"],
        ["--generate", "farm", "--drives", ","],
        ["--generate", "farm", "--quiet-time", "soon"],
        ["--generate", "farm", "--noise", "nan"],
        ["--generate", "farm", "--drives", ",".join(map(str, range(1, 70)))],
        ["--trace", "x", "--save-trace", "y"],
        ["--trace", "x", "--requests", "5"],
        ["--trace", "x", "--load", "0.5"],
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *words])
    assert ended.value.code == 2
    assert "capstan simulate: error: " in capsys.readouterr().err


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--help"])
    assert ended.value.code == 0
    assert "capstan simulate --generate farm" in capsys.readouterr().out
