"""What the door's handlers share: the catalog, the limits, the keys, the way to other servers. It handles nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from catalog import identity
from catalog.database import Database
from catalog.model import Principal
from catalog.replicas import DrawnIds
from catalog.signing import SigningKey
from catalog.staging import DEFAULT_PRIORITY

#: keys rotate by the week, so a minute-old list is as good as new
KEYS_SECONDS_MAX = 60.0


@dataclass(slots=True, kw_only=True)
class DoorContext:
    """Made by the tapeserver from its configuration; `session` is set while the app runs."""

    database: Database
    #: of this tape server
    name: str
    site_name: str = "capstan"
    #: how long what a stage request brought stays, when the client does not say (gfal2 never does)
    default_pin_seconds: float = 2 * 86400.0
    pin_seconds_max: float = 30 * 86400.0
    #: what a plain GET pins for its caller
    get_pin_seconds: float = 3600.0
    #: for which a signed URL is good
    url_seconds: float = 600.0
    #: a relayed body that brings nothing for so long is given up
    idle_seconds_max: float = 60.0
    #: for which no reclaim gives up what was removed
    recycle_days: float = 30.0
    reclaim_needs_backup: bool = True
    stage_files_max: int = 1_000_000
    stage_bytes_max: int = 512 << 20
    #: the highest priority that a request of a user's own may have
    stage_priority_max: int = DEFAULT_PRIORITY
    paths_max: int = 10_000
    json_bytes_max: int = 64 << 20
    event_readers_max: int = 100
    #: parts of User-Agent, lower case, of clients that follow a redirect of a PUT
    redirect_agents: Sequence[str] = ("davix", "gfal2", "xrootd")
    #: for cached keys only; every time that is promised is the catalog's
    monotonic: Callable[[], float] = time.monotonic
    #: drive -> whether its mover answers, of the drives of this tape server
    movers: Callable[[], Mapping[str, bool]] = dict
    session: aiohttp.ClientSession | None = None
    _ids: DrawnIds | None = None
    _keys: list[SigningKey] = field(default_factory=list)
    _keys_at: float = 0.0

    async def signing_keys(self) -> list[SigningKey]:
        now = self.monotonic()
        if not self._keys or now - self._keys_at > KEYS_SECONDS_MAX:
            async with self.database.transaction() as connection:
                self._keys = await identity.signing_keys(connection)
            self._keys_at = now
        return self._keys

    async def replica_id(self) -> int:
        """For one put."""
        if self._ids is None:
            self._ids = DrawnIds(self.database)
        return await self._ids.next()


CONTEXT = web.AppKey("door", DoorContext)
#: put on a request by the authentication
PRINCIPAL = web.RequestKey("principal", Principal)


def context_of(request: web.Request) -> DoorContext:
    return request.app[CONTEXT]


def principal_of(request: web.Request) -> Principal:
    """Who asks. Only on routes that need a token."""
    return request[PRINCIPAL]
