"""What the node knows of objects from one generation to the next: which need no mesh, and how scenes are joined.

Knows nothing about how poses are found (scenegen.placement.tracking), or about ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scenegen.placement import Known, Tracked, remembered, track
from scenegen.scene import Floats, InvalidInput, PlacedObject, Placement, Scene
from scenegen_ros.kept_view import KeptView


@dataclass(frozen=True)
class Plan:
    """What a goal comes to. ids: to be generated, from kept; None is every one that the first of kept sees.

    tracked: what became of the objects known before; known: those of them that the scene takes over.
    """

    ids: tuple[int, ...] | None
    kept: tuple[KeptView, ...]
    tracked: Tracked = Tracked()
    known: tuple[Known, ...] = ()

    @property
    def objects(self) -> tuple[PlacedObject, ...]:
        """The objects the scene takes over, where they stand now."""
        return tuple(one.placed for one in self.known)

    def told(self, new: int) -> str:
        """What became of what, in words; empty where nothing was known."""
        tracked = self.tracked
        if not (tracked.objects or tracked.removed or tracked.changed):
            return ""
        taken = {one.placed.id for one in self.known}
        counts = {
            "new": new,
            "moved": len(taken.intersection(tracked.moved)),
            "kept": len(taken.intersection(tracked.kept)),
        }
        words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        left = sorted(set(tracked.changed) - set(self.ids or ()))
        changed = f"; {left} left out: not what they were, ask for them by id" if left else ""
        return f": {words or 'none'}" + (f"; {len(tracked.removed)} removed" if tracked.removed else "") + changed


@dataclass
class Memory:
    """The objects of the last scene, for as long as the views that led to them are not forgotten."""

    known: tuple[Known, ...] = ()
    since_ns: int = 0
    era: int = -1
    gone: dict[int, int] = field(default_factory=dict)
    """Objects that were removed: no view up to that stamp may bring them back."""

    def plan(
        self,
        kept: Sequence[KeptView],
        ids: tuple[int, ...],
        era: int,
        *,
        gravity: Floats | None,
        cancelled: Callable[[], bool],
    ) -> Plan:
        """What to generate. ids: asked for by the goal, known or not. era: how often views were forgotten so far."""
        newest_ns = max(k.view.stamp_ns for k in kept)
        measures = any(k.view.depth_m is not None and k.view.intrinsics is not None for k in kept)
        if era != self.era or not measures:
            self.forget()
        if not self.known and not self.gone:
            return Plan(ids or None, tuple(kept))
        fresh = [k.view for k in kept if k.view.stamp_ns > self.since_ns]
        tracked = track(self.known, fresh, gravity=gravity, cancelled=cancelled)
        # Views from before an object was moved, changed or removed tell nothing of what it is now.
        stale = self.gone | dict.fromkeys((*tracked.moved, *tracked.changed), self.since_ns)
        stale |= dict.fromkeys(tracked.removed, newest_ns)
        found = tuple(one for one in tracked.objects if one.placed.id not in ids)
        here = {one.placed.id for one in found}

        def wanted(k: KeptView) -> set[int]:
            unknown = k.ids.intersection(ids) if ids else k.ids - here
            return {i for i in unknown if k.view.stamp_ns > stale.get(i, -1)}

        lead = max(kept, key=lambda k: len(wanted(k)))  # of as many the first: kept views come in their order
        needed = tuple(i for i in ids if i in wanted(lead)) if ids else tuple(sorted(wanted(lead)))
        if len(needed) < len(ids):
            lost = sorted(set(ids) - set(needed))
            raise InvalidInput(f"no view shows {lost} as they are since they were moved or taken away: take another")
        if not needed and not found:
            raise InvalidInput("none of the known objects is left, and the views show no new one: clear, or move on")
        using = tuple(k for k in kept if k.ids.intersection(needed) and wanted(k) >= k.ids.intersection(needed))
        return Plan(needed, using, tracked, found)

    def forget(self) -> None:
        """Nothing is known any more."""
        self.known, self.since_ns, self.gone = (), 0, {}

    def learn(self, plan: Plan, made: Sequence[PlacedObject], newest_ns: int, era: int) -> None:
        """Takes note of a finished scene. made: what was generated for it. newest_ns: stamp of the newest view."""
        found = remembered(made, [k.view for k in plan.kept])
        self.known = tuple(sorted((*plan.known, *found), key=lambda one: one.placed.id))
        self.gone = self.gone | dict.fromkeys(plan.tracked.removed, newest_ns)
        self.since_ns, self.era = max(newest_ns, self.since_ns), era


def joined(scene: Scene, placed: Sequence[PlacedObject], others: Sequence[PlacedObject]) -> Scene:
    """A generated scene with objects it does not hold, by ascending id, in its query asset's frame."""
    if not others:
        return scene
    query = placed[scene.query]
    placements = {o.id: p for o, p in zip(placed, scene.placements, strict=True)}
    placements |= {o.id: relative(o, query) for o in others}
    return _by_id((*placed, *others), placements, query.id, scene.seconds)


def scene_of(objects: Sequence[PlacedObject]) -> Scene:
    """A scene of objects that stand somewhere already. The largest is its query asset."""
    query = max(objects, key=lambda o: o.scale_m)
    return _by_id(objects, {o.id: relative(o, query) for o in objects}, query.id, {})


def refined(coarse: Scene, textured: Scene) -> Scene:
    """A joined scene with those of its assets replaced that another holds."""
    assets = {asset.id: asset for asset in textured.assets}
    return replace(
        coarse, assets=tuple(assets.get(asset.id, asset) for asset in coarse.assets), seconds=textured.seconds
    )


def relative(placed: PlacedObject, query: PlacedObject) -> Placement:
    """Where an object stands, as a placement relative to another (see Scene.T_query_asset)."""
    return Placement.between(query.T_world_object, placed.T_world_object, query.scale_m, placed.scale_m)


def _by_id(
    objects: Sequence[PlacedObject], placements: Mapping[int, Placement], query: int, seconds: Mapping[str, float]
) -> Scene:
    ordered = sorted(objects, key=lambda o: o.id)
    ids = [o.id for o in ordered]
    return Scene(tuple(o.asset for o in ordered), tuple(placements[i] for i in ids), ids.index(query), seconds)
