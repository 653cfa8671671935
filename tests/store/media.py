"""What store tests build a catalog from: libraries, volumes, files with replicas and copies, inserted as rows."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import leases, queues, situations, volumes
from catalog.model import PlannedMount


async def two_libraries(connection: AsyncConnection, *, volumes_each: int = 3, drives_each: int = 2) -> None:
    """`east` and `west`, each with a pool of its name, labelled volumes E00001… and W00001…, drives east1…; classes."""
    for name in ("east", "west"):
        await volumes.create_library(connection, name=name, kind="virtual", spec={"kind": "virtual", "name": name})
        await volumes.create_pool(connection, name=name, library=name)
        for number in range(1, drives_each + 1):
            await volumes.create_drive(connection, name=f"{name}{number}", library=name)
        await volumes.create_volumes(
            connection,
            [
                volumes.NewVolume(
                    vid=f"{name[0].upper()}{number:05}",
                    library=name,
                    pool=name,
                    capacity_bytes=10**10,
                    generation=1,
                    end_block=2,
                )
                for number in range(1, volumes_each + 1)
            ],
        )
    await volumes.create_storage_class(connection, name="one", copies=1, pools=["east", "west"], is_default=True)
    await volumes.create_storage_class(connection, name="two", copies=2, pools=["east", "west"])
    await connection.execute(
        sa.text(
            "insert into cache_server (name, url, root_id, host, root, capacity_bytes) "
            "values ('cache', 'http://127.0.0.1:1', 'r', 'h', '/r', 1000000000)"
        )
    )


async def make_files(
    connection: AsyncConnection, count: int, *, storage_class: str = "one", size: int = 100, on_disk: bool = True
) -> list[int]:
    """`count` live files without a name, with a replica on the cache server if wanted; their ids."""
    files = (
        await connection.scalars(
            sa.text(
                "insert into file (size, adler32, mtime_ns, owner, grp, storage_class, stored_path) "
                "select :size, '00000001', 0, 'o' || (n % 3), 'g', :storage_class, '/exp/' || n "
                "from generate_series(1, :count) n returning id"
            ),
            {"size": size, "storage_class": storage_class, "count": count},
        )
    ).all()
    if on_disk:
        await connection.execute(
            sa.text(
                "insert into replica (id, file, cache_server, size, origin) "
                "select 1000000 + f, f, 'cache', :size, 'put' from unnest(cast(:files as bigint[])) f"
            ),
            {"size": size, "files": list(files)},
        )
    return list(files)


async def make_copies(connection: AsyncConnection, files: Sequence[int], volume: str, *, number: int = 1) -> None:
    """A copy of each file on `volume`, in the order of the list, one tape file each."""
    await connection.execute(
        sa.text(
            "insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, "
            "epoch) "
            "select f, :number, v.vid, v.generation, v.tape_files + n, v.end_block + n * 10, 512, 100, 0 "
            "from unnest(cast(:files as bigint[])) with ordinality as t (f, n) cross join volume v "
            "where v.vid = :volume"
        ),
        {"files": list(files), "volume": volume, "number": number},
    )
    await connection.execute(
        sa.text(
            "update volume set tape_files = tape_files + :n, end_block = end_block + 10 * :n + 10 where vid = :volume"
        ),
        {"n": len(files), "volume": volume},
    )


async def drop_replicas(connection: AsyncConnection, files: Sequence[int]) -> None:
    await connection.execute(
        sa.text("delete from replica where file = any(cast(:files as bigint[]))"), {"files": list(files)}
    )


async def wait_for(connection: AsyncConnection, files: Sequence[int]) -> int:
    """A stage request that waits for these files; its id."""
    request = await connection.scalar(
        sa.text("insert into stage_request (owner, items, items_live) values ('o', :n, :n) returning id"),
        {"n": len(files)},
    )
    await connection.execute(
        sa.text(
            "insert into stage_item (request, number, path, file, lifetime_seconds) "
            "select :request, n, '/exp/' || f, f, 3600 "
            "from unnest(cast(:files as bigint[])) with ordinality as t (f, n)"
        ),
        {"request": request, "files": list(files)},
    )
    assert request is not None
    return int(request)


async def planned(connection: AsyncConnection, volume: str, drive: str, purpose: str = "recall") -> int | None:
    """A mount as a planner plans it, for a verification that is taken back at once; None: there can be none now."""
    task = await connection.scalar(
        sa.text(
            "insert into maintenance (kind, key, who, reason) values ('verify', :volume, 'ann', 'test') "
            "on conflict do nothing returning id"
        ),
        {"volume": volume},
    )
    lease = await leases.acquire(connection, f"test:{drive}:{volume}", "test", seconds=60)
    assert lease is not None
    mount = PlannedMount(drive=drive, volume=volume, purpose=purpose, reason_code="verify")
    made = await situations.carry_out(connection, lease, [mount], {})
    await connection.execute(sa.text("delete from maintenance where id = :task"), {"task": task})
    return made[0].epoch if made else None


async def mounted(connection: AsyncConnection, volume: str, drive: str, purpose: str = "recall") -> int:
    """The epoch of a mount that is planned."""
    epoch = await planned(connection, volume, drive, purpose)
    assert epoch is not None
    return epoch


async def claim_first(
    connection: AsyncConnection, volume: str, epoch: int, limit: int, *, after: tuple[int, int] = (0, 0)
) -> list[queues.ClaimedRecall]:
    """Up to `limit` recalls of the volume, by position."""
    wanted = await queues.wanted_recalls(connection, volume, limit=limit, after=after)
    return await queues.claim_recalls(connection, volume, epoch, [one.file_id for one in wanted])


async def twenty_on_tape(connection: AsyncConnection) -> list[int]:
    """Two libraries, whose drives a tape server has; files that are on no disk, ten on E00001 and ten on E00002."""
    await two_libraries(connection)
    files = await make_files(connection, 20, on_disk=False)
    await make_copies(connection, files[:10], "E00001")
    await make_copies(connection, files[10:], "E00002")
    await connection.execute(sa.text("update drive set tapeserver = 'ts', heartbeat_at = capstan_now()"))
    return files
