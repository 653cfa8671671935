"""How much of everything there is, and what waits for what: healthz, metrics, explain. Promises nothing to data:
moving files never depends on what is here. Whether all parts answer is in status.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from catalog import counters, explanations, mounts, reading, replicas, staging, volumes
from catalog.errors import BadRequest, CapstanError, CatalogUnreachable, Denied, NotFound
from catalog.model import Action, authorize, parse_path
from client import messages, operatormessages
from client.serving import json_body, json_response
from tapeserver.door.context import DoorContext, context_of, principal_of
from tapeserver.door.jobs import job_server
from tapeserver.door.relay import session_of

DATABASE_SECONDS_MAX = 1.0


async def healthz(request: web.Request) -> web.Response:
    return json_response({"name": context_of(request).name, "kind": "tapeserver", "ok": True})


async def heartbeat(request: web.Request) -> web.Response:
    """A job server says that it lives, and where."""
    principal = principal_of(request)
    if not principal.is_admin:
        raise Denied(owner=principal.owner, action=str(Action.ADMIN), path="/")
    body = await json_body(request, operatormessages.ServerBody)
    if body.kind != "jobserver":
        raise BadRequest(why=f"{body.kind!r} is not a kind of server that registers here")
    if not body.url.startswith(("http://", "https://")):
        raise BadRequest(why=f"{body.url!r} is not an http URL")
    await context_of(request).database.run(
        lambda connection: reading.register_server(
            connection, kind=body.kind, name=body.name, url=body.url, host=body.host, pid=body.pid, detail=body.detail
        )
    )
    return web.Response(status=204)


async def explain(request: web.Request) -> web.Response:
    """Sentences on a path, request:N, job:N, volume:VID or a bare VID; whatever exists has an explanation."""
    context, principal = context_of(request), principal_of(request)
    wanted = request.query.get("object", "").strip()
    kind, _, name = wanted.partition(":")
    if kind == "job" and name:
        return await _explain_job(request, context, name)
    async with context.database.connection() as connection:
        if wanted.startswith("/"):
            components = parse_path(wanted)
            authorize(principal, Action.POLL, wanted)
            found = await explanations.explain_path(connection, components)
        elif kind == "request" or (wanted.isascii() and wanted.isdigit()):
            number = name if kind == "request" else wanted
            if not (number.isascii() and number.isdigit() and len(number) <= 18):
                raise NotFound(what=f"request {number[:40]}")
            owner = (await staging.request_at(connection, int(number))).owner
            if owner != principal.owner and not principal.is_admin:
                raise Denied(owner=principal.owner, action="access", path=f"request {number}")
            found = await explanations.explain_request(connection, int(number))
        elif wanted:
            found = await explanations.explain_volume(connection, name if kind == "volume" else wanted)
        else:
            raise BadRequest(why="explain needs ?object=PATH, request:N, job:N or volume:VID")
    return json_response(
        messages.Explanation(
            object=found.object, kind=found.kind, state=found.state, sentences=found.sentences, detail=found.detail
        )
    )


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text. An unreachable catalog is a metric too, not an error."""
    registry = CollectorRegistry()
    registry.register(_Gathered(await _gather(context_of(request))))
    return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")


class _Gathered:
    """Metrics that were read already, in the shape that the Prometheus client wants."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def _gather(context: DoorContext) -> list[Metric]:
    up = GaugeMetricFamily("capstan_catalog_up", "Whether the catalog answered just now.")
    families: list[Metric] = [up]
    try:
        async with asyncio.timeout(DATABASE_SECONDS_MAX), context.database.connection() as connection:
            oldest = await reading.oldest_unsafe_seconds(connection)
            backlog = await counters.backlog(connection)
            drives = await volumes.list_drives(connection)
            mounted = await mounts.list_mounts(connection)
            caches = await replicas.servers(connection)
    except (CatalogUnreachable, TimeoutError):
        up.add_metric([], 0)
        return families
    up.add_metric([], 1)
    families.append(
        _gauge("capstan_oldest_unsafe_seconds", "Age of the oldest file not yet safe.", {None: oldest or 0})
    )
    for name, text in (("files", "Files that wait"), ("bytes", "Bytes that wait")):
        family = GaugeMetricFamily(f"capstan_queue_{name}", f"{text}, per pool or volume.", labels=["queue", "key"])
        for one in backlog:
            family.add_metric([one.kind, one.key], getattr(one, name))
        families.append(family)
    family = GaugeMetricFamily("capstan_drive_up", "Whether a drive is up and attached.", labels=["drive", "library"])
    for drive in drives:
        family.add_metric([drive.name, drive.library], drive.state == "up" and drive.attached)
    families.append(family)
    families.append(
        _gauge("capstan_drive_mounted", "Whether a volume is in the drive.", {one.drive: 1 for one in mounted}, "drive")
    )
    for name in ("capacity_bytes", "used_bytes", "reserved_bytes"):
        values = {one.name: getattr(one, name) for one in caches}
        families.append(_gauge(f"capstan_cache_{name}", f"Cache server: {name.replace('_', ' ')}.", values, "server"))
    families.append(_gauge("capstan_cache_up", "Whether it is live.", {one.name: one.live for one in caches}, "server"))
    return families


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """`values` by the one label's value; None when there is no label."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for key, value in values.items():
        family.add_metric([] if key is None else [key], value)
    return family


async def _explain_job(request: web.Request, context: DoorContext, name: str) -> web.Response:
    server = await job_server(context)
    url = f"{server.url.rstrip('/')}/api/jobs/v1/jobs/{quote(name, safe='')}/explain"
    headers = {"Authorization": request.headers.get("Authorization", "")}
    try:
        async with session_of(context).get(url, headers=headers) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": answer.content_type}
            )
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise CapstanError() from exc
