"""Gathers the views worth keeping: paired, placed by TF, far enough from one another, at most max_views.

Knows nothing about ROS: it takes serialized messages, a function that decodes a set of them and one that looks TF up.
Only what is kept is decoded. Nothing here waits: a set whose TF has not come stays pending until poll() finds it or its
time is over. Every set that is lost is counted under its cause.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from scenegen.scene import Floats, InvalidInput, View
from scenegen_ros.pairing import Message, MessageSet, Pairer, TimeJumpedBack
from scenegen_ros.parameters import Parameters
from scenegen_ros.transforms import TransformError

CAPTURE_AGE_S = 2.0
"""A set older than this is not "now" any more: capture() refuses it."""
NO_TF = "no TF at an image's stamp"
"""How a problem begins that TF has to answer for."""


@dataclass(frozen=True, eq=False)
class KeptView:
    """A view, the camera frame it came from, and the instances it sees."""

    view: View
    frame_id: str
    ids: frozenset[int]


@dataclass(frozen=True)
class _Placed:
    """A set of messages whose camera pose is known (None without a fixed frame)."""

    messages: MessageSet
    T_world_camera: Floats | None
    arrived_s: float


class ViewCollector:
    """Messages in, kept views out. Safe to use from several threads; now_s is the node's clock in seconds.

    decode: makes the View of a set, without T_world_camera; raises InvalidInput.
    lookup: T_fixed_camera for (camera frame, stamp in ns), or None without a fixed frame; raises TransformError.
    on_notice: told, in words, of what a person should read in the log.
    on_time_jump: told the stamp, in ns, to which time ran back.
    """

    def __init__(
        self,
        parameters: Parameters,
        decode: Callable[[MessageSet], View],
        lookup: Callable[[str, int], Floats | None],
        on_notice: Callable[[str], None],
        on_time_jump: Callable[[int], None],
    ) -> None:
        self.parameters = parameters
        self._decode = decode
        self._lookup = lookup
        self._notice = on_notice
        self._on_time_jump = on_time_jump
        self._lock = threading.RLock()
        self._pairer = Pairer(parameters.queue_size)
        self._pending: deque[tuple[MessageSet, float]] = deque(maxlen=parameters.queue_size)
        self._latest: _Placed | None = None
        self._views: list[KeptView] = []
        self._lost: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()
        self.partners: tuple[str, ...] = ("image", "camera_info")
        """What a set needs besides masks; with "depth" where depth is used."""
        self.paired = 0
        self.kept_ever = 0
        self.problem = ""
        """Why the newest set was lost; empty when it was not."""
        self.last_problem = ""

    def add(self, topic: str, message: Message, now_s: float) -> None:
        """Takes one message of "image", "masks", "camera_info" or "depth"."""
        with self._lock:
            try:
                self._pairer.add(topic, message)
            except TimeJumpedBack as jump:
                self._lost["time ran backwards"] += 1
                dropped = self.clear()
                self._on_time_jump(message.stamp_ns)
                self._pairer.add(topic, message)
                self._problem(f"{jump}: dropped {dropped} views and everything pending, starting over")
            self.poll(now_s)

    def poll(self, now_s: float) -> None:
        """Pairs what has come and looks TF up for the sets that wait for it, oldest first."""
        with self._lock:
            while found := self._pairer.match(self.partners):
                self.paired += 1
                self._pending.append((found, now_s))
            while self._pending:
                messages, arrived_s = self._pending[0]
                try:
                    T_world_camera = self._lookup(messages.frame_id, messages.stamp_ns)
                except TransformError as error:
                    if error.may_come and 0 <= now_s - arrived_s < self.parameters.tf_timeout_s:
                        return
                    self._lost[error.cause] += 1
                    self._problem(f"{NO_TF}: {error}")
                else:
                    self._offer(_Placed(messages, T_world_camera, arrived_s))
                self._pending.popleft()

    def capture(self, now_s: float) -> KeptView:
        """Keeps the newest set however little the camera has moved. InvalidInput says what is missing."""
        with self._lock:
            latest = self._latest
            if latest is None or now_s - latest.arrived_s > CAPTURE_AGE_S:
                raise InvalidInput(
                    f"no usable set of messages in the last {CAPTURE_AGE_S:g} s: /diagnostics says what is missing"
                )
            kept = next((k for k in self._views if k.view.stamp_ns == latest.messages.stamp_ns), None)
            return kept or self._keep(latest)

    def views(self) -> tuple[KeptView, ...]:
        """The kept views, the one that sees most instances first, then the newest."""
        with self._lock:
            return tuple(sorted(self._views, key=lambda k: (-len(k.ids), -k.view.stamp_ns)))

    def refresh(self) -> None:
        """Lets the newest set take the place of the kept view nearest to it.

        What stands there now is what a caller asks about, also when the camera does not move.
        """
        with self._lock:
            latest = self._latest
            if latest is None or not self._views or latest.messages.stamp_ns <= self._newest_ns():
                return
            near = min(self._views, key=lambda k: self._distance(k.view.T_world_camera, latest.T_world_camera))
            if self._is_near(near.view.T_world_camera, latest.T_world_camera):
                try:
                    self._keep(latest, instead_of=near)
                except InvalidInput:
                    pass  # counted and told; the kept views stand

    def clear(self) -> int:
        """Forgets every view and message; returns how many views."""
        with self._lock:
            dropped = len(self._views)
            self._views.clear()
            self._pairer.clear()
            self._pending.clear()
            self._latest = None
            return dropped

    @property
    def count(self) -> int:
        """Views kept now."""
        return len(self._views)

    @property
    def waiting_for_tf(self) -> int:
        """Sets whose TF has not come yet."""
        return len(self._pending)

    @property
    def lost(self) -> Mapping[str, int]:
        """What was lost so far, by cause."""
        with self._lock:
            return self._lost + self._pairer.counts

    @property
    def passed(self) -> Mapping[str, int]:
        """Good sets that are no kept views now, by cause."""
        with self._lock:
            return dict(self._passed)

    def _offer(self, placed: _Placed) -> None:
        """Keeps a set that was seen from somewhere new; remembers it as the newest either way."""
        self._latest = placed
        if any(self._is_near(kept.view.T_world_camera, placed.T_world_camera) for kept in self._views):
            self.problem = ""
            self._passed["the camera had not moved"] += 1
            return
        try:
            self._keep(placed)
        except InvalidInput:
            self._latest = None  # counted and told

    def _keep(self, placed: _Placed, instead_of: KeptView | None = None) -> KeptView:
        """Decodes a set and keeps it. InvalidInput, counted, when it cannot be used."""
        try:
            view = self._decode(placed.messages)
            ids = frozenset(view.instance_ids)
            if not ids:
                raise InvalidInput("masks hold no instance, every pixel is 0: does the segmentation find anything?")
            view = replace(view, T_world_camera=placed.T_world_camera)
        except InvalidInput as error:
            self._lost[f"unusable {str(error).split(' ')[0]}"] += 1
            self._problem(str(error))
            raise
        if instead_of is None:
            self.kept_ever += 1
        else:
            self._views.remove(instead_of)
            self._passed["replaced by a newer one from there"] += 1
        kept = KeptView(view, placed.messages.frame_id, ids)
        self._views.append(kept)
        while len(self._views) > self.parameters.max_views:
            self._views.remove(self._most_redundant())
            self._passed["redundant among max_views"] += 1
        self.problem = ""
        return kept

    def _newest_ns(self) -> int:
        return max((kept.view.stamp_ns for kept in self._views), default=0)

    def _most_redundant(self) -> KeptView:
        """The older of the two views that are nearest to each other."""
        pairs = combinations(sorted(self._views, key=lambda k: k.view.stamp_ns), 2)
        return min(pairs, key=lambda p: self._distance(p[0].view.T_world_camera, p[1].view.T_world_camera))[0]

    def _is_near(self, T_world_a: Floats | None, T_world_b: Floats | None) -> bool:
        """Without poses nothing tells views apart: all are near."""
        if T_world_a is None or T_world_b is None:
            return True
        metres, degrees = _motion(T_world_a, T_world_b)
        return metres < self.parameters.min_translation_m and degrees < self.parameters.min_rotation_deg

    def _distance(self, T_world_a: Floats | None, T_world_b: Floats | None) -> float:
        """Motion between two poses, each part in units of what makes a view new."""
        if T_world_a is None or T_world_b is None:
            return 0.0
        metres, degrees = _motion(T_world_a, T_world_b)
        return metres / max(self.parameters.min_translation_m, 1e-3) + degrees / max(
            self.parameters.min_rotation_deg, 1e-1
        )

    def _problem(self, text: str) -> None:
        self.problem = self.last_problem = text
        self._notice(text)


def _motion(T_world_a: Floats, T_world_b: Floats) -> tuple[float, float]:
    """Metres and degrees between two camera poses."""
    cosine = (float(np.vdot(T_world_a[:3, :3], T_world_b[:3, :3])) - 1) / 2  # with each frame: no Rotation objects
    turn = math.acos(min(max(cosine, -1.0), 1.0))
    return math.dist(T_world_a[:3, 3], T_world_b[:3, 3]), math.degrees(turn)
