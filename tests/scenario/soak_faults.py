"""What is done to a site under fire, step by step: kills, stops, faults of one library, steps of the clock.

Each step is named and drawn from a seeded generator; `STEPS` is the one list of what can happen and how often. Media
and drives fail in one library at a time, so that the other's copies must be there. It judges nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

import msgspec

from capstan.demo.site import Site, SiteError
from catalog.errors import CapstanError
from tapeserver.library import faults
from tapeserver.library.faults import Fault
from tests.scenario import victims
from tests.scenario.small_site import START_SECONDS_MAX, change, query

#: the killer gives a killed process at most so long to serve again
SERVING_SECONDS_MAX = 10.0
STOPPED_SECONDS_MAX = 2.5
CLOCK_STEP_SECONDS_MAX = 3600
BYTES_MAX = 5_000_000
STARTS_MAX = 3


class Chaos:
    """The enemy of one site. `library` is the one whose media and drives fail; change it only at rest."""

    def __init__(self, site: Site, chance: random.Random, library: str) -> None:
        self.site, self.chance, self.library = site, chance, library
        self.offset_seconds = 0
        #: the latest that the catalog's clock has ever been set to
        self.latest_seconds = 0
        #: what the site did that it must not do whatever is done to it, in words
        self.mistakes: list[str] = []

    @property
    def path(self) -> Path:
        return self.site.data / "libraries" / self.library

    def volume(self) -> str:
        """One with something on it, if there is any."""
        images = sorted((self.path / "cartridges").glob("*.tap"))
        written = [one for one in images if one.stat().st_size > 10_000]
        return self.chance.choice(written or images).stem

    def drive(self) -> str:
        return self.chance.choice(sorted(path.stem for path in (self.path / "drives").glob("*.json")))

    def fault(self, **what: object) -> str:
        fault = Fault(**what)  # type: ignore[arg-type]  # as the steps below have it
        faults.inject(self.path, fault)
        return msgspec.json.encode(fault).decode()

    def cleared(self) -> str:
        faults.clear(self.path)
        return f"{self.library} has no faults"


# ------------------------------------------------------------------ steps: each says in words what it did


def _kill(kind: str) -> Callable[[Chaos], str]:
    return lambda chaos: f"{victims.kill(chaos.site, kind, chaos.chance) or 'was not there'}"


def _stop(kind: str) -> Callable[[Chaos], str]:
    def step(chaos: Chaos) -> str:
        pids = victims.pids(chaos.site, kind)
        if not pids:
            return "was not there"
        pid, seconds = chaos.chance.choice(pids), chaos.chance.uniform(0.1, STOPPED_SECONDS_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        return f"{pid} for {seconds:.1f} s"

    return step


def _capstan_up(chaos: Chaos) -> str:
    chaos.site.kill()
    time.sleep(chaos.chance.choice((0.0, 0.0, 1.0)))
    for _ in range(STARTS_MAX):
        try:
            return f"back after {chaos.site.start(timeout_seconds=START_SECONDS_MAX):.1f} s"
        except SiteError as error:
            # The others cannot be tried on a site that stays down.
            chaos.mistakes.append(f"it did not start after a kill: {error}")
    return "it stays down"


def _clock(chaos: Chaos) -> str:
    """The catalog's clock, for everybody at once: its sessions end, and the next ones have the new time."""
    return _set_clock(
        chaos, chaos.offset_seconds + chaos.chance.randint(-CLOCK_STEP_SECONDS_MAX, CLOCK_STEP_SECONDS_MAX)
    )


def clock_goes_on(chaos: Chaos) -> None:
    """Behind all that was ever told: a backup that is made now began after whatever was removed before."""
    _set_clock(chaos, chaos.latest_seconds)


def _set_clock(chaos: Chaos, offset_seconds: int) -> str:
    chaos.offset_seconds = offset_seconds
    chaos.latest_seconds = max(chaos.latest_seconds, offset_seconds)
    (name,) = query(chaos.site, "select current_database()")[0]
    change(chaos.site, f"alter database \"{name}\" set capstan.clock_offset to '{chaos.offset_seconds} s'")
    change(
        chaos.site,
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid()",
    )
    return f"{chaos.offset_seconds:+d} s"


def _power_loss(chaos: Chaos) -> str:
    chance = chaos.chance
    return chaos.fault(
        kind="power_loss",
        drive=chaos.drive(),
        at=chance.choice(("write", "mark", "flush")),
        after_blocks=chance.randint(0, 30),
        keep=chance.choice(("none", "some", "some", "all")),
        seed=chance.getrandbits(16),
    )


def _power_loss_at_work(chaos: Chaos) -> str:
    """In every drive that writes, so that one of them is hit."""
    at, keep = chaos.chance.choice(("write", "mark", "flush")), chaos.chance.choice(("none", "some", "all"))
    return ", ".join(
        chaos.fault(kind="power_loss", drive=path.stem, at=at, keep=keep, seed=chaos.chance.getrandbits(16))
        for path in sorted((chaos.path / "drives").glob("*.json"))
    )


def _full_at_work(chaos: Chaos) -> str:
    """The volume that was written last, the next moment it is written to again."""
    volumes = query(chaos.site, "select vid from volume where library = :library and pool = :library"
                    " and state = 'active' order by written_at desc nulls last", library=chaos.library)  # fmt: skip
    if not volumes:
        return "no volume is written to"
    image = chaos.path / "cartridges" / f"{volumes[0][0]}.tap"
    return chaos.fault(kind="full", volume=image.stem, at_bytes=image.stat().st_size + chaos.chance.randint(0, 100_000))


def _full(chaos: Chaos) -> str:
    volume = chaos.volume()
    size = (chaos.path / "cartridges" / f"{volume}.tap").stat().st_size
    return chaos.fault(kind="full", volume=volume, at_bytes=size + chaos.chance.randint(0, BYTES_MAX))


def _unreadable(chaos: Chaos) -> str:
    return chaos.fault(kind="unreadable", volume=chaos.volume(), block=chaos.chance.randint(2, 120))


def _swapped(chaos: Chaos) -> str:
    images = sorted(path.stem for path in (chaos.path / "cartridges").glob("*.tap"))
    volume, image = chaos.chance.sample(images, 2)
    return chaos.fault(kind="swapped", volume=volume, image=image)


def _write_error(chaos: Chaos) -> str:
    kind = chaos.chance.choice(("write_error", "flush_error"))
    return chaos.fault(kind=kind, volume=chaos.volume(), after_blocks=chaos.chance.randint(0, 30))


def _hang(chaos: Chaos) -> str:
    at = chaos.chance.choice(("load", "unload", "locate", "read", "write", "mark", "flush"))
    return chaos.fault(kind="hang", drive=chaos.drive(), at=at)


def _jam(chaos: Chaos) -> str:
    return chaos.fault(kind="jam", times=chaos.chance.randint(1, 3))


def _dead(chaos: Chaos) -> str:
    return chaos.fault(kind="dead", drive=chaos.drive())


def _slow(chaos: Chaos) -> str:
    return chaos.fault(kind="slow", drive=chaos.drive(), seconds_per_block=0.02)


def ways_out(chaos: Chaos) -> str:
    """What an operator does about everything that is out of use: it was serviced, and may be used again."""
    site = chaos.site
    told = []
    with contextlib.suppress(OSError, HTTPException, SiteError, CapstanError):
        for what, good in (("libraries", "up"), ("drives", "up"), ("volumes", "enabled")):
            for row in site.call("GET", f"/api/capstan/v1/{what}")["items"]:
                name = row.get("name") or row.get("vid")
                if row["state"] == "exported":
                    told.append(f"{name} was exported")
                    site.call("POST", f"/api/capstan/v1/volumes/{name}/import", {"reason": "it is back"})
                    row["state"] = "suspect"
                if row["state"] in ("down", "unreachable", "disabled", "suspect") and row["state"] != good:
                    body = {"state": good, "reason": "it was serviced"}
                    told.append(f"{name} was {row['state']}")
                    site.call("POST", f"/api/capstan/v1/{what}/{name}", body)
        # Copies that were found broken can be read now that the faults are gone.
        for (vid,) in query(site, "select distinct volume from copy where broken_at is not null order by volume"):
            told.append(f"copies on {vid} are good again")
            site.call("POST", f"/api/capstan/v1/volumes/{vid}/mend", {"reason": "it was serviced"})
        site.call("POST", "/api/capstan/v1/queue/retry", {"kind": "all", "reason": "it was serviced"})
    return ", ".join(told) or "nothing to do"


#: name -> (what it does, how often)
STEPS: dict[str, tuple[Callable[[Chaos], str], int]] = {
    "kill tapeserver": (_kill("tapeserver"), 8),
    "kill mover": (_kill("mover"), 10),
    "kill cacheserver": (_kill("cacheserver"), 7),
    "kill jobserver": (_kill("jobserver"), 6),
    "kill postgresql": (_kill("postgresql"), 5),
    "kill backend": (_kill("backend"), 5),
    "kill capstan up": (_capstan_up, 1),
    "stop tapeserver": (_stop("tapeserver"), 2),
    "stop mover": (_stop("mover"), 2),
    "stop cacheserver": (_stop("cacheserver"), 2),
    "clock": (_clock, 1),
    "unreadable": (_unreadable, 4),
    "write error": (_write_error, 3),
    "early full": (_full, 2),
    "early full at work": (_full_at_work, 1),
    "power loss": (_power_loss, 5),
    "power loss at work": (_power_loss_at_work, 1),
    "dead drive": (_dead, 2),
    "jam": (_jam, 2),
    "swapped": (_swapped, 2),
    "slow": (_slow, 2),
    "hang": (_hang, 2),
    "faults cleared": (Chaos.cleared, 8),
    "ways out": (ways_out, 8),
}

#: of a first round, whatever its length: each process is killed, and the faults strike that leave work half done
ALWAYS = (
    *(name for name in STEPS if name.startswith("kill")),
    "power loss at work", "early full at work", "unreadable", "write error", "jam", "clock", "ways out",
)  # fmt: skip


def wait_for_the_door(site: Site, seconds_max: float) -> None:
    began = time.monotonic()
    while time.monotonic() - began < seconds_max:
        with contextlib.suppress(OSError, HTTPException, SiteError):
            if site.call("GET", "/api/capstan/v1/status", timeout_seconds=2.0)["ok"]:
                return
        time.sleep(0.1)


def rage(
    chaos: Chaos, seconds: float, say: Callable[[str], None], steps: tuple[str, ...], always: Sequence[str] = ()
) -> int:
    """Each of `always` once, in an order that is drawn; then, until the time is over, a step or several every 0.5 to
    2 s. How many there were. `say` gets a line for each."""
    chance, began, count = chaos.chance, time.monotonic(), 0
    weights = [STEPS[name][1] for name in steps]
    first = [name for name in always if name in steps]
    chance.shuffle(first)
    while first or time.monotonic() - began < seconds:
        several = chance.choices((1, 2, 3), (6, 3, 1))[0]
        now, first = first[:several], first[several:]
        for name in now or chance.choices(steps, weights, k=several):
            at = time.monotonic() - began
            try:
                told = STEPS[name][0](chaos)
            except (CapstanError, OSError, SiteError) as error:
                # What it needed was not there at the moment: it may just have been killed.
                told = f"not done: {error}"
            say(f"{at:6.1f} s: {name}: {told}")
            count += 1
        time.sleep(chance.uniform(0.5, 2.0) if not now else chance.uniform(0.2, 1.0))
        if chance.random() < 0.7:
            # Kills of what is only just starting are worth having too, but not all the time: then there is no load.
            wait_for_the_door(chaos.site, SERVING_SECONDS_MAX)
    return count
