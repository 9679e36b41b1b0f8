"""Settling scenes on disk: scene.json gets settled poses beside the measured ones, and what was done and checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scenegen.export.bodies import Bodies, read_bodies
from scenegen.files import write_settled
from scenegen.settle.drop import Drift, drop
from scenegen.settle.scene import Settled, settle


@dataclass(frozen=True)
class Outcome:
    """A settled scene; and in the order of its bodies what was done to each, and its drift as measured and settled."""

    scene: Bodies
    done: tuple[Settled, ...]
    before: tuple[Drift, ...]
    after: tuple[Drift, ...]


def settle_folder(folder: str | Path, *, scale_m: float | None = None, level: bool = False) -> Outcome:
    """Settle the scene of a folder, for `read_bodies(folder, settled=True)` and exports. Measured poses stay.

    scale_m, level: as read_bodies. InvalidInput as there, and when mujoco is missing; SceneNotStored when the disk
    refuses.
    """
    measured = read_bodies(folder, scale_m=scale_m, level=level)
    settled, done = settle(measured)
    outcome = Outcome(settled, done, drop(measured), drop(settled))
    poses = {body.id: body.T_world_object for body in settled.bodies}
    write_settled(Path(folder), poses, _describe(outcome, scale_m, level))
    return outcome


def _describe(outcome: Outcome, scale_m: float | None, level: bool) -> dict[str, Any]:
    assert outcome.scene.floor is not None
    shelves = [{"centre_m": slab.centre_m.tolist(), "size_m": slab.size_m.tolist()} for slab in outcome.scene.shelves]
    objects = [
        asdict(done) | {"drift_before": asdict(before), "drift_after": asdict(after)}
        for done, before, after in zip(outcome.done, outcome.before, outcome.after, strict=True)
    ]
    floor_z_m = outcome.scene.floor.top_m
    return {"scale_m": scale_m, "level": level, "floor_z_m": floor_z_m, "shelves": shelves, "objects": objects}
