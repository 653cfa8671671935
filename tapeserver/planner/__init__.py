"""Which volume next, in which drive, and why not the others. Pure: a picture of one library in, a decision out.

`Picture` is kept by increments by whoever runs the planner, production and simulator alike; `plan` decides on it,
`explanations` says why. Nothing here has a clock, takes a lease or writes a row.
"""

from tapeserver.planner.deciding import plan
from tapeserver.planner.explaining import explaining, explanations
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.usage import Allotment
from tapeserver.planner.views import (
    ArchiveNeed,
    CacheAway,
    Decision,
    DriveLimit,
    DriveView,
    EndView,
    Explanation,
    GiveWay,
    MediaNeed,
    MountView,
    PlannedMount,
    Share,
    VolumeView,
)

__all__ = [
    "Allotment",
    "ArchiveNeed",
    "CacheAway",
    "Decision",
    "DriveLimit",
    "DriveView",
    "EndView",
    "Explanation",
    "GiveWay",
    "MediaNeed",
    "MountView",
    "Picture",
    "PlannedMount",
    "Policy",
    "Share",
    "VolumeView",
    "explaining",
    "explanations",
    "plan",
]
