"""The tables of what an operator tells the planner, of who has used the drives, and of what the planner expects.

Like `catalog.tables`, a mirror. Read through `catalog.shares`, `catalog.usage` and `catalog.estimates`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    Double,
    ForeignKey,
    Integer,
    SmallInteger,
    Table,
    Text,
    text,
)

from catalog.columns import TIME, column, columns, metadata, number, optional, word

# Columns that belong together share a line, as in the SQL.
# fmt: off
mount_served = Table(
    "mount_served", metadata,
    column("epoch", BigInteger, ForeignKey("mount.epoch", ondelete="CASCADE"), primary_key=True),
    *columns(Text, "owner", "grp", primary_key=True),
    number("files_read", 0), number("bytes_read", 0), number("files_written", 0), number("bytes_written", 0),
)

usage = Table(
    "usage", metadata,
    column("day", Date, primary_key=True), *columns(Text, "library", "owner", "grp", primary_key=True),
    *columns(Double, "mounts", "drive_seconds"),
    *columns(BigInteger, "files_read", "bytes_read", "files_written", "bytes_written"), column("used_at", TIME),
)

planning = Table(
    "planning", metadata,
    column("only", Boolean, primary_key=True, server_default=text("true")), number("changes", 0),
    CheckConstraint('"only"', name="planning_only_check"),
)

share = Table(
    "share", metadata,
    column("grp", Text, primary_key=True),
    column("owner", Text, primary_key=True, server_default=text("''")),
    column("weight", Double, server_default=text("1")), optional("drive_seconds", Double),
    optional("reading_drives", Integer), optional("writing_drives", Integer),
    CheckConstraint("weight > 0", name="share_weight_check"),
    CheckConstraint("drive_seconds >= 0", name="share_drive_seconds_check"),
    CheckConstraint("reading_drives >= 0", name="share_reading_drives_check"),
    CheckConstraint("writing_drives >= 0", name="share_writing_drives_check"),
    CheckConstraint("owner = '' or (reading_drives is null and writing_drives is null)", name="share_drives_check"),
)

weight_rule = Table(
    "weight_rule", metadata,
    column("place", Integer, primary_key=True, autoincrement=False), column("weight", Double),
    word("activity", "*"), word("grp", "*"), word("owner", "*"),
    number("priority_min", -32768, SmallInteger), number("priority_max", 32767, SmallInteger),
    CheckConstraint("weight > 0", name="weight_rule_weight_check"),
    CheckConstraint("priority_min <= priority_max", name="weight_rule_check"),
)

estimate = Table(
    "estimate", metadata,
    column("volume", Text, ForeignKey("volume.vid", ondelete="CASCADE"), primary_key=True),
    column("library", Text, ForeignKey("library.name")), column("begins_at", TIME), column("reading_seconds", Double),
    column("files", BigInteger), column("mounted", Boolean),
    column("in_hand_seconds", Double), column("in_hand_files", BigInteger),
)

pool_estimate = Table(
    "pool_estimate", metadata,
    column("pool", Text, ForeignKey("pool.name", ondelete="CASCADE"), primary_key=True),
    column("library", Text, ForeignKey("library.name")), column("begins_at", TIME),
    *columns(Double, "in_hand_seconds", "writing_seconds"), *columns(BigInteger, "files", "urgent"),
    optional("oldest_at", TIME), optional("newest_at", TIME),
)

estimate_look = Table(
    "estimate_look", metadata,
    column("library", Text, ForeignKey("library.name"), primary_key=True), column("at", TIME),
)
