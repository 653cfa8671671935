"""A small catalog for tests that want rows to exist: media, a cache server, files with replicas and copies.

Writes rows directly, so that a test of one noun module does not depend on another. Not a test itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity, namespace
from catalog.model import Action, Grant, Principal, join_path, parse_path

ALL = (Grant(action=Action.ADMIN, prefix="/"),)
USER = tuple(Grant(action=action, prefix="/") for action in Action if action is not Action.ADMIN)


@dataclass
class World:
    connection: AsyncConnection
    positions: dict[str, int] = field(default_factory=dict)

    async def media(self) -> None:
        """Libraries east and west, a drive, a pool and two volumes each; classes one (default) and two; a cache."""
        for library in ("east", "west"):
            await self.run("insert into library (name, kind, spec) values (:l, 'virtual', '{}')", l=library)
            await self.run("insert into drive (name, library) values (:d, :l)", d=f"{library}-1", l=library)
            await self.run("insert into pool values (:l, :l)", l=library)
            for number in (1, 2):
                await self.run(
                    "insert into volume (vid, library, pool, state, generation, capacity_bytes)"
                    " values (:v, :l, :l, 'active', 1, 10000000000)",
                    v=f"{library[0].upper()}{number:05}",
                    l=library,
                )
        await self.run("insert into storage_class values ('one', 1, '{east,west}', false, true)")
        await self.run("insert into storage_class values ('two', 2, '{east,west}', false, false)")
        await self.run(
            "insert into cache_server (name, url, root_id, host, root, capacity_bytes)"
            " values ('cache1', 'http://127.0.0.1:1', 'r', 'here', '/cache', 1000000000)"
        )

    async def run(self, statement: str, **values: object) -> sa.CursorResult[tuple[object, ...]]:
        return await self.connection.execute(sa.text(statement), values)

    async def principal(self, owner: str = "ann", grants: tuple[Grant, ...] = USER) -> Principal:
        token = await identity.make_token(
            self.connection, label="test", owner=owner, groups=["users"], grants=grants, lifetime_seconds=3600
        )
        return await identity.principal_of(self.connection, token.secret)

    async def directory(self, path: str, storage_class: str | None = None) -> namespace.Node:
        return await namespace.make_directory(
            self.connection, parse_path(path), owner="ann", group="users", mode=0o755, mtime_ns=0, parents=True,
            storage_class=storage_class,
        )  # fmt: skip

    async def file(
        self,
        path: str,
        *,
        size: int = 10,
        on_disk: bool = False,
        volumes: tuple[str, ...] = (),
        storage_class: str = "one",
    ) -> int:
        components = parse_path(path)
        parent = await self.directory(join_path(components[:-1]))
        node = (
            await self.run(
                "insert into node (parent, name, kind) values (:p, :n, 'file') returning id",
                p=parent.id,
                n=components[-1],
            )
        ).scalar_one()
        file_id = (
            await self.run(
                "insert into file (node, size, adler32, mtime_ns, owner, grp, storage_class, stored_path)"
                " values (:node, :size, '00000001', 1000000000, 'ann', 'users', :class, :path) returning id",
                node=node,
                size=size,
                path=path,
                **{"class": storage_class},
            )
        ).scalar_one()
        assert isinstance(file_id, int)
        if on_disk:
            await self.run(
                "insert into replica (id, file, cache_server, size, origin) values (:f, :f, 'cache1', :s, 'put')",
                f=file_id,
                s=size,
            )
        for number, volume in enumerate(volumes, 1):
            block = self.positions[volume] = self.positions.get(volume, 0) + 10
            await self.run(
                "insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length,"
                " epoch) values (:f, :n, :v, 1, :t, :b, 1024, :s, 1)",
                f=file_id, n=number, v=volume, t=block // 10, b=block, s=size,
            )  # fmt: skip
        return file_id

    async def many_files(self, directory: namespace.Node, count: int, *, volume: str) -> None:
        """Files f1, f2, … of 10 bytes, each with one copy."""
        await self.run(
            "with n as (insert into node (parent, name, kind)"
            " select :p, 'f' || i, 'file' from generate_series(1, :count) i returning id, name)"
            " insert into file (node, size, adler32, mtime_ns, owner, grp, storage_class, stored_path)"
            " select id, 10, '00000001', 0, 'ann', 'users', 'one', '/d/' || name from n",
            p=directory.id,
            count=count,
        )
        await self.run(
            "insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length,"
            " epoch) select id, 1, :v, 1, 1, 10 * id, 1024, 10, 1 from file",
            v=volume,
        )
