"""A door for tests of the job server: real HTTP, files and pins in memory, tapes that are read when the test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
from aiohttp import web

from catalog.errors import Denied, NotADirectory, NotFound, Unauthenticated
from client.messages import (
    CopyLocation,
    Entry,
    FileLocation,
    ItemError,
    ListBody,
    Listing,
    Pinned,
    PinsBody,
    StageBody,
    StageFileProgress,
    StageProgress,
    TokenBody,
    TokenMade,
    UnpinBody,
    Whereis,
    WhereisBody,
    WhoAmI,
)
from client.operatormessages import Items, VolumeFile, VolumeFiles
from client.serving import json_body, json_response, listen, problem_middleware

ALL = [("admin", "/")]


@dataclass(slots=True, kw_only=True)
class TapeFile:
    file: int
    path: str
    size: int
    volumes: tuple[str, ...]
    on_disk: bool = False
    cache_path: str = ""


@dataclass(slots=True, kw_only=True)
class StageRequest:
    paths: list[str]
    ended: dict[str, str | None] = field(default_factory=dict)


class JobDoor:
    """`staged` counts how often each path was asked for; `pins` is owner -> file ids."""

    def __init__(self) -> None:
        self.files: dict[str, TapeFile] = {}
        self.requests: dict[str, StageRequest] = {}
        self.deleted: list[str] = []
        self.staged: list[list[str]] = []
        #: path -> what it was last asked for together with
        self.cohorts: dict[str, str | None] = {}
        self.pins: dict[str, set[int]] = {}
        self.job_tokens: dict[int, TokenBody] = {}
        self.libraries_down: dict[str, str] = {}
        self.capacity_bytes = 1_000_000
        #: arrivals without anybody's doing
        self.reads_by_itself = True
        #: of whatever is on tape only
        self.expected_seconds: float | None = None
        #: path -> what its stage item answers
        self.errors: dict[str, str] = {}
        self.principals = {
            "service": WhoAmI(owner="capstan", groups=["capstan"], grants=ALL, recorded=False, token_id=1),
            "user": WhoAmI(owner="ada", groups=["hall"], grants=ALL, recorded=True, token_id=2),
            "stranger": WhoAmI(
                owner="eve", groups=["x"], grants=[("read", "/exp"), ("stage", "/exp")], recorded=False, token_id=3
            ),
        }
        self.heartbeats: list[dict[str, Any]] = []
        self.down = False
        #: calls that came while it was down
        self.refused = 0
        self._ids = count(1)
        self._listeners: set[asyncio.Queue[str]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self.port = 0

    # ------------------------------------------------------------------ what tests do

    def add(self, path: str, *volumes: str, size: int = 10, on_disk: bool = False) -> TapeFile:
        added = TapeFile(file=next(self._ids), path=path, size=size, volumes=volumes or ("E00001",), on_disk=on_disk)
        self.files[path] = added
        return added

    def arrive(self, *paths: str) -> None:
        for path in paths:
            self.files[path].on_disk = True
            for request in self.requests.values():
                if path in request.paths:
                    request.ended[path] = None
        for listener in self._listeners:
            listener.put_nowait("replica")

    async def start(self) -> str:
        app = web.Application(middlewares=[self._may_be_down, problem_middleware])
        api = "/api/capstan/v1"
        app.add_routes(
            [
                web.get(f"{api}/whoami", self._whoami),
                web.post(f"{api}/whereis", self._whereis),
                web.post(f"{api}/list", self._list),
                web.get(f"{api}/libraries", self._libraries),
                web.get(f"{api}/cache", self._cache),
                web.get(f"{api}/volumes/{{vid}}/files", self._volume_files),
                web.post(f"{api}/pins", self._pin),
                web.delete(f"{api}/pins", self._unpin),
                web.post(f"{api}/tokens", self._make_token),
                web.delete(f"{api}/tokens/{{id}}", self._revoke_token),
                web.post(f"{api}/servers", self._server),
                web.get(f"{api}/events", self._events),
                web.post("/api/v1/stage", self._stage),
                web.get("/api/v1/stage/{id}", self._progress),
                web.delete("/api/v1/stage/{id}", self._delete_stage),
            ]
        )
        self._listener = await listen(app)
        self.port = self._listener.port
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        for task in self._background:
            task.cancel()
        for listener in self._listeners:
            listener.put_nowait("")
        await self._listener.close()

    # ------------------------------------------------------------------ the calls

    @web.middleware
    async def _may_be_down(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.down and request.transport is not None:
            self.refused += 1
            request.transport.abort()
        return await handler(request)  # type: ignore[no-any-return]

    def _principal(self, request: web.Request) -> WhoAmI:
        name = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if name not in self.principals:
            raise Unauthenticated(why="the token is unknown")
        return self.principals[name]

    def _service(self, request: web.Request) -> None:
        if self._principal(request).owner != "capstan":
            raise Denied(owner="?", action="admin", path="/")

    async def _whoami(self, request: web.Request) -> web.Response:
        return json_response(self._principal(request))

    async def _whereis(self, request: web.Request) -> web.Response:
        self._principal(request)
        body = await json_body(request, WhereisBody)
        return json_response(Whereis(files=[self._location(path) for path in body.paths]))

    def _location(self, path: str) -> FileLocation:
        found = self.files.get(path)
        if found is None:
            below = any(other.startswith(path + "/") for other in self.files)
            code = "is_a_directory" if below else "not_found"
            return FileLocation(path=path, error=ItemError(code=code, detail="no"))
        copies = [
            CopyLocation(
                volume=volume,
                library="east" if volume.startswith("E") else "west",
                generation=1,
                first_block=found.file,
                byte_offset=0,
                readable=self._readable(volume),
            )
            for volume in found.volumes
        ]
        locality = "DISK_AND_TAPE" if found.on_disk else "TAPE"
        return FileLocation(
            path=path, file_id=found.file, size=found.size, locality=locality, copies=copies,
            cache_path=found.cache_path, cache_host="here" if found.cache_path else "",
            recall="" if found.on_disk else "queued", expected_seconds=None if found.on_disk else self.expected_seconds,
        )  # fmt: skip

    def _readable(self, volume: str) -> bool:
        return ("east" if volume.startswith("E") else "west") not in self.libraries_down

    async def _list(self, request: web.Request) -> web.Response:
        self._principal(request)
        body = await json_body(request, ListBody)
        base = body.path.rstrip("/") + "/"
        if body.path in self.files:
            raise NotADirectory(path=body.path)
        below = [path for path in self.files if path.startswith(base)]
        if not below:
            raise NotFound(what=body.path)
        names = sorted({path[len(base) :].split("/")[0] for path in below})
        entries = []
        for name in names:
            found = self.files.get(base + name)
            kind = "file" if found else "directory"
            entries.append(
                Entry(
                    path=base + name, kind=kind, mtime_ns=0, mode=0, owner="", group="",
                    size=found.size if found else 0, file_id=found.file if found else 0,
                )
            )  # fmt: skip
        return json_response(Listing(entries=[entry for entry in entries if entry.path > body.after]))

    async def _libraries(self, request: web.Request) -> web.Response:
        self._service(request)
        rows = [
            {"name": name, "state": "down" if name in self.libraries_down else "up",
             "reason": self.libraries_down.get(name, "")}
            for name in ("east", "west")
        ]  # fmt: skip
        return json_response(Items(items=rows))

    async def _cache(self, request: web.Request) -> web.Response:
        self._service(request)
        return json_response(Items(items=[{"name": "cache", "capacity_bytes": self.capacity_bytes}]))

    async def _volume_files(self, request: web.Request) -> web.Response:
        self._service(request)
        files = [
            VolumeFile(
                path=one.path, file_id=one.file, size=one.size, first_block=one.file, byte_offset=0, on_disk=one.on_disk
            )
            for one in self.files.values()
            if request.match_info["vid"] in one.volumes
        ]
        return json_response(VolumeFiles(files=files))

    async def _pin(self, request: web.Request) -> web.Response:
        self._service(request)
        body = await json_body(request, PinsBody)
        self.pins.setdefault(body.owner, set()).update(body.files)
        return json_response(Pinned(pinned=len(body.files)))

    async def _unpin(self, request: web.Request) -> web.Response:
        self._service(request)
        body = await json_body(request, UnpinBody)
        self.pins.pop(body.owner, None)
        return json_response({"unpinned": 1})

    async def _make_token(self, request: web.Request) -> web.Response:
        self._service(request)
        number = next(self._ids)
        self.job_tokens[number] = await json_body(request, TokenBody)
        return json_response(TokenMade(token=f"secret-{number}", token_id=number), status=201)

    async def _revoke_token(self, request: web.Request) -> web.Response:
        self._service(request)
        if self.job_tokens.pop(int(request.match_info["id"]), None) is None:
            raise NotFound(what="the token")
        return web.Response(status=204)

    async def _server(self, request: web.Request) -> web.Response:
        self._service(request)
        self.heartbeats.append(msgspec.json.decode(await request.read()))
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(queue)
        while kind := await queue.get():
            await response.write(f"event: {kind}\ndata: {{}}\n\n".encode())
        return response

    async def _stage(self, request: web.Request) -> web.Response:
        self._service(request)
        body = await json_body(request, StageBody)
        number = f"r{next(self._ids)}"
        paths = [one.path for one in body.files]
        self.requests[number] = StageRequest(paths=paths)
        self.staged.append(paths)
        for one in body.files:
            self.cohorts[one.path] = ((one.targeted_metadata or {}).get("capstan") or {}).get("cohort")
        for path in paths:
            if path in self.errors:
                self.requests[number].ended[path] = self.errors[path]
        if self.reads_by_itself:
            self.arrive(*(path for path in paths if path in self.files and path not in self.errors))
        return json_response({"requestId": number}, status=201)

    async def _progress(self, request: web.Request) -> web.Response:
        found = self.requests.get(request.match_info["id"])
        if found is None:
            raise NotFound(what="the request")
        files = [
            StageFileProgress(path=path, state="STARTED")
            if path not in found.ended
            else StageFileProgress(path=path, state="FAILED", error=found.ended[path])
            if found.ended[path]
            else StageFileProgress(path=path, state="COMPLETED")
            for path in found.paths
        ]
        over = len(found.ended) == len(found.paths)
        return json_response(
            StageProgress(id=request.match_info["id"], created_at=1, started_at=1, files=files,
                          completed_at=2 if over else None)
        )  # fmt: skip

    async def _delete_stage(self, request: web.Request) -> web.Response:
        if self.requests.pop(request.match_info["id"], None) is None:
            raise NotFound(what="the request")
        self.deleted.append(request.match_info["id"])
        return web.Response()
