"""The tables of the schema `jobs`, for writing queries; the migrations make them, and a test compares the two.

It holds no query. The schema lives in the catalog's database, for one backup and one clock (`capstan_now()`), and
refers to none of the catalog's tables: files are known by the ids that the door gave.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Double,
    Identity,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

SCHEMA = "jobs"
metadata = MetaData(schema=SCHEMA)
now = func.capstan_now


def _time(name: str, *, default: bool = False, nullable: bool = True) -> Column[object]:
    server_default = text("capstan_now()") if default else None
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable, server_default=server_default)


#: a submitted job, from acceptance to the end and until nothing of it is left elsewhere (`cleaned`)
job = Table(
    "job",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    Column("grants", JSONB, nullable=False),
    Column("argv", ARRAY(Text), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("whole_volumes", Boolean),
    Column("state", Text, nullable=False, server_default="accepted"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("waiting", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("volumes", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("attempt", SmallInteger, nullable=False, server_default="1"),
    Column("nonce", Text, nullable=False, server_default=text("substr(gen_random_uuid()::text, 1, 8)")),
    Column("native_id", Text),
    Column("tries", SmallInteger, nullable=False, server_default="0"),
    Column("inputs", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("on_disk", Integer, nullable=False, server_default="0"),
    Column("token_id", BigInteger),
    Column("cancel_wanted", Boolean, nullable=False, server_default="false"),
    Column("cleaned", Boolean, nullable=False, server_default="false"),
    _time("submitted_at", default=True, nullable=False),
    _time("pinned_at"),
    _time("ready_at"),
    _time("released_at"),
    _time("started_at"),
    _time("ended_at"),
    # when its last input is expected on disk
    _time("expected_at"),
    Column("exit_code", Integer),
    Column("signal", Integer),
)

job_input = Table(
    "job_input",
    metadata,
    Column("job", BigInteger, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("file", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
)

#: a stage request of ours at the door; the row is committed before the request is made
staging = Table(
    "staging",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("volume", Text, nullable=False),
    Column("whole", Boolean, nullable=False),
    Column("request", Text),
    _time("created_at", default=True, nullable=False),
)

#: a file that jobs wait for: the request that brings it, and how often that failed
staged_file = Table(
    "staged_file",
    metadata,
    Column("file", BigInteger, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("staging", BigInteger),
    Column("tries", SmallInteger, nullable=False, server_default="0"),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("not_before", TIMESTAMP(timezone=True), nullable=False, server_default=text("capstan_now()")),
)

#: the queue of the batch system `local`
local_job = Table(
    "local_job",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("argv", ARRAY(Text), nullable=False),
    Column("environment", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="held"),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("cancel_wanted", Boolean, nullable=False, server_default="false"),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("reason", Text, nullable=False, server_default=""),
    _time("submitted_at", default=True, nullable=False),
    _time("released_at"),
    Column("started_at", Double),
    Column("ended_at", Double),
)
