"""What an operator may set for a cache server: its disk and its limits, each with its unit in the name.

Values only; what they mean is where they are used.
"""

from __future__ import annotations

import msgspec

from catalog.units import GIB, MIB


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    #: of this cache server, unique in the installation; its disk is known under it
    name: str = ""
    host: str = "127.0.0.1"
    #: 0: any free one
    port: int = 0
    database_url: str = ""
    database_connections_max: int = 10

    # ---- the disk
    #: a directory of its own on a local file system
    root: str = ""
    #: what the catalog may promise of it; 0: 90 % of the file system
    capacity_bytes: int = 0
    #: below so much free space in the file system nothing is written, whatever the catalog promised
    free_bytes_min: int = 1 * GIB
    #: parts of the capacity: above the first the evictor begins, at the second it ends
    high_watermark: float = 0.9
    low_watermark: float = 0.8

    # ---- transfers
    transfers_max: int = 200
    #: of movers; each mount has one a direction
    bulk_streams_max: int = 64
    #: without a byte for so long a transfer is given up
    idle_seconds_max: float = 60.0
    #: of a mover, which may wait for its tape for hours
    mover_idle_seconds_max: float = 7200.0
    file_bytes_max: int = 1 << 46
    #: gathered before each write, and the unit of checksums; two of them are in memory for each upload
    write_chunk_bytes: int = 2 * MIB
    #: received and not yet taken, for each connection
    read_buffer_bytes: int = 2 * MIB
    #: sent by one system call
    sendfile_bytes: int = 8 * MIB
    #: of a mover's stream: asked for and not yet sent
    wants_max: int = 4096
    disk_threads: int = 8

    # ---- looking after itself
    heartbeat_seconds: float = 3.0
    #: transfers under way keep their space for so long beyond each renewal
    reservation_seconds: float = 120.0
    #: the net below wake-ups
    sweep_seconds: float = 1.0
    reconcile_seconds: float = 3600.0
    #: a commit that does not answer is tried again for so long before the client hears of it
    commit_seconds_max: float = 20.0
