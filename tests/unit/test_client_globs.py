"""Promises of client.globs."""

from __future__ import annotations

import pytest

from client.globs import is_glob, matcher, split


@pytest.mark.parametrize(
    ("pattern", "base", "rest"),
    [
        ("/exp/run*/a.dat", "/exp", ["run*", "a.dat"]),
        ("/*", "/", ["*"]),
        ("/exp//a/[12]?.dat", "/exp/a", ["[12]?.dat"]),
        ("/exp/a", "/exp/a", []),
    ],
)
def test_a_pattern_is_listed_from_its_last_sure_directory(pattern: str, base: str, rest: list[str]) -> None:
    assert split(pattern) == (base, rest)
    assert is_glob(pattern) == bool(rest)


def test_a_star_stays_within_a_component_and_leaves_hidden_names_alone() -> None:
    matches = matcher("*.dat")
    assert matches("a.dat")
    assert not matches(".a.dat")
    assert not matches("a.dat.part")
    assert matcher(".*")(".a.dat")


def test_names_are_matched_as_they_are_written() -> None:
    assert not matcher("A*")("a")
    assert matcher("[!a]?")("bc")
