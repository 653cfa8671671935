"""Between the rounds of the soak, at rest: a volume goes its way from written to blank, and the catalog is restored
from a backup that the tapes are ahead of.

`RECOVERY` is the one list of what is tried. Each returns its mistakes, in words.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from capstan.demo.site import Site, SiteError
from client.locations import Door
from client.session import Session
from tests.scenario.small_site import START_SECONDS_MAX, STOP_SECONDS_MAX, query, soon
from tests.scenario.soak_load import CLASSES, Load
from tests.scenario.soak_model import Content

FILES = 12
#: nets, for slow machines too
SAFE_SECONDS_MAX = 300.0
EMPTY_SECONDS_MAX = 300.0
#: what a person would do again a moment later: the volume is still in a drive
REFUSED_SECONDS_MAX = 300.0
REASON = ("--reason", "it is old")
ADOPTED_SECONDS_MAX = 300.0


def _put_safe(site: Site, directory: Path, load: Load, prefix: str, count: int) -> None:
    """New files of the load's base, which nobody changes; all are on tape on return."""
    wanted = {}
    for number in range(count):
        size, copies = (0, 700, 20_000, 300_000, 1_500_000)[number % 5], 1 + number % 2
        wanted[f"/base/{prefix}/f{number}"] = Content(load.seed * 7919 + len(load.base) + number, size, copies)

    async def put() -> None:
        async with Session((Door(url=site.url, token=site.token),)) as session:
            for path, content in wanted.items():
                (directory / "sent").write_bytes(content.bytes())
                await session.put(directory / "sent", path, storage_class=CLASSES[content.copies])

    asyncio.run(put())
    load.base |= wanted

    def safe() -> bool:
        answer = site.call("POST", "/api/capstan/v1/archive-wait", {"paths": sorted(wanted)})
        return all(file["safe"] for file in answer["files"])

    soon(safe, seconds=SAFE_SECONDS_MAX, what=f"the files below /base/{prefix} are safe")


def emptied_volume(site: Site, directory: Path, load: Load, say: Callable[[str], None]) -> list[str]:
    """Repack, back up, reclaim, and label it again at once: the documented way from a full tape to an empty one."""
    found = query(site, "select vid, generation from volume where state in ('active', 'full', 'closed')"
                        " and pool in ('east', 'west') and tape_files > 0 order by written_bytes limit 1")  # fmt: skip
    if not found:
        return ["no volume has anything on it"]
    [(vid, generation)] = found
    site.run(["capstan", "volume", "repack", vid, *REASON])
    live = "select count(*) from maintenance where kind = 'repack' and key = :vid and state in ('queued', 'running')"
    soon(lambda: query(site, live, vid=vid) == [(0,)], seconds=EMPTY_SECONDS_MAX, what=f"{vid} is repacked")
    site.run(["capstan", "db", "backup", "--data", str(site.data)])
    refused = ""

    def relabelled() -> bool:
        nonlocal refused
        done = site.run(["capstan", "volume", "relabel", vid, *REASON], check=False)
        refused = done.stderr.strip()
        return done.returncode == 0

    deadline = time.monotonic() + REFUSED_SECONDS_MAX
    while not relabelled():
        if time.monotonic() > deadline:
            return [f"{vid} was repacked and is not given up: {refused}"]
        time.sleep(0.5)
    now = "select generation from volume where vid = :vid"
    soon(lambda: query(site, now, vid=vid) == [(generation + 1,)], seconds=EMPTY_SECONDS_MAX, what=f"label of {vid}")
    say(f"         {vid} was repacked, given up, and has its label of generation {generation + 1}")
    return []


def older_backup(site: Site, directory: Path, load: Load, say: Callable[[str], None]) -> list[str]:
    """Back up, put more, make all of it safe, restore: what is on tape alone comes back, and nothing is overwritten."""
    number = len(load.base)
    backups = site.directory / "backups"
    told = site.json(["capstan", "db", "backup", "--data", str(site.data), "--to", str(backups), "--json"])
    newest = max(backups.glob("*.dump"), key=os.path.getmtime)
    say(f"         backup {newest.name}: {told}")
    before = set(load.base)
    _put_safe(site, directory, load, f"ahead{number}", FILES)
    site.stop(timeout_seconds=STOP_SECONDS_MAX)
    site.run(["capstan", "db", "restore", str(newest), "--data", str(site.data), "--replace"])
    site.start(timeout_seconds=START_SECONDS_MAX)
    # Something has to be written, for the ends of the tapes to be looked at.
    _put_safe(site, directory, load, f"after{number}", 2)
    ahead = sorted(path for path in load.base.keys() - before if "/ahead" in path)
    deadline = time.monotonic() + ADOPTED_SECONDS_MAX
    while missing := [path for path in ahead if not _there(site, path)]:
        if time.monotonic() > deadline:
            ends = query(
                site, "select vid, state, tape_files, end_block, end_verified from volume where tape_files > 0"
            )
            return [f"{len(missing)} of {len(ahead)} files on tape were not adopted: {missing[:5]}; volumes: {ends}"]
        time.sleep(0.5)
    say(f"         {len(ahead)} files were adopted")
    return []


def changes_behind_the_tapes(site: Site, directory: Path, load: Load, say: Callable[[str], None]) -> list[str]:
    """Of files that are on tape some are moved and some removed: only the journal and the recycle bin know of it."""
    number = len(load.base)
    _put_safe(site, directory, load, f"changed{number}", 4)
    names = [f"/base/changed{number}/f{one}" for one in range(4)]
    for name in names[:2]:
        moved = f"/base/moved{number}-{name[-2:]}"
        site.run(["tmv", name, moved])
        load.base[moved] = load.base.pop(name)
    site.run(["trm", *names[2:]])
    for name in names[2:]:
        del load.base[name]
    listed = site.json(["capstan", "recycle", "ls", f"/base/changed{number}", "--json"])["items"]
    found = sorted(one["path"] for one in listed)
    return [] if found == names[2:] else [f"in the recycle bin are {found}, not {names[2:]}"]


def _there(site: Site, path: str) -> bool:
    try:
        return site.run(["tls", path], check=False).returncode == 0
    except SiteError:
        return False


#: name -> what is tried
RECOVERY: dict[str, Callable[[Site, Path, Load, Callable[[str], None]], list[str]]] = {
    "emptied volume": emptied_volume,
    "older backup": older_backup,
    "changes behind the tapes": changes_behind_the_tapes,
}
