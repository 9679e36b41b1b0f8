"""~/export_scene: stored scenes as files for simulators, by the same command that people use.

`scenegen export` runs in a process of its own: cutting meshes takes seconds to minutes, and neither the executor nor
Python's lock waits for it; a crash in a simulator's library ends that process and not the node. One export at a time.
Knows nothing about formats but their names.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

from scenegen.export import FORMATS, check_format
from scenegen.scene import Cancelled, InvalidInput
from scenegen_ros.srv import ExportScene

COMMAND = (sys.executable, "-m", "scenegen.cli")
_POLL_S = 0.1
_GRACE_S = 5.0
"""How long a process may take to tidy up after it was interrupted."""


class ExportFailed(Exception):
    """The command's own last words."""


class ExportService:
    """The service of one configured node. destroy() ends what runs."""

    def __init__(self, node: Node, find: Callable[[str], Path]) -> None:
        """find: the folder of a scene's id, "" being the last one announced; InvalidInput when there is none."""
        self._node, self._find = node, find
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked: dict[int, ExportScene.Request] = {}
        self._service = node.create_service(ExportScene, "~/export_scene", self._take)
        # The executor answers as soon as the callback returns; here the answer goes out when the export is done. A
        # coroutine that waits would do the same but makes this rclpy's executor spin at full load (see generations.py).
        self._answer = self._service.send_response
        self._service.send_response = self._begin  # type: ignore[method-assign]

    def destroy(self) -> None:
        """Interrupts what runs, waits for its end and takes the service away."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._node.destroy_service(self._service)

    def _take(self, request: ExportScene.Request, response: ExportScene.Response) -> ExportScene.Response:
        self._asked[id(response)] = request
        return response

    def _begin(self, response: ExportScene.Response, header: Any) -> None:
        request = self._asked.pop(id(response))
        if not self._busy.acquire(blocking=False):
            response.message = "another export is running: wait for its answer, then ask again"
            self._answer(response, header)
            return
        self._thread = threading.Thread(target=self._run, args=(request, response, header), name="scenegen export")
        self._thread.start()

    def _run(self, request: ExportScene.Request, response: ExportScene.Response, header: Any) -> None:
        try:
            self._export(request, response)
            response.success, response.message = True, f"wrote {', '.join(request.formats)} to {response.folder}"
        except Cancelled:
            response.message = "cancelled: the node was cleaned up or shut down; what was written whole stays"
        except (InvalidInput, ExportFailed) as error:
            response.message = str(error)
        except OSError as error:
            response.message = f"cannot export: {error}"
        finally:
            self._busy.release()
        try:
            if self._node.context.ok():
                self._answer(response, header)
        except (InvalidHandle, _rclpy.RCLError):
            if self._node.context.ok():
                raise

    def _export(self, request: ExportScene.Request, response: ExportScene.Response) -> None:
        if not request.formats:
            raise InvalidInput(f"no format was asked for: name one or more of {', '.join(FORMATS)}")
        for name in request.formats:
            check_format(name)
        scene = self._find(request.scene_id)
        options = ["--scale", str(request.scale)] if request.scale else []
        options += ["--level"] if request.level else []
        response.folder = str(scene / "export")
        if request.settled and not json.loads((scene / "scene.json").read_bytes()).get("settled"):
            self._call("settle", str(scene), *options)
        options += ["--settled"] if request.settled else []
        for name in request.formats:
            out = scene / "export" / (f"{name}_settled" if request.settled else name)
            shutil.rmtree(out, ignore_errors=True)  # of coarse meshes, or with other options
            self._call("export", str(scene), "--format", name, "--out", str(out), *options)
            response.uris.append((out / json.loads((out / "export.json").read_bytes())["file"]).as_uri())

    def _call(self, *arguments: str) -> None:
        """One command, to its end. ExportFailed with what it said; Cancelled when the node is closed meanwhile."""
        if self._stopped.is_set():
            raise Cancelled
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        with process:
            said = None
            while said is None:
                if self._stopped.is_set():
                    _end(process)
                    raise Cancelled
                with suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=_POLL_S)[1]
        if process.returncode != 0:
            lines = [line for line in said.splitlines() if line.strip()]
            why = lines[-1].removeprefix("scenegen: ") if lines else f"it ended with {process.returncode}"
            raise ExportFailed(f"scenegen {arguments[0]}: {why}")


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupted, a command takes away what it has half written; killed if it does not end by that."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
