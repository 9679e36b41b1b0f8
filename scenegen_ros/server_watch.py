"""Asks the generation server now and then whether it is ready, so that /diagnostics can say so without waiting.

Knows nothing about ROS or generations.
"""

from __future__ import annotations

import threading
import time

from scenegen.client import Readiness, SceneClient, ServerError
from scenegen.scene import Cancelled
from scenegen_ros.diagnostics import Level, Status

_PERIOD_READY_S = 5.0
_PERIOD_WAITING_S = 2.0

_NO_SEGMENTER = (
    "has no segmenter, and segmentation is sam2: start it with `scenegen serve --segmenter FOLDER`, or set "
    "segmentation to topic and publish masks"
)


class ServerWatch:
    """A thread that polls a server until stop()."""

    def __init__(self, client: SceneClient, address: str, *, segmenter: bool = False) -> None:
        """address: for people. segmenter: whether one is needed."""
        self._client, self._address, self._segmenter = client, address, segmenter
        self._stopped = threading.Event()
        self._status = Status("server", Level.WARN, f"{address} has not been asked yet")
        self._thread = threading.Thread(target=self._run, name="scenegen server watch", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """What the server said last."""
        return self._status

    def stop(self) -> None:
        """Ends the thread; the client must have been closed, which ends a question under way."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            values: dict[str, object] = {"address": self._address}
            asked_s = time.monotonic()
            try:
                readiness = self._client.ready()
                values |= {"state": readiness.state, "answers in [s]": f"{time.monotonic() - asked_s:.3f}"}
                values |= _load(readiness)
                level = {"ready": Level.OK, "loading": Level.WARN, "failed": Level.ERROR}[readiness.state]
                message = f"{readiness.state}: {readiness.detail}" if readiness.detail else readiness.state
                if self._segmenter and readiness.segmenter is False:
                    level, message = Level.ERROR, _NO_SEGMENTER
            except ServerError as error:
                level, message = Level.ERROR, str(error)
            except Cancelled:
                return
            self._status = Status("server", level, message, values)
            self._stopped.wait(_PERIOD_READY_S if level == Level.OK else _PERIOD_WAITING_S)


def _load(readiness: Readiness) -> dict[str, object]:
    """How busy the server is, as far as it says so."""
    values: dict[str, object] = {}
    if readiness.working is not None:
        values["at work"] = "yes" if readiness.working else "no"
    if readiness.waiting is not None:
        values["queue"] = f"{readiness.waiting} of {readiness.places}"
    if readiness.device_memory is not None:
        used, total = readiness.device_memory
        values["GPU memory [GiB]"] = f"{used / 2**30:.1f} of {total / 2**30:.1f}"
    return values
