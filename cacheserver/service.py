"""What the parts of one cache server share: its disk, catalog, keys, clock, threads, and what moves at this moment.

It decides nothing of its own; transfers (data.py, bulk.py) and upkeep (upkeep.py, reconcile.py) work on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple, Unpack

import structlog

from cacheserver.commits import Commits
from cacheserver.config import Config
from cacheserver.metrics import Metrics
from cacheserver.store import Store
from cacheserver.threads import in_thread
from catalog import identity, leases
from catalog.database import Database
from catalog.errors import BadSignature, CatalogUnreachable, NotOnline, TooBusy, Unavailable
from catalog.signing import Claims, Expired, SigningKey, UnknownKey, verify

log = structlog.get_logger(__name__)
C = TypeVar("C", bound=Claims)
T = TypeVar("T")
A = TypeVarTuple("A")

#: a URL signed with an unknown key makes us look for new keys, but no oftener
KEY_REFRESH_SECONDS_MIN = 1.0
#: keys are read anew after so long, so that a retired one is not believed for ever
KEY_REFRESH_SECONDS_MAX = 300.0
ABSENT_REPORTS_MAX = 10_000
#: a URL that has expired makes us ask the catalog's clock, but no oftener
CLOCK_REFRESH_SECONDS_MIN = 1.0


class Service:
    def __init__(self, config: Config, database: Database, store: Store) -> None:
        self.config = config
        self.name = config.name
        self.database = database
        self.store = store
        self.metrics = Metrics()
        self.commits = Commits(database, seconds_max=config.commit_seconds_max)
        self.threads = ThreadPoolExecutor(config.disk_threads, thread_name_prefix="disk")
        #: reservations that a PUT or a mover's stream works on: kept alive, and left alone by the reconciler
        self.active: set[int] = set()
        #: replicas whose bytes have to be checksummed before they are served
        self.unverified: set[int] = set()
        #: those that were, and whose rows do not say so yet
        self.verified: set[int] = set()
        #: the identity of the root as it was claimed; while the root does not show it, its disk is away
        self.root_id = ""
        self.root_is_here = True
        #: replicas that the disk does not have although somebody was sent here for them
        self.absent: set[int] = set()
        self.trouble = asyncio.Event()
        #: whether the disk was compared with the catalog, and the clock is set
        self.serving = False
        self.transfers = 0
        #: epoch of a mount -> its open streams
        self.bulk_streams: Counter[int] = Counter()
        #: one for each stream of arrivals: told which reservations are over, that nothing is published for them
        self.forgetters: set[Callable[[Collection[int]], None]] = set()
        self._keys: list[SigningKey] = []
        self._keys_read_at = -KEY_REFRESH_SECONDS_MAX
        self._clock_offset_seconds: float | None = None
        self._clock_asked_at = -CLOCK_REFRESH_SECONDS_MIN

    # ---------------------------------------------------------------- clock and signatures

    def set_clock(self, now_epoch_seconds: float, *, asked_at: float) -> None:
        """`asked_at`: of the monotonic clock, before the catalog was asked; so we are never ahead of it."""
        self._clock_offset_seconds = now_epoch_seconds - asked_at

    async def _ask_clock(self) -> None:
        self._clock_asked_at = time.monotonic()
        async with self.database.connection() as connection:
            self.set_clock(await leases.clock(connection), asked_at=self._clock_asked_at)

    def now_epoch_seconds(self) -> float:
        """The catalog's clock."""
        assert self._clock_offset_seconds is not None, "the first heartbeat sets the clock before anything is served"
        return time.monotonic() + self._clock_offset_seconds

    async def claims(self, signature: str, kind: type[C]) -> C:
        """The claims of a signed URL, which must be of this kind. Raises BadSignature, CatalogUnreachable."""
        age = time.monotonic() - self._keys_read_at
        if age > KEY_REFRESH_SECONDS_MAX or not self._keys:
            await self._read_keys()
        try:
            found = verify(signature, self._keys, self.now_epoch_seconds())
        except UnknownKey:
            if age < KEY_REFRESH_SECONDS_MIN:
                raise
            await self._read_keys()
            found = verify(signature, self._keys, self.now_epoch_seconds())
        except Expired:
            # Signed by the catalog's clock, which somebody may have set back since our last heartbeat.
            if time.monotonic() - self._clock_asked_at < CLOCK_REFRESH_SECONDS_MIN:
                raise
            with contextlib.suppress(CatalogUnreachable):
                await self._ask_clock()
            found = verify(signature, self._keys, self.now_epoch_seconds())
        if not isinstance(found, kind):
            raise BadSignature(why="it is for something else")
        return found

    async def _read_keys(self) -> None:
        try:
            async with self.database.transaction() as connection:
                self._keys = await identity.signing_keys(connection)
        except Exception:
            # Reading what is on the disk does not depend on the catalog being up.
            if not self._keys:
                raise
            log.warning("signing keys not renewed", exc_info=True)
        self._keys_read_at = time.monotonic()

    async def on_disk(self, function: Callable[[Unpack[A]], T], *arguments: *A) -> T:
        """Blocking work in a thread, to its end."""
        return await in_thread(self.threads, function, *arguments)

    # ---------------------------------------------------------------- limits

    def check_serving(self) -> None:
        """Raises Unavailable until the start is done, and while the disk is away."""
        if not self.serving:
            raise Unavailable(what=f"cache server {self.name}", why="it is starting", retry_after_seconds=1)
        if not self.root_is_here:
            raise Unavailable(what=f"cache server {self.name}", why="its disk is not there", retry_after_seconds=10)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Raises TooBusy."""
        if self.transfers >= self.config.transfers_max:
            raise TooBusy(what=f"cache server {self.name}", limit=self.config.transfers_max, retry_after_seconds=2)
        self.transfers += 1
        try:
            yield
        finally:
            self.transfers -= 1

    @contextmanager
    def bulk_stream(self, epoch: int) -> Iterator[None]:
        """Of one mount, whose reservations are kept alive meanwhile. Raises TooBusy."""
        if self.bulk_streams.total() >= self.config.bulk_streams_max:
            raise TooBusy(what=f"cache server {self.name}", limit=self.config.bulk_streams_max, retry_after_seconds=2)
        self.bulk_streams[epoch] += 1
        try:
            yield
        finally:
            self.bulk_streams[epoch] -= 1
            if not self.bulk_streams[epoch]:
                del self.bulk_streams[epoch]

    def forget_arrivals(self, ids: Collection[int]) -> None:
        """These reservations are over: from now on no stream publishes anything for them."""
        for forget in list(self.forgetters):
            forget(ids)

    # ---------------------------------------------------------------- replicas that are not what they should be

    def is_verified(self, replica_id: int) -> None:
        """Its bytes were checksummed and are right."""
        if replica_id in self.unverified:
            self.unverified.discard(replica_id)
            self.verified.add(replica_id)

    async def look_at_root(self) -> bool:
        """Whether the root is still the one that was claimed: a disk that was unmounted has lost nothing."""
        here = await self.on_disk(self.store.shows, self.root_id)
        if here != self.root_is_here:
            self.root_is_here = here
            (log.warning if here else log.error)(
                "the root is there again" if here else "the root is away", root=str(self.store.root)
            )
        return here

    def report_absent(self, replica_id: int) -> None:
        """Soon the catalog hears that we do not have it (upkeep.py); a hint that the hourly check repeats."""
        if len(self.absent) < ABSENT_REPORTS_MAX:
            self.absent.add(replica_id)
            self.trouble.set()

    def not_online(self, replica_id: int, name: str) -> NotOnline:
        self.report_absent(replica_id)
        return NotOnline(path=name, why=f"cache server {self.name} does not have it any more", retry_after_seconds=1)
