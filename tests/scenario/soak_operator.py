"""An operator's long work on a site under fire: verify, repack, close, reclaim, relabel, export, back up, restore.

`WORK` is the one list of what he does while users go on; `FIRST` is what he begins a long round with, so that every
long run has it. He uses the commands as they are; a refusal is an answer, and what he does not hear the end of may have
been done. What is tried between rounds and at the end is in `soak_recovery`.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException

from capstan.demo.site import Site, SiteError
from catalog.errors import CapstanError
from tests.scenario.small_site import query
from tests.scenario.soak_model import Seen

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 4.0
COMMAND_SECONDS_MAX = 60.0
#: of a verb that must not be left out, while the servers come back
RETRIES, RETRY_SECONDS = 20, 1.0
AWAY_SECONDS_MAX = 4.0
#: those of the journal have one cartridge a library, and nowhere to go
USERS = "pool in ('east', 'west')"
CARTRIDGES = f"select vid, library from volume where state in ('active', 'full', 'closed') and {USERS} order by vid"
#: nothing alive on it, and nothing is being done to it
EMPTIED = (
    f"select v.vid from volume v where v.state in ('full', 'closed', 'repacking') and v.tape_files > 0 and {USERS}"
    " and not exists (select from copy c join file f on f.id = c.file where c.volume = v.vid and f.state = 'live')"
    " and not exists (select from maintenance m where m.key = v.vid and m.state in ('queued', 'running'))"
    " order by v.vid"
)
UNDER_WAY = "select count(*) from maintenance where key = :vid and state in ('queued', 'running')"
#: the operator empties one of these at a time, those with little on them first
TO_EMPTY = (
    f"select vid from volume where tape_files > 0 and {USERS} and state in ('active', 'full', 'closed')"
    " order by written_bytes, vid limit 4"
)
#: a closed volume that the other library can do without: all that it has, removed files too, has a good copy elsewhere
SPARE = (
    f"select v.vid from volume v where v.state = 'closed' and v.tape_files > 0 and v.library = :library and {USERS}"
    " and not exists (select from copy c join file f on f.id = c.file where c.volume = v.vid"
    " and f.state in ('live', 'deleted') and not exists"
    " (select from good_copy g where g.file = f.id and g.library <> v.library)) and v.vid = any(:vids)"
)
#: of the long run: each leaves a cartridge less
TORN_MAX = 4
WRITTEN_SECONDS_MAX, REPACK_SECONDS_MAX, GIVEN_UP_SECONDS_MAX = 20.0, 45.0, 30.0
REASON = ("--reason", "it is the turn of this one")


class Operator:
    """One life long: `run` in a thread of its own for each round, until `stop` is set."""

    def __init__(self, site: Site, chance: random.Random, say: Callable[[str], None]) -> None:
        self.site, self.chance, self.say = site, chance, say
        self.stop = threading.Event()
        #: files brought back from the recycle bin, by an answer that said so
        self.restored: dict[str, Seen] = {}
        #: names that a restore may have made, or not
        self.unsure: set[str] = set()
        self.count = 0
        #: whose volumes leave and come back; change it only at rest
        self.library = ""
        #: volumes that were emptied for good
        self.given_up = 0
        #: volumes that were called broken, or may have been: an answer was lost
        self.torn: set[str] = set()

    def run(self, first: Sequence[str] = ()) -> None:
        """`first`: what he begins with, in this order."""
        due = list(first)
        while not self.stop.wait(self.chance.uniform(PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX)):
            names = sorted(WORK)
            name = due.pop(0) if due else self.chance.choices(names, [WORK[one][1] for one in names])[0]
            with contextlib.suppress(CapstanError, SiteError, OSError, HTTPException):
                self.say(f"         operator: {name}: {WORK[name][0](self)}")

    def volume(self, *states: str) -> str:
        """One with something on it, in one of these states."""
        found = query(self.site, f"select vid, state from volume where tape_files > 0 and {USERS} order by vid")
        return str(self.chance.choice([vid for vid, state in found if state in states] or ["E00001"]))

    def soon(self, done: Callable[[], bool], seconds_max: float) -> bool:
        """Whether it was `done` in time, and before the round was over. Servers that are away are asked again."""
        give_up_at = time.monotonic() + seconds_max
        while True:
            with contextlib.suppress(CapstanError, SiteError, OSError, HTTPException):
                if done():
                    return True
            if time.monotonic() > give_up_at or self.stop.wait(RETRY_SECONDS):
                return False

    def capstan(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.site.run(["capstan", *words], check=False, timeout_seconds=COMMAND_SECONDS_MAX)


def _of_volume(verb: str, *states: str) -> Callable[[Operator], str]:
    def work(operator: Operator) -> str:
        volume = operator.volume(*states)
        done = operator.capstan("volume", verb, volume, *REASON)
        return f"{volume}: {done.returncode} {done.stderr.strip()[-160:]}"

    return work


def _give_up(verb: str) -> Callable[[Operator], str]:
    """Of a volume on which nothing is alive, if there is one: else of any, which must be refused."""

    def work(operator: Operator) -> str:
        emptied = [vid for (vid,) in query(operator.site, EMPTIED)]
        volume = str(operator.chance.choice(emptied)) if emptied else operator.volume("closed", "full")
        done = operator.capstan("volume", verb, volume, *REASON)
        operator.given_up += done.returncode == 0
        return f"{volume}{' (emptied)' if emptied else ''}: {done.returncode} {done.stderr.strip()[-160:]}"

    return work


def _backup(operator: Operator) -> str:
    """A reclaim wants one that began after the last file had left its volume."""
    done = operator.capstan("db", "backup", "--data", str(operator.site.data))
    return f"{done.returncode} {done.stderr.strip()[-160:]}"


def _empty(operator: Operator) -> str:
    """The documented way from a volume with live files to a blank one, all of it while users go on."""
    if not operator.soon(lambda: bool(query(operator.site, TO_EMPTY)), WRITTEN_SECONDS_MAX):
        return "nothing is there"
    # One whose repack outlived its round comes first.
    ready = [vid for (vid,) in query(operator.site, EMPTIED)]
    volume = str(operator.chance.choice(ready or [vid for (vid,) in query(operator.site, TO_EMPTY)]))
    told = []

    def did(*words: str) -> bool:
        done = operator.capstan(*words)
        told.append(f"{words[1]} {done.returncode} {done.stderr.strip()[-120:]}".strip())
        return done.returncode == 0

    def repacked() -> bool:
        return query(operator.site, UNDER_WAY, vid=volume) == [(0,)]

    def given_up() -> bool:
        # What left the volume last may have left it behind the backup: then it takes another one.
        if did("db", "backup", "--data", str(operator.site.data)) and did("volume", verb, volume, *REASON):
            return True
        if "purge them" in told[-1]:
            # Removed later than it is now, since the clock was set back.
            did("recycle", "purge", "/", *REASON)
        return False

    verb = operator.chance.choice(("reclaim", "relabel"))
    if not ready and not operator.soon(lambda: did("volume", "repack", volume, *REASON), RETRIES * RETRY_SECONDS):
        return f"{volume}: {', '.join(told[-2:])}"
    if not operator.soon(repacked, REPACK_SECONDS_MAX):
        return f"{volume}: its repack goes on"
    operator.given_up += operator.soon(given_up, GIVEN_UP_SECONDS_MAX)
    return f"{volume}: {', '.join(told[-3:])}"


def _torn(operator: Operator) -> str:
    """A cartridge is found torn, and given up with all that is on it. Its files have copies in the library without
    faults: they must stay readable, and what is missing is made again."""
    if len(operator.torn) >= TORN_MAX:
        return "enough of them"
    volumes = query(operator.site, CARTRIDGES)
    vids = [vid for vid, library in volumes if library == operator.library]
    for vid in operator.chance.sample(vids, len(vids)):
        if operator.stop.is_set():
            break
        # Nothing may be added to it between the question and the deed.
        operator.capstan("volume", "close", vid, *REASON)
        if query(operator.site, SPARE, library=operator.library, vids=[vid]) != [(vid,)]:
            operator.capstan("volume", "reopen", vid, *REASON)
            continue
        operator.torn.add(vid)
        done = operator.capstan("volume", "broken", vid, *REASON)
        return f"{vid}: {done.returncode} {done.stderr.strip()[-160:]}"
    return "none that can be spared"


def _purge(operator: Operator) -> str:
    """Of what was removed a part is given up: it is in the way of nothing any more, and must not come back."""
    where = f"/soak/w{operator.chance.randrange(3)}"
    done = operator.capstan("recycle", "purge", where, "--older", "5s", *REASON)
    return f"{where}: {done.returncode} {(done.stdout + done.stderr).strip()[-160:]}"


def _vault(operator: Operator) -> str:
    """A volume leaves the library with faults for a while; what it alone has waits, or is read from the other one."""
    [vid] = operator.chance.sample(
        [vid for vid, library in query(operator.site, CARTRIDGES) if library == operator.library] or [""], 1
    )
    if not vid:
        return "nothing is there"
    told = []
    for verb in ("export", "import", "enable"):
        for _ in range(RETRIES):
            force = ("--force",) if verb == "export" else ()
            done = operator.capstan("volume", verb, str(vid), *REASON, *force)
            told.append(f"{verb} {done.returncode} {done.stderr.strip()[-80:]}")
            if done.returncode == 0 or verb == "export" or "does not allow" in done.stderr:
                break
            operator.stop.wait(RETRY_SECONDS)
        if done.returncode != 0:
            break
        operator.stop.wait(operator.chance.uniform(0.0, AWAY_SECONDS_MAX))
    return f"{vid}: {', '.join(told)}"


def _restore(operator: Operator) -> str:
    listed = operator.capstan("recycle", "ls", "/soak", "--json")
    items = json.loads(listed.stdout)["items"] if listed.returncode == 0 else []
    if not items:
        return "nothing is there"
    one = operator.chance.choice(items)
    [(size, adler32)] = query(operator.site, "select size, adler32 from file where id = :id", id=one["file_id"])
    operator.count += 1
    path = f"/restored/f{operator.count}"
    done = operator.capstan("recycle", "restore", "--file", str(one["file_id"]), "--to", path, "--parents", "--json")
    if done.returncode == 0:
        operator.restored[path] = size, adler32
    else:
        operator.unsure.add(path)
    return f"{one['path']} as {path}: {done.returncode} {done.stderr.strip()[-160:]}"


#: name -> (what he does, how often); it says in words how that ended. Never is for what only a long round has time for
WORK: dict[str, tuple[Callable[[Operator], str], int]] = {
    "verify": (_of_volume("verify", "active", "full", "closed"), 3),
    "close": (_of_volume("close", "active"), 1),
    "reopen": (_of_volume("reopen", "closed", "full"), 2),
    "repack": (_of_volume("repack", "active", "full", "closed"), 2),
    "reclaim": (_give_up("reclaim"), 3),
    "relabel": (_give_up("relabel"), 1),
    "backup": (_backup, 2),
    "vault": (_vault, 1),
    "recycle restore": (_restore, 3),
    "recycle purge": (_purge, 1),
    "empty": (_empty, 0),
    "torn": (_torn, 0),
}
FIRST = ("empty", "torn")
