"""The twelve jobs of the demo: what each reads, what it runs, and what must come out, worked out from the originals.

A job runs standard tools over its staged inputs; the expected result is computed here, in Python, from the files as
they were before they were put. Nothing here speaks to the site.
"""

from __future__ import annotations

import enum
import fnmatch
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from capstan.demo.tree import Original, Tree

_CHUNK_BYTES = 1 << 20
_WORD = re.compile(rb"(?<![A-Za-z0-9_])def(?![A-Za-z0-9_])")
_IN_ORDER = "LC_ALL=C sort \"$CAPSTAN_INPUT_LIST\" | cut -f2 | tr '\\n' '\\0' | xargs -0 cat"


class Work(enum.Enum):
    """What a job computes, as the shell line it runs."""

    #: lines of all inputs, read in place from the cache's disk
    LINES = f"{_IN_ORDER} | wc -l"
    #: sha256 of all inputs, one after the other in the order of their names
    SHA256 = f"{_IN_ORDER} | sha256sum | cut -c1-64"
    #: how often the word `def` is there
    FUNCTIONS = f"{_IN_ORDER} | LC_ALL=C grep -a -o -w def | wc -l"
    #: sha256 as above, of files that the job fetched itself: what a job does on a host without the cache's disk
    FETCHED = (
        'set -e; mkdir w; tget --list "$CAPSTAN_INPUT_LIST" w >&2; export LC_ALL=C; cat w/* | sha256sum | cut -c1-64'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoJob:
    name: str
    work: Work
    patterns: tuple[str, ...]
    storage_class: str

    @property
    def argv(self) -> tuple[str, ...]:
        return ("sh", "-c", self.work.value)

    def inputs(self, tree: Tree) -> list[Original]:
        """What its patterns match, in the order of names; a `*` does not reach into directories."""
        matched = [file for file in tree.files if any(_matches(file.path, pattern) for pattern in self.patterns)]
        return sorted(matched, key=lambda file: file.path.encode())

    def expected(self, tree: Tree) -> str:
        """The one line it must print."""
        inputs = self.inputs(tree)
        if self.work is Work.LINES:
            return str(sum(chunk.count(b"\n") for chunk in _chunks(inputs)))
        if self.work is Work.FUNCTIONS:
            # Small inputs alone: joined in memory, for a word may lie across the border of two files.
            return str(len(_WORD.findall(b"".join(_chunks(inputs)))))
        digest = hashlib.sha256()
        for chunk in _chunks(inputs):
            digest.update(chunk)
        return digest.hexdigest()


def twelve(namespace: str) -> tuple[tuple[DemoJob, ...], tuple[DemoJob, ...]]:
    """The jobs that are submitted first, and those that are submitted when the library goes down.

    No input of the second half is one of the first: nothing of it is on disk before.
    """

    def job(name: str, work: Work, storage_class: str, *patterns: str) -> DemoJob:
        full = tuple(f"{namespace}/{storage_class}/{pattern}" for pattern in patterns)
        return DemoJob(name=name, work=work, patterns=full, storage_class=storage_class)

    first = (
        job("orbit-lines", Work.LINES, "two", "large/orbit.dat"),
        job("asyncio-functions", Work.FUNCTIONS, "two", "asyncio/*", "json/*"),
        job("email-sum", Work.SHA256, "two", "email/*", "http/*"),
        job("track-sum", Work.SHA256, "one", "large/track.dat"),
        job("modules-lines", Work.LINES, "one", "*.py"),
        job("importlib-fetched", Work.FETCHED, "one", "importlib/*"),
    )
    second = (
        job("spectrum-sum", Work.SHA256, "two", "large/spectrum.dat"),
        job("encodings-lines", Work.LINES, "two", "encodings/*"),
        job("logging-fetched", Work.FETCHED, "two", "logging/*"),
        job("beam-lines", Work.LINES, "one", "large/beam.dat"),
        job("process-functions", Work.FUNCTIONS, "one", "multiprocessing/*", "concurrent/futures/*"),
        job("zoneinfo-sum", Work.SHA256, "one", "zoneinfo/*", "tomllib/*", "re/*"),
    )
    return first, second


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _chunks(files: list[Original]) -> Iterator[bytes]:
    for file in files:
        with file.source.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
