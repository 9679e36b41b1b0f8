"""One generation from views to a stored scene, in a thread of its own, cancelled at any stage.

Knows nothing about ROS: it takes the collector, something that generates like SceneClient, and the store.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from scenegen.client import ServerError
from scenegen.files import SceneNotStored
from scenegen.placement import place_scene
from scenegen.scene import Cancelled, Detail, Floats, InvalidInput, PlacedObject, Progress, Scene, View
from scenegen_ros.kept_view import KeptView
from scenegen_ros.scene_store import SceneStore, StoredScene
from scenegen_ros.segmenting import Segmenter, labelled, labels_of, segmented
from scenegen_ros.tracking import Memory, Plan, joined, refined, scene_of
from scenegen_ros.view_collector import ViewCollector

_POLL_S = 0.05
GENERATED = 0.9
"""Share of the job that is done when the scene is generated; placing and saving are the rest."""


class Generator(Segmenter, Protocol):
    """What generates, and segments where views come with boxes: scenegen.client.SceneClient."""

    def generate(
        self,
        views: Sequence[View],
        *,
        seed: int,
        ids: Sequence[int] | None,
        detail: Detail,
        on_progress: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> Scene:
        """As SceneGen.generate."""


@dataclass(frozen=True)
class Goal:
    """What was asked for. ids: empty is every instance seen. views: how many to wait for, 0 is those that stand."""

    ids: tuple[int, ...] = ()
    views: int = 0
    seed: int = 42


@dataclass(frozen=True)
class Stage:
    """Where a generation stands: in words, as a share of the whole, and the ids that are ready."""

    name: str
    progress: float
    ready: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a generation ended: with a scene, or cancelled or failed with a message that says why and what to do.

    seconds: wall time of each stage, as the server and the node measured them.
    """

    stored: StoredScene | None
    message: str
    cancelled: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


class Generation(threading.Thread):
    """Runs one goal. on_stage and on_done are called in this thread, on_done exactly once."""

    def __init__(
        self,
        goal: Goal,
        collector: ViewCollector,
        generator: Generator,
        store: SceneStore,
        memory: Memory,
        *,
        announce: Callable[[StoredScene], None],
        waiting_for: Callable[[], str],
        cancelled: Callable[[], bool],
        on_stage: Callable[[Stage], None],
        on_done: Callable[[Outcome], None],
    ) -> None:
        """memory: of the objects of earlier scenes. announce: publishes a stored scene. waiting_for: what the node
        lacks, in words, for when views do not come.

        cancelled: polled all along.
        """
        super().__init__(name="scenegen generation", daemon=True)
        self._goal, self._collector, self._generator, self._store = goal, collector, generator, store
        self._memory = memory
        self._fixed_frame = collector.parameters.fixed_frame
        self._announce, self._waiting_for = announce, waiting_for
        self._asked_to_stop = cancelled
        self._stopped = threading.Event()
        self._on_stage, self._on_done = on_stage, on_done
        self._ready: tuple[int, ...] = ()
        self._kept: list[KeptView] = []
        self._plan = Plan(None, ())
        self._unscaled: tuple[int, ...] = ()
        self._labels: dict[int, str] = {}
        self._coarse: StoredScene | None = None
        self.stage = Stage("starting", 0.0)
        self._seconds: dict[str, float] = {}

    def stop(self) -> None:
        """Cancels it from outside."""
        self._stopped.set()

    def run(self) -> None:
        """The thread's body."""
        try:
            stored = self._generate()
            self._store.document(stored, self._views)
            outcome = Outcome(stored, self._told(stored))
        except Cancelled:
            outcome = Outcome(None, f"cancelled while {self.stage.name}", cancelled=True)
        except (InvalidInput, ServerError, SceneNotStored) as error:
            outcome = Outcome(None, str(error))
        except Exception as error:  # whatever it is, the node keeps running and says so
            traceback.print_exc()
            outcome = Outcome(
                None, f"unexpected {type(error).__name__} while {self.stage.name}: {error}; this is a bug"
            )
        if outcome.stored is None and self._coarse is not None:
            stays = f"{outcome.message}; its coarse scene {self._coarse.id} was announced before and stays"
            outcome = replace(outcome, message=stays)
        self._on_done(replace(outcome, seconds=self._seconds))

    def _generate(self) -> StoredScene:
        """Views -> scene -> placed objects -> files; the coarse scene first where a textured one takes longer."""
        with self._timed("waiting for views"):
            self._kept = self._wait_for_views()
            era = self._collector.cleared_ever
        if self._collector.parameters.segmentation == "sam2":
            self._enter("sending views", 0.0)
            self._segment()
        with self._timed("tracking"):
            self._plan = self._planned(era)
        stored = self._save_known() if self._plan.ids == () else self._new_scene()
        if self._tracks:
            taken = {o.id for o in self._plan.objects}
            made = [o for o in stored.objects if o.id not in taken]
            self._memory.learn(self._plan, made, max(k.view.stamp_ns for k in self._kept), era)
        return stored

    @property
    def _tracks(self) -> bool:
        return self._collector.parameters.track and bool(self._fixed_frame)

    def _planned(self, era: int) -> Plan:
        """What is to be generated, and what of the last scene stays. era: see Memory.plan."""
        if not self._tracks:
            self._memory.forget()
            return Plan(self._goal.ids or None, tuple(self._kept))
        self._enter("looking for known objects", 0.0)
        return self._memory.plan(self._kept, self._goal.ids, era, gravity=self._up(), cancelled=self._cancelled)

    def _save_known(self) -> StoredScene:
        """A scene of known objects alone."""
        objects = self._plan.objects
        return self._save(scene_of(objects), objects, 0.98)

    def _new_scene(self) -> StoredScene:
        self._enter("sending views", 0.0)
        with self._timed("generating, all in all"):
            scene = self._generator.generate(
                [kept.view for kept in self._plan.kept],
                seed=self._goal.seed,
                ids=self._plan.ids,
                detail=self._collector.parameters.detail,
                on_progress=self._generated,
                cancelled=self._cancelled,
            )
        self._seconds |= scene.seconds
        if self._coarse is None:
            return self._place(scene, GENERATED)
        self._enter("saving", 0.98)
        with self._timed("saving"):
            stored = self._store.refine(self._coarse, refined(self._coarse.scene, labelled(scene, self._labels)))
        self._announce(stored)
        return stored

    @property
    def _views(self) -> list[View]:
        return [kept.view for kept in self._kept]

    def _segment(self) -> None:
        """The views came with boxes; masks take their place."""
        self._labels = labels_of(self._kept)
        with self._timed("segmentation"):
            self._kept = segmented(
                self._kept,
                self._generator,
                on_progress=lambda progress: self._enter(progress.stage, 0.0),
                cancelled=self._cancelled,
            )

    def _place(self, scene: Scene, progress: float, *, preliminary: bool = False) -> StoredScene:
        """Scene -> placed objects, with those known before -> files -> announced."""
        self._enter("placing", progress)
        scene = labelled(scene, self._labels)
        with self._timed("placing"):
            objects = place_scene(
                scene,
                [kept.view for kept in self._plan.kept],
                gravity=self._up(),
                known_sizes=self._collector.parameters.known_sizes,
                cancelled=self._cancelled,
            )
        if known := self._plan.objects:
            if not all(o.metric for o in objects):  # they have no place among those that are
                self._unscaled = tuple(o.id for o in objects)
                return self._save(scene_of(known), known, progress, preliminary=preliminary)
            scene = joined(scene, objects, known)
            objects = tuple(sorted((*objects, *known), key=lambda o: o.id))
        return self._save(scene, objects, progress if preliminary else 0.98, preliminary=preliminary)

    def _save(
        self, scene: Scene, objects: tuple[PlacedObject, ...], progress: float, *, preliminary: bool = False
    ) -> StoredScene:
        frame_id, stamp_ns = self._frame_and_stamp(objects, self._kept)
        self._enter("saving", progress)
        with self._timed("saving"):
            stored = self._store.save(scene, objects, self._views, frame_id, stamp_ns, preliminary=preliminary)
        self._announce(stored)
        return stored

    def _wait_for_views(self) -> list[KeptView]:
        """The views to generate from; InvalidInput when they do not come in time or are not possible."""
        goal, parameters = self._goal, self._collector.parameters
        if any(i <= 0 for i in goal.ids):
            raise InvalidInput(f"instance ids are {list(goal.ids)}: they must be positive, 0 is the background")
        limit = parameters.max_views if self._fixed_frame else 1
        wanted = max(goal.views, 1)
        if wanted > limit:
            raise InvalidInput(
                f"{goal.views} views were asked for but at most {limit} are held: ask for fewer, raise max_views"
                + ("" if self._fixed_frame else " and set fixed_frame, since views without TF cannot be joined")
            )
        deadline = time.monotonic() + parameters.view_timeout_s
        refreshed = False
        while True:
            kept = [k for k in self._collector.views() if k.ids.issuperset(goal.ids)]
            if len(kept) >= wanted and refreshed:
                return kept[: goal.views or limit]
            refreshed = len(kept) >= wanted
            if refreshed:
                self._collector.refresh()
                continue
            seen = f" that see ids {list(goal.ids)}" if goal.ids else ""
            self._enter(f"waiting for views{seen}: {len(kept)} of {wanted}", 0.0)
            if time.monotonic() > deadline:
                raise InvalidInput(
                    f"only {len(kept)} of {wanted} views{seen} after {parameters.view_timeout_s:g} s: "
                    f"{self._waiting_for()}"
                )
            self._stopped.wait(_POLL_S)

    def _up(self) -> Floats | None:
        """Up in the frame that views have poses in: z of every frame but a camera's optical one (REP 103, REP 105)."""
        level = self._fixed_frame and "_optical" not in self._fixed_frame
        return np.array([0.0, 0.0, 1.0]) if level else None

    def _frame_and_stamp(self, objects: Sequence[PlacedObject], kept: Sequence[KeptView]) -> tuple[str, int]:
        """Frame of the poses, and the stamp they hold at (scenegen.placement.place_scene says which frame it used).

        Poses in the fixed frame hold for good and carry the newest view's stamp; poses in a camera's frame hold at the
        moment of that view.
        """
        if self._fixed_frame and any(o.metric for o in objects):
            return self._fixed_frame, max(k.view.stamp_ns for k in kept)
        ids = {o.id for o in objects}
        shown = next(k for k in kept if ids & k.ids)
        return shown.frame_id, shown.view.stamp_ns

    def _generated(self, progress: Progress) -> None:
        if progress.asset is not None and progress.asset.id not in self._ready:
            self._ready = (*self._ready, progress.asset.id)
        share = GENERATED * progress.fraction
        if progress.scene is not None:  # textures take the server seconds more; objects are placed once, meanwhile
            self._coarse = self._place(progress.scene, share, preliminary=True)
        self._enter(progress.stage, share)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - began_s

    def _enter(self, name: str, progress: float) -> None:
        if self._cancelled():
            raise Cancelled
        stage = Stage(name, progress, self._ready)
        if stage != self.stage:
            self.stage = stage
            self._on_stage(stage)

    def _cancelled(self) -> bool:
        return self._stopped.is_set() or self._asked_to_stop()

    def _told(self, stored: StoredScene) -> str:
        """What was made and what became of known objects, where textures were asked for and did not come out, and why
        nothing is metric if nothing is.
        """
        details = [o.asset.detail for o in stored.objects]
        coarse = [o.id for o in stored.objects if o.asset.detail == "coarse"]
        untextured = f", {coarse} of them without texture" if coarse and "textured" in details else ""
        scale = "" if any(o.metric for o in stored.objects) else f"; not metric: {_no_scale(self._views)}"
        if self._unscaled:
            scale = f"; {list(self._unscaled)} left out: not metric, nothing gave them a scale"
        became = self._plan.told(len(stored.objects) - len(self._plan.known))
        return f"scene {stored.id} with {len(stored.objects)} objects{untextured}{became}{scale}"


def _no_scale(views: Sequence[View]) -> str:
    if all(view.depth_m is None for view in views):
        return (
            "without depth, views from one place give no scale: publish depth, ask for views from places apart, or set "
            "known_size for a label in the scene"
        )
    if all(view.intrinsics is None for view in views if view.depth_m is not None):
        return "camera_info holds no calibration (k is zero), so depth gave no scale; calibrate the camera"
    return "depth has hardly a reading on any object (NaN or 0), so nothing gave a scale: too near, glass, black?"
