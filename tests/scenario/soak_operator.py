"""An operator's long work on a site under fire, and what can be tried only once at its end.

`WORK` is the one list of what he does while users go on, `FINALE` of what follows when all is over. Everything goes
through the commands and the catalog's own modules; a refusal is an answer, not a mistake.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from capstan.demo.site import Site, SiteError
from catalog.errors import CapstanError
from tests.scenario.soak_load import Load

PAUSE_SECONDS = 1.5


class Operator:
    """`run` in a thread of its own until `stop` is set."""

    def __init__(self, site: Site, chance: random.Random, say: Callable[[str], None]) -> None:
        self.site, self.chance, self.say = site, chance, say
        self.stop = threading.Event()

    def run(self) -> None:
        while WORK and not self.stop.wait(self.chance.uniform(0.5, 2 * PAUSE_SECONDS)):
            name = self.chance.choice(sorted(WORK))
            with contextlib.suppress(CapstanError, SiteError, OSError, HTTPException):
                self.say(f"operator: {name}: {WORK[name](self)}")


#: name -> what he does; it says in words how that ended
WORK: dict[str, Callable[[Operator], str]] = {}

#: name -> what is tried at the end; the mistakes that were found
FINALE: dict[str, Callable[[Site, Path, Load, Callable[[str], None]], list[str]]] = {}
