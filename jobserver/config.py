"""What a job server is told when it starts, all limits included. Strict: an unknown key is an error."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "jobserver"
    host: str = "127.0.0.1"
    port: int = 0
    #: SQLAlchemy URL of the catalog's database; only the schema `jobs` in it is used
    database_url: str = ""
    #: doors, tried in this order
    door_urls: list[str] = []
    #: the job server's own token: admin, for pins, stage requests and tokens of jobs
    token_file: Path = Path()
    #: directories of jobs: token and input list of each, and what the local batch system keeps
    data_dir: Path = Path()
    #: the host's name as cache servers give it; equal: jobs can read cached files directly
    host_name: str = msgspec.field(default_factory=socket.gethostname)

    # ---- the batch system `local`
    #: jobs that run at once; 0: as many as the host has processors
    slots: int = 0
    #: Capstan's own programs, first in the PATH of every job; "": where this Python's programs are
    capstan_bin: str = ""
    #: kept of each of stdout and stderr
    output_bytes_max: int = 1 << 30
    #: between SIGTERM and SIGKILL of a cancelled job
    kill_after_seconds: float = 10.0

    # ---- what is accepted
    jobs_live_max: int = 10_000
    inputs_per_job_max: int = 100_000
    inputs_live_max: int = 1_000_000
    argv_bytes_max: int = 1 << 17
    name_bytes_max: int = 200
    #: of ended jobs: their record, output and directory
    ended_kept_seconds: float = 30 * 86400.0

    # ---- pre-staging
    #: stage everything on a volume once it is read for a job that does not say otherwise
    whole_volumes: bool = False
    #: of files staged for jobs that are not yet released; 0: half of the cache
    staged_bytes_max: int = 0
    #: of the cache's capacity, what jobs may pin altogether
    pinned_fraction_max: float = 0.8
    stage_tries_max: int = 5
    #: first pause after a failed stage request; doubled each time
    stage_retry_seconds: float = 5.0
    #: after this wait a job goes before every other
    starve_after_seconds: float = 3600.0
    #: while jobs are held, the state of what they wait for is looked at this often, whatever events say
    reconcile_seconds: float = 0.5
    #: and with nothing to wait for
    idle_reconcile_seconds: float = 2.0
    #: files believed to be on disk, and libraries, are looked at again this often
    verify_seconds: float = 5.0
    #: jobs considered at a time, the highest priority and then the oldest first
    jobs_considered_max: int = 1_000
    #: file states asked of the door in one round
    whereis_paths_max: int = 10_000
    pin_seconds: float = 7 * 86400.0
    #: of the stage requests' own pins: the jobs' pins are what counts
    stage_lifetime_seconds: float = 600.0
    #: lifetime of a job's token, should nobody revoke it
    token_seconds: float = 30 * 86400.0
    #: grants in a job's token; more inputs are granted by their directories
    token_grants_max: int = 64

    # ---- other
    heartbeat_seconds: float = 5.0
    output_chunk_bytes_max: int = 1 << 20

    def slots_or_default(self) -> int:
        return self.slots or os.cpu_count() or 1
