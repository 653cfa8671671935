"""`capstan db backup|restore|journal` on the command line: what it asks for, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from capstan.main import main
from capstan.sitecatalog import highest_segment


@pytest.mark.parametrize("words", [["backup"], ["restore", "x.dump"], ["journal", "--now"]])
def test_it_wants_to_know_which_catalog(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", *words]) == 1
    assert "--data DIR or --config FILE" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["backup", "restore", "journal"])
def test_the_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["db", verb, "--help"])
    assert ended.value.code == 0
    assert f"capstan db {verb} " in capsys.readouterr().out


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "backup", "--data", str(tmp_path / "x")]) == 1
    assert "no such data directory" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_numbers_of_segments_outside_are_found(tmp_path: Path) -> None:
    for name in ("0000000007.jsonl.gz", "0000000012.jsonl.gz.1.new", "x.jsonl.gz", "notes"):
        (tmp_path / name).touch()
    assert highest_segment(tmp_path) == 7
    assert highest_segment(tmp_path / "nowhere") == highest_segment(None) == 0
