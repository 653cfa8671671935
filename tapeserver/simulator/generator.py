"""Traces like those of farms, made by seed. Pure: the same kind, seed and numbers give the same trace.

A job wants files on one to a few volumes, seldom on many; how many files is lognormal, and a large job is large on each
of its volumes. Volumes are popular by a power law, jobs come at random. `load` is the work
offered over what the drives can do if nothing were shared between jobs: sharing mounts lowers the use of the drives
that comes of it, so it may be above 1 (docs/simulator.md has the measured relation). A site's own history is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tapeserver.planner.views import Share
from tapeserver.simulator.trace import Floats, Integers, Trace, TraceVolume, empty_floats, empty_integers

GB = 1_000_000_000
TB = 1000 * GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a farm's requests look like."""

    volumes: int
    #: popularity of the r-th volume is r ** -zipf
    zipf: float
    #: least and most volumes a job; m of them are as likely as 1 / m
    volumes_per_job: tuple[int, int]
    #: files of a job on each of its volumes: lognormal with this mean …
    files_per_volume: float
    #: … and this sigma; at least one
    files_sigma: float
    #: size of files: lognormal
    file_bytes_median: int
    file_bytes_sigma: float
    #: part of the volume that is written
    filled: float = 0.9
    #: drive-seconds of change and locates that a job's part on one volume would cost alone
    alone_seconds: float = 130.0
    locate_seconds: float = 30.0
    rate: float = 300e6
    owners: int = 24
    groups: int = 4
    capacity_bytes: int = 12 * TB
    medium: str = "LTO-8"


KINDS: Mapping[str, Kind] = {
    # Many users' jobs over an archive with a popular part. Fitted to what peers' rules give on such a farm, not to what
    # ours give: docs/simulator.md has both beside each other.
    "farm": Kind(
        volumes=1500,
        zipf=0.9,
        volumes_per_job=(1, 5),
        files_per_volume=12.0,
        files_sigma=1.5,
        file_bytes_median=2 * GB,
        file_bytes_sigma=0.8,
    ),
    # Large productions that go over nearly everything: flatter, more files a volume, more volumes a job.
    "production": Kind(
        volumes=600,
        zipf=0.4,
        volumes_per_job=(3, 12),
        files_per_volume=25.0,
        files_sigma=1.0,
        file_bytes_median=3 * GB,
        file_bytes_sigma=0.4,
        owners=6,
        groups=3,
    ),
    # Single files for people who wait in front of the screen: one volume, one or two small files.
    "interactive": Kind(
        volumes=3000,
        zipf=1.1,
        volumes_per_job=(1, 1),
        files_per_volume=1.5,
        files_sigma=0.5,
        file_bytes_median=GB // 5,
        file_bytes_sigma=1.2,
        owners=200,
        groups=12,
    ),
}  # fmt: skip


def generate(kind: Kind, *, seed: int, requests: int, drives: int, load: float) -> Trace:
    """A trace of `requests` jobs, one request each, at `load` for so many drives."""
    draw = np.random.default_rng(seed)
    parts = _volumes_of_each(draw, kind, requests)
    part_request = np.repeat(np.arange(requests), parts)
    part_volume = _volumes(draw, kind, part_request)
    keep = _first_of_each(part_request, part_volume)
    part_request, part_volume = part_request[keep], part_volume[keep]
    files = _files_of_each(draw, kind, requests)[part_request]
    file_request, file_volumes = np.repeat(part_request, files), np.repeat(part_volume, files)
    total = len(file_request)
    sizes = np.exp(np.log(kind.file_bytes_median) + kind.file_bytes_sigma * draw.standard_normal(total))
    written = int(kind.filled * kind.capacity_bytes)
    file_bytes = np.clip(sizes, 1, written // 20).astype(np.int64)
    starts = (draw.random(total) * (written - file_bytes)).astype(np.int64)
    alone = len(part_request) * kind.alone_seconds + total * kind.locate_seconds + file_bytes.sum() / kind.rate
    span = alone / (drives * load)
    owners = draw.zipf(1.6, requests) % kind.owners
    return Trace(
        volumes=_cartridges(kind, written),
        who=[Share(owner=f"user{n:03d}", group=f"group{n % kind.groups:02d}") for n in range(kind.owners)],
        pools=["pool"],
        request_times=_times(draw, requests, span),
        request_who=owners.astype(np.int64),
        request_cohorts=np.zeros(requests, dtype=np.int64),
        file_offsets=np.searchsorted(file_request, np.arange(requests + 1)).astype(np.int64),
        file_volumes=file_volumes.astype(np.int64),
        file_starts=starts,
        file_bytes=file_bytes,
        archive_times=empty_floats(),
        archive_who=empty_integers(),
        archive_pools=empty_integers(),
        archive_bytes=empty_integers(),
    )


def _cartridges(kind: Kind, written: int) -> list[TraceVolume]:
    return [
        TraceVolume(
            name=f"V{number:05d}",
            medium=kind.medium,
            capacity_bytes=kind.capacity_bytes,
            written_bytes=written,
            pool="pool",
        )
        for number in range(kind.volumes)
    ]


def _times(draw: np.random.Generator, number: int, span: float) -> Floats:
    """Poisson arrivals, scaled so that all of them fill the span."""
    times = np.cumsum(draw.exponential(1.0, number))
    return times * (span / times[-1]) if number else times


def _volumes_of_each(draw: np.random.Generator, kind: Kind, requests: int) -> Integers:
    numbers = np.arange(kind.volumes_per_job[0], kind.volumes_per_job[1] + 1)
    return draw.choice(numbers, requests, p=(1 / numbers) / (1 / numbers).sum()).astype(np.int64)


def _files_of_each(draw: np.random.Generator, kind: Kind, requests: int) -> Integers:
    """Files of each job on every one of its volumes."""
    median = kind.files_per_volume * np.exp(-(kind.files_sigma**2) / 2)
    return np.maximum(1, np.rint(draw.lognormal(np.log(median), kind.files_sigma, requests))).astype(np.int64)


def _volumes(draw: np.random.Generator, kind: Kind, part_request: Integers) -> Integers:
    popularity = np.arange(1, kind.volumes + 1) ** -kind.zipf
    bounds = np.cumsum(popularity / popularity.sum())
    ranks = np.minimum(np.searchsorted(bounds, draw.random(len(part_request))), kind.volumes - 1)
    # Which volume is popular has nothing to do with its name, by which plans are decided between equals.
    return draw.permutation(kind.volumes)[ranks].astype(np.int64)


def _first_of_each(part_request: Integers, part_volume: Integers) -> Integers:
    """Rows without those that name a volume again which their request has already."""
    keys = part_request * (int(part_volume.max(initial=0)) + 1) + part_volume
    return np.sort(np.unique(keys, return_index=True)[1]).astype(np.int64)
