"""Gathers the views worth keeping: paired, placed by TF, far enough from one another, sharp, at most max_views.

Knows nothing about ROS: it takes serialized messages, a function that decodes a set of them and one that looks TF up.
Only what is kept, or compared with what is kept, is decoded. Nothing here waits: a set whose TF has not come stays
pending until poll() finds it or its time is over. Every set that is lost is counted under its cause.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from scenegen.scene import Floats, InvalidInput, View
from scenegen_ros.coverage import Coverage, Step, in_order
from scenegen_ros.identities import Identities
from scenegen_ros.kept_view import KeptView
from scenegen_ros.pairing import Message, MessageSet, Pairer, TimeJumpedBack
from scenegen_ros.parameters import Parameters
from scenegen_ros.transforms import TransformError
from scenegen_ros.view_choice import SHARPER, motion

CAPTURE_AGE_S = 2.0
"""A set older than this is not "now" any more: capture() refuses it."""
NO_TF = "no TF at an image's stamp"
"""How a problem begins that TF has to answer for."""

COMPARE_S = 0.15
"""How often a set that was seen from where a kept view stands is decoded to see whether it is sharper, ..."""
COMPARISONS = 20
"""... and how often for one kept view: a camera that stands still has shown what it can."""


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
        self._identities = Identities()
        self._coverage = Coverage()
        self._compared: Counter[int] = Counter()
        self._compared_s = -np.inf
        self._lost: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()
        self.partners: tuple[str, ...] = ("image", "camera_info")
        """What a set needs besides masks; with "depth" where depth is used."""
        self.on_common_ids: Callable[[KeptView], None] = lambda kept: None
        """Called with each newly kept view whose ids were made common."""
        self.paired = 0
        self.kept_ever = 0
        self.cleared_ever = 0
        """How often all views were forgotten; what was learnt of them before may not hold any more."""
        self.problem = ""
        """Why the newest set was lost; empty when it was not."""

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
            return kept or self._keep(self._decoded(latest))

    def views(self) -> tuple[KeptView, ...]:
        """The kept views, those that see most instances first.

        The newest of them leads; each of the others shows most that those before it do not, so that the first few are
        the best few.
        """
        with self._lock:
            return tuple(in_order(self._views, self._step))

    def refresh(self) -> None:
        """Lets the newest set take the place of the kept view nearest to it.

        What stands there now is what a caller asks about, also when the camera does not move.
        """
        with self._lock:
            latest = self._latest
            if latest is None or not self._views or latest.messages.stamp_ns <= self._newest_ns():
                return
            near = self._near(latest.T_world_camera)
            if near:
                try:
                    self._keep(self._decoded(latest), instead_of=near[0])
                except InvalidInput:
                    pass  # counted and told; the kept views stand

    def clear(self) -> int:
        """Forgets every view and message; returns how many views."""
        with self._lock:
            dropped = len(self._views)
            self.cleared_ever += 1
            self._views.clear()
            self._coverage.clear()
            self._identities.clear()
            self._compared.clear()
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
        """Keeps a set that was seen from somewhere new, or more sharply; remembers it as the newest either way."""
        self._latest = placed
        near = self._near(placed.T_world_camera)
        if near and not self._worth_comparing(near, placed):
            self.problem = ""
            self._passed["the camera had not moved"] += 1
            return
        try:
            kept = self._decoded(placed)
        except InvalidInput:
            self._latest = None  # counted and told
            return
        self._compared_s = placed.arrived_s
        if not near:
            self._keep(kept)
            return
        self.problem = ""
        self._compared[near[0].view.stamp_ns] += 1
        if kept.sharpness > SHARPER * near[0].sharpness and len(kept.ids) >= len(near[0].common or near[0].ids):
            self._keep(kept, instead_of=near[0])
        else:
            self._passed["the camera had not moved"] += 1

    def _worth_comparing(self, near: list[KeptView], placed: _Placed) -> bool:
        """Whether a set may take the place of the nearest view: near no other, and it is time to look."""
        return (
            len(near) == 1
            and near[0].aim is not None
            and not 0 <= placed.arrived_s - self._compared_s < COMPARE_S
            and self._compared[near[0].view.stamp_ns] < COMPARISONS
        )

    def _decoded(self, placed: _Placed) -> KeptView:
        """A set's view. InvalidInput, counted, when it cannot be used."""
        try:
            view = replace(self._decode(placed.messages), T_world_camera=placed.T_world_camera)
            kept = KeptView.of(view, placed.messages.frame_id)
            if not kept.ids:
                raise InvalidInput("masks hold no instance, every pixel is 0: does the segmentation find anything?")
            if self._by_overlap:
                self._identities.check(view)
        except InvalidInput as error:
            self._lost[f"unusable {str(error).split(' ')[0]}"] += 1
            self._problem(str(error))
            raise
        return kept

    def _keep(self, kept: KeptView, instead_of: KeptView | None = None) -> KeptView:
        self._views.append(kept)
        if instead_of is None:
            self.kept_ever += 1
        else:
            newer = "a sharper" if kept.sharpness > SHARPER * instead_of.sharpness else "a newer"
            self._passed[f"replaced by {newer} one from there"] += 1
        if self._by_overlap:  # before a view goes: it may be the only one that knows an object's id
            self._views = self._identities.named(self._views)
        if instead_of is not None:
            self._views = [k for k in self._views if k.view.stamp_ns != instead_of.view.stamp_ns]
        [kept] = [k for k in self._views if k.view.stamp_ns == kept.view.stamp_ns]
        self._coverage.remember(kept.aim, self._step)
        while len(self._views) > self.parameters.max_views:
            self._views.remove(self._coverage.most_redundant(self._views, self._step))
            self._passed["redundant among max_views"] += 1
        self._compared = Counter({k.view.stamp_ns: self._compared[k.view.stamp_ns] for k in self._views})
        self.problem = ""
        if self._by_overlap and kept.common:
            self.on_common_ids(kept)
        return kept

    @property
    def _by_overlap(self) -> bool:
        """Whether ids must be made common; a view without a fixed frame stands alone."""
        return self.parameters.association == "overlap" and bool(self.parameters.fixed_frame)

    def _newest_ns(self) -> int:
        return max((kept.view.stamp_ns for kept in self._views), default=0)

    @property
    def _step(self) -> Step:
        return self.parameters.min_translation_m, self.parameters.min_rotation_deg

    def _near(self, T_world_camera: Floats | None) -> list[KeptView]:
        """The kept views that a camera there stands near to, the nearest first. Without poses all views are near."""
        found = []
        for i, kept in enumerate(self._views):
            if kept.view.T_world_camera is None or T_world_camera is None:
                found.append((0.0, i))
                continue
            metres, degrees = motion(kept.view.T_world_camera, T_world_camera)
            near_m, near_deg = self.parameters.min_translation_m, self.parameters.min_rotation_deg
            if metres < near_m and degrees < near_deg:
                found.append((metres / near_m + degrees / near_deg, i))
        return [self._views[i] for _, i in sorted(found)]

    def _problem(self, text: str) -> None:
        self.problem = text
        self._notice(text)
