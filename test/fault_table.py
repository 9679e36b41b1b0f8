"""The table of docs/diagnostics.md as what the tests of faults expect: what is written there must be what is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conftest import ROOT
from ros_helpers import Rig

from scenegen_ros.diagnostics import Level, Status

Injection = TypeVar("Injection", bound=Callable[..., Any])


@dataclass(frozen=True)
class Row:
    """One fault: the stage that names it, and its message with ... for what varies."""

    stage: str
    message: str

    def matches(self, text: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.message.split("..."))
        return re.fullmatch(pattern, text, re.DOTALL) is not None


def _rows() -> dict[str, Row]:
    text = (ROOT / "docs" / "diagnostics.md").read_text()
    table = text[text.index("| fault |") :].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table if line.startswith("|")]
    return {fault.strip(): Row(stage.strip("`"), message) for fault, stage, message, _ in cells}


ROWS = _rows()


class Faults:
    """The faults of one file of tests: those that it names must be rows, and all rows must be named somewhere."""

    def __init__(self) -> None:
        self.by_name: dict[str, Callable[..., Any]] = {}

    def __call__(self, name: str) -> Callable[[Injection], Injection]:
        """Marks what injects a fault: a function of the rig, or a whole test."""
        assert name in ROWS, f"docs/diagnostics.md has no fault '{name}'"

        def mark(injection: Injection) -> Injection:
            self.by_name[name] = injection
            return injection

        return mark


def told(r: Rig, fault: str, stage: str = "") -> Status:
    """Waits until one message on /diagnostics tells of the fault as the table says, and in its first status if wrong.

    stage: where, if not in the table's own example.
    """
    row = ROWS[fault]

    def told_of_it(statuses: dict[str, Status]) -> Status | None:
        status = statuses.get(stage or row.stage)
        if status is None or not any(map(row.matches, _said(status))):
            return None
        return status if status.level == Level.OK or status.message in statuses["node"].message else None

    status = r.ears.told(told_of_it, f"'{row.message}' of {stage or row.stage}")
    assert status is not None
    return status


def _said(status: Status) -> list[str]:
    """What a status says; of problems each as if it were the last one, for another may have come since."""
    if status.name != "problems":
        return [status.message]
    return [f"the last one, {key.partition(': ')[2]}: {text}" for key, text in status.values.items()]
