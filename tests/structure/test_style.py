"""The style rules that a machine can check: sizes, docstrings, words that must not stand in the project."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("catalog", "tapeserver", "cacheserver", "jobserver", "client", "capstan")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

#: Spelt so that this file does not hold them.
BANNED = {
    "left for later": re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b"),
    "a path of one machine": re.compile(r"(?:^|[\s\"'`(=:])/(?:wor[k]|far[m]|tmp/brie[f])/"),
    "a package registry's host": re.compile(r"py[p]i\.org|python[h]osted|registry\.npm[j]s|deb\.debia[n]"),
}
TEXT_SUFFIXES = {".py", ".sql", ".md", ".toml", ".mako", ".yaml", ".yml", ".html", ".xml", ".sh", ".service", ""}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def project_files() -> list[Path]:
    """The files of the project as git sees them: those in it, and new ones that are not ignored."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not there, or this is no checkout: apt-get install git")
    found = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in found if path.is_file() and path.suffix in TEXT_SUFFIXES]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_a_module_fits_in_the_head() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules()
        if (lines := len(path.read_text("utf-8").splitlines())) > MODULE_LINES_MAX
    }
    assert long == {}


def test_a_function_fits_on_a_page() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": lines
        for path in modules()
        for function in functions(ast.parse(path.read_text("utf-8")))
        if (lines := (function.end_lineno or function.lineno) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


@pytest.mark.parametrize("what", BANNED)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if BANNED[what].search(line)
    ]
    assert found == []
