"""Who can be killed in a site, by exact process id: descendants of its own `capstan up`, and its own PostgreSQL.

It finds and kills; who is next, and when, the test decides.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

from capstan.demo.site import Site, descendants
from catalog.embedded import EmbeddedPostgres

#: kind -> what its command line holds
COMMANDS = {
    "tapeserver": " capstan tapeserver ",
    "cacheserver": " capstan cacheserver ",
    "jobserver": " capstan jobserver ",
    "mover": " tapeserver.mover ",
}
#: the postmaster, and one of its children (after which it ends all the others itself)
DATABASE_KINDS = ("postgresql", "backend")


def pids(site: Site, kind: str) -> list[int]:
    """The processes of one kind that live now."""
    if kind in DATABASE_KINDS:
        postmaster = _postmaster(site)
        if postmaster is None:
            return []
        if kind == "postgresql":
            return [postmaster]
        return sorted(set(descendants(postmaster)) - {postmaster})
    wanted = COMMANDS[kind]
    return sorted(pid for pid, line in site.processes().items() if wanted in line)


def kill(site: Site, kind: str, chance: random.Random) -> int | None:
    """Kill one of that kind at once; its process id, None when there is none at the moment."""
    found = pids(site, kind)
    if not found:
        return None
    pid = chance.choice(found)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return pid


def _postmaster(site: Site) -> int | None:
    cluster = EmbeddedPostgres(site.data)._cluster.path
    try:
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        # A stale file may name somebody else's process by now.
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(cluster) in line else None
