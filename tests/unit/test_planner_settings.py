"""Promises of what an operator may set for the planner: each setting reaches it, and has one default."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import pytest

from tapeserver.config import Config
from tapeserver.libraryplanner import _policy
from tapeserver.planner import Policy

POLICY = {one.name for one in fields(Policy)}
SETTINGS = sorted(POLICY & set(Config.__struct_fields__))
#: a tape server writes sooner than a farm that is simulated: whoever has just put a file waits until it is safe
SOONER = {"collecting_age_seconds", "collecting_bytes", "volumes_open_bytes"}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_set_is_what_the_planner_goes_by(name: str) -> None:
    other = (getattr(Config(), name) or 0) + 1
    assert getattr(_policy(msgspec.structs.replace(Config(), **{name: other})), name) == other


def test_what_cannot_be_set_is_known() -> None:
    assert POLICY - set(SETTINGS) == {
        "ageing_factor", "ageing_seconds_min", "background_priority_max", "correction_max", "deadline_factor",
        "deadline_seconds_min", "over_allotment_factor", "remount_idle_seconds", "rules", "share_drain_seconds",
        "share_tolerance",
    }  # fmt: skip


def test_a_default_is_what_the_planner_has_built_in() -> None:
    set_so, built_in = msgspec.structs.asdict(Config()), Policy()
    assert {name for name in SETTINGS if set_so[name] != getattr(built_in, name)} == SOONER
