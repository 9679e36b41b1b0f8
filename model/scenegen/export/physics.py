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
_SAMPLES = 4000
"""Points in a piece that say how much of it lies in others."""


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
    candidates = {"pieces": _measure(pieces, density, "pieces")} if pieces else {}
    if solid.is_volume:
        whole = _measure([solid], density, "mesh")
        # parts that reach into one another add up to more than the pieces that cover them
        if is_solid(solid) or (pieces and whole.mass_kg <= candidates["pieces"].mass_kg):
            candidates = {"mesh": whole} | candidates
    for measured in candidates.values():
        if _sane(measured, box):
            return measured
    return _measure([box], density, "box")


def is_solid(mesh: trimesh.Trimesh) -> bool:
    """Closed, and of one part, so that no parts can reach into one another."""
    return bool(mesh.is_volume and mesh.body_count == 1)


def bare(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh without its colours."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def surface(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Without colours; unless it is closed as it is, with the vertices joined that texture seams took apart."""
    plain = bare(mesh)
    return plain if plain.is_volume else trimesh.Trimesh(plain.vertices, plain.faces, process=True)


def _measure(shapes: Sequence[trimesh.Trimesh], density: float, source: str) -> MassProperties:
    """Of closed shapes together. What lies in several of them, which are convex then, counts once."""
    mass, first, second = 0.0, np.zeros(3), np.zeros((3, 3))  # moments about the origin
    for i, shape in enumerate(shapes):
        alone = trimesh.triangles.mass_properties(shape.triangles, density=density, skip_inertia=False)
        centre, inertia = np.asarray(alone.center_mass), np.asarray(alone.inertia)
        mass += alone.mass
        first += alone.mass * centre
        second += np.trace(inertia) / 2 * np.eye(3) - inertia + alone.mass * np.outer(centre, centre)
        if len(shapes) > 1:
            points, others = _overlaps(shape, [*shapes[:i], *shapes[i + 1 :]])
            twice = alone.mass / _SAMPLES * (1 - 1 / (1 + others))
            mass -= twice.sum()
            first -= twice @ points
            second -= (points.T * twice) @ points
    centre = first / mass if mass else shapes[0].bounds.mean(0)
    second -= mass * np.outer(centre, centre)
    return MassProperties(float(mass), centre, np.trace(second) * np.eye(3) - (second + second.T) / 2, density, source)


def _overlaps(shape: trimesh.Trimesh, others: Sequence[trimesh.Trimesh]) -> tuple[Floats, Floats]:
    """Points float64 [_SAMPLES, 3] evenly in a convex shape, and in how many of the others each lies."""
    points, count = _points_in(shape, np.random.default_rng(0)), np.zeros(_SAMPLES)
    for other in others:
        if (shape.bounds[0] < other.bounds[1]).all() and (shape.bounds[1] > other.bounds[0]).all():
            outwards = np.asarray(other.face_normals)
            reach = np.einsum("fi,fi->f", outwards, other.triangles[:, 0])
            count += (points @ outwards.T < reach).all(1)
    return points, count


def _points_in(shape: trimesh.Trimesh, random: np.random.Generator) -> Floats:
    """Evenly in a convex shape, float64 [_SAMPLES, 3]: in the tetrahedra from its middle to its faces."""
    corners, middle = np.asarray(shape.triangles), np.asarray(shape.vertices).mean(0)
    volumes = np.abs(
        np.einsum("fi,fi->f", corners[:, 0] - middle, np.cross(corners[:, 1] - middle, corners[:, 2] - middle))
    )
    chosen = corners[random.choice(len(corners), _SAMPLES, p=volumes / volumes.sum())]
    weights = random.dirichlet(np.ones(4), _SAMPLES)
    return np.asarray(np.einsum("sk,ski->si", weights[:, :3], chosen) + weights[:, 3:] * middle)


def _sane(measured: MassProperties, box: trimesh.Trimesh) -> bool:
    """Positive, no more than a full box, its centre inside, and moments that some distribution of mass can have."""
    full = measured.density * float(box.volume)
    if not _LEAST_SHARE * full < measured.mass_kg < _MOST_SHARE * full:
        return False
    if (measured.centre_m < box.bounds[0]).any() or (measured.centre_m > box.bounds[1]).any():
        return False
    low, middle, high = measured.principal()[0]
    return bool(low > 0 and high <= 1.0001 * (low + middle))
