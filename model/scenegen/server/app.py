"""The ASGI application: judges requests (token, limits), queues them, streams the events of each.

Knows nothing about sockets, certificates or processes, so any ASGI server can run it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scenegen import wire
from scenegen.scene import InvalidInput, Progress
from scenegen.server.worker import Job, SceneGenerator, ViewSegmenter, Work, Worker, generate, segment

logger = logging.getLogger(__name__)

ALIVE_S = 2.0
"""Pause after which silent work sends a sign of life; also bounds how long a dead peer goes unnoticed."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how many requests may wait.

    size: bytes of the whole request. pixels: of one view. objects: ids asked for, or seen. upload_s: seconds that a
    request may take to arrive. waiting: requests in the queue besides the one at work.
    """

    size: int = 256 << 20
    pixels: int = 4096 * 4096
    views: int = 16
    objects: int = 32
    upload_s: float = 120.0
    waiting: int = 4


class Refused(Exception):
    """A request that gets an HTTP error: what is wrong, and what to do."""

    def __init__(self, status: int, error: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint
        self.headers = headers


def create_app(
    load: Callable[[], SceneGenerator],
    *,
    load_segmenter: Callable[[], ViewSegmenter] | None = None,
    token: str | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """The application: POST /v1/scenes, POST /v1/segmentations, GET /v1/ready, GET /v1/health.

    load, load_segmenter: make the models; called once, in the worker's thread, when the application starts, while the
    application already answers. token: bearer token that all but health ask for. The worker is `app.state.worker`.
    """
    limits = limits or Limits()
    worker = Worker(load, limits.waiting, load_segmenter)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "media_type": wire.MEDIA_TYPE})

    async def ready(request: Request) -> Response:
        _authorise(request, token)
        answer = {"state": worker.state, "detail": worker.detail, **worker.load()}
        return JSONResponse(answer, status_code=200 if worker.state == "ready" else 503)

    async def scenes(request: Request) -> Response:
        return await accept(request, generate)

    async def segmentations(request: Request) -> Response:
        return await accept(request, segment)

    async def accept(request: Request, what: Callable[[wire.Request], Work]) -> Response:
        _authorise(request, token)
        if request.headers.get("content-type") != wire.MEDIA_TYPE:
            hint = f"send {wire.MEDIA_TYPE}, as scenegen.client of this version does"
            raise Refused(415, "the request has another media type", hint)
        if worker.state != "ready":
            hint = (
                "wait until /v1/ready says so"
                if worker.state == "loading"
                else "correct --weights or --segmenter and start again"
            )
            raise Refused(503, worker.detail, hint)
        if what is segment and load_segmenter is None:
            hint = "start it with `scenegen serve --segmenter FOLDER`, or send views with masks"
            raise Refused(501, "this server has no segmenter", hint)
        if not worker.take_place():
            wait = {"Retry-After": str(max(1, round(worker.last_seconds)))}
            raise Refused(503, f"{limits.waiting} requests are waiting already", "try again later", wait)
        try:
            work = what(await _read(request, limits))
        except BaseException:
            worker.give_place_back()
            raise
        return _EventStream(worker, work)

    app = Starlette(
        routes=[
            Route("/v1/health", health, methods=["GET"]),
            Route("/v1/ready", ready, methods=["GET"]),
            Route("/v1/scenes", scenes, methods=["POST"]),
            Route("/v1/segmentations", segmentations, methods=["POST"]),
        ],
        exception_handlers={Refused: _answer_refused, InvalidInput: _answer_invalid, ClientDisconnect: _answer_none},
        lifespan=lifespan,
    )
    app.state.worker = worker
    return app


def _authorise(request: Request, token: str | None) -> None:
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        what = "the token is wrong" if given else "the request has no token"
        headers = {"WWW-Authenticate": "Bearer"}
        raise Refused(401, what, "give the client the token that the server was started with", headers)


async def _read(request: Request, limits: Limits) -> wire.Request:
    """The request, decoded and within the limits; one that is too large is refused before it has all been sent."""
    reader = wire.RequestReader(lambda header: _check(header, limits))
    _check_size(int(request.headers.get("content-length", "0")), limits)
    received = 0
    try:
        async with asyncio.timeout(limits.upload_s):
            async for chunk in request.stream():
                received += len(chunk)
                _check_size(received, limits)
                reader.feed(chunk)
    except TimeoutError as error:
        what = f"only {received} bytes of the request came within {limits.upload_s:.0f} s"
        raise Refused(408, what, "send fewer or smaller views, or use a faster network") from error
    generation = await run_in_threadpool(reader.finish)
    ids = generation.ids or {i for view in generation.views for i in view.instance_ids}
    _check_objects(len(ids), limits)
    return generation


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.size:
        what = f"the request is over {limits.size >> 20} MiB ({limits.size} bytes)"
        raise Refused(413, what, "send fewer or smaller views")


def _check(header: wire.RequestHeader, limits: Limits) -> None:
    if len(header.sizes) > limits.views:
        what = f"the request has {len(header.sizes)} views, the limit is {limits.views}"
        raise Refused(413, what, "send fewer views")
    for index, (height, width) in enumerate(header.sizes):
        if height * width > limits.pixels:
            what = f"view {index} has {width} x {height} pixels, the limit is {limits.pixels} in all"
            raise Refused(413, what, "send a smaller image")
    _check_objects(len(header.ids or ()), limits)


def _check_objects(count: int, limits: Limits) -> None:
    if count > limits.objects:
        what = f"the request asks for {count} objects, the limit is {limits.objects}"
        raise Refused(413, what, "name fewer instance ids")


class _EventStream(StreamingResponse):
    """The events of one request's work, which is queued when the stream begins and cancelled when it ends."""

    def __init__(self, worker: Worker, work: Work) -> None:
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._worker = worker

        def emit(event: bytes | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._job = Job(work, emit)
        self._events = events
        super().__init__(self._frames(), media_type=wire.MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Starlette cancels this when the client has gone."""
        if self._worker.submit(self._job):
            self._events.put_nowait(wire.EventWriter().progress(Progress("queued", 0.0)))
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._job)

    async def _frames(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(ALIVE_S):
                    event = await self._events.get()
            except TimeoutError:
                event = wire.ALIVE
            if event is None:
                return
            yield event


async def _answer_refused(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    body = {"error": refused.error, "hint": refused.hint}
    return JSONResponse(body, status_code=refused.status, headers=refused.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "hint": ""}, status_code=422)


async def _answer_none(request: Request, error: Exception) -> Response:
    """The client left while it sent its request: there is nobody to tell."""
    return Response(status_code=400)
