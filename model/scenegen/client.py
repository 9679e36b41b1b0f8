"""SceneClient: SceneGen.generate and Segmenter.segment, done by a server on a unix socket or across the network.

One connection per request; closing it is what cancels. Knows nothing about torch, ROS or how scenes are made.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx

from scenegen.address import Address
from scenegen.failures import (
    ConnectionLost,
    GenerationFailed,
    RequestTooLarge,
    ServerBusy,
    ServerError,
    ServerNotReady,
    ServerUnreachable,
    Unauthorized,
    answer_of,
    failure,
    is_certificate_error,
    lost,
    refusal,
    unreachable,
)
from scenegen.prompts import PromptedView
from scenegen.scene import Cancelled, Detail, InvalidInput, Progress, Scene, View
from scenegen.wire import MEDIA_TYPE, Event, EventReader, Masks, encode_request

__all__ = [
    "ConnectionLost",
    "GenerationFailed",
    "Readiness",
    "RequestTooLarge",
    "SceneClient",
    "ServerBusy",
    "ServerError",
    "ServerNotReady",
    "ServerUnreachable",
    "Unauthorized",
]

_Result = TypeVar("_Result")

_POLL_S = 0.05
_RETRY_WAITS_S = (0.2, 0.5, 1.0)
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Readiness:
    """What the server says about its model; detail is one sentence for people.

    working: a generation runs. waiting: requests in its queue, of at most places. device_memory: bytes in use and in
    all on its GPU. segmenter: whether it makes masks. None where an older server, or one without a GPU, does not say.
    """

    state: Literal["loading", "ready", "failed"]
    detail: str
    working: bool | None = None
    waiting: int | None = None
    places: int | None = None
    device_memory: tuple[int, int] | None = None
    segmenter: bool | None = None


class SceneClient:
    """A generation server at an address: `unix:/path.sock`, `http://127.0.0.1:port` or `https://host:port`.

    token: the server's bearer token, if it asks for one. ca_file: PEM of the authority that signed the server's
    certificate, when that is not a public one. connect_s, silence_s: how long to wait for a connection, and for a
    word (the server sends one every few seconds while it works) before the server counts as lost.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        ca_file: str | None = None,
        connect_s: float = 5.0,
        silence_s: float = 60.0,
    ) -> None:
        self._address = Address.parse(address)
        if self._address.scheme == "http" and not self._address.is_local:
            raise InvalidInput(
                f"{address} is not on this machine and not encrypted: images and token would be open to read. "
                "Use https://, or a tunnel to a loopback port"
            )
        self._base_url = "http://server" if self._address.scheme == "unix" else str(self._address)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = httpx.Timeout(silence_s, connect=connect_s)
        self._tls = _tls_context(self._address, ca_file)
        self._closed = threading.Event()

    def ready(self) -> Readiness:
        """Whether the model is loaded. ServerUnreachable, Unauthorized."""
        return asyncio.run(self._guarded(self._ready(), lambda: False))

    def generate(
        self,
        views: Sequence[View],
        *,
        seed: int = 42,
        ids: Sequence[int] | None = None,
        detail: Detail = "textured",
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Scene:
        """As SceneGen.generate. Blocks; on_progress and cancelled are called in this thread, cancelled every 50 ms.

        Raises InvalidInput, Cancelled (also after close), or the ServerError that tells what went wrong. A connection
        that cannot be made is tried again a few times; a request that was sent is never sent again.
        """
        frames = encode_request(views, seed, ids, compact=self._address.scheme == "https", detail=detail)
        return self._work("/v1/scenes", frames, Scene, on_progress, cancelled)

    def segment(
        self,
        views: Sequence[PromptedView],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[View, ...]:
        """As Segmenter.segment. Blocks, calls and raises as generate does; ServerNotReady where it has no segmenter."""
        frames = encode_request(views, 0, None, compact=self._address.scheme == "https")
        masks = self._work("/v1/segmentations", frames, Masks, on_progress, cancelled)
        sizes = [plane.shape for plane in masks.planes]
        if sizes != [view.image.shape[:2] for view in views]:
            raise GenerationFailed(
                f"{self._address} sent masks of sizes {sizes} for other views: run one version on both ends"
            )
        return tuple(view.segmented(plane) for view, plane in zip(views, masks.planes, strict=True))

    def close(self) -> None:
        """Stop a generation that is running in another thread; it raises Cancelled, as does any later one."""
        self._closed.set()

    def _work(
        self,
        path: str,
        frames: list[bytes],
        wanted: type[_Result],
        on_progress: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> _Result:
        """What a request ends with, on a connection of its own."""
        exchange = self._exchange(path, frames, wanted, on_progress or (lambda progress: None))
        return asyncio.run(self._guarded(exchange, cancelled or (lambda: False)))

    async def _guarded(self, exchange: Coroutine[Any, Any, _Result], cancelled: Callable[[], bool]) -> _Result:
        """The exchange's result, or Cancelled within a poll of being asked, however silent the server is."""
        task = asyncio.ensure_future(exchange)
        try:
            while not task.done():
                if self._closed.is_set() or cancelled():
                    raise Cancelled("the generation was cancelled")
                await asyncio.wait({task}, timeout=_POLL_S)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _ready(self) -> Readiness:
        async with self._http() as http, self._connected(http, "GET", "/v1/ready") as response:
            await response.aread()
            if response.status_code not in (200, 503):
                raise refusal(self._address, response)
            answer = answer_of(response)
            if answer.get("state") not in ("loading", "ready", "failed"):
                raise refusal(self._address, response)
            return Readiness(
                answer["state"],
                str(answer.get("detail", "")),
                answer.get("working"),
                answer.get("waiting"),
                answer.get("places"),
                tuple(answer["device_memory"]) if answer.get("device_memory") else None,
                answer.get("segmenter"),
            )

    async def _exchange(
        self, path: str, frames: list[bytes], wanted: type[_Result], on_progress: Callable[[Progress], None]
    ) -> _Result:
        async with self._http() as http, self._connected(http, "POST", path, frames) as response:
            if response.status_code != 200 or response.headers.get("Content-Type") != MEDIA_TYPE:
                await response.aread()
                raise refusal(self._address, response)
            async for event in self._events(response):
                if isinstance(event, wanted):
                    return event
                if not isinstance(event, Progress):
                    raise failure(event)
                on_progress(event)
            raise lost(self._address, "it closed the connection")

    async def _events(self, response: httpx.Response) -> AsyncIterator[Event]:
        reader = EventReader()
        try:
            async for chunk in response.aiter_raw():
                for event in reader.feed(chunk):
                    yield event
        except httpx.TransportError as error:
            raise lost(self._address, error) from error
        except InvalidInput as error:
            raise GenerationFailed(f"the answer of {self._address} cannot be read: {error}") from error

    def _http(self) -> httpx.AsyncClient:
        uds = self._address.path if self._address.scheme == "unix" else None
        transport = httpx.AsyncHTTPTransport(uds=uds, verify=self._tls)
        # trust_env off: a proxy set for web browsing must not come between a robot and its server.
        return httpx.AsyncClient(
            transport=transport,
            base_url=self._base_url,
            headers=self._headers,
            timeout=self._timeout,
            trust_env=False,
        )

    @asynccontextmanager
    async def _connected(
        self, http: httpx.AsyncClient, method: str, path: str, frames: Sequence[bytes] = ()
    ) -> AsyncIterator[httpx.Response]:
        """The response to one request, its body not read yet; connecting is retried, nothing else is."""
        size = sum(map(len, frames))
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(size)} if frames else {}
        waits = iter(_RETRY_WAITS_S)
        while True:
            request = http.build_request(method, path, headers=headers, content=_chunks(frames) if frames else None)
            try:
                response = await http.send(request, stream=True)
                break
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                wait = None if is_certificate_error(error) else next(waits, None)
                if wait is None:
                    raise unreachable(self._address, error) from error
                await asyncio.sleep(wait)
            except httpx.TransportError as error:
                raise lost(self._address, error) from error
        try:
            yield response
        finally:
            await response.aclose()


async def _chunks(frames: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Pieces small enough that the write timeout is one of silence, not of a whole upload."""
    for frame in frames:
        for start in range(0, len(frame), _CHUNK):
            yield frame[start : start + _CHUNK]


def _tls_context(address: Address, ca_file: str | None) -> ssl.SSLContext:
    """Made once: reading every public authority takes longer than a request on a unix socket, which needs none."""
    if address.scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidInput(f"{ca_file} is not a readable PEM certificate ({error}): give the authority's") from error
