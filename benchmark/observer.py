"""The demo's processes and operator, with an eye on figures: CPU time of a child, counters in /diagnostics.

Knows nothing about what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from scenegen_ros.demo_operator import Operator
from scenegen_ros.demo_processes import Processes

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"
"""The Fast DDS profile that is shipped."""
_WAIT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Children(Processes):
    """Child processes whose ids are known."""

    def __enter__(self) -> Children:
        super().__enter__()
        return self

    def pid(self, name: str) -> int:
        """The process id of a child by the name it was started under."""
        return next(child.process.pid for child in self._children if child.name == name)


class Observer(Operator):
    """An operator who waits for anything, and reads what the node counts."""

    def __enter__(self) -> Observer:
        super().__enter__()
        return self

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Until it is done. NoScene, naming what was waited for, when it does not come; ProcessFailed."""
        self._until(done, what, _WAIT_S)

    def counters(self) -> dict[str, dict[str, str]]:
        """Stage -> what the node counted there, as published twice from now: what has arrived is in it."""
        for _ in range(2):
            self._said = {}
            self.wait(lambda: bool(self._said), "/diagnostics of the node")
        return {stage: values for stage, (_, _, values) in self._said.items()}


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used in all its threads (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
