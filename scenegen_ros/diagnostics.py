"""What the node says in /diagnostics: one status per stage, and a first one that answers "what is it waiting for?".

Plain rules over counters, on a steady clock in seconds; knows nothing about ROS but the message built at the end.
"""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

SILENT_S = 2.0
"""A topic that has said nothing for this long is silent, unless it speaks as seldom as that."""
_WINDOW_S = 3.0
_PATIENCE = 3
"""How many times its usual pause a seldom topic may be silent."""
_MOST_PATIENCE_S = 30.0
_MOST_PROBLEMS = 8
_SAME_PROBLEM_S = 10.0
"""How soon the log hears of the same problem again."""
_SAME_LINE_S = 30.0
_NEXT_LINE_S = 5.0
_NOT_LACKING = ("generation", "outputs", "problems")
"""Stages that nothing waits for: they are told beside what the node does."""


class Level(IntEnum):
    """diagnostic_msgs/DiagnosticStatus levels."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """One stage: how it is, in words that say what to do when it is not well, and figures.

    blocks: nothing comes out while it is not well.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)
    blocks: bool = True


@dataclass
class TopicMonitor:
    """What was heard of one input. needed: even if nobody publishes it. qos_problem: why publishers cannot match."""

    name: str
    needed: bool = True
    count: int = 0
    qos_problem: str = ""
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    _stamps_ns: deque[int] = field(default_factory=lambda: deque(maxlen=32))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def heard(self, stamp_ns: int, now_s: float) -> None:
        """Takes note of one message."""
        with self._lock:
            self.count += 1
            self._arrivals.append(now_s)
            self._stamps_ns.append(stamp_ns)

    def rate_hz(self, now_s: float) -> float:
        """Messages per second over the last few seconds."""
        with self._lock:
            recent = [t for t in self._arrivals if now_s - t < _WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    @property
    def newest_stamp_ns(self) -> int | None:
        """The stamp of the message that came last."""
        with self._lock:
            return self._stamps_ns[-1] if self._stamps_ns else None

    def patience_s(self) -> float:
        """How long it may say nothing before it counts as silent: a segmentation may take seconds for each image."""
        with self._lock:
            recent = list(self._arrivals)[-5:]
        usual = (recent[-1] - recent[0]) / (len(recent) - 1) if len(recent) > 1 else 0.0
        return max(SILENT_S, min(_PATIENCE * usual, _MOST_PATIENCE_S))

    def sent_hz(self) -> float:
        """The rate of the source, from the shortest step between stamps: losses only lengthen steps."""
        with self._lock:
            stamps = sorted(set(self._stamps_ns))
        step = min((b - a for a, b in zip(stamps, stamps[1:], strict=False)), default=0)
        return 1e9 / step if step else 0.0

    def status(self, publishers: int, now_s: float) -> Status:
        """publishers: how many publish it now."""
        if publishers == 0:
            self.qos_problem = ""
        rate, sent = self.rate_hz(now_s), self.sent_hz()
        age = now_s - self._arrivals[-1] if self._arrivals else None
        values = {
            "publishers": publishers,
            "messages": self.count,
            "rate [Hz]": round(rate, 2),
            "age of the newest [s]": "none yet" if age is None else round(age, 2),
            "stamp of the newest [s]": "none yet" if (stamp := self.newest_stamp_ns) is None else f"{stamp / 1e9:.3f}",
            "QoS": self.qos_problem or "matches",
        }
        level, message, blocks = Level.OK, f"{rate:.1f} Hz", True
        speaks = age is not None and age <= self.patience_s()
        if self.qos_problem and not speaks:
            level, message = Level.ERROR, self.qos_problem
        elif not speaks and not self.needed and publishers == 0:
            message = "not published, not needed"
        elif publishers == 0:
            level, message = Level.WARN, "nobody publishes it: start the publisher or remap the topic"
        elif not speaks:
            said = "has never said anything" if age is None else f"has been silent for {age:.0f} s"
            level, message = (
                Level.WARN,
                f"has {publishers} publisher(s) but {said}: does it run? Large images need config/fastdds.xml",
            )
        elif len(self._arrivals) > 10 and rate < 0.5 * sent:
            level, blocks = Level.WARN, False
            message = (
                f"arrives at {rate:.1f} Hz but is sent at about {sent:.1f} Hz: frames are lost, use config/fastdds.xml"
            )
        return Status(self.name, level, message, values, blocks)


def kind_of(text: str) -> str:
    """What stays the same of a message while its figures change."""
    return re.sub(r"[\d.]+", "#", text)


class Problems:
    """What went wrong lately, each kind once, with how often and how long ago. Safe to use from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Problem] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, text: str, now_s: float) -> bool:
        """Takes note of one. True when the log should hear of it: not of the same kind again and again."""
        with self._lock:
            problem = self._known.setdefault(kind_of(text), _Problem())
            problem.text, problem.count, problem.last_s = text, problem.count + 1, now_s
            self._known.move_to_end(kind_of(text))
            if len(self._known) > _MOST_PROBLEMS:
                self._known.popitem(last=False)
            due = now_s - problem.logged_s > _SAME_PROBLEM_S
            if due:
                problem.logged_s = now_s
            return due

    def status(self, now_s: float) -> Status:
        """The newest first. Always well: what still is wrong stands in the stage where it is."""
        with self._lock:
            newest = list(reversed(self._known.values()))
        values = {f"{i + 1}: {p.told(now_s)}": p.text for i, p in enumerate(newest)}
        message = f"the last one, {newest[0].told(now_s)}: {newest[0].text}" if newest else "none so far"
        return Status("problems", Level.OK, message, values)


@dataclass
class _Problem:
    text: str = ""
    count: int = 0
    last_s: float = 0.0
    logged_s: float = -math.inf

    def told(self, now_s: float) -> str:
        return f"{now_s - self.last_s:.0f} s ago" + (f", {self.count} times" if self.count > 1 else "")


class LogLine:
    """One line for the log that says what /diagnostics says, when that has changed or is still not well."""

    def __init__(self) -> None:
        self._kind: tuple[Level, str] | None = None
        self._said_s = -math.inf

    def due(self, statuses: Sequence[Status], now_s: float) -> str:
        """The line, or nothing when it need not be said now. statuses: as published, the first of them first."""
        first, *stages = statuses
        kind = first.level, kind_of(first.message)
        pause_s = _NEXT_LINE_S if kind != self._kind else _SAME_LINE_S if first.level != Level.OK else math.inf
        if now_s - self._said_s < pause_s:
            return ""
        self._kind, self._said_s = kind, now_s
        told = [f"{s.name}: {'!' if s.message in first.message else s.message}" for s in stages if s.name != "problems"]
        return f"{first.message} [{' | '.join(told)}]" if told else first.message


def lacking_of(stages: Sequence[Status]) -> Status | None:
    """The first stage that stops everything, else the first that is not well."""
    lacking = [s for s in stages if s.level != Level.OK]
    return next((s for s in lacking if s.blocks), lacking[0] if lacking else None)


def summary(state: str, stages: Sequence[Status], working_on: str, idle_reason: str) -> Status:
    """The first status of the array: what the node is doing, or what it waits for, and every error there is.

    state: the lifecycle state. stages: in the order in which data flows. working_on: the running generation, or empty.
    idle_reason: what starts the next one.
    """
    lacking = lacking_of([s for s in stages if s.name not in _NOT_LACKING])
    level = max((s.level for s in stages), default=Level.OK)
    if state != "active":
        transition = "activate" if state == "inactive" else "configure"
        message, level = f"{state}: waiting for the {transition} transition", max(level, Level.WARN)
        lacking = None
    elif working_on:
        message = working_on if lacking is None else f"{working_on}; {lacking.name}: {lacking.message}"
    elif lacking is not None and lacking.blocks:
        message = f"waiting for {lacking.name}: {lacking.message}"
    elif lacking is not None:
        message = f"{idle_reason}; {lacking.name}: {lacking.message}"
    else:
        message = idle_reason
    errors = [f"{s.name}: {s.message}" for s in stages if s.level == Level.ERROR and s is not lacking]
    return Status("node", level, "; ".join([message, *errors]), {"state": state})


def diagnostic_array(statuses: Sequence[Status], stamp: Time) -> DiagnosticArray:
    """The message for /diagnostics."""
    array = DiagnosticArray()
    array.header.stamp = stamp
    for status in statuses:
        array.status.append(
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"scenegen: {status.name}",
                message=status.message,
                hardware_id="scenegen",
                values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
            )
        )
    return array
