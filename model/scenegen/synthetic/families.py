"""The object families by name. Knows where each is built, not how."""

from __future__ import annotations

from collections.abc import Callable

from scenegen.synthetic import furniture, household
from scenegen.synthetic.building import Built, Rng

BUILDERS: dict[str, Callable[[Rng], Built]] = {
    "box": household.box,
    "crate": household.crate,
    "can": household.can,
    "cone": household.cone,
    "ball": household.ball,
    "mug": household.mug,
    "bowl": household.bowl,
    "plate": household.plate,
    "bottle": household.bottle,
    "vase": household.vase,
    "bucket": household.bucket,
    "lamp": furniture.lamp,
    "table": furniture.table,
    "stool": furniture.stool,
    "chair": furniture.chair,
    "shelf": furniture.shelf,
    "sofa": furniture.sofa,
    "bed": furniture.bed,
    "cabinet": furniture.cabinet,
    "steps": household.steps,
}
