"""The demo, act by act: put, tape, drop, held jobs, a library down and up again, everything read back and compared.

Every step is a command that a user or an operator types. What it shows meanwhile is in screen.py, what it claims in
checks.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capstan.demo.checks import Checks, JobLine, adler32_of, same_bytes
from capstan.demo.jobs import DemoJob, twelve
from capstan.demo.screen import Screen
from capstan.demo.site import Site, SiteError
from capstan.demo.tree import Original, Tree, make_tree
from catalog.units import MB

NAMESPACE = "/demo"
REASON = "cleaning the robot's camera"
WAIT_SECONDS_MAX = 240.0
#: the job server looks at libraries every few seconds
REASON_SECONDS_MAX = 15.0
DOWN_SECONDS_MIN = 6.0
_LOOK_SECONDS = 0.25
_ENDED = frozenset({"done", "failed", "cancelled"})
_WHEREIS_MAX = 10_000


@dataclass(slots=True)
class Submitted:
    """A job of the demo under its number; what must come out, and where its inputs lie."""

    number: int
    job: DemoJob
    inputs: list[Original]
    #: per input, the libraries that hold a copy
    libraries: list[set[str]]
    volumes: list[str]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.record.get("state") in _ENDED

    @property
    def well(self) -> bool:
        return self.record.get("state") == "done" and self.record.get("exit_code") == 0

    def needs(self, library: str) -> bool:
        """Whether some input has no copy elsewhere."""
        return any(found == {library} for found in self.libraries)


class Story:
    def __init__(self, directory: Path, site: Site, screen: Screen, checks: Checks) -> None:
        self.directory, self.site, self.screen, self.checks = directory, site, screen, checks
        self.submitted: list[Submitted] = []
        self.places: dict[str, dict[str, Any]] = {}
        self.tree = Tree(root=directory, files=())

    def tell(self) -> None:
        """The whole of it. Raises SiteError when a step cannot be done at all."""
        self.begin()
        self.put()
        self.drop()
        self.run_jobs()
        self.read_back()

    # ------------------------------------------------------------------ acts

    def begin(self) -> None:
        took = self.site.start()
        self.screen.say(f"`capstan up` serves at {self.site.url}, {took:.1f} s after it was started from nothing")
        self.screen.watch(self.site)
        self.tree = make_tree(self.directory / "originals", NAMESPACE)
        large = max(file.size for file in self.tree.files)
        self.screen.say(
            f"the standard library's source and four files of {large / MB:,.0f} MB made from it: "
            f"{len(self.tree.files):,} files, {self.tree.size / MB:,.0f} MB"
        )

    def put(self) -> None:
        for storage_class in ("two", "one"):
            began, target = time.monotonic(), f"{NAMESPACE}/{storage_class}"
            self.site.run(["tput", "-r", "--class", storage_class, str(self.tree.root / storage_class), target])
            files = self.tree.below(target)
            size = sum(file.size for file in files)
            self.screen.say(
                f"tput -r --class {storage_class}: {len(files):,} files, {size / MB:,.0f} MB on disk "
                f"after {time.monotonic() - began:.1f} s"
            )
        entries = {entry["path"]: entry for entry in self.entries(NAMESPACE) if entry["kind"] == "file"}
        self.checks.claim(
            set(entries) == {file.path for file in self.tree.files}, f"all {len(self.tree.files):,} files are there"
        )
        wrong = [
            f"{file.path} {entries[file.path]['adler32']}"
            for file in self.tree.files
            if file.path in entries and entries[file.path]["adler32"] != adler32_of(file.source)
        ]
        self.checks.claim_none(wrong, "every recorded checksum is that of the original")

    def drop(self) -> None:
        began = time.monotonic()
        self.site.run(["capstan", "cache", "drop", "--wait", NAMESPACE])
        self.screen.say(f"all of it safe on tape and dropped from the disk after {time.monotonic() - began:.1f} s more")
        wrong = [f"{entry['path']} {entry['label']}" for entry in self.entries(NAMESPACE) if entry["kind"] == "file"
                 and (entry["label"] != "tape" or not entry["safe"])]  # fmt: skip
        self.checks.claim_none(wrong, "then every file was on tape alone")
        self.places = self.whereis([file.path for file in self.tree.files])
        wanted = {"one": 1, "two": 2}
        wrong = [
            f"{file.path} {self.libraries(file.path)}"
            for file in self.tree.files
            if len(self.libraries(file.path)) != wanted[file.storage_class]
        ]
        self.checks.claim_none(wrong, "class `two` has a copy in each of two libraries, class `one` has one copy")

    def run_jobs(self) -> None:
        first, second = twelve(NAMESPACE)
        for job in first:
            self.submit(job)
        self.screen.say(f"{len(first)} jobs submitted; they are held until their inputs are on disk")
        self.wait_jobs(lambda: any(submitted.ended for submitted in self.submitted), "the first job to end")
        library = self.library_of(second)
        self.site.run(["capstan", "library", "down", library, "--reason", REASON])
        self.screen.say(f"library {library} is down: {REASON}")
        for job in second:
            self.submit(job)
        self.screen.say(f"{len(second)} more jobs submitted, half of them with single copies in {library}")
        self.watch_library_down(library)
        self.site.run(["capstan", "library", "up", library, "--reason", f"{REASON}: done"])
        self.screen.say(f"library {library} is up again")
        self.wait_jobs(lambda: all(submitted.ended for submitted in self.submitted), "every job to end")
        self.screen.say("every job has ended")
        self.compare_jobs()

    def watch_library_down(self, library: str) -> None:
        """The two facts about a library that is down: what has a second copy goes on, the rest waits and says why."""
        free = [submitted for submitted in self.submitted if not submitted.needs(library)]
        bound = [submitted for submitted in self.submitted[-6:] if submitted.needs(library)]
        down_until = time.monotonic() + DOWN_SECONDS_MIN
        self.wait_jobs(lambda: all(submitted.ended for submitted in free), "the jobs that do not need it")
        self.screen.say(f"the {len(free)} jobs that do not need {library} have ended, {len(bound)} are held")
        # Long enough to be seen, and for a job that should not begin to give itself away.
        self.wait_jobs(lambda: time.monotonic() > down_until, "some seconds to pass")
        self.checks.claim_none(
            [f"{submitted.job.name} {submitted.record}" for submitted in free if not submitted.well],
            f"while {library} was down, the {len(free)} jobs whose inputs have a second copy ran to their end",
        )
        began_anyway = [submitted.job.name for submitted in bound if submitted.record.get("started_at")]
        self.checks.claim(
            bool(bound) and not began_anyway,
            f"meanwhile the {len(bound)} jobs whose only copies are in {library} were held",
            ", ".join(began_anyway),
        )
        silent = self.silent(bound)
        give_up_at = time.monotonic() + REASON_SECONDS_MAX
        while silent and time.monotonic() < give_up_at:
            time.sleep(_LOOK_SECONDS)
            silent = self.silent(bound)
        self.checks.claim_none(
            silent, f"and `capstan explain` said of each of them: library {library} is down: {REASON}"
        )

    def silent(self, bound: list[Submitted]) -> list[str]:
        """Those of which `capstan explain` does not name the reason, with what it says."""
        told = {submitted.job.name: self.explained(f"job:{submitted.number}") for submitted in bound}
        return [f"{name}: {text!r}" for name, text in told.items() if REASON not in text]

    def compare_jobs(self) -> None:
        wrong = []
        for submitted in self.submitted:
            printed = self.site.run(["tjob", "output", str(submitted.number)], check=False).stdout.strip()
            submitted.record["printed"] = printed
            submitted.record["right"] = submitted.well and printed == submitted.job.expected(self.tree)
            if not submitted.record["right"]:
                wrong.append(f"{submitted.job.name} printed {printed!r}: {submitted.record.get('reason')}")
        self.checks.claim_none(
            wrong, f"the result of each of the {len(self.submitted)} jobs is what the originals give"
        )

    def read_back(self) -> None:
        began = time.monotonic()
        wrong, number, size = [], 0, 0
        for storage_class in ("two", "one"):
            target = self.directory / "back" / storage_class
            target.parent.mkdir(exist_ok=True)
            self.site.run(["tget", "-r", f"{NAMESPACE}/{storage_class}", str(target)])
            for file in self.tree.below(f"{NAMESPACE}/{storage_class}"):
                copy = target / file.source.relative_to(self.tree.root / storage_class)
                number, size = number + 1, size + file.size
                if not copy.is_file() or not same_bytes(file.source, copy):
                    wrong.append(file.path)
        self.screen.say(f"tget -r: {number:,} files, {size / MB:,.0f} MB read back in {time.monotonic() - began:.1f} s")
        self.checks.claim_none(wrong, f"every one of the {number:,} files reads back byte for byte")

    # ------------------------------------------------------------------ means

    def entries(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = self.site.call("POST", "/api/capstan/v1/list", {"path": path, "recursive": True, "after": after})
            found += page["entries"]
            after = page.get("next")
        return found

    def whereis(self, paths: list[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for at in range(0, len(paths), _WHEREIS_MAX):
            chunk = paths[at : at + _WHEREIS_MAX]
            answer = self.site.call("POST", "/api/capstan/v1/whereis", {"paths": chunk})
            found.update({file["path"]: file for file in answer["files"]})
        return found

    def libraries(self, path: str) -> set[str]:
        return {copy["library"] for copy in self.places.get(path, {}).get("copies", [])}

    def library_of(self, jobs: tuple[DemoJob, ...]) -> str:
        """The library that holds the single copies of these jobs' inputs."""
        for job in jobs:
            for file in job.inputs(self.tree):
                if len(held := self.libraries(file.path)) == 1:
                    return held.pop()
        raise SiteError("no input has a single copy")

    def submit(self, job: DemoJob) -> None:
        inputs = [argument for pattern in job.patterns for argument in ("--input", pattern)]
        answer = self.site.json(["tjob", "submit", "--json", "--name", job.name, *inputs, "--", *job.argv])
        files = job.inputs(self.tree)
        copies = [copy for file in files for copy in self.places[file.path].get("copies", [])]
        self.submitted.append(
            Submitted(
                number=int(answer["items"][0]["job_id"]),
                job=job,
                inputs=files,
                libraries=[self.libraries(file.path) for file in files],
                volumes=sorted({copy["volume"] for copy in copies}),
            )
        )

    def wait_jobs(self, reached: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            jobs = self.site.call("GET", "/api/jobs/v1/jobs")["jobs"]
            records = {int(job["id"]): job for job in jobs}
            for submitted in self.submitted:
                submitted.record.update(records.get(submitted.number, {}))
            if reached():
                return
            if time.monotonic() > give_up_at:
                states = {submitted.job.name: submitted.record.get("state") for submitted in self.submitted}
                raise SiteError(f"waited {WAIT_SECONDS_MAX:.0f} s in vain for {what}: {states}")
            time.sleep(_LOOK_SECONDS)

    def explained(self, thing: str) -> str:
        done = self.site.run(["capstan", "explain", thing], check=False)
        return " ".join(done.stdout.split())

    def job_lines(self) -> list[JobLine]:
        """The table's lines, from the job server's times and the mounts that were seen."""
        lines = []
        for submitted in self.submitted:
            record = submitted.record
            began, released = record.get("submitted_at"), record.get("released_at")
            mounts = [
                mount
                for mount in self.screen.mounts.values()
                if mount.purpose == "recall" and mount.volume in submitted.volumes
                and began is not None and mount.last_seen_at >= began
                and released is not None and mount.first_seen_at <= released + 1
            ]  # fmt: skip
            lines.append(
                JobLine(
                    number=submitted.number,
                    name=submitted.job.name,
                    files=len(submitted.inputs),
                    size=sum(file.size for file in submitted.inputs),
                    copies=min(len(found) for found in submitted.libraries),
                    volumes=submitted.volumes,
                    mounts=len(mounts),
                    waited_seconds=_between(began, record.get("released_at")),
                    ran_seconds=_between(record.get("started_at"), record.get("ended_at")),
                    result=str(record.get("printed", "")),
                    right=bool(record.get("right")),
                )
            )
        return lines


def _between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else ended - began
