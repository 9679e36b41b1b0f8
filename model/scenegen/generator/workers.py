"""Processes that work beside the model, one call at a time each: the model goes on while meshes are finished.

Not multiprocessing: that runs the caller's main script again in every child, cannot stop a call, and is of no more use
once a native library has crashed in one of them. Knows nothing about meshes.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_CHILD = "from scenegen.generator.workers import _serve; _serve(int(__import__('sys').argv[1]))"


class WorkerDied(RuntimeError):
    """A process ended in the middle of a call: it crashed, ran out of memory, or was stopped."""


class Workers:
    """Up to `count` processes, started when they are needed and kept. They end with this object or this process."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._busy: set[_Process] = set()
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., _Result], *args: Any) -> Future[_Result]:
        """Call a function of an importable module; arguments that are futures are waited for.

        The future raises what the function, or the future of an argument, raised, or WorkerDied.
        """
        return self._threads.submit(self._call, function, args)

    def warm(self, function: Callable[[], None], count: int) -> None:
        """Start so many processes while there is time, and have each load what `function` is in."""
        for _ in range(min(count, self._count)):
            self.submit(function)

    def stop(self) -> None:
        """End the calls that run, as WorkerDied."""
        with self._lock:
            for process in self._busy:
                process.kill()

    def end_idle(self) -> None:
        """End the processes that have nothing to do, now."""
        while (process := self._idle_process()) is not None:
            process.end()

    def _call(self, function: Callable[..., _Result], args: tuple[Any, ...]) -> _Result:
        args = tuple(arg.result() if isinstance(arg, Future) else arg for arg in args)
        process = self._idle_process() or _Process()
        with self._lock:
            self._busy.add(process)
        try:
            succeeded, value = process.call(function, args)
        except (EOFError, OSError) as error:
            process.end()
            raise WorkerDied(f"the process at {function.__name__} ended: it crashed or was stopped") from error
        finally:
            with self._lock:
                self._busy.discard(process)
        self._idle.put(process)
        if not succeeded:
            raise value
        result: _Result = value
        return result

    def _idle_process(self) -> _Process | None:
        try:
            while not (process := self._idle.get_nowait()).is_alive():  # it may have been killed for its memory
                pass
        except queue.Empty:
            return None
        return process


class _Process:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which stops them
            )
        self._connection = Connection(ours.detach())

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether it succeeded, and its result or exception. EOFError, OSError when the process has ended."""
        _send(self._connection, (function, args))
        answer: tuple[bool, Any] = _receive(self._connection)
        return answer

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __del__(self) -> None:
        self.end()


def _send(connection: Connection, thing: Any) -> None:
    """By plain pickle: torch has taught the connection's own to share tensors by way of multiprocessing."""
    connection.send_bytes(pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def _serve(descriptor: int) -> None:
    """The child's side: calls, until the parent has gone."""
    connection = Connection(descriptor)
    while True:
        try:
            function, args = _receive(connection)
        except (EOFError, OSError):
            return
        try:
            answer = True, function(*args)
        except Exception as error:
            answer = False, error
        try:
            _send(connection, answer)
        except OSError:
            return
