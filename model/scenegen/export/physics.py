"""Mass, centre of mass and inertia of an object, from its shape and a density by class.

Generated meshes need not be closed, so every answer says what it was measured on. Knows nothing about files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh

from scenegen.scene import Floats

DEFAULT_DENSITY = 400.0
"""kg/m^3 of a thing about which nothing is known: lighter than water, as most things of a household are as a whole."""
DENSITIES: dict[str, float] = {
    "chair|stool|table|desk|shelf|bench|cabinet|dresser|bookcase": 500.0,
    "sofa|couch|armchair|bed|cushion|pillow|mattress|toy|teddy": 120.0,
    "lamp|basket|plant|flower": 200.0,
    "mug|cup|bowl|plate|vase|pot": 1200.0,
    "bottle|can|jar|carton|fruit|apple|banana|orange": 900.0,
    "box|crate|package": 300.0,
    "book|magazine": 700.0,
    "pan|kettle|hammer|wrench|screwdriver|knife|fork|spoon": 2500.0,
    "brick|stone|rock": 2000.0,
}
"""kg/m^3 of the volume inside the surface, by words of the label (any of those between the bars)."""

_LEAST_SHARE, _MOST_SHARE = 0.001, 1.001
"""Of the bounding box's volume; outside this a mesh is no solid."""


@dataclass(frozen=True)
class MassProperties:
    """mass_kg; centre_m float64 [3] in the object's frame; inertia float64 [3, 3] about it, kg m^2, object's axes.

    density: kg/m^3. source: what the volume was measured on: "mesh", "pieces" (the mesh is no solid) or "box" (its
    bounding box, when neither is a solid).
    """

    mass_kg: float
    centre_m: Floats
    inertia: Floats
    density: float
    source: str

    def principal(self) -> tuple[Floats, Floats]:
        """Principal moments float64 [3], and the right-handed rotation float64 [3, 3] whose columns are their axes."""
        moments, axes = np.linalg.eigh(self.inertia)
        axes[:, 2] *= np.sign(np.linalg.det(axes))
        return moments, axes


def density_of(label: str) -> float:
    """kg/m^3 for a thing of this label, DEFAULT_DENSITY when none of its words is known."""
    words = set(re.split(r"[^a-z]+", label.lower()))
    for names, density in DENSITIES.items():
        if words & set(names.split("|")):
            return density
    return DEFAULT_DENSITY


def mass_properties(solid: trimesh.Trimesh, pieces: Sequence[trimesh.Trimesh], density: float) -> MassProperties:
    """Of a surface without duplicate vertices, in metres: measured on it where it is a solid, else on its pieces."""
    box = trimesh.creation.box(
        np.maximum(solid.extents, 1e-4), trimesh.transformations.translation_matrix(solid.bounds.mean(0))
    )
    candidates = {"pieces": together(pieces)} if pieces else {}
    # volumes of parts that reach into one another add up to more than the pieces that cover them
    if is_solid(solid) or (solid.is_volume and pieces and solid.volume <= candidates["pieces"].volume):
        candidates = {"mesh": solid} | candidates
    for source, shape in (candidates | {"box": box}).items():
        measured = _measure(shape, density, source)
        if source == "box" or _sane(measured, box):
            return measured
    raise AssertionError("a box is always a solid")


def is_solid(mesh: trimesh.Trimesh) -> bool:
    """Closed, and of one part, so that no parts can reach into one another."""
    return bool(mesh.is_volume and mesh.body_count == 1)


def together(meshes: Sequence[trimesh.Trimesh]) -> trimesh.Trimesh:
    """Several surfaces as one, without colours."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [np.asarray(mesh.faces) + start for mesh, start in zip(meshes, starts, strict=False)]
    vertices = np.concatenate([np.asarray(mesh.vertices) for mesh in meshes])
    return trimesh.Trimesh(vertices, np.concatenate(faces), process=False)


def bare(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh without its colours."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def _measure(shape: trimesh.Trimesh, density: float, source: str) -> MassProperties:
    measured = trimesh.triangles.mass_properties(shape.triangles, density=density, skip_inertia=False)
    inertia = np.asarray(measured.inertia)
    return MassProperties(
        float(measured.mass), np.asarray(measured.center_mass), (inertia + inertia.T) / 2, density, source
    )


def _sane(measured: MassProperties, box: trimesh.Trimesh) -> bool:
    """Positive, no more than a full box, its centre inside, and moments that some distribution of mass can have."""
    full = measured.density * float(box.volume)
    if not _LEAST_SHARE * full < measured.mass_kg < _MOST_SHARE * full:
        return False
    if (measured.centre_m < box.bounds[0]).any() or (measured.centre_m > box.bounds[1]).any():
        return False
    low, middle, high = measured.principal()[0]
    return bool(low > 0 and high <= 1.0001 * (low + middle))
