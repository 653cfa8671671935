"""The catalog's tables for SQLAlchemy Core: columns, keys and indexes as the migrations leave them.

A mirror for writing queries, never the source: the migrations make the schema, and a test compares the two. It holds no
query, no function or trigger of the database (see migrations/versions/0001_spine.sql), and never creates a table.
Sizes are bytes; times are aware datetimes whose default is the database's capstan_now().
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from catalog import planningtables as planningtables
from catalog.columns import NOW, TIME, Xid8, column, columns, flag, identity, json, now, number, optional, switch, word
from catalog.columns import metadata as metadata

# Columns that belong together share a line, as in the SQL.
# fmt: off
# ---------------------------------------------------------------------- states, identity

state_move = Table("state_move", metadata, *columns(Text, "machine", "from_state", "to_state", primary_key=True))

catalog_identity = Table(
    "catalog_identity", metadata,
    column("only", Boolean, primary_key=True, server_default=text("true")), *columns(Text, "id", "incarnation"),
    now("created_at"),
    CheckConstraint('"only"', name="catalog_identity_only_check"),
)

# ---------------------------------------------------------------------- media

library = Table(
    "library", metadata,
    column("name", Text, primary_key=True), column("kind", Text), column("spec", JSONB),
    *switch("up"),
)

drive = Table(
    "drive", metadata,
    column("name", Text, primary_key=True), column("library", Text, ForeignKey("library.name")),
    *switch("up"),
    word("model", ""), word("reported_model", ""), optional("tapeserver", Text), optional("heartbeat_at", TIME),
)

pool = Table(
    "pool", metadata, column("name", Text, primary_key=True), column("library", Text, ForeignKey("library.name")),
    optional("volumes_open_max", SmallInteger),
    CheckConstraint("volumes_open_max between 1 and 64", name="pool_volumes_open_max_check"),
)

volume = Table(
    "volume", metadata,
    column("vid", Text, primary_key=True), column("library", Text, ForeignKey("library.name")),
    optional("pool", Text, ForeignKey("pool.name")),
    *switch("blank"),
    number("generation", 0, Integer), column("capacity_bytes", BigInteger), number("written_bytes", 0),
    number("block_size", 262144, Integer), number("tape_files", 0, Integer), number("end_block", 0),
    flag("end_verified", default=True), number("index_block", 0), number("indexed_tape_files", 0, Integer),
    word("medium", ""), optional("medium_since", TIME),
    *columns(TIME, "full_at", "closed_at", "labelled_at", "written_at", "read_at", "verified_at", nullable=True),
    *columns(TIME, "left_at", "hurried_at", nullable=True), Index("volume_pool", "pool", "state"),
    Index("volume_library", "library", text("greatest(since, medium_since)")),
    Index("volume_hurried", "vid", postgresql_where=text("hurried_at is not null")),
    Index("volume_unindexed", "vid", postgresql_where=text("tape_files > indexed_tape_files or not end_verified")),
)

failure = Table(
    "failure", metadata,
    identity(), now("at"), *columns(Text, "library", "drive", "volume", "kind"), column("epoch", BigInteger),
    optional("file", BigInteger), flag("copy_is_good"), column("why", Text),
    column("expires_at", TIME), optional("cleared_at", TIME),
    CheckConstraint("kind in ('load', 'readback', 'read', 'write', 'stuck')", name="failure_kind_check"),
    Index("failure_volume", "volume", "expires_at", postgresql_where=text("cleared_at is null")),
    Index("failure_drive", "drive", "expires_at", postgresql_where=text("cleared_at is null")),
)

alert = Table(
    "alert", metadata,
    identity(), now("at"), column("library", Text), *columns(Text, "drive", "volume", nullable=True),
    *columns(Text, "code", "severity", "text"), optional("cleared_at", TIME), optional("cleared_by", Text),
    CheckConstraint("severity in ('info', 'warning', 'critical')", name="alert_severity_check"),
    Index("alert_open", "library", text("coalesce(drive, '')"), text("coalesce(volume, '')"), "code", unique=True,
          postgresql_where=text("cleared_at is null")),
)

maintenance = Table(
    "maintenance", metadata,
    identity(), *columns(Text, "kind", "key"), word("state", "queued"), *columns(Text, "who", "reason"),
    json("options"), json("cursor"), number("files", 0), number("bytes", 0), number("done_files", 0),
    number("done_bytes", 0), number("errors", 0), word("note", ""), now("created_at"), now("changed_at"),
    CheckConstraint("kind in ('verify', 'repack', 'audit', 'label', 'index')", name="maintenance_kind_check"),
    Index("maintenance_live", "kind", "key", unique=True, postgresql_where=text("state in ('queued', 'running')")),
)

storage_class = Table(
    "storage_class", metadata,
    column("name", Text, primary_key=True), column("copies", SmallInteger), column("pools", ARRAY(Text)),
    flag("evict_degraded"), flag("is_default"),
    CheckConstraint("copies between 1 and 8", name="storage_class_copies_check"),
    CheckConstraint("cardinality(pools) >= copies", name="storage_class_check"),
    Index("storage_class_default", "is_default", unique=True, postgresql_where=text("is_default")),
)

# ---------------------------------------------------------------------- namespace

node = Table(
    "node", metadata,
    identity(), optional("parent", BigInteger, ForeignKey("node.id")), column("name", Text(collation="C")),
    column("kind", Text),
    UniqueConstraint("parent", "name"),
    CheckConstraint("kind in ('directory', 'file')", name="node_kind_check"),
)

directory = Table(
    "directory", metadata,
    column("node", BigInteger, ForeignKey("node.id", ondelete="CASCADE"), primary_key=True),
    *columns(Text, "owner", "grp"), number("mode", 493, Integer), column("mtime_ns", BigInteger),
    optional("storage_class", Text, ForeignKey("storage_class.name")),
)

file = Table(
    "file", metadata,
    identity(), optional("node", BigInteger, ForeignKey("node.id", ondelete="SET NULL"), unique=True),
    word("state", "live"), column("size", BigInteger), column("adler32", Text), json("digests"),
    column("mtime_ns", BigInteger), number("mode", 420, Integer), *columns(Text, "owner", "grp"),
    column("storage_class", Text, ForeignKey("storage_class.name")), column("stored_path", Text),
    word("collocation", ""), now("created_at"), optional("deleted_at", TIME),
    optional("deleted_path", Text(collation="C")), optional("deleted_by", Text),
    CheckConstraint("size >= 0", name="file_size_check"),
    CheckConstraint("adler32 ~ '^[0-9a-f]{8}$'", name="file_adler32_check"),
    CheckConstraint("(state = 'live') = (deleted_at is null)", name="file_check"),
    Index("file_recycle", "deleted_at", postgresql_where=text("state = 'deleted'")),
    Index("file_recycle_path", text('"left"(deleted_path, 200)'), "id", postgresql_where=text("state = 'deleted'")),
    Index("file_purged", "deleted_at", postgresql_where=text("state = 'purged'")),
)

copy = Table(
    "copy", metadata,
    identity(), column("file", BigInteger, ForeignKey("file.id")), column("copy_number", SmallInteger),
    column("volume", Text, ForeignKey("volume.vid")), *columns(Integer, "generation", "tape_file"),
    *columns(BigInteger, "first_block", "byte_offset", "length", "epoch"), now("created_at"),
    optional("broken_at", TIME), optional("broken_why", Text),
    UniqueConstraint("volume", "generation", "first_block", "byte_offset", "file"),
    Index("copy_file", "file"),
)

collocation = Table(
    "collocation", metadata,
    column("pool", Text, ForeignKey("pool.name"), primary_key=True), column("key", Text, primary_key=True),
    column("volume", Text, ForeignKey("volume.vid")), now("at"),
    Index("collocation_age", "at"),
)

dead_extent = Table(
    "dead_extent", metadata,
    column("volume", Text, ForeignKey("volume.vid"), primary_key=True),
    column("generation", Integer, primary_key=True), column("tape_file", Integer),
    column("first_block", BigInteger, primary_key=True), column("blocks", BigInteger), column("why", Text),
    now("found_at"),
)

# ---------------------------------------------------------------------- disk

cache_server = Table(
    "cache_server", metadata,
    column("name", Text, primary_key=True), *columns(Text, "url", "root_id", "host", "root"),
    *switch("up"), column("capacity_bytes", BigInteger), number("taken_bytes", 0),
    column("high_watermark", REAL, server_default=text("0.9")),
    column("low_watermark", REAL, server_default=text("0.8")), number("wanted_bytes", 0),
    optional("evictable_bytes", BigInteger), now("heartbeat_at"), optional("unreached_at", TIME),
    CheckConstraint("taken_bytes >= 0", name="cache_server_check"),
)

reservation = Table(
    "reservation", metadata,
    identity(), column("cache_server", Text, ForeignKey("cache_server.name")), column("bytes", BigInteger),
    column("kind", Text), optional("file", BigInteger, ForeignKey("file.id")), optional("epoch", BigInteger),
    optional("path", Text), now("created_at"), column("expires_at", TIME),
    CheckConstraint("bytes >= 0", name="reservation_bytes_check"),
    CheckConstraint("kind in ('put', 'recall')", name="reservation_kind_check"),
    Index("reservation_server", "cache_server", "expires_at"), Index("reservation_file", "file"),
    Index("reservation_epoch", "epoch", postgresql_where=text("epoch is not null")),
)

replica = Table(
    "replica", metadata,
    column("id", BigInteger, primary_key=True, autoincrement=False), column("file", BigInteger, ForeignKey("file.id")),
    column("cache_server", Text, ForeignKey("cache_server.name")), word("state", "on_disk"),
    column("size", BigInteger), column("origin", Text), flag("checked", default=True), now("created_at"),
    now("last_used_at"), word("why", ""),
    CheckConstraint("origin in ('put', 'recall')", name="replica_origin_check"),
    Index("replica_one_a_server", "file", "cache_server", unique=True,
          postgresql_where=text("state in ('on_disk', 'lost')")),
    Index("replica_file", "file"),
    Index("replica_age", "cache_server", "last_used_at", postgresql_where=text("state = 'on_disk'")),
    Index("replica_evicting", "cache_server", postgresql_where=text("state = 'evicting'")),
)

pin = Table(
    "pin", metadata,
    column("file", BigInteger, ForeignKey("file.id"), primary_key=True), column("owner", Text, primary_key=True),
    column("expires_at", TIME), now("created_at"),
    Index("pin_owner", "owner"),
    Index("pin_expiry", "expires_at"),
)

# ---------------------------------------------------------------------- staging

stage_request = Table(
    "stage_request", metadata,
    identity(), column("owner", Text), optional("token", BigInteger), word("origin", "stage"),
    word("state", "submitted"), word("activity", ""), number("priority", 50, SmallInteger),
    *columns(BigInteger, "items", "items_live"), now("created_at"),
    *columns(TIME, "started_at", "completed_at", "forgotten_at", nullable=True),
    CheckConstraint("origin in ('stage', 'get', 'repair')", name="stage_request_origin_check"),
    Index("stage_request_owner", "owner", "id"),
    Index("stage_request_forgotten", "forgotten_at", postgresql_where=text("forgotten_at is not null")),
    Index("stage_request_submitted", "id", postgresql_where=text("state = 'submitted'")),
)

stage_item = Table(
    "stage_item", metadata,
    column("request", BigInteger, ForeignKey("stage_request.id", ondelete="CASCADE"), primary_key=True),
    column("number", Integer, primary_key=True), column("path", Text), optional("file", BigInteger),
    word("state", "submitted"), column("lifetime_seconds", Double), number("cohort", 0),
    *columns(Text, "error_code", "error", nullable=True), *columns(TIME, "started_at", "finished_at", nullable=True),
    Index("stage_item_file", "file", postgresql_where=text("state in ('submitted', 'started')")),
    Index("stage_item_path", "request", text("hashtextextended(path, 0)")),
)

# ---------------------------------------------------------------------- queues: live rows only

recall = Table(
    "recall", metadata,
    column("file", BigInteger, ForeignKey("file.id"), primary_key=True), word("state", "queued"),
    column("bytes", BigInteger), *columns(Text, "owner", "grp"), word("activity", ""),
    number("priority", 50, SmallInteger), number("cohort", 0), optional("volume", Text, ForeignKey("volume.vid")),
    optional("epoch", BigInteger), number("attempts", 0, SmallInteger), word("last_error", ""),
    flag("abandoned"), now("created_at"), now("not_before"),
    Index("recall_epoch", "epoch", postgresql_where=text("epoch is not null")),
)

demand = Table(
    "demand", metadata,
    column("volume", Text), *columns(BigInteger, "first_block", "file", "byte_offset"),
    column("copy", BigInteger, ForeignKey("copy.id", ondelete="CASCADE")), column("created_at", TIME),
    PrimaryKeyConstraint("volume", "first_block", "byte_offset", "file"),
    Index("demand_file", "file"), Index("demand_copy", "copy"), Index("demand_age", "volume", "created_at"),
)

archive = Table(
    "archive", metadata,
    identity(), column("file", BigInteger, ForeignKey("file.id")), column("copy_number", SmallInteger),
    column("pool", Text, ForeignKey("pool.name")), word("state", "queued"), column("bytes", BigInteger),
    *columns(Text, "owner", "grp"), flag("urgent"), word("collocation", ""), optional("epoch", BigInteger),
    number("attempts", 0, SmallInteger), word("last_error", ""), now("created_at"), now("not_before"),
    UniqueConstraint("file", "copy_number"),
    Index("archive_pool", "pool", text("urgent DESC"), "created_at", postgresql_where=text("state = 'queued'")),
    Index("archive_epoch", "epoch", postgresql_where=text("epoch is not null")),
    Index("archive_age", "created_at"), Index("archive_waited", "epoch", postgresql_where=text("urgent")),
    Index("archive_collocation", "pool", "collocation", "created_at", postgresql_where=text("state = 'queued'")),
)

queue_delta = Table(
    "queue_delta", metadata,
    identity(), *columns(Text, "kind", "key", "owner", "grp", "activity"), column("priority", SmallInteger),
    number("cohort", 0), *columns(BigInteger, "files", "bytes", "urgent"), number("asked", 0),
    CheckConstraint("kind in ('recall', 'archive')", name="queue_delta_kind_check"),
)

queue_counter = Table(
    "queue_counter", metadata,
    *columns(Text, "kind", "key", "owner", "grp", "activity", primary_key=True),
    column("priority", SmallInteger, primary_key=True), number("cohort", 0, primary_key=True),
    *columns(BigInteger, "files", "bytes", "urgent"), number("asked", 0),
    Index("queue_counter_empty", "kind", postgresql_where=text("files = 0 and bytes = 0 and urgent = 0")),
)

candidate = Table(
    "candidate", metadata,
    *columns(Text, "kind", "key", primary_key=True), *columns(Text, "library", "code"), json("arguments"),
    now("changed_at"),
    CheckConstraint("kind in ('volume', 'pool')", name="candidate_kind_check"),
)

mount = Table(
    "mount", metadata,
    identity("epoch"), column("drive", Text, ForeignKey("drive.name"), unique=True),
    column("volume", Text, ForeignKey("volume.vid"), unique=True),
    column("library", Text, ForeignKey("library.name")), optional("pool", Text, ForeignKey("pool.name")),
    column("purpose", Text), word("state", "planned"), column("reason_code", Text), json("reason_arguments"),
    word("grp", ""), optional("idle_since", TIME), optional("tapeserver", Text), number("files", 0), number("bytes", 0),
    optional("stop_wanted", Text), now("created_at"), now("changed_at"),
    CheckConstraint("purpose in ('recall', 'archive', 'label', 'verify')", name="mount_purpose_check"),
)

mount_history = Table(
    "mount_history", metadata,
    column("epoch", BigInteger, primary_key=True), *columns(Text, "drive", "volume", "library"),
    optional("pool", Text), *columns(Text, "purpose", "reason_code"), *columns(BigInteger, "files", "bytes"),
    column("outcome", Text), column("created_at", TIME),
    column("ended_at", TIME, primary_key=True, server_default=NOW),
    postgresql_partition_by="RANGE (ended_at)",
)

# ---------------------------------------------------------------------- coordination, identity, record

lease = Table(
    "lease", metadata,
    column("name", Text, primary_key=True), column("holder", Text), column("number", BigInteger),
    column("expires_at", TIME),
)

server = Table(
    "server", metadata,
    *columns(Text, "kind", "name", primary_key=True), *columns(Text, "url", "host"), column("pid", Integer),
    now("started_at"), now("heartbeat_at"), json("detail"),
)

token = Table(
    "token", metadata,
    identity(), column("hash", LargeBinary, unique=True), *columns(Text, "label", "owner"),
    column("groups", ARRAY(Text)), column("grants", JSONB), flag("recorded"), now("created_at"),
    *columns(TIME, "expires_at", "revoked_at", nullable=True),
)

signing_key = Table(
    "signing_key", metadata,
    identity(kind=Integer), column("secret", LargeBinary), now("created_at"), column("retires_at", TIME),
)

audit = Table(
    "audit", metadata,
    identity(), now("at"), *columns(Text, "who", "action", "object", "reason"), json("detail"),
    Index("audit_object", "object", "id"),
)

catalog_backup = Table(
    "catalog_backup", metadata,
    identity(), column("began_at", TIME), column("path", Text), column("bytes", BigInteger),
    column("sha256", Text), *columns(TIME, "verified_at", "removed_at", nullable=True),
)

lost_life = Table("lost_life", metadata, column("first_file", BigInteger, primary_key=True, autoincrement=False),
                  column("last_file", BigInteger), now("ended_at"))

journal = Table(
    "journal", metadata,
    identity("seq", primary_key=False), column("transaction", Xid8, server_default=text("pg_current_xact_id()")),
    now("at"), column("kind", Text), column("id", BigInteger), flag("removed"), json("entry"),
    CheckConstraint("kind in ('node', 'directory', 'file', 'replica', 'drive', 'volume')", name="journal_kind_check"),
    PrimaryKeyConstraint("transaction", "seq"),
)

journal_segment = Table(
    "journal_segment", metadata,
    column("number", BigInteger, Identity(always=False), primary_key=True),
    *columns(BigInteger, "first_seq", "last_seq", "entries"), column("until_transaction", Xid8),
    *columns(BigInteger, "until_seq", "bytes"), *columns(Text, "adler32", "path"), now("made_at"),
    optional("file", BigInteger, ForeignKey("file.id")), optional("closed_at", TIME), Index("segment_file", "file"),
)

event = Table(
    "event", metadata,
    identity(primary_key=False), column("transaction", Xid8, server_default=text("pg_current_xact_id()")),
    now("at"), *columns(Text, "kind", "subject"), json("data"),
    PrimaryKeyConstraint("transaction", "id", "at"), postgresql_partition_by="RANGE (at)",
)
