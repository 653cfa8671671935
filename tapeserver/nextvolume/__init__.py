"""Which volume next, in which drive, and why not the others. Pure: a picture of one library in, a decision out.

`Picture` is kept by increments by whoever runs the planner, production and simulator alike; `plan` decides on it,
`explanations` says why. Nothing here has a clock, takes a lease or writes a row.
"""

from tapeserver.nextvolume.deciding import plan
from tapeserver.nextvolume.explaining import explaining, explanations
from tapeserver.nextvolume.picture import Picture
from tapeserver.nextvolume.policy import Policy, Rule
from tapeserver.nextvolume.usage import Allotment
from tapeserver.nextvolume.views import (
    ArchiveNeed,
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
    "Rule",
    "Share",
    "VolumeView",
    "explaining",
    "explanations",
    "plan",
]
