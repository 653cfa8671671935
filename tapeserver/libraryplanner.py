"""The planner of one library at work: decisions on one side, learning what has changed on the other.

`decide` is short, because drives wait for it: a look, a plan, one transaction. `learn` feeds the picture and says why
what waits waits; it begins a new picture when the lease is new, when nobody knows whether a fold was committed, and at
long intervals, because what was once counted wrong stays wrong. Both run again and again, as their bells ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import structlog

from catalog import leases, mounts, queues, situations
from catalog.database import SESSIONS, Database
from catalog.leases import Lease
from catalog.mounts import Candidate
from tapeserver import garbage
from tapeserver.config import Config
from tapeserver.courtesy import Courtesy, pause_seconds
from tapeserver.estimating import Estimating
from tapeserver.heldlease import HeldLease
from tapeserver.outcomes import GAVE_WAY
from tapeserver.picturekeeping import PictureKeeper
from tapeserver.picturesource import PictureSource, ripe_at
from tapeserver.planner import Decision, Explanation, GiveWay, MountView, Policy, explaining, plan
from tapeserver.planningrecord import Recorder

log = structlog.get_logger(__name__)

LEASE_PREFIX = "planner:"
#: deltas that are folded in one transaction, and changes that the picture is told of before others have the loop
FOLD_DELTAS, FOLD_PART = 1000, 20
# What is done again and again is done at most so often, and left alone for so much longer than it took, within limits.
#: While all drives are in use, what has come can only make a mount give way: when that is decided.
NEWS_SECONDS, NEWS_SHARE, NEWS_SECONDS_MAX = 0.25, 50.0, 1.0
#: candidates that are written in one transaction
SAY_PART = 500
#: a picture is begun anew so often
PICTURE_SECONDS_MAX = 3600.0
#: when pools, media and caches are looked at anew: a storm of recalls says nothing of them
SURROUND_SECONDS, SURROUND_SHARE, SURROUND_SECONDS_MAX = 0.2, 25.0, 1.0
#: when reasons are said anew
EXPLAIN_SECONDS, EXPLAIN_SHARE, EXPLAIN_SECONDS_MAX = 1.0, 25.0, 60.0
WHY_ENDED = {
    "rested": "nobody has wanted it for long enough",
    "idle": "others wait for the drive, or for the volume",
    "verifies": "others wait for the drive, or for the volume",
    "long": "others wait for the drive",
}


class LibraryPlanner:
    """Ring it when there may be news; whoever owns it calls `decide` and `learn` then, each never twice at once."""

    def __init__(self, database: Database, config: Config, library: str) -> None:
        self._database, self._config, self.library = database, config, library
        #: of decisions, which are made one at a time: with their statements prepared, and never in use by others
        self._decisions = database.apart()
        self.deciding, self.learning = asyncio.Event(), asyncio.Event()
        self._held = HeldLease(database, LEASE_PREFIX + library, config.name, seconds=config.lease_seconds)
        self._lease: Lease | None = None
        self._keeper: PictureKeeper | None = None
        self._source = self._new_source()
        self._begun_at = 0.0
        self._recorder = _recorder(config, library)
        self._courtesy = Courtesy()
        self._estimating = Estimating(database, library, self._courtesy.breathe)
        self._news: asyncio.TimerHandle | None = None
        #: what rang too soon after the last look at the surroundings has them looked at again then
        self._looks_again: asyncio.TimerHandle | None = None
        #: what was written last, by kind and key; None: nobody knows
        self._said: dict[tuple[str, str], Explanation] | None = None
        self._surround_at = self._explain_at = self._decision_seconds = 0.0

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @property
    def decides(self) -> bool:
        return self._held.sure

    def ring(self) -> None:
        self.deciding.set()
        self.learning.set()

    async def close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
        await self._held.release()

    # ------------------------------------------------------------------ deciding

    async def quiet(self) -> None:
        """Returns when no decision is under way."""
        await self._courtesy.give_turn()

    async def decide(self) -> Decision | None:
        """One decision, carried out under the lease; None without lease or picture. Raises CatalogUnreachable."""
        began = self._loop.time()
        with self._courtesy.deciding():
            try:
                return await self._decide()
            finally:
                self._decision_seconds = self._loop.time() - began

    async def _decide(self) -> Decision | None:
        lease = await self._held.held()
        if lease is None or not self._held.sure or lease != self._lease:
            self._lease, self._keeper = (lease if self._held.sure else None), None
            self.learning.set()
            return None
        keeper = self._keeper
        if keeper is None:
            return None
        async with self._decisions.connection() as connection:
            situation = await self._source.look(connection, keeper)
        if keeper is not self._keeper:
            return None
        keeper.see(situation)
        self._record("see", situation)
        decision = plan(keeper.picture, keeper.policy, situation.now)
        self._record("decided", situation.now, decision)
        if decision.mounts or decision.give_way:
            await self._carry_out(keeper, lease, decision)
        return decision

    async def _carry_out(self, keeper: PictureKeeper, lease: Lease, decision: Decision) -> None:
        late = {one.epoch: _why(one) for one in decision.give_way}
        # One statement is its own transaction: no other round trip, in which the machine may have other work.
        async with self._decisions.connection() as connection:
            made = await situations.carry_out(connection, lease, decision.mounts, late)
        keeper.planned(made)
        self._record("planned", made)
        self._database.wake(SESSIONS)
        self._tell(decision, made)
        await self._doubt(keeper, decision, made)

    def _tell(self, decision: Decision, made: Sequence[MountView]) -> None:
        codes = {one.volume: one.reason_code for one in decision.mounts}
        for one in made:
            log.info("mount planned", epoch=one.epoch, drive=one.drive, volume=one.volume, why=codes[one.volume])
        for late in decision.give_way:
            log.info("mount gives way", epoch=late.epoch, drive=late.drive, volume=late.volume, why=late.why)

    async def _doubt(self, keeper: PictureKeeper, decision: Decision, made: Sequence[MountView]) -> None:
        """What got no row: perhaps nothing waits there any more, or only for a pause to end."""
        written = {one.volume for one in made}
        missed = sorted(one.volume for one in decision.mounts if one.volume not in written)
        reading = [one.volume for one in decision.mounts if one.volume in missed and one.purpose == "recall"]
        if not reading:
            return
        async with self._decisions.connection() as connection:
            ripe = await ripe_at(connection, reading)
        if not keeper.ripen(ripe):
            # Something else is new, such as the volume's state: not planned again and again until it is looked at.
            self._surround_at = 0.0
            self.learning.set()
        self._record("ripen", ripe)
        # Others may have what these were to have.
        self.deciding.set()

    # ------------------------------------------------------------------ learning

    async def learn(self) -> None:
        """Tell the picture what is new, and say why what waits waits. Raises CatalogUnreachable."""
        lease, loop = self._lease, asyncio.get_running_loop()
        if lease is None or not self._held.sure:
            return
        # Renewed here: a decision would wait for it. One that was lost, the next decision finds out.
        if await self._held.hold() != lease:
            self.deciding.set()
            return
        if self._keeper is None or loop.time() - self._begun_at > PICTURE_SECONDS_MAX:
            await self._begin(lease)
        keeper = self._keeper
        if keeper is None:
            return
        # Both hear of the same news: the decision first, and then no statement of others beside its own.
        await self._courtesy.give_turn()
        if await self._fold(keeper, lease):
            self._ring_for_news(keeper)
        if loop.time() >= self._surround_at:
            await self._courtesy.give_turn()
            await self._surround(keeper)
        elif self._looks_again is None:
            self._looks_again = loop.call_at(self._surround_at, self._look_again)
        if loop.time() >= self._explain_at:
            await self._courtesy.give_turn()
            await self._explain(keeper, lease)
        await self._estimating.publish(keeper.picture, keeper.policy, lease)

    async def _fold(self, keeper: PictureKeeper, lease: Lease) -> bool:
        """Whether anything was new."""
        changed = False
        while True:
            try:
                async with self._database.transaction() as connection:
                    # Under the lease: whoever has it next begins with what was folded until then.
                    if not await leases.guard(connection, lease):
                        return changed
                    folded = await queues.fold_deltas(connection, self.library, FOLD_DELTAS)
            except BaseException:
                # Committed or not, nobody knows.
                self._forget(keeper)
                raise
            if not folded:
                return changed
            changed = True
            if not await self._told(keeper, folded):
                log.warning("picture drifts and is begun anew", library=self.library)
                self._forget(keeper)
                return changed
            if sum(one.deltas for one in folded) < FOLD_DELTAS:
                return changed
            self._ring_for_news(keeper)

    def _ring_for_news(self, keeper: PictureKeeper) -> None:
        """More waits, or less. A drive that comes free meanwhile has its decision at once all the same."""
        if keeper.free_drives:
            self.deciding.set()
        elif self._news is None:
            pause = pause_seconds(self._decision_seconds, share=NEWS_SHARE, least=NEWS_SECONDS, most=NEWS_SECONDS_MAX)
            self._news = self._loop.call_later(pause, self._news_due)

    def _look_again(self) -> None:
        self._looks_again = None
        self.learning.set()

    def _news_due(self) -> None:
        self._news = None
        self.deciding.set()

    async def _told(self, keeper: PictureKeeper, changes: Sequence[queues.Change]) -> bool:
        exact = True
        for first in range(0, len(changes), FOLD_PART):
            part = changes[first : first + FOLD_PART]
            exact &= keeper.fold(part)
            self._record("fold", part)
            await self._courtesy.breathe()
        return exact

    async def _surround(self, keeper: PictureKeeper) -> None:
        began = self._loop.time()
        async with self._database.connection() as connection:
            now = await leases.clock(connection)
            seen = await self._source.surroundings(connection, keeper, now)
        if keeper.surround(seen):
            self.deciding.set()
        self._record("surround", seen)
        spent = self._loop.time() - began
        pause = pause_seconds(spent, share=SURROUND_SHARE, least=SURROUND_SECONDS, most=SURROUND_SECONDS_MAX)
        self._surround_at = self._loop.time() + pause

    def _forget(self, keeper: PictureKeeper) -> None:
        if self._keeper is keeper:
            self._keeper = None
            self.learning.set()

    async def _begin(self, lease: Lease) -> None:
        """A picture from the counters. The one before it serves until then."""
        keeper, source, loop = PictureKeeper(self.library, _policy(self._config)), self._new_source(), self._loop
        began, lines = loop.time(), list[tuple[str, object]]()
        async with self._database.transaction() as connection:
            if not await leases.guard(connection, lease) or not await queues.lock_folds(connection, self.library):
                return
            async for page in source.counters(connection):
                for first in range(0, len(page), FOLD_PART):
                    keeper.fold(page[first : first + FOLD_PART])
                    await asyncio.sleep(0)
                if self._recorder is not None:
                    lines.append(("fold", page))
        async with self._database.connection() as connection:
            ends, fruitless = await source.ended_before(connection)
            now = await leases.clock(connection)
            seen = await source.surroundings(connection, keeper, now)
            situation = await source.look(connection, keeper)
        if self._lease != lease:
            return
        keeper.ended_before(ends, fruitless)
        keeper.see(situation)
        keeper.surround(seen)
        self._record("begun", self.library, _policy(self._config))
        for name, argument in lines:
            self._record(name, argument)
        self._record("ended_before", ends, fruitless)
        self._record("see", situation)
        self._record("surround", seen)
        self._keeper, self._source, self._begun_at, self._said = keeper, source, loop.time(), None
        waiting = int((keeper.picture.volumes.files > 0).sum())
        log.info("picture begun", library=self.library, volumes=waiting, seconds=round(loop.time() - began, 3))
        self.deciding.set()
        await self._courtesy.give_turn()
        # A picture has millions of parts.
        garbage.set_aside()

    def _new_source(self) -> PictureSource:
        return PictureSource(
            self.library,
            silence_seconds_max=self._config.drive_silence_seconds,
            half_life_seconds=self._config.usage_half_life_seconds,
        )

    # ------------------------------------------------------------------ explaining

    async def _explain(self, keeper: PictureKeeper, lease: Lease) -> None:
        """Say why what waits waits, where that has changed."""
        loop = asyncio.get_running_loop()
        async with self._database.connection() as connection:
            now = await leases.clock(connection)
        began, said, saying = loop.time(), self._said, dict[tuple[str, str], Explanation]()
        changed = list[Explanation]()
        for part in explaining(keeper.picture, keeper.policy, now):
            for one in part:
                saying[one.kind, one.key] = one
                if said is None or said.get((one.kind, one.key)) != one:
                    changed.append(one)
            await self._courtesy.breathe()
        spent = loop.time() - began
        self._explain_at = loop.time() + pause_seconds(
            spent, share=EXPLAIN_SHARE, least=EXPLAIN_SECONDS, most=EXPLAIN_SECONDS_MAX
        )
        await self._say(saying, changed, lease)

    async def _say(
        self, saying: dict[tuple[str, str], Explanation], changed: Sequence[Explanation], lease: Lease
    ) -> None:
        """In transactions of so many, each under the lease: none is long, because a decision may wait for its locks."""
        gone = None if self._said is None else [key for key in self._said if key not in saying]
        if not changed and gone == []:
            return
        self._said = None
        for first in range(0, len(changed), SAY_PART):
            part = [
                Candidate(kind=one.kind, key=one.key, code=one.code, arguments=one.arguments)
                for one in changed[first : first + SAY_PART]
            ]
            async with self._database.transaction() as connection:
                if not await leases.guard(connection, lease):
                    return
                await mounts.write_candidates(connection, self.library, part, gone=[])
            await self._courtesy.breathe()
        if gone != []:
            async with self._database.transaction() as connection:
                if not await leases.guard(connection, lease):
                    return
                await mounts.clear_candidates(connection, self.library, gone=gone, kept=list(saying))
        self._said = saying

    def _record(self, name: str, *arguments: object) -> None:
        if self._recorder is not None:
            self._recorder.write(name, *arguments)


def _why(late: GiveWay) -> str:
    if late.why in ("rested", "idle"):
        return f"{mounts.REST}: {WHY_ENDED[late.why]}"
    return f"{GAVE_WAY} after {late.age_seconds:.0f} s: {WHY_ENDED[late.why]}"


def _recorder(config: Config, library: str) -> Recorder | None:
    return Recorder(Path(config.planning_record) / f"{library}.jsonl") if config.planning_record else None


def _policy(config: Config) -> Policy:
    """What the configuration says, by the same names; the rest is as built in."""
    named = {one.name for one in fields(Policy)}
    return Policy(**{name: getattr(config, name) for name in Config.__struct_fields__ if name in named})
