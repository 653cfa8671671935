"""A door and a cache server in memory, for tests of the client's protocol. Not a test itself.

The door redirects to the cache server on another port, as the real one does. Faults are put in by the test.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from catalog.errors import CapstanError, ExistsCondition, NotFound, OnTape, ParentMissing, ShortBody
from client import messages
from client.locations import Door
from client.serving import Listener, expect_after, json_body, json_response, listen, problem_middleware

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass(kw_only=True)
class FakeSite:
    files: dict[str, bytes] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {"/"})
    on_tape: set[str] = field(default_factory=set)
    #: looked at first, once each, in order
    door_faults: list[Fault] = field(default_factory=list)
    cache_faults: list[Fault] = field(default_factory=list)
    #: (server, method, path, Authorization, Range)
    seen: list[tuple[str, str, str, str | None, str | None]] = field(default_factory=list)
    staged: dict[str, list[str]] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    #: path -> error text of its stage item
    stage_errors: dict[str, str] = field(default_factory=dict)
    tape_answers: bool = True
    url: str = ""
    cache_url: str = ""
    #: what the cache server says that it stored, instead of the truth
    lie: str = ""

    @property
    def doors(self) -> tuple[Door, ...]:
        return (Door(url=self.url, token="secret"),)

    def entry(self, path: str) -> messages.Entry:
        data = self.files[path]
        return messages.Entry(
            path=path, kind="file", mtime_ns=1_600_000_000_123_456_789, mode=0o640, owner="ann", group="users",
            size=len(data), adler32=adler(data), locality="TAPE" if path in self.on_tape else "DISK",
            label="tape" if path in self.on_tape else "disk", file_id=zlib.crc32(path.encode()) or 1,
        )  # fmt: skip

    async def _note(self, server: str, request: web.Request, faults: list[Fault]) -> web.StreamResponse | None:
        self.seen.append(
            (
                server,
                request.method,
                request.path,
                request.headers.get("Authorization"),
                request.headers.get("Range"),
            )
        )
        return await faults.pop(0)(request) if faults else None

    # ---- the door

    async def admit(self, request: web.Request) -> web.StreamResponse | None:
        if answer := await self._note("door", request, self.door_faults):
            return answer
        path = request.path
        if path.rpartition("/")[0] not in {one.rstrip("/") for one in self.directories}:
            raise ParentMissing(path=path.rpartition("/")[0])
        if path in self.files and request.headers.get("If-None-Match") == "*":
            raise ExistsCondition(path=path)
        return web.Response(status=307, headers={"Location": f"{self.cache_url}{request.raw_path}?sig=put"})

    async def door(self, request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            # A small body comes along without Expect; the answer is the same.
            answer = await self.admit(request)
            assert answer is not None
            return answer
        if answer := await self._note("door", request, self.door_faults):
            return answer
        path = request.path
        if request.method == "MKCOL":
            if path.rpartition("/")[0] not in {one.rstrip("/") for one in self.directories}:
                raise ParentMissing(path=path.rpartition("/")[0])
            self.directories.add(path)
            return web.Response(status=201)
        if path not in self.files:
            raise NotFound(what=path)
        if request.method == "DELETE":
            del self.files[path]
            return web.Response(status=204)
        if path in self.on_tape:
            raise OnTape(path=path, what=path, retry_after_seconds=1)
        return web.Response(status=307, headers={"Location": f"{self.cache_url}{request.raw_path}?sig=get"})

    async def list_(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._note("door", request, self.door_faults):
            return answer
        body = await json_body(request, messages.ListBody)
        if body.path in self.files:
            return json_response(messages.Listing(entries=[self.entry(body.path)]))
        if body.path not in self.directories:
            raise NotFound(what=body.path)
        below = body.path.rstrip("/") + "/"
        found = [
            self.entry(path) for path in sorted(self.files) if path.startswith(below) and "/" not in path[len(below) :]
        ]
        return json_response(messages.Listing(entries=found))

    async def stage(self, request: web.Request) -> web.StreamResponse:
        body = await json_body(request, messages.StageBody)
        request_id = str(len(self.staged) + 1)
        self.staged[request_id] = [file.path for file in body.files]
        return json_response({"requestId": request_id}, status=201)

    async def progress(self, request: web.Request) -> web.StreamResponse:
        request_id = request.match_info["id"]
        if request.method == "DELETE":
            self.deleted.append(request_id)
            return web.Response()
        files = []
        for path in self.staged[request_id]:
            if self.tape_answers and path not in self.stage_errors:
                self.on_tape.discard(path)
            error = self.stage_errors.get(path)
            state = "FAILED" if error else "STARTED" if path in self.on_tape else "COMPLETED"
            files.append(messages.StageFileProgress(path=path, state=state, error=error))
        return json_response(messages.StageProgress(id=request_id, created_at=1, started_at=1, files=files))

    async def release(self, request: web.Request) -> web.StreamResponse:
        self.released.append(request.match_info["id"])
        return web.Response()

    async def explain(self, request: web.Request) -> web.StreamResponse:
        wanted = request.query["object"]
        return json_response(messages.Explanation(object=wanted, kind="", state="", sentences=["no drive is free"]))

    # ---- the cache server

    async def cache(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._note("cache", request, self.cache_faults):
            return answer
        path = request.path
        if request.method == "PUT":
            return await self._store(request, path)
        data = self.files[path]
        headers = {"ETag": f'"{adler(data)}"'}
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        status = 206 if begin and request.headers.get("If-Range") == headers["ETag"] else 200
        return web.Response(status=status, body=data[begin if status == 206 else 0 :], headers=headers)

    async def _store(self, request: web.Request, path: str) -> web.StreamResponse:
        try:
            data = await request.read()
        except Exception as exc:
            raise ShortBody(received="some", expected=request.content_length) from exc
        promised = request.headers.get("Digest", "").removeprefix("adler32=")
        if promised and promised != adler(data):
            raise CapstanError
        self.files[path] = data
        return json_response(
            messages.Stored(path=path, file_id=1, size=len(data), adler32=self.lie or adler(data)), status=201
        )


def adler(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"


@asynccontextmanager
async def fake_site() -> AsyncIterator[FakeSite]:
    site = FakeSite()
    door = web.Application(middlewares=[problem_middleware], client_max_size=1 << 30)
    door.router.add_post("/api/capstan/v1/list", site.list_)
    door.router.add_get("/api/capstan/v1/explain", site.explain)
    door.router.add_post("/api/v1/stage", site.stage)
    door.router.add_route("*", "/api/v1/stage/{id}", site.progress)
    door.router.add_post("/api/v1/release/{id}", site.release)
    door.router.add_put("/{path:.*}", site.door, expect_handler=expect_after(site.admit))
    door.router.add_route("*", "/{path:.*}", site.door)
    cache = web.Application(middlewares=[problem_middleware], client_max_size=1 << 30)
    cache.router.add_route("*", "/{path:.*}", site.cache)
    listeners: list[Listener] = [await listen(door), await listen(cache)]
    site.url, site.cache_url = (f"http://127.0.0.1:{one.port}" for one in listeners)
    yield site
    for one in listeners:
        await one.close()
