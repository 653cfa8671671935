"""What the catalog's tables are made of: the kinds of column, and the metadata that they join. Holds no table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import TIMESTAMP, BigInteger, Boolean, Column, Identity, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine, UserDefinedType

#: the names that PostgreSQL gives by itself; checks are named one by one
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id; an int in Python."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


# Without this, reading the schema back warns of an unknown type and compares nothing of it.
ischema_names["xid8"] = Xid8

Type = TypeEngine[Any] | type[TypeEngine[Any]]
TIME = TIMESTAMP(timezone=True)
NOW = text("capstan_now()")


def column(name: str, kind: Type, *items: SchemaItem, **options: Any) -> Column[Any]:
    """A column that is never null, unless `nullable=True`."""
    return Column(name, kind, *items, **{"nullable": False, **options})


def optional(name: str, kind: Type, *items: SchemaItem, **options: Any) -> Column[Any]:
    return column(name, kind, *items, **options, nullable=True)


def columns(kind: Type, *names: str, **options: Any) -> list[Column[Any]]:
    return [column(name, kind, **options) for name in names]


def identity(name: str = "id", kind: Type = BigInteger, *, primary_key: bool = True) -> Column[Any]:
    return column(name, kind, Identity(always=True), primary_key=primary_key)


def word(name: str, default: str) -> Column[Any]:
    return column(name, Text, server_default=text(f"'{default}'"))


def number(name: str, default: int, kind: Type = BigInteger, **options: Any) -> Column[Any]:
    return column(name, kind, server_default=text(str(default)), **options)


def flag(name: str, *, default: bool = False) -> Column[Any]:
    return column(name, Boolean, server_default=text("true" if default else "false"))


def json(name: str) -> Column[Any]:
    return column(name, JSONB, server_default=text("'{}'"))


def now(name: str) -> Column[Any]:
    return column(name, TIME, server_default=NOW)


def switch(state: str) -> list[Column[Any]]:
    """A state that an operator may change, with who changed it, why and when."""
    return [word("state", state), word("reason", ""), word("changed_by", "capstan"), now("since")]
