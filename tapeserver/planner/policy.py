"""What an operator may set about which volume is next, and the table that turns activities into weights. Pure.

Factors are of the time in which the queue drains (see `scoring`): the same settings hold for a busy library and for a
quiet one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalog.model import WeightRule
from tapeserver.planner.views import Share

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    # ---- when a volume is worth a mount for reading: any of these
    recall_bytes: int = 500 * 10**9
    #: 1: at once. Collecting costs waits and saves mounts only while drives are idle; under load the queue collects
    recall_files: int = 1
    recall_age_seconds: float = 600.0
    #: no arrival for so long
    recall_quiet_seconds: float = 120.0
    #: a volume rests so long after any mount while others want drives
    remount_seconds: float = 900.0
    #: … and so long while a drive would be idle otherwise
    remount_idle_seconds: float = 0.0
    #: a mount with nothing to do stays so long while nobody else wants its drive
    dismount_delay_seconds: float = 600.0
    #: … but at once while fewer than this part of the drives are empty, if nothing came for it since it was mounted
    spare_part: float = 1.0

    # ---- when a pool is worth a mount for writing: any of these, or somebody who waits
    collecting_bytes: int = 500 * 10**9
    collecting_files: int = 10_000
    collecting_age_seconds: float = 600.0
    #: no arrival for so long; 0: does not count
    collecting_quiet_seconds: float = 0.0
    volumes_open_max: int = 1
    volumes_open_bytes: int = 500 * 10**9

    # ---- after mounts that failed
    cooldown_seconds: float = 5.0
    #: the cool-down doubles with each fruitless mount, up to this
    cooldown_seconds_max: float = 300.0

    # ---- who comes first
    #: what has just come counts as if it had waited for so much of the drain time, and so long at least
    ageing_factor: float = 0.05
    ageing_seconds_min: float = 60.0
    #: who has waited for so much of the drain time, and for this at least, counts twice or more, see `scoring.urgency`
    deadline_factor: float = 2.8
    deadline_seconds_min: float = 1800.0
    #: who has waited so long comes before all others, whosever share it is
    deadline_seconds_max: float = 48 * HOUR
    rules: Sequence[WeightRule] = ()
    #: what only Capstan itself waits for: priorities up to this come behind …
    background_priority_max: int = 10
    #: … until they have waited so long
    background_seconds_max: float = HOUR

    # ---- fair share
    #: what was used counts half as much after so long
    usage_half_life_seconds: float = 24 * HOUR
    #: who has used this much of all the drives' time more than his part counts e times less …
    share_tolerance: float = 0.1
    #: … when the drives need so long for what waits; with less that waits, shares count that much less
    share_drain_seconds: float = 48 * HOUR
    #: nobody counts more, or less, than this for what he has used
    correction_max: float = 1000.0
    #: charged for a mount besides its drive-seconds
    mount_charge_seconds: float = 0.0
    #: who is over his allotment of drive-seconds has this much of his share
    over_allotment_factor: float = 0.1

    # ---- drives and cache
    #: a mount that has had its drive for longer gives it up when another needs it: a pass that is cut costs a change
    mount_seconds_max: float = 4 * HOUR
    #: drives of the library that read, and that write, at once; None: all
    reading_drives_max: int | None = None
    writing_drives_max: int | None = None
    #: drives of one library that verify at once
    verify_drives_max: int = 1
    #: so much of the cache's room is enough to begin with a volume of which more is wanted
    cache_mount_bytes: int = 500 * 10**9

    def weight(self, share: Share) -> float:
        """By the first rule that matches; 1 without any."""
        asks = share.activity, share.group, share.owner, share.priority
        return next((rule.weight for rule in self.rules if rule.matches(*asks)), 1.0)
