"""The door: the HTTP face of the whole namespace, of staging, and of operators. Any number of doors run.

`make_app(context)` is all that the tapeserver needs. Handlers turn HTTP into calls of the catalog's noun modules and
back; they hold no SQL and no state but caches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from catalog.errors import NotFound
from client.serving import problem_middleware
from tapeserver.door import (
    accounts,
    events,
    files,
    hardware,
    information,
    jobs,
    monitoring,
    operators,
    recycle,
    staging,
    status,
    volumes,
    webdav,
    wholevolumes,
)
from tapeserver.door.authentication import authentication_middleware
from tapeserver.door.context import CONTEXT, DoorContext
from tapeserver.door.relay import make_session
from tapeserver.door.resolver import resolve_forever

__all__ = ["DoorContext", "make_app", "resolve_forever"]

_OURS = "/api/capstan/v1"


def make_app(context: DoorContext) -> web.Application:
    """The aiohttp application of one door. The caller serves it, and runs `resolve_forever` beside it."""
    app = web.Application(
        middlewares=[problem_middleware, authentication_middleware], client_max_size=context.json_bytes_max
    )
    app[CONTEXT] = context
    app[events.BELL] = events.Bell(context.database)
    app.cleanup_ctx.append(_session)
    app.cleanup_ctx.append(events.run_bell)
    app.on_shutdown.append(events.stop_readers)
    app.add_routes(_fixed_routes())
    app.add_routes(_tape_rest_routes())
    app.add_routes(_own_routes())
    app.router.add_route("*", "/api/jobs/v1/{tail:.*}", jobs.relay)
    app.router.add_route("*", "/api/{tail:.*}", _no_such_call)
    _add_namespace(app)
    return app


async def _no_such_call(request: web.Request) -> web.Response:
    """An API's path that is none, or not with this method: the namespace would speak of a name that may not be."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource is request.match_info.route.resource:
            break
        allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))
    raise NotFound(what=f"{request.method} {request.path[:200]}")


async def _session(app: web.Application) -> AsyncIterator[None]:
    context = app[CONTEXT]
    context.session = make_session(context.idle_seconds_max)
    yield
    await context.session.close()
    context.session = None


def _fixed_routes() -> list[web.RouteDef]:
    return [
        web.get("/healthz", monitoring.healthz),
        web.get("/metrics", monitoring.metrics),
        web.get("/.well-known/wlcg-tape-rest-api", staging.well_known),
    ]


def _tape_rest_routes() -> list[web.RouteDef]:
    """Each with and without a slash at the end: a redirect would lose the body of a POST."""
    calls = [
        (web.post, "/api/v1/stage", staging.submit),
        (web.get, "/api/v1/stage/{id}", staging.progress),
        (web.delete, "/api/v1/stage/{id}", staging.delete),
        (web.post, "/api/v1/stage/{id}/cancel", staging.cancel),
        (web.post, "/api/v1/release/{id}", staging.release),
        (web.post, "/api/v1/archiveinfo", staging.archiveinfo),
    ]
    return [method(path + slash, handler) for method, path, handler in calls for slash in ("", "/")]


def _own_routes() -> list[web.RouteDef]:
    named = "/{what:drives|libraries|volumes}/{name}"
    calls = [
        (web.get, "/whoami", information.whoami),
        (web.post, "/list", information.list_paths),
        (web.post, "/whereis", information.whereis),
        (web.post, "/archive-wait", information.archive_wait),
        (web.post, "/pins", information.pin),
        (web.delete, "/pins", information.unpin),
        (web.get, "/tokens", information.tokens),
        (web.post, "/tokens", information.make_token),
        (web.delete, "/tokens/{id}", information.revoke_token),
        (web.get, "/explain", monitoring.explain),
        (web.get, "/status", status.status),
        (web.post, "/servers", monitoring.heartbeat),
        (web.get, "/events", events.stream),
        (web.get, "/queue", operators.queue),
        (web.post, "/queue/retry", operators.retry),
        *((web.get, f"/{what}", operators.listed) for what in ("drives", "libraries", "volumes", "pools")),
        (web.get, "/storage-classes", operators.listed),
        (web.get, "/cache", operators.listed),
        (web.post, "/pools", operators.create_pool),
        (web.post, "/storage-classes", operators.create_storage_class),
        (web.get, "/libraries/{name}", operators.shown),
        (web.get, "/drives/{name}", volumes.drive_shown),
        (web.get, "/volumes/{name}", volumes.volume_shown),
        (web.post, "/drives/{name}/model", hardware.drive_model),
        (web.post, "/volumes/{name}/medium", hardware.volume_medium),
        (web.post, "/volumes/{name}/stage", wholevolumes.stage),
        (web.post, "/volumes/{name}/{verb}", volumes.volume_verb),
        (web.get, "/maintenance", volumes.maintenance_listed),
        (web.post, "/maintenance/{id}/cancel", volumes.maintenance_cancelled),
        (web.post, "/audits", volumes.audit_begun),
        (web.post, "/storage-classes/{name}", volumes.storage_class_changed),
        (web.post, "/pools/{name}", volumes.pool_changed),
        (web.get, "/usage", accounts.usage_told),
        (web.get, "/shares", accounts.shares_listed),
        (web.post, "/shares", accounts.share_set),
        (web.post, "/shares/remove", accounts.share_removed),
        (web.get, "/rules", accounts.rules_listed),
        (web.post, "/rules", accounts.rule_added),
        (web.post, "/rules/{place}/remove", accounts.rule_removed),
        (web.get, "/alerts", volumes.alerts_listed),
        (web.post, "/alerts/{id}/clear", volumes.alert_cleared),
        (web.post, named, operators.set_state),
        (web.get, "/volumes/{name}/files", operators.volume_files),
        (web.get, "/requests", operators.requests),
        (web.get, "/requests/{id}", operators.request_shown),
        (web.post, "/requests/{id}/cancel", operators.request_cancel),
        (web.post, "/cache/drop", operators.drop),
        (web.post, "/recycle/list", recycle.listed),
        (web.post, "/recycle/restore", recycle.restore),
        (web.post, "/recycle/purge", recycle.purge),
    ]
    return [method(_OURS + path, handler) for method, path, handler in calls]


def _add_namespace(app: web.Application) -> None:
    """Everything else is a name. The handlers read the raw path; the pattern only catches."""
    resource = app.router.add_resource(r"/{path:[\s\S]*}")
    resource.add_route("GET", files.get)
    resource.add_route("HEAD", files.head)
    resource.add_route("PUT", files.put, expect_handler=files.put_expect_handler)
    resource.add_route("DELETE", files.delete)
    resource.add_route("MKCOL", webdav.mkcol)
    resource.add_route("MOVE", webdav.move)
    resource.add_route("PROPFIND", webdav.propfind)
    resource.add_route("OPTIONS", webdav.options)
