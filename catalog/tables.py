"""The catalog's tables for SQLAlchemy Core: columns, keys and indexes as the migrations leave them.

A mirror for writing queries, never the source: the migrations make the schema, and a test compares the two. It holds no
query, no function or trigger of the database (see migrations/versions/0001_spine.sql), and never creates a table.
Sizes are bytes; times are aware datetimes whose default is the database's capstan_now().
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine, UserDefinedType


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id; an int in Python."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


# Without this, reading the schema back warns of an unknown type and compares nothing of it.
ischema_names["xid8"] = Xid8

#: the names that PostgreSQL gives by itself; checks are named one by one
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)

_Type = TypeEngine[Any] | type[TypeEngine[Any]]
_TIME = TIMESTAMP(timezone=True)
_NOW = text("capstan_now()")
_PARTITION = re.compile(r"(mount_history|event)_(default|y\d{4}m\d{2})")


def is_ours(name: str | None) -> bool:
    """Whether a table of the database should be in `metadata`: not a partition, not the migrations' own record."""
    return name is not None and name != "alembic_version" and _PARTITION.fullmatch(name) is None


def _column(name: str, kind: _Type, *items: SchemaItem, **options: Any) -> Column[Any]:
    """A column that is never null, unless `nullable=True`."""
    return Column(name, kind, *items, **{"nullable": False, **options})


def _optional(name: str, kind: _Type, *items: SchemaItem, **options: Any) -> Column[Any]:
    return _column(name, kind, *items, **options, nullable=True)


def _columns(kind: _Type, *names: str, **options: Any) -> list[Column[Any]]:
    return [_column(name, kind, **options) for name in names]


def _identity(name: str = "id", kind: _Type = BigInteger, *, primary_key: bool = True) -> Column[Any]:
    return _column(name, kind, Identity(always=True), primary_key=primary_key)


def _word(name: str, default: str) -> Column[Any]:
    return _column(name, Text, server_default=text(f"'{default}'"))


def _number(name: str, default: int, kind: _Type = BigInteger) -> Column[Any]:
    return _column(name, kind, server_default=text(str(default)))


def _flag(name: str, *, default: bool = False) -> Column[Any]:
    return _column(name, Boolean, server_default=text("true" if default else "false"))


def _json(name: str) -> Column[Any]:
    return _column(name, JSONB, server_default=text("'{}'"))


def _now(name: str) -> Column[Any]:
    return _column(name, _TIME, server_default=_NOW)


def _switch(state: str) -> list[Column[Any]]:
    """A state that an operator may change, with who changed it, why and when."""
    return [_word("state", state), _word("reason", ""), _word("changed_by", "capstan"), _now("since")]


# Columns that belong together share a line, as in the SQL.
# fmt: off
# ---------------------------------------------------------------------- states, identity

state_move = Table("state_move", metadata, *_columns(Text, "machine", "from_state", "to_state", primary_key=True))

catalog_identity = Table(
    "catalog_identity", metadata,
    _column("only", Boolean, primary_key=True, server_default=text("true")), *_columns(Text, "id", "incarnation"),
    _now("created_at"),
    CheckConstraint('"only"', name="catalog_identity_only_check"),
)

# ---------------------------------------------------------------------- media

library = Table(
    "library", metadata,
    _column("name", Text, primary_key=True), _column("kind", Text), _column("spec", JSONB),
    *_switch("up"),
)

drive = Table(
    "drive", metadata,
    _column("name", Text, primary_key=True), _column("library", Text, ForeignKey("library.name")),
    *_switch("up"),
    _optional("tapeserver", Text), _optional("heartbeat_at", _TIME),
)

pool = Table(
    "pool", metadata, _column("name", Text, primary_key=True), _column("library", Text, ForeignKey("library.name"))
)

volume = Table(
    "volume", metadata,
    _column("vid", Text, primary_key=True), _column("library", Text, ForeignKey("library.name")),
    _optional("pool", Text, ForeignKey("pool.name")),
    *_switch("blank"),
    _number("generation", 0, Integer), _column("capacity_bytes", BigInteger), _number("written_bytes", 0),
    _number("block_size", 262144, Integer), _number("tape_files", 0, Integer), _number("end_block", 0),
    _flag("end_verified", default=True), _optional("full_at", _TIME),
    Index("volume_pool", "pool", "state"),
    Index("volume_library", "library"),
)

storage_class = Table(
    "storage_class", metadata,
    _column("name", Text, primary_key=True), _column("copies", SmallInteger), _column("pools", ARRAY(Text)),
    _flag("evict_degraded"), _flag("is_default"),
    CheckConstraint("copies between 1 and 8", name="storage_class_copies_check"),
    CheckConstraint("cardinality(pools) >= copies", name="storage_class_check"),
    Index("storage_class_default", "is_default", unique=True, postgresql_where=text("is_default")),
)

# ---------------------------------------------------------------------- namespace

node = Table(
    "node", metadata,
    _identity(), _optional("parent", BigInteger, ForeignKey("node.id")), _column("name", Text(collation="C")),
    _column("kind", Text),
    UniqueConstraint("parent", "name"),
    CheckConstraint("kind in ('directory', 'file')", name="node_kind_check"),
)

directory = Table(
    "directory", metadata,
    _column("node", BigInteger, ForeignKey("node.id", ondelete="CASCADE"), primary_key=True),
    *_columns(Text, "owner", "grp"), _number("mode", 493, Integer), _column("mtime_ns", BigInteger),
    _optional("storage_class", Text, ForeignKey("storage_class.name")),
)

file = Table(
    "file", metadata,
    _identity(), _optional("node", BigInteger, ForeignKey("node.id", ondelete="SET NULL"), unique=True),
    _word("state", "live"), _column("size", BigInteger), _column("adler32", Text), _json("digests"),
    _column("mtime_ns", BigInteger), _number("mode", 420, Integer), *_columns(Text, "owner", "grp"),
    _column("storage_class", Text, ForeignKey("storage_class.name")), _column("stored_path", Text),
    _now("created_at"), _optional("deleted_at", _TIME),
    CheckConstraint("size >= 0", name="file_size_check"),
    CheckConstraint("adler32 ~ '^[0-9a-f]{8}$'", name="file_adler32_check"),
    CheckConstraint("(state = 'live') = (deleted_at is null)", name="file_check"),
)

copy = Table(
    "copy", metadata,
    _identity(), _column("file", BigInteger, ForeignKey("file.id")), _column("copy_number", SmallInteger),
    _column("volume", Text, ForeignKey("volume.vid")), *_columns(Integer, "generation", "tape_file"),
    *_columns(BigInteger, "first_block", "byte_offset", "length", "epoch"), _now("created_at"),
    UniqueConstraint("volume", "generation", "first_block", "byte_offset", "file"),
    Index("copy_file", "file"),
)

dead_extent = Table(
    "dead_extent", metadata,
    _column("volume", Text, ForeignKey("volume.vid"), primary_key=True),
    _column("generation", Integer, primary_key=True), _column("tape_file", Integer),
    _column("first_block", BigInteger, primary_key=True), _column("blocks", BigInteger), _column("why", Text),
    _now("found_at"),
)

# ---------------------------------------------------------------------- disk

cache_server = Table(
    "cache_server", metadata,
    _column("name", Text, primary_key=True), *_columns(Text, "url", "root_id", "host", "root"),
    *_switch("up"),
    _column("capacity_bytes", BigInteger), _number("taken_bytes", 0),
    _column("high_watermark", REAL, server_default=text("0.9")),
    _column("low_watermark", REAL, server_default=text("0.8")), _number("wanted_bytes", 0),
    _now("heartbeat_at"),
    CheckConstraint("taken_bytes >= 0", name="cache_server_check"),
)

reservation = Table(
    "reservation", metadata,
    _identity(), _column("cache_server", Text, ForeignKey("cache_server.name")), _column("bytes", BigInteger),
    _column("kind", Text), _optional("file", BigInteger, ForeignKey("file.id")), _optional("epoch", BigInteger),
    _optional("path", Text), _now("created_at"), _column("expires_at", _TIME),
    CheckConstraint("bytes >= 0", name="reservation_bytes_check"),
    CheckConstraint("kind in ('put', 'recall')", name="reservation_kind_check"),
    Index("reservation_server", "cache_server", "expires_at"),
    Index("reservation_epoch", "epoch", postgresql_where=text("epoch is not null")),
)

replica = Table(
    "replica", metadata,
    _column("id", BigInteger, primary_key=True, autoincrement=False),
    _column("file", BigInteger, ForeignKey("file.id")),
    _column("cache_server", Text, ForeignKey("cache_server.name")), _word("state", "on_disk"),
    _column("size", BigInteger), _column("origin", Text), _now("created_at"), _now("last_used_at"), _word("why", ""),
    CheckConstraint("origin in ('put', 'recall')", name="replica_origin_check"),
    Index("replica_one_a_server", "file", "cache_server", unique=True,
          postgresql_where=text("state in ('on_disk', 'lost')")),
    Index("replica_age", "cache_server", "last_used_at", postgresql_where=text("state = 'on_disk'")),
    Index("replica_evicting", "cache_server", postgresql_where=text("state = 'evicting'")),
)

pin = Table(
    "pin", metadata,
    _column("file", BigInteger, ForeignKey("file.id"), primary_key=True), _column("owner", Text, primary_key=True),
    _column("expires_at", _TIME), _now("created_at"),
    Index("pin_owner", "owner"),
    Index("pin_expiry", "expires_at"),
)

# ---------------------------------------------------------------------- staging

stage_request = Table(
    "stage_request", metadata,
    _identity(), _column("owner", Text), _optional("token", BigInteger), _word("origin", "stage"),
    _word("state", "submitted"), _word("activity", ""), _number("priority", 50, SmallInteger),
    *_columns(BigInteger, "items", "items_live"), _now("created_at"),
    *_columns(_TIME, "started_at", "completed_at", nullable=True),
    CheckConstraint("origin in ('stage', 'get')", name="stage_request_origin_check"),
    Index("stage_request_owner", "owner", "id"),
    Index("stage_request_submitted", "id", postgresql_where=text("state = 'submitted'")),
)

stage_item = Table(
    "stage_item", metadata,
    _column("request", BigInteger, ForeignKey("stage_request.id", ondelete="CASCADE"), primary_key=True),
    _column("number", Integer, primary_key=True), _column("path", Text),
    _optional("file", BigInteger, ForeignKey("file.id")), _word("state", "submitted"),
    _column("lifetime_seconds", Double), *_columns(Text, "error_code", "error", nullable=True),
    *_columns(_TIME, "started_at", "finished_at", nullable=True),
    Index("stage_item_file", "file", postgresql_where=text("state in ('submitted', 'started')")),
    Index("stage_item_path", "request", text("hashtextextended(path, 0)")),
)

# ---------------------------------------------------------------------- queues: live rows only

recall = Table(
    "recall", metadata,
    _column("file", BigInteger, ForeignKey("file.id"), primary_key=True), _word("state", "queued"),
    _column("bytes", BigInteger), *_columns(Text, "owner", "grp"), _word("activity", ""),
    _number("priority", 50, SmallInteger), _optional("volume", Text, ForeignKey("volume.vid")),
    _optional("epoch", BigInteger), _number("attempts", 0, SmallInteger), _word("last_error", ""),
    _flag("abandoned"), _now("created_at"), _now("not_before"),
    Index("recall_epoch", "epoch", postgresql_where=text("epoch is not null")),
)

demand = Table(
    "demand", metadata,
    _column("volume", Text, ForeignKey("volume.vid")), _column("first_block", BigInteger),
    _column("file", BigInteger, ForeignKey("recall.file", ondelete="CASCADE")), _column("byte_offset", BigInteger),
    _column("copy", BigInteger, ForeignKey("copy.id", ondelete="CASCADE")), _column("created_at", _TIME),
    PrimaryKeyConstraint("volume", "first_block", "byte_offset", "file"),
    Index("demand_file", "file"),
    Index("demand_age", "volume", "created_at"),
)

archive = Table(
    "archive", metadata,
    _identity(), _column("file", BigInteger, ForeignKey("file.id")), _column("copy_number", SmallInteger),
    _column("pool", Text, ForeignKey("pool.name")), _word("state", "queued"), _column("bytes", BigInteger),
    *_columns(Text, "owner", "grp"), _flag("urgent"), _optional("epoch", BigInteger),
    _number("attempts", 0, SmallInteger), _word("last_error", ""), _now("created_at"), _now("not_before"),
    UniqueConstraint("file", "copy_number"),
    Index("archive_pool", "pool", text("urgent DESC"), "created_at", postgresql_where=text("state = 'queued'")),
    Index("archive_epoch", "epoch", postgresql_where=text("epoch is not null")),
    Index("archive_age", "created_at"),
)

queue_delta = Table(
    "queue_delta", metadata,
    _identity(), *_columns(Text, "kind", "key", "owner", "grp", "activity"), _column("priority", SmallInteger),
    *_columns(BigInteger, "files", "bytes", "urgent"),
    CheckConstraint("kind in ('recall', 'archive')", name="queue_delta_kind_check"),
)

queue_counter = Table(
    "queue_counter", metadata,
    *_columns(Text, "kind", "key", "owner", "grp", "activity", primary_key=True),
    _column("priority", SmallInteger, primary_key=True), *_columns(BigInteger, "files", "bytes", "urgent"),
)

candidate = Table(
    "candidate", metadata,
    *_columns(Text, "kind", "key", primary_key=True), *_columns(Text, "library", "code"), _json("arguments"),
    _now("changed_at"),
    CheckConstraint("kind in ('volume', 'pool')", name="candidate_kind_check"),
)

mount = Table(
    "mount", metadata,
    _identity("epoch"), _column("drive", Text, ForeignKey("drive.name"), unique=True),
    _column("volume", Text, ForeignKey("volume.vid"), unique=True),
    _column("library", Text, ForeignKey("library.name")), _optional("pool", Text, ForeignKey("pool.name")),
    _column("purpose", Text), _word("state", "planned"), _column("reason_code", Text), _json("reason_arguments"),
    _optional("tapeserver", Text), _number("files", 0), _number("bytes", 0), _optional("stop_wanted", Text),
    _now("created_at"), _now("changed_at"),
    CheckConstraint("purpose in ('recall', 'archive', 'label')", name="mount_purpose_check"),
)

mount_history = Table(
    "mount_history", metadata,
    _column("epoch", BigInteger, primary_key=True), *_columns(Text, "drive", "volume", "library"),
    _optional("pool", Text), *_columns(Text, "purpose", "reason_code"), *_columns(BigInteger, "files", "bytes"),
    _column("outcome", Text), _column("created_at", _TIME),
    _column("ended_at", _TIME, primary_key=True, server_default=_NOW),
    postgresql_partition_by="RANGE (ended_at)",
)

# ---------------------------------------------------------------------- coordination, identity, record

lease = Table(
    "lease", metadata,
    _column("name", Text, primary_key=True), _column("holder", Text), _column("number", BigInteger),
    _column("expires_at", _TIME),
)

server = Table(
    "server", metadata,
    *_columns(Text, "kind", "name", primary_key=True), *_columns(Text, "url", "host"), _column("pid", Integer),
    _now("started_at"), _now("heartbeat_at"), _json("detail"),
)

token = Table(
    "token", metadata,
    _identity(), _column("hash", LargeBinary, unique=True), *_columns(Text, "label", "owner"),
    _column("groups", ARRAY(Text)), _column("grants", JSONB), _flag("recorded"), _now("created_at"),
    *_columns(_TIME, "expires_at", "revoked_at", nullable=True),
)

signing_key = Table(
    "signing_key", metadata,
    _identity(kind=Integer), _column("secret", LargeBinary), _now("created_at"), _column("retires_at", _TIME),
)

audit = Table(
    "audit", metadata,
    _identity(), _now("at"), *_columns(Text, "who", "action", "object", "reason"), _json("detail"),
    Index("audit_object", "object", "id"),
)

event = Table(
    "event", metadata,
    _identity(primary_key=False), _column("transaction", Xid8, server_default=text("pg_current_xact_id()")),
    _now("at"), *_columns(Text, "kind", "subject"), _json("data"),
    PrimaryKeyConstraint("transaction", "id", "at"),
    postgresql_partition_by="RANGE (at)",
)
