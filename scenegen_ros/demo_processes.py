"""The demo's child processes: each with a log of its own, all ended however the demo ends.

Knows nothing about ROS or what the children do. Linux only, as the ROS wheels are.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOP_S = 10.0
_TAIL_LINES = 15


class ProcessFailed(Exception):
    """A child ended by itself. The message says which, how, and what it said last."""


@dataclass(frozen=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Children that live as long as the `with` block; the last one started is stopped first."""

    def __init__(self, logs: Path) -> None:
        """logs: folder for <name>.log of each child; made if it is not there."""
        self._logs = logs
        self._children: list[_Child] = []

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Runs `python -m module arguments` with this environment."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with log.open("wb") as output, _signals_wait():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C is ours to pass on, in order
                preexec_fn=_end_with_parent,
            )
            self._children.append(_Child(name, process, log))

    def check(self) -> None:
        """ProcessFailed when one of them is not running any more."""
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                raise ProcessFailed(f"the {child.name} {how}; the end of {child.log}:\n{_tail(child.log)}")

    def peak_rss_mb(self) -> dict[str, float]:
        """The largest resident memory of each running child so far, in MB (10^6 bytes)."""
        return {child.name: peak_rss_mb(child.process.pid) for child in self._children if child.process.poll() is None}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [child.process for child in reversed(self._children)]
        deadline = time.monotonic() + _STOP_S
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when Ctrl+C is pressed once more
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def peak_rss_mb(pid: int) -> float:
    """The largest resident memory of a process so far, in MB (10^6 bytes); 0 when it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def leave_in_order_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end this process as Ctrl+C does: by an exception, so that `with` blocks are left."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that would raise do so at the end: amid a fork Python drops exceptions, or a child would be forgotten."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in raising:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _end_with_parent() -> None:
    """In the child: the kernel ends it should the demo be killed without a chance to do so itself."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # killed before the line above
        os._exit(1)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it said nothing)"
