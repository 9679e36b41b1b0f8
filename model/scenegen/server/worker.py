"""The thread that works: loads the models, then does one job at a time, in order of arrival.

Knows nothing about HTTP: a job is what is to be done and a function that takes the encoded events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from scenegen.prompts import PromptedView
from scenegen.scene import Cancelled, Detail, InvalidInput, Progress, Scene, View
from scenegen.wire import EventWriter, Failure, Request, encode_failure, encode_masks

logger = logging.getLogger(__name__)

_FIRST_GUESS_S = 10.0
_STOPPING = encode_failure(Failure("ServerStopping", "the server is stopping: send the request again later"))


class SceneGenerator(Protocol):
    """What the server needs of a SceneGen."""

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
        """Views to a scene; raises InvalidInput, Cancelled."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A generator that knows how full the memory of its device is."""

    def device_memory(self) -> tuple[int, int] | None:
        """Bytes in use by anybody, and bytes in all; None where the device has no memory of its own."""


class ViewSegmenter(Protocol):
    """What the server needs of a segmenter."""

    def segment(
        self,
        views: Sequence[PromptedView],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[View, ...]:
        """Prompted views to views with masks, in the same order; raises InvalidInput, Cancelled."""
        ...


@dataclass(frozen=True)
class Models:
    """What was loaded. segmenter: None where the server was started without."""

    generator: SceneGenerator
    segmenter: ViewSegmenter | None = None


Work = Callable[[Models, "Job"], bytes]
"""Does what a request asks for, telling its job how far it is; gives the last event."""


def generate(request: Request) -> Work:
    """A scene from views. InvalidInput when they have no masks yet."""
    if any(isinstance(view, PromptedView) for view in request.views):
        raise InvalidInput("a view has prompts and no masks: segment the views first (SceneClient.segment)")

    def work(models: Models, job: Job) -> bytes:
        writer = EventWriter()
        scene = models.generator.generate(
            request.views,
            seed=request.seed,
            ids=request.ids,
            detail=request.detail,
            on_progress=lambda progress: job.emit(writer.progress(progress)),
            cancelled=job.cancelled.is_set,
        )
        return writer.scene(scene)

    return work


def segment(request: Request) -> Work:
    """Masks from prompts. InvalidInput when the request's views are none to be segmented."""
    views = [view for view in request.views if isinstance(view, PromptedView)]
    if len(views) < len(request.views):
        raise InvalidInput("a view has masks and no prompts: give every view a list of prompts, which may be empty")

    def work(models: Models, job: Job) -> bytes:
        assert models.segmenter is not None, "the application refuses such requests without one"
        segmented = models.segmenter.segment(
            views,
            on_progress=lambda progress: job.emit(EventWriter().progress(progress)),
            cancelled=job.cancelled.is_set,
        )
        return encode_masks([view.masks for view in segmented])

    return work


class Job:
    """One request. emit takes its encoded events, from any thread, and None after the last one."""

    def __init__(self, work: Work, emit: Callable[[bytes | None], None]) -> None:
        self._work = work
        self.cancelled = threading.Event()
        self._emit = emit
        self._ended = False
        self._lock = threading.Lock()

    def emit(self, event: bytes) -> None:
        """Send an event, unless the job has ended."""
        with self._lock:
            if not self._ended:
                self._emit(event)

    def end(self, last: bytes = b"") -> None:
        """Send the last event and close the stream; only the first call counts."""
        with self._lock:
            if not self._ended:
                self._ended = True
                if last:
                    self._emit(last)
                self._emit(None)

    def run(self, models: Models) -> None:
        """Do the work, and end with its result or with why there is none. Never raises."""
        try:
            self.end(self._work(models, self))
        except Cancelled:
            self.end()
        except InvalidInput as error:
            self.end(encode_failure(Failure("InvalidInput", str(error))))
        except Exception as error:  # whatever it was, the next job must run
            logger.exception("a request failed")
            message = f"the work failed ({type(error).__name__}: {error}): the server's log has the details"
            self.end(encode_failure(Failure("GenerationFailed", message)))


class Worker:
    """One thread over one device's models, with room for `waiting` jobs besides the one at work."""

    def __init__(
        self,
        load: Callable[[], SceneGenerator],
        waiting: int,
        load_segmenter: Callable[[], ViewSegmenter] | None = None,
    ) -> None:
        self._load, self._load_segmenter = load, load_segmenter
        self._places = waiting + 1
        self._taken = 0
        self._queue: deque[Job] = deque()
        self._current: Job | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.detail = "the model is being loaded"
        self.last_seconds = _FIRST_GUESS_S
        self._generator: SceneGenerator | None = None

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def stop(self, join_s: float = 0.0) -> None:
        """End every job now, tell its client that the server stops, and wait up to join_s for the step at work."""
        with self._changed:
            self._stopping = True
            jobs = [job for job in (self._current, *self._queue) if job is not None]
            self._queue.clear()
            self._changed.notify_all()
        for job in jobs:
            job.cancelled.set()
            job.end(_STOPPING)
        if join_s and self._thread.is_alive():
            self._thread.join(join_s)

    def load(self) -> dict[str, object]:
        """How busy it is, as /v1/ready says it (docs/protocol.md)."""
        memory = self._generator.device_memory() if isinstance(self._generator, OnDevice) else None
        with self._changed:
            return {
                "working": self._current is not None,
                "waiting": len(self._queue),
                "places": self._places - 1,
                "device_memory": memory,
                "segmenter": self._load_segmenter is not None,
            }

    def take_place(self) -> bool:
        """Reserve a place for a job to come; False when all are taken."""
        with self._changed:
            if self._stopping or self._taken >= self._places:
                return False
            self._taken += 1
            return True

    def give_place_back(self) -> None:
        """The job of a reserved place will not come."""
        with self._changed:
            self._taken -= 1

    def submit(self, job: Job) -> bool:
        """Queue a job that has a place. True when it must wait for others."""
        with self._changed:
            if self._stopping:
                self._taken -= 1
                job.end(_STOPPING)
                return False
            self._queue.append(job)
            self._changed.notify_all()
            return self._current is not None or len(self._queue) > 1

    def cancel(self, job: Job) -> None:
        """Nobody wants this job's scene any more (or it has ended): its place is free, or will be after a step."""
        job.cancelled.set()
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._taken -= 1
        job.end()

    def _work(self) -> None:
        try:
            self._generator = self._load()
            segmenter = self._load_segmenter() if self._load_segmenter is not None else None
            models = Models(self._generator, segmenter)
        except Exception as error:  # a server that says why it cannot work is worth more than one that is gone
            logger.error(
                "the model could not be loaded: %s", error, exc_info=None if isinstance(error, InvalidInput) else error
            )
            self.detail, self.state = f"the model could not be loaded: {error}", "failed"
            return
        self.detail, self.state = "the model is loaded", "ready"
        logger.info("ready: the model is loaded")
        while (job := self._next()) is not None:
            started = time.monotonic()
            job.run(models)
            with self._changed:
                self._current = None
                self._taken -= 1
            if not job.cancelled.is_set():
                self.last_seconds = time.monotonic() - started

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._queue)
            self._current = None if self._stopping else self._queue.popleft()
            return self._current
