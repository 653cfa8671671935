"""Load on a site under fire: users who put, get, move, delete, stage, cancel and submit jobs.

Each user is a task with a session and random numbers of its own. What is known of the outcome is in `soak_model`;
what must hold in the end is in `soak_rest`. A refusal that nothing explains is kept in `surprises`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from catalog.errors import CapstanError, NotFound, Unavailable
from client.locations import Door
from client.session import Session
from client.staging import StageFailed
from tests.scenario.soak_model import Content, Names

#: of one round of a user's action, so that a lost answer is not waited for long
PATIENCE_SECONDS = 8.0
ACTION_SECONDS_MAX = 240.0
GET_SECONDS_MAX = 20.0
SIZES = (0, 1, 700, 20_000, 300_000, 300_000, 1_500_000, 5_000_000, 100_000_000)
#: mostly small ones
WEIGHTS = (4, 4, 10, 16, 8, 8, 6, 2)
BASE_FILES = 12
#: of one writer; one that has more deletes
FILES_MAX = 200
CLASSES = {1: "one", 2: "two"}
#: what is to lie together on tape; most puts leave it to the directory
TOGETHER = (None, None, None, "run 7", "calibration")
#: what a writer does, and how often
VERBS = {"put": 50, "overwrite": 12, "delete": 12, "move": 12, "move directory": 3, "get": 14}
# One line is written before the work and one after it: two first lines would be a job that ran twice. A replica that is
# doubtful since its cache server was killed has no path in the list: the job asks the door, as often as it takes.
JOB_PROGRAM = """
import os, subprocess, sys, zlib, time
def fetched(path):
    for _ in range(60):
        if subprocess.run(["tget", path, "fetched"]).returncode == 0:
            return "fetched"
        time.sleep(1)
    raise OSError(f"tget {path}")
def tell(text):
    line = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(line, (text + "\\n").encode()); os.fsync(line); os.close(line)
tell("began")
total = 0
try:
    for line in open(os.environ["CAPSTAN_INPUT_LIST"]):
        path, _, local = line.rstrip("\\n").partition("\\t")
        total += zlib.adler32(open(local or fetched(path), "rb").read())
except BaseException as error:
    tell(repr(error))
    raise
time.sleep(0.3)
tell(f"ended {total}")
"""


class Load:
    """`run` in a thread of its own until `stop` is set; then everything it learned is in the attributes."""

    def __init__(self, url: str, token: str, seed: int, directory: Path, *, large_weight: float = 0.0) -> None:
        self.doors = (Door(url=url, token=token),)
        self.weights = (*WEIGHTS, large_weight)
        self.seed, self.directory = seed, directory
        self.stop = threading.Event()
        self.names: dict[str, Names] = {}
        self.base: dict[str, Content] = {}
        #: job key -> (file that it tells to, sum of its inputs' checksums, id when the submission was answered)
        self.jobs: dict[str, tuple[Path, int, int | None]] = {}
        self.requests: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        #: users of one round draw other numbers than those of the last
        self.rounds = 0

    def run(self) -> None:
        self.rounds += 1
        asyncio.run(self._run())

    async def prepare(self) -> None:
        """The files that jobs and stage requests read; nobody changes them."""
        async with Session(self.doors) as session:
            for number in range(BASE_FILES):
                content = Content(self.seed * 1_000_003 + number, SIZES[number % (len(SIZES) - 1)], 1 + number % 2)
                path = f"/base/d{number % 3}/f{number}"
                await session.put(self._local("base", content), path, storage_class=CLASSES[content.copies])
                self.base[path] = content

    async def _run(self) -> None:
        users: list[Callable[[random.Random, Session], Awaitable[None]]] = [
            *(self._writer(f"w{number}") for number in range(3)),
            self._staging,
            self._fetching,
            self._submitting,
            self._dropping,
        ]
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(users):
                group.create_task(self._repeat(number, user))

    async def _repeat(self, number: int, action: Callable[[random.Random, Session], Awaitable[None]]) -> None:
        chance = random.Random((self.seed * 1009 + self.rounds) * 1009 + number)
        patient = Session(self.doors, patience_seconds=PATIENCE_SECONDS, first_contact_seconds=PATIENCE_SECONDS)
        hasty = Session(self.doors, patience_seconds=0.0)
        async with patient, hasty:
            while not self.stop.is_set():
                began = time.monotonic()
                await action(chance, hasty if chance.random() < 0.4 else patient)
                if time.monotonic() - began > ACTION_SECONDS_MAX:
                    self.surprises.append(f"an action of user {number} took {time.monotonic() - began:.0f} s")
                await asyncio.sleep(chance.uniform(0.0, 0.2))

    async def _answered(self, what: str, request: Awaitable[object], *gone: type[CapstanError]) -> bool:
        """Whether there was an answer that says "done"; `gone`: refusals that a repeat after a lost answer gets."""
        try:
            await request
        except gone:
            pass
        except Unavailable as error:
            self.counts[f"{what} without an answer ({error.code})"] += 1
            return False
        except CapstanError as error:
            self.surprises.append(f"{what}: {type(error).__name__} {error.code}: {error}")
            return False
        self.counts[what] += 1
        return True

    # ------------------------------------------------------------------ files

    def _writer(self, name: str) -> Callable[[random.Random, Session], Awaitable[None]]:
        names = self.names.setdefault(name, Names())
        numbers = itertools.count(self.rounds * 1_000_000)
        directories = [f"r{self.rounds}-{number}" for number in range(4)]

        async def act(chance: random.Random, session: Session) -> None:
            verb = chance.choices(tuple(VERBS), tuple(VERBS.values()))[0]
            if len(names.certain) > FILES_MAX:
                verb = "delete"
            number = next(numbers)
            size = chance.choices(SIZES, self.weights)[0]
            if self.weights[-1] and name == "w0" and number == self.rounds * 1_000_000:
                # One a round at least; drawn, they are rare.
                verb, size = "put", SIZES[-1]
            content = Content(chance.getrandbits(48), size, chance.choice((1, 2)))
            fresh = f"/soak/{name}/{directories[number % 4]}/f{number}"
            storage_class, directory = CLASSES[content.copies], f"/soak/{name}/{chance.choice(directories)}"
            path = chance.choice(sorted(names.certain)) if names.certain else ""
            if verb == "put" or not path:
                together = chance.choice(TOGETHER)
                local = self._local(name, content)
                sent = session.put(local, fresh, storage_class=storage_class, together=together)
                names.put(fresh, content, answered=await self._answered("put", sent))
            elif verb == "overwrite":
                sent = session.put(self._local(name, content), path, storage_class=storage_class, replace=True)
                names.put(path, content, answered=await self._answered("overwrite", sent))
            elif verb == "delete":
                names.removed(path, answered=await self._answered("delete", session.remove(path), NotFound))
            elif verb == "move":
                target = f"/soak/{name}/moved{number}"
                names.moved(path, target, answered=await self._answered("move", session.move(path, target)))
            elif verb == "move directory" and names.may_move(directory):
                target = f"/soak/{name}/t{number}"
                request = session.move(directory, target)
                answered = await self._answered("move directory", request)
                names.moved_tree(directory, target, answered=answered)
                if not answered:
                    # It may still be moved, with whatever is put there until then.
                    directories[directories.index(directory.rpartition("/")[2])] = f"d{number}"
            elif verb == "get":
                await self._get(session, path, names.certain[path])

        return act

    async def _get(self, session: Session, path: str, content: Content) -> None:
        target = self.directory / f"got-{path.replace('/', '-')}"
        request = session.get(path, target, timeout_seconds=GET_SECONDS_MAX)
        if await self._answered("get", self._tolerant(request, path, content)) and target.exists():
            if target.read_bytes() != content.bytes():
                self.surprises.append(f"get of {path} gave other bytes")
            target.unlink()

    async def _tolerant(self, request: Awaitable[object], path: str, content: Content) -> None:
        """A recall that failed for good while its only copy could not be read; the file must not be lost. With a second
        copy, in the library that has no faults of media, it must not be said to have failed."""
        try:
            await request
        except StageFailed as error:
            self.counts[f"stage failed: {str(error).partition(':')[2][:60]}"] += 1
            if content.copies > 1:
                self.surprises.append(f"{path} has two copies and failed: {error}")

    def _local(self, name: str, content: Content) -> Path:
        path = self.directory / f"put-{name}"
        path.write_bytes(content.bytes())
        return path

    # ------------------------------------------------------------------ tape and jobs

    def _some_base(self, chance: random.Random, count: int) -> list[str]:
        return chance.sample(sorted(self.base), count)

    def _some_doubled(self, chance: random.Random, count: int) -> list[str]:
        return chance.sample(sorted(path for path, one in self.base.items() if one.copies > 1), count)

    async def _staging(self, chance: random.Random, session: Session) -> None:
        paths = self._some_base(chance, chance.randint(1, 6))

        async def ask() -> None:
            self.requests.add(await session.staging.request(paths, lifetime_seconds=1.0))

        await self._answered("stage", ask())
        if self.requests and chance.random() < 0.5:
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            request = chance.choice(sorted(self.requests))
            if chance.random() < 0.7:
                await self._answered("cancel", session.staging.cancel(request))
            elif await self._answered("delete of a request", session.staging.delete(request)):
                self.requests.discard(request)
        await asyncio.sleep(chance.uniform(0.1, 0.6))

    async def _fetching(self, chance: random.Random, session: Session) -> None:
        (path,) = self._some_base(chance, 1)
        await self._get(session, path, self.base[path])

    async def _submitting(self, chance: random.Random, session: Session) -> None:
        inputs = self._some_doubled(chance, chance.randint(1, 3))
        key = f"job{len(self.jobs)}"
        ledger = self.directory / key
        total = sum(int(self.base[path].adler32, 16) for path in inputs)
        self.jobs[key] = (ledger, total, None)

        async def submit() -> None:
            argv = [sys.executable, "-c", JOB_PROGRAM, str(ledger)]
            self.jobs[key] = (ledger, total, await session.jobs.submit(argv, inputs=inputs, name=key))

        await self._answered("job", submit())
        await asyncio.sleep(chance.uniform(0.5, 1.5))

    async def _dropping(self, chance: random.Random, session: Session) -> None:
        where = chance.choice(("/base", "/base", "/soak", "/soak/w0"))
        with contextlib.suppress(NotFound):
            await self._answered("drop", session.operators.drop([where]), NotFound)
        await asyncio.sleep(chance.uniform(0.3, 1.2))
